"""What `--status` shows. Imports neither torch nor ray, and changes nothing."""

from __future__ import annotations

from collections import Counter

from rich.console import Console
from rich.table import Table

from xlmr_sweep.storage.artifacts import RECORDS, record_file
from xlmr_sweep.storage.collect import Collected
from xlmr_sweep.storage.records import AXES, cell_of


def print_status(console: Console, found: Collected, not_here: str = "") -> None:
    """Prints done, failed and missing trials by model, paradigm and task.

    Args:
        console: prints the table.
        found: what the storage holds.
        not_here: which folder of the study is gone; empty if none is. Without it trials have no ids, and records were matched by
            their settings.
    """
    done, failed = ({cell_of(row) for row in rows} for rows in (found.rows, found.failures))
    # A trial that variants share is counted once, under the first of them.
    there = {axis for axis in AXES if any(axis in cell for cell in found.planned)}
    shown = [name for name in ("variant", "model", "paradigm", "task", "prompt") if name not in AXES or name in there]
    counts: dict[tuple[str, ...], Counter[str]] = {}
    for cell in found.planned:
        key = tuple(cell.get(name, "") for name in shown)
        state = "done" if cell_of(cell) in done else "failed" if cell_of(cell) in failed else "missing"
        counts.setdefault(key, Counter())[state] += 1
    table = Table(*shown, title=f"Study {found.study.name}")
    for column in ("done", "failed", "missing"):
        table.add_column(column, justify="right")
    for key, count in counts.items():
        table.add_row(*key, *(str(count[state]) for state in ("done", "failed", "missing")))
    console.print(table)
    total = len(found.planned)
    console.print(f"{len(done)} of {total} trials done, {len(failed)} failed, {total - len(done) - len(failed)} missing")
    notes = [
        (found.num_other_settings, "records of other settings are kept"),
        (found.num_stale, "records are stale and will run again"),
        (len(found.corrupt), "files in records/ are no records and will be set aside"),
    ]
    for number, text in notes:
        if number:
            console.print(f"{number} {text}")
    for trial_id, changed in found.stale.items():
        console.print(f"stale: {record_file(trial_id)}: {changed}", highlight=False, markup=False, soft_wrap=True)
    for name, problem in found.corrupt.items():
        console.print(f"corrupt: {RECORDS}/{name}: {problem}", highlight=False, markup=False, soft_wrap=True)
    if not_here:
        how = "records are matched by their declared settings, and whether one is stale is not known"
        console.print(f"{not_here}; {how}", highlight=False, markup=False, soft_wrap=True)
