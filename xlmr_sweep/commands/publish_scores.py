"""Whether predictions belong to the scores beside which they are published. In: trials' rows and tables. Out: a line, or none.

A file of predictions may have been copied, cut or edited, and a record's score too. What is published must say one thing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from xlmr_sweep.errors import StudyError
from xlmr_sweep.storage.artifacts import predictions_file, record_file
from xlmr_sweep.storage.records import CELL_COLUMNS, MEASURED
from xlmr_sweep.study.task_metrics import score

if TYPE_CHECKING:
    import pyarrow as pa

    from xlmr_sweep.storage.files import Storage
    from xlmr_sweep.study.tasks import TaskSpec

TOLERANCE = 1e-9
"""Another version of numpy may round a mean otherwise. One example more or less is far above this."""

NEEDED = ("example_id", "label", "prediction")

MAX_NAMED = 3


def problem_of_predictions(row: Mapping[str, Any], table: pa.Table | None, task: TaskSpec) -> str:
    """Says why predictions are not those of a trial's score; empty if they are.

    Args:
        row: of the trial, with `score` and, where known, `metric` and `num_eval`.
        table: its predictions; None where the file cannot be read.
        task: its task.
    """
    if table is None:
        return "its predictions cannot be read"
    lacking = [name for name in NEEDED if name not in table.column_names]
    if lacking or not len(table):
        return f"its predictions lack {', '.join(lacking) or 'examples'}"
    num_eval = row.get("num_eval")
    if num_eval is not None and num_eval == num_eval and num_eval != len(table):
        return f"it has predictions of {len(table)} of {num_eval:g} examples"
    found = score(task, table.column("label").to_numpy(), table.column("prediction").to_numpy())
    metric = row.get("metric")
    # An older record may not say which metric its score is.
    again = found[metric if metric in MEASURED else "score"]
    if abs(again - row["score"]) > TOLERANCE:
        return f"its record says {row['score']:.6g} and its predictions give {again:.6g}"
    return ""


def refuse_strangers(storage: Storage, found: Sequence[tuple[Mapping[str, Any], str]]) -> None:
    """Refuses to publish predictions that do not belong to their scores.

    Args:
        storage: the study's folder.
        found: the row of each such trial, and what is wrong.

    Raises:
        StudyError: naming the first trials, their files, and what to do.
    """
    if not found:
        return
    named = [f"{'/'.join(str(row[name]) for name in CELL_COLUMNS)}: {why}" for row, why in found[:MAX_NAMED]]
    more = f", and {len(found) - MAX_NAMED} more" if len(found) > MAX_NAMED else ""
    first = found[0][0]["trial_id"]
    raise StudyError(
        f"--storage {storage}: predictions of {len(found)} of the trials do not give their score ({'; '.join(named)}{more}); "
        f"delete such a trial's record ({record_file(first)}) to have it run again, or its predictions "
        f"({predictions_file(first)}) to publish its score alone"
    )
