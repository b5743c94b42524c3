"""Tables as LaTeX: what is escaped, which numbers they hold, and that they compile."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pandas as pd

from analysis.artifacts import Artifacts
from analysis.derive import derive
from analysis.latex import escaped, latex_tables, write_latex
from analysis.options import Options
from analysis.tables import from_table


def test_latex_escapes_what_has_a_meaning_and_sets_powers_of_ten() -> None:
    assert escaped("a_b & 50% ± 1") == r"a\_b \& 50\% $\pm$ 1"
    assert escaped("1.47 × 10¹⁶") == r"1.47 $\times$ 10$^{16}$"
    assert escaped("–") == "--"
    assert escaped("[x]*") == "{[}x]{*}"
    assert escaped("Bär ÇŁß") == r"B\"{a}r \c{C}\L{}\ss{}"
    assert escaped("模") == r"\texttt{U+6A21}"


def test_latex_tables_hold_the_numbers_and_compile(study_table: pd.DataFrame, tmp_path: Path) -> None:
    results = from_table(study_table.replace({"model": {"large": "my_model"}}))
    odd = {"model": {"base": '[é]*"|`^~\\{}#&%$', "large": "模型 🤖 Čšůőąāăż\n"}, "task": {"cb": "Ärger ÆŒøı"}}
    others = from_table(study_table.drop(index=0).replace(odd))
    other_texts = latex_tables(derive(others, Artifacts(), Options()), list(odd["model"].values()), ["Ärger ÆŒøı", "rte"])
    assert "(2 of 3)" in other_texts["ipr_prompted_over_baseline"]
    derived = derive(results, Artifacts(), Options())
    texts = latex_tables(derived, ["base", "my_model"], ["cb", "rte"])
    row = derived["ipr"].query("comparison == 'instructed/prompted' and model == 'base' and task == 'cb'").iloc[0]
    assert rf"base & {row['mean']:.1f} $\pm$ {row['std']:.1f} & " in texts["ipr_instructed_over_prompted"]
    assert r"my\_model" in texts["ipr_instructed_over_prompted"]
    paths = write_latex(texts, tmp_path)
    assert len(paths) == len(texts)
    assert all(texts["tables"].count(rf"\input{{{name}}}") == 1 for name in texts if name != "tables")
    write_latex(other_texts, tmp_path / "odd")
    for text in (*texts.values(), *other_texts.values()):
        assert text.count(r"\begin{") == text.count(r"\end{")
        assert text.isascii()
    if shutil.which("pdflatex"):
        command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "tables.tex"]
        for folder in (tmp_path, tmp_path / "odd"):
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stdout[-2000:]
            assert (folder / "tables.pdf").stat().st_size > 1000
