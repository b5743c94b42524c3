"""What a dry run shows of a forecast whose numbers are given."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from printed import printed

from xlmr_sweep.commands.dry_run import Forecast, GroupForecast, InstructionForecast
from xlmr_sweep.commands.dry_run_tables import disk_line, forecast_parts, size_text, times_line
from xlmr_sweep.scheduling.cost import Estimate
from xlmr_sweep.scheduling.resources import Node, Width
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.study.reading import load_study

PAPER = load_study("paper")
DISK = {"records": 2_000_000, "trained weights": 0, "instruction data": None}


def group(left: int = 3, *sources: str, disk: Mapping[str, int | None] = DISK) -> GroupForecast:
    return GroupForecast(5, left, 12.345, frozenset(sources or {"paper"}), 7200.0, 3600.0, disk)


def forecast(whole: GroupForecast, job: Estimate) -> Forecast:
    return Forecast(
        study=PAPER,
        nodes=[Node(64, 8)],
        widths={"xlmr-base": Width(1, 0.25, 1)},
        probing=[],
        whole=whole,
        by_model={"xlmr-base": whole},
        by_task={"cb": whole, "rte": whole},
        jobs={"xlmr-base": (Width(1, 1, 2), job)},
        instruction=[InstructionForecast("xlmr-base", "instruct/xlmr-base-0", "to run", 2, job)],
    )


def row_of(text: str, first: str) -> list[str]:
    line = next(line for line in text.splitlines() if line.startswith(f"│ {first} "))
    return [cell.strip() for cell in line.strip("│").split("│")]


def test_hours_and_sources_are_shown(tmp_path: Path) -> None:
    shown = forecast(group(3, "paper", "measured"), Estimate(1800.0, "paper"))
    text = printed(forecast_parts(shown, Storage(tmp_path)))
    expected = "from measured trials; by the paper's GPU-hours"
    assert row_of(text, "xlmr-base") == ["xlmr-base", "5", "2", "3", "0.25", "1", "12", expected]
    assert row_of(text, "cb") == ["cb", "5", "2", "3", "12"]
    assert f"5 trials: 2 done, 3 to run; storage {tmp_path}" in text
    # Half an hour on two GPUs.
    assert times_line(shown).startswith(
        "GPU-hours expected: 12.3 of fine-tuning, 1 of instruction tuning. On 8 GPUs (1 node): 2 h "
    )
    assert disk_line(shown) == "Disk in the storage: 2 MB at most: 2 MB records; not known: instruction data"


def test_what_is_not_known_is_never_a_number(tmp_path: Path) -> None:
    shown = forecast(group(3, "unknown"), Estimate(60.0, "unknown"))
    text = printed(forecast_parts(shown, Storage(tmp_path)))
    assert times_line(shown) == ""
    assert row_of(text, "xlmr-base")[-2:] == ["not known", "not known"]
    assert text.count("not known") == 4 + 2 + 3 * 2 + 1


@pytest.mark.parametrize(("size", "text"), [(999, "999 B"), (27_000, "27 kB"), (2.5e6, "2.5 MB"), (1.5e12, "1.5e+03 GB")])
def test_sizes_have_three_digits(size: float, text: str) -> None:
    assert size_text(size) == text
