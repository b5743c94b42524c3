"""What `--status` says. Neither torch nor ray; nothing is started or changed."""

from __future__ import annotations

from collections import Counter

from rich.console import Console
from rich.table import Table

from xlmr_sweep.records import Collected


def print_status(console: Console, found: Collected) -> None:
    """Prints done, failed and missing trials by model, paradigm and task."""
    done, failed = found.done, found.failed
    counts: dict[tuple[str, str, str], Counter[str]] = {}
    for cell in found.planned:
        key = (cell["model"], cell["paradigm"], cell["task"])
        state = "done" if cell["trial_id"] in done else "failed" if cell["trial_id"] in failed else "missing"
        counts.setdefault(key, Counter())[state] += 1
    table = Table("model", "paradigm", "task", title=f"Study {found.study.name}")
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
        console.print(f"stale: records/{trial_id}.json: {changed}", highlight=False, soft_wrap=True)
    for name, problem in found.corrupt.items():
        console.print(f"corrupt: records/{name}: {problem}", highlight=False, soft_wrap=True)
