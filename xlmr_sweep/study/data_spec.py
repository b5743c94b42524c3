"""The declaration of data: the tasks' examples, and the instructions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from xlmr_sweep.study.canonical import Declared

Bucket = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9+.-]*://")]
"""A URI, not a path."""


class DataSpec(Declared):
    """Where the tasks' examples come from."""

    source: Literal["hub", "folder", "demo"] = "hub"

    hub: str = "aps/super_glue"
    """Hub data set with one configuration a task (the official SuperGLUE rows as parquet)."""

    revision: str = "main"

    folder: Path | None = None
    """Folder of the official archive: `<TASK>/{train,val}.jsonl`; relative to the study file."""

    seed: int = 0
    """Seed of the demo world. Instructions and models of the demo follow it."""

    @model_validator(mode="after")
    def _folder_given(self) -> Self:
        if (self.source == "folder") != (self.folder is not None):
            raise ValueError("data.folder goes with data.source: folder, and only with it")
        return self


class InstructionSpec(Declared):
    """The instruction data: xP3 of the hub, a jsonl file or folder in its form, or the demo's own."""

    source: Literal["hub", "folder", "demo"] = "hub"

    hub: str = "bigscience/xP3"
    files: str = "en/merged_en.jsonl"
    """Glob of the hub's files to read. The merged file holds every English row once; per-prompt files hold them again."""

    revision: str = "main"

    folder: Bucket | Path | None = Field(default=None, union_mode="left_to_right")
    """A file or folder of `*.jsonl` or `*.jsonl.gz`, else `*.jsonl.zst` or `*.parquet`, with `inputs` and `targets`; relative to
    the study file. Or the URI of a folder in a bucket, such as `s3://bucket/rows`."""

    max_target_tokens: int = Field(default=3, ge=1)
    """Rows with a longer target are left out (paper, section 3.1, where we take "tokens" as tokens of the model)."""

    tokenizer: str | None = None
    """Model of this study whose tokenizer counts target tokens, so that all models train on the same rows. Default: first."""

    exclude: tuple[str, ...] = ()
    """Glob patterns of file names (or demo families) to leave out, to hold tasks out of the mixture."""

    drop_duplicates: bool = False
    """Keeps only the first of rows that are equal in inputs and targets."""

    max_malformed: float = Field(default=0.001, ge=0, lt=1)
    """Share of rows that may be malformed, in [0, 1). Such rows are left out and shown. More of them are an error."""

    max_rows: int | None = Field(default=None, ge=1)
    """Reads only this many rows, the first ones, to try things out. xP3 is sorted by input, so the first rows are no sample."""

    @model_validator(mode="after")
    def _folder_given(self) -> Self:
        if (self.source == "folder") != (self.folder is not None):
            raise ValueError("instructions.folder goes with instructions.source: folder, and only with it")
        return self
