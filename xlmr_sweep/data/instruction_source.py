"""Where instruction rows come from: xP3 on the hub, a file or folder of its form, or the demo's own rows.

In: a study. Out: rows (inputs, targets) one after another, and what was left out. Nothing is kept in memory or written.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from typing import Any

from xlmr_sweep.data.jsonl import count_lines, read_jsonl
from xlmr_sweep.errors import StudyError
from xlmr_sweep.study.data_spec import InstructionSpec
from xlmr_sweep.study.input_files import instruction_files
from xlmr_sweep.study.spec import Study

ROW_BYTES = 32
"""Bytes of a row of JSON lines beside its two texts."""

ESTIMATE_ROWS = 4096
"""The number of all rows on the hub is estimated again each time this many were read."""

Row = tuple[str, str]


class InstructionSource:
    """Rows of the declared source that are not excluded, and what was left out."""

    def __init__(self, study: Study) -> None:
        self._study, self._spec = study, study.instructions
        self.excluded: list[str] = []
        """Files or families that a pattern left out."""
        self.hidden: list[str] = []
        """Hidden files, which are never read."""
        self.num_excluded = 0
        self.total: float | None = None
        """Rows to read, where known before."""
        self.resolved: dict[str, Any] = {}

    def rows(self) -> Iterator[Row]:
        """Yields inputs and targets of the rows that no pattern leaves out."""
        return {"hub": self._hub, "folder": self._folder, "demo": self._demo}[self._spec.source]()

    def _folder(self) -> Iterator[Row]:
        files = instruction_files(self._spec)
        self.hidden = [path.name for path in files.hidden]
        paths = self._not_excluded({path.name: path for path in files.read})
        self.num_excluded = sum(count_lines(path) for path in self._left_out)
        # A study that reads a few rows of a large file does not count its lines.
        self.total = self._spec.max_rows or sum(count_lines(path) for path in paths)
        for path in paths:
            yield from read_jsonl(path)

    def _not_excluded(self, files: dict[str, Any]) -> list[Any]:
        self.excluded = [name for name in files if _matches(name, self._spec)]
        self._left_out = [files[name] for name in self.excluded]
        if len(self.excluded) == len(files):
            raise StudyError(f"instructions.exclude: leaves none of {len(files)} files")
        return [path for name, path in files.items() if name not in self.excluded]

    def _demo(self) -> Iterator[Row]:
        from xlmr_sweep.data.demo import instruction_rows

        rows = instruction_rows(self._study.data.seed)
        self.total = len(rows)
        self.excluded = sorted({row["family"] for row in rows if _matches(row["family"], self._spec)})
        self.num_excluded = sum(row["family"] in self.excluded for row in rows)
        for row in rows:
            if row["family"] not in self.excluded:
                yield row["inputs"], row["targets"]

    def _hub(self) -> Iterator[Row]:
        files, self.resolved, sizes = hub_files(self._spec)
        names = self._not_excluded({name: name for name in files})
        # Nobody has counted the rows. The bytes of the rows read so far tell how many there are, unless files are packed.
        num_bytes = sum(sizes[name] or 0 for name in names if name.endswith((".json", ".jsonl")))
        read_bytes = 0
        for number, row in enumerate(self._streamed([files[name] for name in names]), 1):
            inputs, targets = row.get("inputs"), row.get("targets")
            if not isinstance(inputs, str) or not isinstance(targets, str):
                raise StudyError(f"instructions: a row of {self._spec.hub} lacks text in inputs or targets; check files")
            read_bytes += len(inputs) + len(targets) + ROW_BYTES
            if num_bytes and number % ESTIMATE_ROWS == 0:
                self.total = max(number, round(number * num_bytes / read_bytes))
            yield inputs, targets

    def _streamed(self, urls: Sequence[str]) -> Iterator[dict[str, Any]]:
        number = 0
        try:
            for row in stream_json(urls):
                number += 1
                yield row
        except StudyError:
            raise
        except Exception as error:  # The readers' errors have no common class.
            problem = " ".join(str(error).split())[:200]
            text = f"instructions.hub: {self._spec.hub}: after {number} rows: {type(error).__name__}: {problem}; start again"
            raise StudyError(text) from None


def hub_files(spec: InstructionSpec) -> tuple[dict[str, str], dict[str, Any], dict[str, int | None]]:
    """Returns the hub's files of a study by name, pinned to a commit; what was resolved; and the files' bytes where known.

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
    names = sorted(sizes)
    if not names:
        raise StudyError(f"instructions.files: {spec.hub}@{spec.revision} has no file {spec.files}")
    return {name: f"hf://datasets/{spec.hub}@{info.sha}/{name}" for name in names}, {"commit": info.sha, "files": names}, sizes


def stream_json(urls: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yields rows of JSON-lines files by URL without keeping them; no loading script is ever run."""
    from datasets import load_dataset

    yield from load_dataset("json", data_files=list(urls), split="train", streaming=True)


def _matches(name: str, spec: InstructionSpec) -> bool:
    return any(fnmatch(name, pattern) for pattern in spec.exclude)
