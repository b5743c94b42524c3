"""Reads which package imports which, and draws it: `python tests/support/rooms.py` (`--files` writes `docs/files.md` instead).

In: the source of `xlmr_sweep` and `analysis`. Out: imports between modules and between rooms (packages), the picture that the
README shows, and the page that lists every file.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("xlmr_sweep", "analysis")
OTHER_FOLDERS = ("experiments", "tests/support")
"""Folders of code beside the packages."""
BASE = "base"
"""Stands for the modules that lie in no room: `errors`, `interrupt`, `plain_output`, `watching`."""


@cache
def modules() -> dict[str, Path]:
    """Returns every module of the project by its dotted name; packages are named without `__init__`."""
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def room(module: str) -> str:
    """Returns the room of a module: `study`, `cluster`, ..., `analysis`, or `BASE`; the outer one of nested rooms."""
    parts = module.split(".")
    if parts[0] != "xlmr_sweep":
        return parts[0]
    is_package = modules()[module].name == "__init__.py"
    return parts[1] if len(parts) > 2 or (len(parts) == 2 and is_package) else BASE


@cache
def imported(module: str, *, also_in_functions: bool = True) -> frozenset[str]:
    """Returns the full names that a module imports, of this project and of others.

    Args:
        module: its dotted name.
        also_in_functions: counts imports inside functions too, which happen only when these are called.
    """
    names: set[str] = set()
    for node in _nodes(_tree(module), also_in_functions):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                names.add(full if full in modules() else node.module)
    return frozenset(names)


@cache
def _tree(module: str) -> ast.Module:
    return ast.parse(modules()[module].read_text(encoding="utf-8"))


def _nodes(tree: ast.AST, also_in_functions: bool) -> Iterator[ast.AST]:
    for node in ast.iter_child_nodes(tree):
        if also_in_functions or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node
            yield from _nodes(node, also_in_functions)


@cache
def module_imports() -> dict[str, set[str]]:
    """Returns for each module the modules of this project that it imports."""
    return {module: set(imported(module) & modules().keys() - {module}) for module in modules()}


@cache
def room_imports() -> dict[str, dict[str, list[str]]]:
    """Returns for each room the rooms it imports from, with the imports as `module -> module`."""
    found: dict[str, dict[str, list[str]]] = {room(module): {} for module in modules()}
    for module, targets in module_imports().items():
        for target in targets:
            if room(module) != room(target) and target != "xlmr_sweep":
                found[room(module)].setdefault(room(target), []).append(f"{module} -> {target}")
    return found


def circle(graph: Mapping[str, set[str]]) -> list[str]:
    """Returns one circle of a graph, its first node repeated at the end; empty where there is none."""
    done: set[str] = set()

    def visit(node: str, path: list[str]) -> list[str]:
        if node in path:
            return [*path[path.index(node) :], node]
        if node in done:
            return []
        for target in sorted(graph.get(node, ())):
            if found := visit(target, [*path, node]):
                return found
        done.add(node)
        return []

    return next((found for node in sorted(graph) if (found := visit(node, []))), [])


def floors() -> dict[str, int]:
    """Returns how high each room lies: one floor above the highest room that it imports from."""

    @cache
    def floor(name: str) -> int:
        return 1 + max((floor(target) for target in room_imports()[name]), default=-1)

    return {name: floor(name) for name in room_imports()}


def picture() -> str:
    """Draws the rooms, the highest floor first: each room, what it is, and the rooms it imports from."""
    lines = []
    names = sorted(floors(), key=lambda name: (-floors()[name], name))
    for name in names:
        if name == BASE:
            continue
        below = [target for target in names if target in room_imports()[name] and target != BASE]
        lines.append(f"{name:<11}{purpose(name)}")
        if below:
            lines.append(f"{'':<11}└─▶ {', '.join(below)}")
    return "\n".join(lines)


def purpose(name: str) -> str:
    """Returns the first sentence of a room's docstring."""
    module = name if name in PACKAGES else f"xlmr_sweep.{name}"
    return summary(modules()[module]).split(". ")[0].rstrip(".")


def summary(path: Path) -> str:
    """Returns the first paragraph of a module's docstring, on one line."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return " ".join(text.split("\n\n")[0].split())


def first_sentence(path: Path) -> str:
    """Returns the first sentence of a module's docstring."""
    return summary(path).split(". ")[0].rstrip(".") + "."


def file_page() -> str:
    """Returns `docs/files.md`: every file of code with the first sentence of its docstring, folder by folder."""
    lines = ["# Files", "", "Made by `python tests/support/rooms.py --files > docs/files.md`: each file with its first sentence."]
    paths = [*modules().values(), *(path for folder in OTHER_FOLDERS for path in (ROOT / folder).rglob("*.py"))]
    for folder in sorted({path.parent for path in paths}):
        own = folder / "__init__.py"
        lines += ["", f"## {folder.relative_to(ROOT)}", ""]
        lines += [first_sentence(own), ""] if own.exists() else []
        lines += [f"* `{path.name}`: {first_sentence(path)}" for path in sorted(folder.glob("*.py")) if path != own]
    return "\n".join(lines)


if __name__ == "__main__":
    print(file_page() if "--files" in sys.argv else picture())
