"""The README and the pages of `docs/`: links lead somewhere, files and names exist, lists of the code's own are complete."""

from __future__ import annotations

import ast
import builtins
import re
from functools import cache
from pathlib import Path

import pytest
import rooms
from pages import PAGES, ROOT, anchors, blocks, inline_code, links, page_name, prose

from xlmr_sweep.storage import artifacts
from xlmr_sweep.storage.records import COLUMNS
from xlmr_sweep.study.spec import ClusterSpec

README = ROOT / "README.md"
MOST_LINES, MOST_BYTES = 150, 12 * 1024
FOLDERS = tuple(f"{path.name}/" for path in ROOT.iterdir() if path.is_dir() and path.name != "runs")
OF_OTHERS = {"AutoModel", "AutoModelForMaskedLM", "AutoModelForSequenceClassification", "OutOfMemoryError", "TorchTrainer"}
"""Classes of torch, transformers and Ray that the pages name."""
OLD_PAGES = ("CHANGELOG.md", "docs/log.md")
"""Pages that tell of code as it was."""

each_page = pytest.mark.parametrize("page", PAGES, ids=page_name)
each_page_of_today = pytest.mark.parametrize("page", [p for p in PAGES if page_name(p) not in OLD_PAGES], ids=page_name)


def test_the_readme_is_short() -> None:
    text = README.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MOST_LINES
    assert len(text.encode()) <= MOST_BYTES


def test_the_readme_shows_the_rooms_as_they_are() -> None:
    assert rooms.picture() + "\n" in blocks(README, "text"), "put the output of `python tests/support/rooms.py` into the README"


def test_the_list_of_files_is_as_they_are() -> None:
    text = (ROOT / "docs" / "files.md").read_text(encoding="utf-8")
    assert text == rooms.file_page() + "\n", "run `python tests/support/rooms.py --files > docs/files.md`"


def test_every_page_can_be_reached_from_the_readme() -> None:
    reached, ahead = set(), [README]
    while ahead:
        page = ahead.pop()
        reached.add(page)
        targets = [(page.parent / link.partition("#")[0]).resolve() for link in links(page)]
        ahead += [target for target in targets if target.suffix == ".md" and target not in reached]
    assert reached >= set(PAGES)


def test_every_picture_is_shown_on_a_page_and_small() -> None:
    shown = {(page.parent / link).resolve() for page in PAGES for link in links(page) if link.endswith(".png")}
    pictures = set((ROOT / "docs" / "images").iterdir())
    assert pictures == shown
    assert [picture.name for picture in pictures if picture.stat().st_size > 150_000] == []


@each_page
def test_every_link_leads_somewhere(page: Path) -> None:
    assert [link for link in links(page) if not _leads_somewhere(page, link)] == []


def _leads_somewhere(page: Path, link: str) -> bool:
    if link.startswith("https://"):
        return True
    path, _, anchor = link.partition("#")
    target = (page.parent / path).resolve() if path else page
    return target.is_relative_to(ROOT) and target.exists() and (not anchor or anchor in anchors(target))


@each_page_of_today
def test_every_file_that_is_named_exists(page: Path) -> None:
    missing = []
    for code in inline_code(page):
        name = code.split(" ")[0]
        if re.search("[<*]|NAME", name):
            continue
        if name.startswith(FOLDERS) and not (ROOT / name).exists():
            missing.append(code)
        if re.fullmatch(r"[\w/]+\.py", name) and not any(str(path).endswith(f"/{name}") for path in _sources()):
            missing.append(code)
    assert missing == []


@cache
def _sources() -> list[Path]:
    folders = ("xlmr_sweep", "analysis", "experiments", "tests", "docker")
    return [path for folder in folders for path in (ROOT / folder).rglob("*.py")]


@each_page_of_today
def test_every_name_is_defined_in_the_file_beside_it(page: Path) -> None:
    # As "`schedule` in `xlmr_sweep/training/finetune.py`", "`A` and `B` of `file.py`", "`A` (`file.py`)".
    pairs = re.findall(r"`([A-Za-z_.]+)`(?:, listed)? (?:in|of|\() ?`([\w/]+\.py)`", prose(page))
    pairs += [(first, path) for first, path in re.findall(r"`([A-Za-z_]+)` and `\w+` (?:in|of) `([\w/]+\.py)`", prose(page))]
    missing = [(name, path) for name, path in pairs if name.split(".")[-1] not in _defined(ROOT / path)]
    assert missing == []


@cache
def _defined(path: Path) -> set[str]:
    """The functions, classes and variables that a file defines, also inside classes."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {target.id for target in targets if isinstance(target, ast.Name)}
    return found


@each_page_of_today
def test_every_class_that_is_named_exists(page: Path) -> None:
    known = set().union(*(_defined(path) for path in _sources())) | OF_OTHERS | set(dir(builtins))
    names = {code.split(".")[0] for code in inline_code(page) if re.fullmatch(r"[A-Z][a-z]+[A-Z]\w+(\.\w+)?", code)}
    assert names - known == set()


@each_page_of_today
def test_limits_are_told_with_their_defaults(page: Path) -> None:
    fields = ClusterSpec.model_fields
    told = [match.groups() for code in inline_code(page) if (match := re.fullmatch(r"(\w+): (\d+)", code))]
    assert {name: float(value) for name, value in told if name in fields and fields[name].default != float(value)} == {}
    if page.name == "failures.md":
        assert len({name for name, _ in told} & fields.keys()) >= 8


def test_the_page_of_the_storage_names_every_column() -> None:
    told = set(inline_code(ROOT / "docs" / "storage.md"))
    assert COLUMNS.keys() - told == set()


def test_the_page_of_the_storage_names_every_folder_and_file() -> None:
    names = {value for name, value in vars(artifacts).items() if name.isupper() and isinstance(value, str)}
    assert len(names) > 10
    told = {code.split("/")[0] for code in inline_code(ROOT / "docs" / "storage.md")}
    assert names - told == set()
