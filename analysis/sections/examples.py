"""The chapter of single examples: what each paradigm answered, over sizes and seeds."""

from __future__ import annotations

from collections.abc import Sequence

from analysis.examples import TaskExamples
from analysis.page import Block, Section


def example_section(tasks: Sequence[TaskExamples]) -> Section | None:
    """Returns the browser of examples, or None where no predictions are known."""
    if not tasks:
        return None
    text = [
        "What the trials answered to single evaluation examples. Those on which instruction tuning helped most come first. A "
        "paradigm counts as right where more than half of its seeds are, at the size chosen. Per cent: the probability that the "
        "trial gave its answer.",
    ]
    without = [task.task for task in tasks if not task.fields]
    if without:
        text.append(f"The texts of {', '.join(without)} are not in the storage, so their examples show ids only.")
    return Section("Examples", [Block(text=text, widget="examples")], "examples")
