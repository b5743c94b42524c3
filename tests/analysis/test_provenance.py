"""How a study differs from the paper's."""

from __future__ import annotations

from analysis.provenance import deviations
from xlmr_sweep.study.spec import Study


def test_deviations_from_the_paper_are_named(study: Study) -> None:
    found = deviations(study)
    assert "Tasks: cb, wic; the paper has boolq, cb, copa, rte, wic." in found
    assert "Training sizes: 8, 32; the paper has 2, 4, 8, 16, 32, 64, 128." in found
    assert not any("finetune" in line for line in found)
    changed = study.replaced(finetune=study.finetune.model_copy(update={"learning_rate": 5e-5, "steps": 100}))
    assert "finetune.learning_rate: 5e-05; the paper has 1e-05." in deviations(changed)
    assert "finetune.steps: 100; the paper has more than 300." in deviations(changed)
