"""The rooms of the project and which way imports run between them: read from the source, and held here."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import rooms

MAY_IMPORT = {
    rooms.BASE: set(),
    "study": {rooms.BASE},
    "storage": {rooms.BASE, "study"},
    "modeling": {rooms.BASE, "study", "storage"},
    "data": {rooms.BASE, "study", "storage", "modeling"},
    "scheduling": {rooms.BASE, "study", "storage", "modeling"},
    "training": {rooms.BASE, "study", "storage", "modeling", "data"},
    "cluster": {rooms.BASE, "study", "storage", "modeling", "data", "scheduling", "training"},
    "commands": {rooms.BASE, "study", "storage", "modeling", "data", "scheduling", "training", "cluster", "analysis"},
    "analysis": {rooms.BASE, "study", "storage", "modeling"},
}
WITHOUT_TORCH = ("study", "storage", "scheduling", "analysis")
AT_ONCE = ("xlmr_sweep.commands.entry", "xlmr_sweep.commands.subcommands", "xlmr_sweep.data.demo")
"""What answers at once."""
SLOW = {"torch", "ray", "transformers"}


def test_imports_between_rooms_run_one_way() -> None:
    wrong = {
        name: imports
        for name, targets in rooms.room_imports().items()
        for target, imports in targets.items()
        if target not in MAY_IMPORT[name]
    }
    assert not wrong


def test_no_import_circle() -> None:
    assert rooms.circle({name: set(targets) for name, targets in rooms.room_imports().items()}) == []
    assert rooms.circle(rooms.module_imports()) == []
    # The search itself finds one.
    assert rooms.circle({"a": {"b"}, "b": {"c"}, "c": {"a"}}) == ["a", "b", "c", "a"]


def test_only_cluster_imports_ray() -> None:
    importers = {module for module in rooms.modules() if any(name.split(".")[0] == "ray" for name in rooms.imported(module))}
    assert importers
    assert {rooms.room(module) for module in importers} == {"cluster"}


@pytest.mark.parametrize("name", WITHOUT_TORCH)
def test_pure_rooms_import_neither_ray_nor_torch(name: str, loaded: dict[str, set[str]]) -> None:
    direct = {module: SLOW & {full.split(".")[0] for full in rooms.imported(module)} for module in _members(name)}
    assert not {module: names for module, names in direct.items() if names}
    # Nor by way of another module.
    assert loaded[name] == set()


@pytest.mark.parametrize("module", AT_ONCE)
def test_what_answers_at_once_imports_neither_ray_nor_torch(module: str, loaded: dict[str, set[str]]) -> None:
    assert loaded[module] == set()


def test_training_loads_no_ray(loaded: dict[str, set[str]]) -> None:
    assert "torch" in loaded["training"], "what is loaded is seen"
    assert "ray" not in loaded["training"]


@pytest.fixture(scope="module")
def loaded() -> dict[str, set[str]]:
    """The slow packages that a fresh process has after each module and room in turn: the first that has one is the cause."""
    groups = {**{module: [module] for module in AT_ONCE}, **{name: _members(name) for name in (*WITHOUT_TORCH, "training")}}
    code = (
        "import importlib, json, sys\nfound = {}\n"
        "for name, modules in json.loads(sys.argv[1]).items():\n"
        "    for module in modules:\n        importlib.import_module(module)\n"
        f"    found[name] = sorted({SLOW} & set(sys.modules))\n"
        "print(json.dumps(found))"
    )
    done = subprocess.run([sys.executable, "-c", code, json.dumps(groups)], capture_output=True, text=True, check=True)
    return {name: set(packages) for name, packages in json.loads(done.stdout).items()}


def _members(room: str) -> list[str]:
    return [module for module in rooms.modules() if rooms.room(module) == room]


def test_no_module_name_is_used_twice_in_the_package() -> None:
    names: dict[str, list[str]] = {}
    for module, path in rooms.modules().items():
        # The demo world names its parts after what they make for the rest of the package.
        if path.name != "__init__.py" and module.startswith("xlmr_sweep.") and ".demo." not in module:
            names.setdefault(path.stem, []).append(module)
    assert {name: twice for name, twice in names.items() if len(twice) > 1} == {}
