"""No process of the project runs code that comes with a model: every call that could says so."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LOADERS = ("from_pretrained", "from_config")
OWN = ("Architecture", "cls")
"""Classes of the project with a `from_config` of their own."""


def calls_that_may_run_code(text: str) -> Iterator[str]:
    """Yields the calls of a source text that load a model, a configuration or a tokenizer and do not forbid its code."""
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute) or node.func.attr not in LOADERS:
            continue
        is_own = isinstance(node.func.value, ast.Name) and node.func.value.id in OWN
        # Without a name there is no folder or hub that code could come from.
        is_from_tensors = bool(node.args) and isinstance(node.args[0], ast.Constant) and node.args[0].value is None
        value = next((keyword.value for keyword in node.keywords if keyword.arg == "trust_remote_code"), None)
        is_forbidden = isinstance(value, ast.Constant) and value.value is False
        if not (is_own or is_from_tensors or is_forbidden):
            yield f"{node.lineno}: {ast.unparse(node)}"


@pytest.mark.parametrize("folder", ["xlmr_sweep", "analysis", "experiments"])
def test_every_call_that_loads_a_model_forbids_its_code(folder: str) -> None:
    found = {str(path): list(calls_that_may_run_code(path.read_text(encoding="utf-8"))) for path in (ROOT / folder).rglob("*.py")}
    assert found
    assert {path: calls for path, calls in found.items() if calls} == {}


def test_the_search_finds_a_call_that_does_not() -> None:
    lines = (
        "Auto.from_pretrained(a)",
        "Auto.from_config(b, trust_remote_code=True)",
        "Auto.from_pretrained(c, trust_remote_code=False)",
        "Auto.from_pretrained(None, state_dict=d)",
    )
    assert [call.split(":")[0] for call in calls_that_may_run_code("\n".join(lines))] == ["1", "2"]
