"""Reading a study file. In: a path, or the name of a study that ships with the project. Out: a `Study`, folders made absolute."""

from __future__ import annotations

import json
import re
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from xlmr_sweep.errors import StudyError
from xlmr_sweep.study.spec import Study, validated

CHECKOUT = Path(__file__).parents[2]

STUDY_FILES = (".yaml", ".yml", ".json")
"""Endings of study files. JSON is what a storage and a published data set hold."""

DECIMAL = re.compile(r"[-+]?(0|[1-9][0-9]*|[0-9]*\.[0-9]*)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
"""A number that YAML, Python and people read in the same way."""


def shipped_folder(of_checkout: Path, file: str) -> Path:
    """Returns a folder of files that ship with the project: the checkout's, or else the installed package's.

    Args:
        of_checkout: the folder in a checkout.
        file: the name of a file in it.
    """
    if of_checkout.is_dir():
        return of_checkout
    try:
        installed = [found for found in metadata.files("xlmr_sweep") or () if found.parts[-2:] == (of_checkout.name, file)]
    except metadata.PackageNotFoundError:
        installed = []
    return Path(str(installed[0].locate())).resolve().parent if installed else of_checkout


def studies_folder() -> Path:
    """Returns the folder of the studies that ship with the project."""
    return shipped_folder(CHECKOUT / "experiments" / "studies", "paper.yaml")


class _AsWritten(yaml.SafeLoader):
    """Refuses what YAML would read in another way than a person does.

    Three things are refused. A mapping may not hold a key twice: the last would win. (A merge, `<<`, may be overridden.) A number
    must be decimal: 010 would be 8, and 1:30 would be 90. A list may not be given as a set: that has another order each time.
    """

    def refuse_set(self, node: yaml.Node) -> Any:
        """Refuses a set."""
        raise yaml.constructor.ConstructorError(None, None, "!!set has no order; write a list, as [a, b]", node.start_mark)

    def construct_decimal(self, node: yaml.ScalarNode) -> Any:
        """Returns the number of a scalar that is written in decimal digits."""
        read = self.construct_yaml_float(node) if node.tag.endswith("float") else self.construct_yaml_int(node)
        if not DECIMAL.fullmatch(node.value):
            problem = f"{node.value} would be read as {read}; write a decimal number, or quotes around a text"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        return read

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"the key {key.value!r} is there twice", key.start_mark)
            seen.add(str(key.value))
        return node


_AsWritten.add_constructor("tag:yaml.org,2002:set", _AsWritten.refuse_set)
for kind in ("int", "float"):
    _AsWritten.add_constructor(f"tag:yaml.org,2002:{kind}", _AsWritten.construct_decimal)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Returns the mapping of a JSON object. A key that is there twice is refused, as in YAML."""
    names = [name for name, _ in pairs]
    for name in names:
        if names.count(name) > 1:
            raise yaml.constructor.ConstructorError(None, None, f"the key {name!r} is there twice")
    return dict(pairs)


def _yaml_problem(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return "nested too deeply" if isinstance(error, RecursionError) else " ".join(str(error).split())
    context = f"{error.context}, " if isinstance(error, yaml.MarkedYAMLError) and error.context else ""
    return f"line {mark.line + 1}, column {mark.column + 1}: {context}{getattr(error, 'problem', '')}"


def load_study(name_or_path: str) -> Study:
    """Reads the study `paper`, `demo`, a user's own YAML file, or the `study.json` of a storage or of what was published.

    Raises:
        StudyError: if there is no such study or file, if it is not YAML, or if a key or value is wrong (named).
    """
    return _absolute(*_as_written(name_or_path))


def folders_as_written(name_or_path: str) -> list[str]:
    """Returns the folders and files that a study names, as its file spells them.

    Raises:
        StudyError: as `load_study`.
    """
    study, _ = _as_written(name_or_path)
    found = [folder for model in study.models for folder in (model.folder, model.instructed_folder)]
    found.append(study.data.folder)
    rows = [study.instructions.folder, *(study.at(variant.name).instructions.folder for variant in study.variants)]
    found += [folder for folder in rows if isinstance(folder, Path)]
    return list(dict.fromkeys(str(folder) for folder in found if folder is not None))


def _as_written(name_or_path: str) -> tuple[Study, Path]:
    """Reads a study whose folders are still relative to its file, which is returned too."""
    path = Path(name_or_path)
    if path.suffix.lower() not in STUDY_FILES:
        studies = studies_folder()
        path = studies / f"{name_or_path}.yaml"
        if not path.is_file():
            known = ", ".join(sorted(p.stem for p in studies.glob("*.yaml")))
            raise StudyError(f"--study {name_or_path}: no such study; known are {known}, or give the path of a .yaml file")
    # YAML would read halves of a character that JSON escapes in two parts.
    is_json = path.suffix.lower() == ".json"
    try:
        text = path.read_text(encoding="utf-8")
        raw = json.loads(text, object_pairs_hook=_once) if is_json else yaml.load(text, _AsWritten)  # noqa: S506 - a SafeLoader.
    except OSError as error:
        raise StudyError(f"--study {path}: cannot be read: {error.strerror}") from None
    except json.JSONDecodeError as error:
        raise StudyError(f"--study {path}: not a JSON file: line {error.lineno}, column {error.colno}: {error.msg}") from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise StudyError(f"--study {path}: not a {'JSON' if is_json else 'YAML'} file: {_yaml_problem(error)}") from None
    if not isinstance(raw, dict):
        raise StudyError(f"--study {path}: holds no mapping of keys to values")
    return validated(raw, str(path)), path


def _absolute(study: Study, path: Path) -> Study:
    """Makes folders absolute, relative to the study file. Every node and every later command then finds them."""

    def resolve(folder: Path | None, field: str) -> Path | None:
        try:
            return None if folder is None else (path.parent / folder.expanduser()).resolve()
        except (RuntimeError, ValueError, OSError) as error:
            raise StudyError(f"{path}: {field}: {str(folder)!r} is not a path: {error}") from None

    keys = ("folder", "instructed_folder")
    models = tuple(
        model.model_copy(update={key: resolve(getattr(model, key), f"models.{i}.{key}") for key in keys})
        for i, model in enumerate(study.models)
    )
    data = study.data.model_copy(update={"folder": resolve(study.data.folder, "data.folder")})
    rows = study.instructions.folder
    if isinstance(rows, Path):
        rows = resolve(rows, "instructions.folder")
    instructions = study.instructions.model_copy(update={"folder": rows})
    variants = []
    for variant in study.variants:
        own = study.at(variant.name).instructions.folder if "folder" in variant.instructions else None
        changes = dict(variant.instructions)
        if isinstance(own, Path):
            changes["folder"] = str(resolve(own, f"variants.{variant.name}.instructions.folder"))
        variants.append(variant.model_copy(update={"instructions": changes}))
    return study.model_copy(update={"models": models, "data": data, "instructions": instructions, "variants": tuple(variants)})
