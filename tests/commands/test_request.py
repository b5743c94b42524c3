"""What a request means, and what of it is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from complaints import complaint, files


def test_unknown_names_are_said_with_the_known_ones(study_file: Callable[..., Path], tmp_path: Path) -> None:
    path, storage = study_file(), tmp_path / "runs"
    assert "--models: 'huge' is not in the study; it has tiny" in complaint(path, storage, models=("huge",))
    assert "--tasks: 'rte' is not in the study; it has cb, copa" in complaint(path, storage, tasks=("rte",))
    assert "--paradigms: 'zero' is not in the study" in complaint(path, storage, paradigms=("zero",))
    assert "--sizes: 0 is zero-shot, which baseline has not" in complaint(path, storage, sizes=(0,), paradigms=("baseline",))
    assert "sizes: -1 is not a training size" in complaint(path, storage, sizes=(-1,))
    assert "sizes: 256 is above max_train_size 128" in complaint(path, storage, sizes=(256,))
    assert not storage.exists()


def test_a_size_above_the_training_set_is_refused(study_file: Callable[..., Path], tmp_path: Path) -> None:
    assert "sizes: 25 is above the 24 training examples" in complaint(study_file(), tmp_path / "runs", sizes=(25,))
    assert not files(tmp_path / "runs"), "a refused command must leave nothing, above all not the size"


def test_a_size_above_a_hub_training_set_needs_no_network(study_file: Callable[..., Path], tmp_path: Path) -> None:
    path = study_file(data={"source": "hub"}, max_train_size=500, sizes=[300])
    assert "sizes: 300 is above the 250 training examples of task cb" in complaint(path, tmp_path / "runs")
