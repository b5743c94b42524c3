"""Where instruction rows come from: xP3 on the hub, files of its form in a folder or bucket, or the demo's own rows.

In: a study. Out: segments to be read, and what was left out. Nothing is kept in memory or written.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from pyarrow import fs

from xlmr_sweep.data.row_file import RowFile, check_same, open_filesystem, version_of
from xlmr_sweep.data.row_files import FirstRows, Payload, Segment, count_rows, file_segments, patiently
from xlmr_sweep.errors import MissingFolderError, StudyError
from xlmr_sweep.storage.location import shown
from xlmr_sweep.study.data_spec import InstructionSpec
from xlmr_sweep.study.identity import file_hash
from xlmr_sweep.study.input_files import InputFiles, instruction_files, is_hidden, split_rows
from xlmr_sweep.study.spec import Study

Row = tuple[str, str]

NUM_PARTS, PART_BYTES = 256, (2**19, 2**22)
"""A source is cut into about NUM_PARTS parts. PART_BYTES is the least and the most bytes of a part. A kill loses the parts that
are being read: two threads lose 0.8% at most of a source from 128 MiB on, about 110,000 of xP3's rows. A part of 4 MiB is 1/8,800
of English xP3 (37 GB), so 64 processes lose 0.7% at most."""

DEMO_PART_ROWS = 4096


def part_size(num_bytes: int) -> int:
    """Returns the bytes of a part of a source."""
    return min(max(num_bytes // NUM_PARTS, PART_BYTES[0]), PART_BYTES[1])


class InstructionSource:
    """The declared source, without the files or families that the study excludes.

    Attributes:
        files: the files that are read, in order; empty for the demo.
        excluded: files or families that match a pattern of `exclude`.
        hidden: hidden files, which are never read.
        notes: lines that say which hidden files and files of another kind are left out.
        resolved: what was found at the source, for the manifest.
        part_bytes: size of a part.
        max_rows: largest number of rows to read.

    Raises:
        StudyError: if the source is missing, or a pattern matches nothing or everything.
    """

    def __init__(self, study: Study) -> None:
        self._study, self._spec = study, study.instructions
        self.max_rows = self._spec.max_rows
        self.files: list[RowFile] = []
        self.excluded: list[str] = []
        self.hidden: list[str] = []
        self.notes: list[str] = []
        self.resolved: dict[str, Any] = {}
        self._left_out: list[RowFile] = []
        self._demo_rows: list[dict[str, str]] = []
        self._num_excluded_rows = 0
        {"hub": self._find_hub, "folder": self._find_folder, "demo": self._find_demo}[self._spec.source]()
        self.num_bytes = sum(file.num_bytes for file in self.files)
        self.part_bytes = part_size(self.num_bytes)

    def segments(self, done: set[tuple[int, int]]) -> list[Segment]:
        """Returns the segments to read, without the parts that are done."""
        if self._spec.source == "demo":
            return [DemoSegment(tuple(self._demo_rows[: self._spec.max_rows]), frozenset(part for _, part in done))]
        if self._spec.max_rows is None:
            return list(file_segments(self.files, self.part_bytes, done))
        return [FirstRows(tuple(file_segments(self.files, self.part_bytes, set())), self._spec.max_rows, frozenset(done))]

    def num_excluded(self) -> int:
        """Returns the number of rows that a pattern left out. Those of the hub are not fetched to be counted.

        Raises:
            StudyError: if a file cannot be read.
        """
        counted = [] if self._spec.source == "hub" else self._left_out
        return self._num_excluded_rows + sum(patiently(file, lambda file=file: count_rows(file)) for file in counted)  # type: ignore[misc]

    def check_same(self) -> None:
        """Checks that no file has changed since it was listed.

        Raises:
            StudyError: naming a file that has changed.
            UnreachableError: if a file elsewhere cannot be reached.
        """
        for file in self.files:
            patiently(file, lambda file=file: check_same(file))  # type: ignore[misc]

    def _find_hub(self) -> None:
        urls, self.resolved, sizes = hub_files(self._spec)
        self._note(InputFiles(self._spec.hub, tuple(urls), tuple(sorted(sizes.keys() - urls.keys()))), "instructions.hub")
        kept = self._not_excluded([RowFile(name, url, sizes[name] or _size(name, url)) for name, url in urls.items()])
        self.files = kept

    def _find_folder(self) -> None:
        if isinstance(self._spec.folder, str):
            listed, found = bucket_files(self._spec.folder)
            self.resolved = {"files": {file.label: file.num_bytes for file in found}}
        else:
            listed = instruction_files(self._spec)
            found = [_local_file(Path(listed.place) / name) for name in listed.read]
        self._note(listed, "instructions.folder")
        self.files = self._not_excluded(found)

    def _note(self, listed: InputFiles, field: str) -> None:
        self.hidden, self.notes = list(listed.hidden), [f"{field}: {line}" for line in listed.left_out()]

    def _not_excluded(self, files: list[RowFile]) -> list[RowFile]:
        is_hub = self._spec.source == "hub"
        names = {file: file.label if is_hub else file.name for file in files}
        out = _left_out(list(names.values()), self._spec, "files")
        self.excluded = [name for name in names.values() if name in out]
        self._left_out = [file for file, name in names.items() if name in out]
        return [file for file, name in names.items() if name not in out]

    def _find_demo(self) -> None:
        from xlmr_sweep.data.demo import instruction_rows

        rows = instruction_rows(self._study.data.seed)
        self.excluded = sorted(_left_out(sorted({row["family"] for row in rows}), self._spec, "families"))
        self._demo_rows = [row for row in rows if row["family"] not in self.excluded]
        self._num_excluded_rows = len(rows) - len(self._demo_rows)


@dataclass(frozen=True)
class DemoSegment:
    """The demo's rows."""

    rows: tuple[dict[str, str], ...]
    done: frozenset[int] = frozenset()

    def payloads(self) -> Iterator[Payload]:
        """Yields the parts that are not done."""
        for part, start in enumerate(range(0, len(self.rows), DEMO_PART_ROWS)):
            rows = self.rows[start : start + DEMO_PART_ROWS]
            if part not in self.done:
                lines = "".join(json.dumps({"inputs": row["inputs"], "targets": row["targets"]}) + "\n" for row in rows)
                yield Payload(0, part, lines.encode(), len(lines))


def hub_files(spec: InstructionSpec) -> tuple[dict[str, str], dict[str, Any], dict[str, int | None]]:
    """Returns URLs of a study's files on the hub, by name and pinned to a commit; what was resolved; and sizes, if known.

    The last also names the hidden files that match. They are read only if the study names one of them itself.

    Raises:
        StudyError: if the hub cannot be reached, or has no such data set or file.
    """
    from huggingface_hub import HfApi

    try:
        info = HfApi().dataset_info(spec.hub, revision=spec.revision, files_metadata=True)
    except Exception as error:  # The client's classes for "no network" have no common base of their own.
        problem = " ".join(str(error).split())[:200]
        raise StudyError(f"instructions.hub: {spec.hub}@{spec.revision} cannot be read: {problem}") from None
    sizes = {f.rfilename: getattr(f, "size", None) for f in info.siblings or () if fnmatch(f.rfilename, spec.files)}
    names = sorted(name for name in sizes if not is_hidden(name) or name == spec.files)
    if not names:
        raise StudyError(f"instructions.files: {spec.hub}@{spec.revision} has no file {spec.files}")
    return {name: f"hf://datasets/{spec.hub}@{info.sha}/{name}" for name in names}, {"commit": info.sha, "files": names}, sizes


def bucket_files(url: str) -> tuple[InputFiles, list[RowFile]]:
    """Returns what is right in a folder behind a URI, and its files of instruction rows.

    Raises:
        StudyError: if it cannot be read.
        MissingFolderError: if it holds no such file.
    """
    filesystem, root = open_filesystem(url)
    # A query may hold keys, and it is no part of any file's path.
    place = shown(url).partition("?")[0].rstrip("/")
    listing = patiently(RowFile(place, url, 0), lambda: filesystem.get_file_info(fs.FileSelector(root, allow_not_found=True)))
    sizes = {info.base_name: info.size for info in listing if info.type == fs.FileType.File}
    listed = split_rows(place, sizes, (info.base_name for info in listing if info.type == fs.FileType.Directory))
    if not listed.read:
        if filesystem.get_file_info(root).type == fs.FileType.File:
            raise StudyError(f"instructions.folder: {place} is a file; give the URI of its folder")
        raise MissingFolderError(f"instructions.folder: {place} holds no file of instruction rows, such as *.jsonl")
    files = [RowFile(f"{place}/{name}", url, int(sizes[name]), inside=name) for name in listed.read]
    versions = (patiently(file, lambda file=file: version_of(*file.opened())) for file in files)  # type: ignore[misc]
    return listed, [replace(file, num_bytes=size, version=version) for file, (size, version) in zip(files, versions, strict=True)]


def _local_file(path: Path) -> RowFile:
    size, version = version_of(fs.LocalFileSystem(), str(path))
    return RowFile(str(path), str(path), size, version, file_hash(path, "instructions.folder"))


def _size(label: str, url: str) -> int:
    """Returns the size of a file whose size the hub's listing does not have."""
    filesystem, path = open_filesystem(url)
    return int(patiently(RowFile(label, url, 0), lambda: filesystem.get_file_info(path)).size)


def _left_out(names: list[str], spec: InstructionSpec, what: str) -> set[str]:
    """Returns the names that a pattern matches, with or without their folder."""
    out: set[str] = set()
    for pattern in spec.exclude:
        matched = {name for name in names if fnmatch(name, pattern) or fnmatch(Path(name).name, pattern)}
        if not matched:
            hint = ""
            if spec.source == "hub" and len(names) == 1:
                hint = f"; {names[0]} holds all families, so set instructions.files to the files of single families"
            raise StudyError(f"instructions.exclude: {pattern!r} matches none of {len(names)} {what}{hint}")
        out |= matched
    if len(out) == len(names):
        raise StudyError(f"instructions.exclude: leaves none of {len(names)} {what}")
    return out
