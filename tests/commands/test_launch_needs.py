"""What a study needs of a cluster: nodes, and the time limit."""

from __future__ import annotations

from typing import Any

import pytest

from xlmr_sweep.commands.launch_needs import StudyNeeds, node_size, time_limit
from xlmr_sweep.errors import StudyError


def needs(**fields: Any) -> StudyNeeds:
    given = {"gpus": 0, "cpus_per_gpu": 2.0, "cpus": None, "end_soon_s": 150.0} | fields
    named: dict[str, Any] = {"name": "a", "study": "a", "own_file": None, "folders": (), "storage": "s", "options": ()}
    return StudyNeeds(**named, **given)


@pytest.mark.parametrize(
    ("gpus", "given", "size"),
    [
        (8, (None, None, None), (1, 8, 16)),
        (16, (None, None, None), (2, 8, 16)),
        (16, (4, None, None), (4, 4, 8)),
        (8, (None, 2, 5), (4, 2, 5)),
        (0, (2, None, None), (2, 0, 8)),
        (0, (None, 4, None), (1, 4, 8)),
    ],
)
def test_nodes_hold_the_gpus_that_the_study_expects(gpus: int, given: tuple[int | None, ...], size: tuple[int, ...]) -> None:
    found = node_size([needs(gpus=gpus)], *given)
    assert (found.nodes, found.gpus, found.cpus) == size


def test_the_time_limit_covers_the_longest_study() -> None:
    assert time_limit([needs(hours=10.0), needs(hours=20.0)], None) == "1-02:30:00"
    assert time_limit([needs()], None) == "1-00:00:00"
    with pytest.raises(StudyError, match="--hours"):
        time_limit([needs()], -1)
