"""How long modules and functions may be, read from the source."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def lines(*folders: str) -> dict[str, int]:
    """Returns the lines of each module below some folders."""
    paths = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    assert paths
    return {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in paths}


def function_lines(source: str) -> dict[str, int]:
    """Returns the lines of each function, its decorators left out."""
    nodes = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return {f"{node.name}:{node.lineno}": (node.end_lineno or node.lineno) - node.lineno + 1 for node in nodes}


def test_no_module_of_the_package_or_the_analysis_is_long_and_few_are_half_long() -> None:
    modules = lines("xlmr_sweep", "analysis")
    assert {name: number for name, number in modules.items() if number > 350} == {}
    assert sum(number > 250 for number in modules.values()) <= len(modules) / 10


def test_no_function_of_the_package_or_the_analysis_is_long() -> None:
    found = {name: function_lines((ROOT / name).read_text()) for name in lines("xlmr_sweep", "analysis")}
    assert {f"{name} {where}": number for name, each in found.items() for where, number in each.items() if number > 50} == {}


def test_no_module_of_tests_or_experiments_is_very_long() -> None:
    assert {name: number for name, number in lines("tests", "experiments").items() if number > 500} == {}


def test_the_lines_of_a_function_are_counted_from_its_name_to_its_end() -> None:
    assert function_lines("x = 1\n\n\n@wrap\ndef f():\n    a = 1\n    return a\n") == {"f:5": 3}
