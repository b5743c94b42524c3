"""Runs trials of a study in a process of its own and prints a hash of each one's predictions, a line a trial.

python -m benchmarks.gpu_parts.exact_process STUDY.yaml STORAGE CELL ...     # CELL: paradigm/task/size/seed
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

from xlmr_sweep.data.examples import prepare_task
from xlmr_sweep.modeling.device import pick_device
from xlmr_sweep.modeling.fsdp import World
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.study.plan import Trial, expand
from xlmr_sweep.study.reading import load_study
from xlmr_sweep.study.spec import Study
from xlmr_sweep.training.finetune import finetune
from xlmr_sweep.training.outcome import Outcome
from xlmr_sweep.training.warm_state import WarmState


def open_study(path: Path, home: Path) -> tuple[Study, WarmState]:
    """Returns a study and a process's warm state for it on the GPU, the data prepared."""
    study, storage = load_study(str(path)), Storage(home)
    for task in study.tasks:
        prepare_task(study, task, storage)
    return study, WarmState(study, storage, World(device=pick_device()))


def cell(study: Study, name: str) -> Trial:
    """Returns the trial `paradigm/task/size/seed`."""
    paradigm, task, size, seed = name.split("/")
    wanted = (paradigm, task, int(size), int(seed))
    return next(t for t in expand(study) if (t.paradigm, t.task, t.train_size, t.seed) == wanted)


def digest(outcome: Outcome) -> str:
    """Returns a hash of every bit of a trial's predictions and loss."""
    kept = {name: values for name, values in outcome.predictions.items() if name.startswith("score_")}
    text = json.dumps([kept, outcome.columns["train_loss"]])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def main(study_path: str, home: str, *cells: str) -> None:
    """Runs the trials in this order."""
    study, warm = open_study(Path(study_path), Path(home))
    for name in cells:
        print("DIGEST", name, digest(finetune(cell(study, name), warm)), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
