"""What `--check` finds: a line each, `ok` or what to do."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from rich.console import Console

STYLES = {"ok": "green", "note": "yellow", "wrong": "red"}


@dataclass(frozen=True)
class Finding:
    """The outcome of one check."""

    what: str
    said: str
    state: Literal["ok", "note", "wrong"] = "ok"
    """`note`: a run works, and there is something to know or to do."""

    @property
    def line(self) -> str:
        """The line that the user sees."""
        return f"{self.state:<6} {self.what}: {self.said}"


def print_findings(console: Console, findings: Iterable[Finding]) -> int:
    """Prints findings as they come, then their number. Returns the exit status: 2 if something is wrong."""
    found: list[Finding] = []
    for finding in findings:
        console.print(finding.line, style=STYLES[finding.state], highlight=False, markup=False, soft_wrap=True)
        found.append(finding)
    wrong, notes = (sum(finding.state == state for finding in found) for state in ("wrong", "note"))
    console.print(f"{len(found)} checks: {wrong} wrong, {notes} to note", highlight=False)
    return 2 if wrong else 0


def of_nodes(what: str, problems: Sequence[tuple[str, str]], good: str, state: Literal["note", "wrong"] = "wrong") -> Finding:
    """Returns one finding about all nodes.

    Args:
        what: what was checked.
        problems: for each node, its name and what is wrong there; empty if nothing is.
        good: what is said if nothing is wrong anywhere.
        state: the state of the finding if there is a complaint.
    """
    by_problem: dict[str, list[str]] = {}
    for node, problem in problems:
        if problem:
            by_problem.setdefault(problem, []).append(node)
    if not by_problem:
        return Finding(what, good)
    parts = [
        f"{'every node' if 1 < len(nodes) == len(problems) else ', '.join(nodes)}: {problem}"
        for problem, nodes in by_problem.items()
    ]
    return Finding(what, "; ".join(parts), state)
