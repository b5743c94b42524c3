"""Which tasks the instruction mixture contains: what is known of it, and what only the reader can say."""

from __future__ import annotations

import pandas as pd

from analysis.artifacts import Artifacts
from analysis.derive import derive
from analysis.options import Options
from analysis.overlap import ipr_by_overlap, mixture_overlap
from analysis.tables import from_table
from xlmr_sweep.study.reading import load_study
from xlmr_sweep.study.spec import Study


def test_overlap_is_known_for_xp3_and_else_only_from_the_reader() -> None:
    tasks = ["cb", "wic"]
    study = Study.model_validate({"name": "s", "models": [{"name": "m", "hub": "h/m"}], "sizes": [8], "seeds": [0]})
    assert mixture_overlap(tasks, study)["overlap"].tolist() == ["held out", "in the mixture"]
    without = study.replaced(instructions=study.instructions.model_copy(update={"exclude": ("*wic*",)}))
    assert mixture_overlap(tasks, without)["overlap"].tolist() == ["held out", "not known"]
    for part in ({"files": "en/xp3_glue_*.jsonl"}, {"max_rows": 1000}):
        some = study.replaced(instructions=study.instructions.model_copy(update=part))
        assert mixture_overlap(tasks, some)["overlap"].tolist() == ["held out", "not known"]
    demo = load_study("demo")
    names = ["boolq", "cb", "rte", "own"]
    assert mixture_overlap(names, demo)["overlap"].tolist() == ["in the mixture", "related", "held out", "not known"]
    other_tasks = demo.replaced(data=demo.data.model_copy(update={"source": "hub"}))
    assert set(mixture_overlap(names, other_tasks)["overlap"]) == {"not known"}
    assert mixture_overlap(tasks)["overlap"].tolist() == ["not known"] * 2
    assert mixture_overlap(tasks, None, ["cb"])["overlap"].tolist() == ["in the mixture", "held out"]


def test_only_tasks_of_known_overlap_are_compared(study_table: pd.DataFrame) -> None:
    derived = derive(from_table(study_table), Artifacts(), Options())
    assert derived["ipr_by_overlap"].empty
    cells = ipr_by_overlap(derived["ipr"], mixture_overlap(["cb", "rte"], None, ["cb"]))
    assert cells.groupby("overlap").size().to_dict() == {"held out": 6, "in the mixture": 6}
