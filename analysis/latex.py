"""Tables for a paper. In: derived tables. Out: LaTeX with booktabs rules, and a document that holds all of them."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from analysis.advantage import BEST_OF_SEEDS, PER_SEED
from analysis.derive import Derived
from analysis.display import count, decimal, power
from analysis.schema import AVERAGE
from analysis.terminal import cell_text

DOCUMENT = "tables"
_ESCAPES = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "–": "--", "×": r"$\times$", "’": "'",
    "<": "$<$", ">": "$>$", "|": r"\textbar{}", '"': "''", "“": "``", "”": "''", "ß": r"\ss{}", "æ": r"\ae{}",
    "Æ": r"\AE{}", "ø": r"\o{}", "Ø": r"\O{}", "œ": r"\oe{}", "Œ": r"\OE{}", "ł": r"\l{}", "Ł": r"\L{}", "ı": r"\i{}",
    # At the start of a row, LaTeX would read these two as options of the line break before it.
    "[": "{[}", "*": "{*}",
}  # fmt: skip
# LaTeX's accents, by Unicode's combining character.
_ACCENTS = {
    "\u0300": "`", "\u0301": "'", "\u0302": "^", "\u0303": "~", "\u0304": "=", "\u0306": "u", "\u0307": ".", "\u0308": '"',
    "\u030a": "r", "\u030b": "H", "\u030c": "v", "\u0327": "c",
}  # fmt: skip
_SUPERSCRIPTS = "⁰¹²³⁴⁵⁶⁷⁸⁹⁻"
_METHODS = {PER_SEED: "per seed, pooled", BEST_OF_SEEDS: "best of seeds"}


# A small LaTeX installation has no booktabs. The document then uses plain lines.
_PREAMBLE = r"""\documentclass{article}
\usepackage[landscape,margin=2cm]{geometry}
\IfFileExists{booktabs.sty}{\usepackage{booktabs}}{\let\toprule\hline\let\midrule\hline\let\bottomrule\hline}
"""


def escaped(text: object) -> str:
    """Returns text that every LaTeX can show. Special characters are escaped; signs and powers of ten become mathematics.

    A letter with an accent becomes a command. A character that the standard fonts lack is shown as its code, such as U+6A21,
    because pdflatex would stop at it.
    """
    out, power_of = "", ""
    for character in f"{text}\0":
        if character in _SUPERSCRIPTS:
            power_of += "0123456789-"[_SUPERSCRIPTS.index(character)]
            continue
        if power_of:
            out, power_of = f"{out}$^{{{power_of}}}$", ""
        out += _letter(character) if character != "\0" else ""
    return out


def _letter(character: str) -> str:
    if character in _ESCAPES or (character.isascii() and character.isprintable()):
        return _ESCAPES.get(character, character)
    parts = unicodedata.normalize("NFD", character)
    if len(parts) == 2 and parts[0].isascii() and parts[0].isalpha() and parts[1] in _ACCENTS:
        return rf"\{_ACCENTS[parts[1]]}{{{parts[0]}}}"
    return rf"\texttt{{U+{ord(character):04X}}}"


def latex_tables(derived: Derived, models: Sequence[str], tasks: Sequence[str]) -> dict[str, str]:
    """Returns LaTeX by file name without `.tex`: one table per comparison of IPR and of advantage, and those of compute.

    `tables` is a document that compiles by itself and holds all the others.
    """
    found = {}
    ipr = derived["ipr"]
    for comparison in ipr.loc[ipr["num_seeds"] > 0, "comparison"].drop_duplicates():
        words = comparison.replace("/", " over ")
        caption = f"Integral Performance Ratio of {words}, in percentage points: mean ± sample standard deviation over seeds."
        part = ipr[ipr["comparison"] == comparison]
        found[f"ipr_{_file(comparison)}"] = _latex(_matrix(part, models, tasks), caption)
    advantage = derived["prompt_advantage"]
    for (method, comparison), part in advantage.dropna(subset="mean").groupby(["method", "comparison"]):
        caption = f"Average prompt advantage of {str(comparison).replace('/', ' over ')} ({_METHODS[str(method)]}), in examples."
        found[f"advantage_{method}_{_file(str(comparison))}"] = _latex(_matrix(part, models, tasks), caption)
    found |= _compute(derived)
    inputs = "\n\n".join(rf"\input{{{name}}}" for name in found)
    found[DOCUMENT] = f"{_PREAMBLE}\\begin{{document}}\n{inputs}\n\\end{{document}}\n"
    return found


def write_latex(texts: Mapping[str, str], folder: Path) -> list[Path]:
    """Writes each table as `<name>.tex` and returns the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, text in texts.items():
        paths.append(folder / f"{name}.tex")
        paths[-1].write_text(text, encoding="utf-8")
    return paths


def _matrix(part: pd.DataFrame, models: Sequence[str], tasks: Sequence[str]) -> pd.DataFrame:
    cells = {(row["model"], row["task"]): cell_text(row) for row in part.to_dict("records")}
    names = [model for model in models if (model, AVERAGE) in cells]
    return pd.DataFrame([{"model": m, **{t: cells.get((m, t), "–") for t in [*tasks, AVERAGE]}} for m in names])


def _compute(derived: Derived) -> dict[str, str]:
    found = {}
    compute, steps = derived["compute"], derived["pretraining"]
    if len(compute):
        columns = {
            "model": compute["model"], "parameters": compute["num_parameters"].map(power),
            "tokens": compute["tokens_seen"].map(power), "FLOPs": compute["pretraining_flops"].map(power),
            "tuning, GPU-hours": compute["instruct_gpu_hours"].map(decimal(1)),
            "fine-tuning, GPU-hours": compute["finetune_gpu_hours"].map(decimal(1)),
        }  # fmt: skip
        found["compute"] = _latex(pd.DataFrame(columns), "Models, pre-training and the hours of this study.")
    if len(steps):
        columns = {
            "model": steps["model"], "batch size": steps["batch_size"].map(count), "length": steps["seq_len"].map(count),
            "tokens of a step": steps["tokens_per_step"].map(power), "FLOPs of a step": steps["flops_per_step"].map(power),
        }  # fmt: skip
        found["pretraining"] = _latex(pd.DataFrame(columns), "One pre-training step.")
    return found


def _latex(table: pd.DataFrame, caption: str) -> str:
    text = table.map(escaped).rename(columns=escaped)
    form = "l" + "r" * (len(table.columns) - 1)
    return text.to_latex(index=False, escape=False, caption=escaped(caption), column_format=form, position="htbp")


def _file(comparison: str) -> str:
    return comparison.replace("/", "_over_")
