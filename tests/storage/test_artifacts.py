"""Where things lie in a storage: no other module spells the names of its folders and fixed files."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest
import rooms

from xlmr_sweep.storage import artifacts

OWN = "xlmr_sweep.storage.artifacts"
FOLDERS = sorted({value for name, value in vars(artifacts).items() if name.isupper() and not name.endswith("_FILE")})
FILES = (artifacts.STUDY_FILE, artifacts.RESULTS_FILE, "manifest.json")
TAKES_A_NAME = {
    "names",
    "folders",
    "path",
    "for_ray",
    "exists",
    "read",
    "read_json",
    "write",
    "write_json",
    "delete",
    "folder_of",
}
"""Calls whose argument may be a folder's bare name."""


def spelt(tree: ast.AST) -> Iterator[str]:
    """Yields what a module's code spells of the storage's names; docstrings may name them."""
    docstrings = {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    bare = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) in TAKES_A_NAME:
            bare |= {argument for argument in node.args if isinstance(argument, ast.Constant)}
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
            bare |= {node.right}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Constant) or not isinstance(node.value, str) or node in docstrings:
            continue
        text = node.value
        path = any(text.startswith(f"{folder}/") for folder in FOLDERS)
        if (path and " " not in text) or any(file in text for file in FILES) or (node in bare and text in FOLDERS):
            yield text


def test_the_search_finds_what_it_should() -> None:
    code = 'f"data/{x}"\nstorage.names("records")\nread(f"{x}/manifest.json")\n{"data": 1}\n"records/ hold a file each"\n'
    assert sorted(spelt(ast.parse(f"found = [{', '.join(code.splitlines())}]"))) == ["/manifest.json", "data/", "records"]
    assert {"data", "records", "tune", "tmp"} <= set(FOLDERS)


@pytest.mark.parametrize("package", ["xlmr_sweep", "analysis"])
def test_no_other_module_spells_a_folder_of_the_storage(package: str) -> None:
    found = {
        module: names
        for module, path in rooms.modules().items()
        if module.split(".")[0] == package and module != OWN
        if (names := sorted(spelt(ast.parse(path.read_text(encoding="utf-8")))))
    }
    assert found == {}
