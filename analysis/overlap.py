"""Which tasks the instruction mixture contains. In: a study, or names given by the reader. Out: one row per task.

In the paper the largest gain is on a task of its mixture (WiC), and a task that is held out (CB) has no gain. So a gain must be
read together with this table.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pandas as pd

from analysis.schema import AVERAGE, Table, as_frame
from xlmr_sweep.study.data_spec import InstructionSpec

if TYPE_CHECKING:
    from xlmr_sweep.study.spec import Study

XP3, WHOLE_XP3 = "bigscience/xP3", InstructionSpec().files
# xP3's training mixture has WiC and, according to its script, BoolQ. CB, RTE and COPA are its authors' evaluation sets.
IN_XP3 = ("boolq", "wic")
HELD_OUT_OF_XP3 = ("cb", "copa", "rte")
# Like xP3, the demo's instruction rows hold relatives of its tasks (`xlmr_sweep.data.demo.instructions`). CB's relative has the
# same answers but no hypothesis.
IN_DEMO, RELATED_IN_DEMO, HELD_OUT_OF_DEMO = ("boolq", "wic"), ("cb",), ("copa", "rte")
IN, RELATED, OUT, UNKNOWN = "in the mixture", "related", "held out", "not known"
ORDER = (IN, RELATED, OUT)


def mixture_overlap(tasks: Sequence[str], study: Study | None = None, named: Sequence[str] | None = None) -> pd.DataFrame:
    """Tells of each task whether it is part of the instruction mixture.

    Args:
        tasks: tasks of the results.
        study: the declared study. The contents of the hub's xP3 and of the demo are known, unless the study leaves out a part.
        named: tasks that the reader says are in the mixture. All others are then held out.

    Returns:
        `task`, `overlap` (`in the mixture`, `related`, `held out`, `not known`).
    """
    if named is not None:
        overlap = [IN if task in named else OUT for task in tasks]
    else:
        known = {} if study is None else _known(study)
        overlap = [known.get(task, UNKNOWN) for task in tasks]
    return pd.DataFrame({"task": list(tasks), "overlap": overlap})


def _known(study: Study) -> dict[str, str]:
    spec = study.instructions
    if spec.source == "hub" and spec.hub == XP3:
        inside, outside = dict.fromkeys(IN_XP3, IN), dict.fromkeys(HELD_OUT_OF_XP3, OUT)
    elif spec.source == study.data.source == "demo":
        inside = dict.fromkeys(IN_DEMO, IN) | dict.fromkeys(RELATED_IN_DEMO, RELATED)
        outside = dict.fromkeys(HELD_OUT_OF_DEMO, OUT)
    else:
        return {}
    # A part that was left out may have held a task's rows. So only the tasks that were held out anyway are known.
    is_whole = not spec.exclude and spec.max_rows is None and (spec.source != "hub" or spec.files == WHOLE_XP3)
    return (inside if is_whole else {}) | outside


def ipr_by_overlap(ipr: Table, overlap: Table) -> pd.DataFrame:
    """Returns the IPR cells of tasks whose overlap is known, with the column `overlap`.

    Args:
        ipr: what `analysis.ipr.ipr_table` returns.
        overlap: what `mixture_overlap` returns.
    """
    cells = as_frame(ipr)
    cells = cells[(cells["task"] != AVERAGE) & (cells["num_seeds"] > 0)]
    known = as_frame(overlap)
    return cells.merge(known[known["overlap"] != UNKNOWN], on="task").reset_index(drop=True)
