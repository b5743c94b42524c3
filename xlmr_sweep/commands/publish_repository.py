"""What `publish` makes: repositories, each of files as bytes or in a folder. In: their files. Out: sizes, and what is refused."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from xlmr_sweep.commands.publish_weights import EVAL_RESULTS
from xlmr_sweep.errors import StudyError
from xlmr_sweep.storage.artifacts import DATA

OUR_FOLDERS = (f"{DATA}/", "tables/", f"{EVAL_RESULTS}/")
"""What lies in them is made by `publish` alone."""

SECRET_NAMES = re.compile(r"TOKEN|SECRET|PASSWORD|PASSWD|ACCESS_KEY|API_KEY|CREDENTIAL", re.IGNORECASE)
"""Variables of the environment whose values go into no file."""

SECRETS = re.compile(
    rb"\bhf_[A-Za-z0-9]{30,}|\bAKIA[0-9A-Z]{16}\b|-----BEGIN [A-Z ]*PRIVATE KEY-----|://[^\s/:@\"']+:[^\s/@\"']+@"
)
"""What looks like a token of the hub, a key of S3, a private key, or a password in an address."""


@dataclass(frozen=True)
class Repository:
    """What becomes one repository on the hub, or one folder."""

    kind: Literal["dataset", "model"]
    name: str
    """ORG/NAME on the hub; below the folder otherwise."""
    title: str
    files: Mapping[str, bytes | Path]
    """Contents, or where they lie, by path in the repository."""


def is_left_over(repository: Repository, name: str) -> bool:
    """Tells whether a file that is there already was made by an earlier `publish` and is no part of this one."""
    return name not in repository.files and (name.startswith(OUR_FOLDERS) or name.endswith(".safetensors"))


def refuse_secrets(repository: Repository) -> None:
    """Refuses text that holds a key or password, or the value of a variable that looks like one.

    Raises:
        StudyError: naming the file, never the value.
    """
    from huggingface_hub import get_token

    known = {value for name, value in os.environ.items() if SECRET_NAMES.search(name)} | {get_token() or ""}
    values = [value.encode() for value in known if len(value) >= 8 and not os.path.exists(value)]  # noqa: PTH110  `Path` raises for a long text.
    for name, content in repository.files.items():
        if not isinstance(content, bytes) or name.endswith(".parquet"):
            continue
        if SECRETS.search(content) or any(value in content for value in values):
            raise StudyError(f"publish: {repository.name}/{name} would hold a token, key or password; take it out of the study")


def content_size(content: bytes | Path) -> int:
    """Returns the bytes of a file."""
    return len(content) if isinstance(content, bytes) else content.stat().st_size


def amount(size: float) -> str:
    """Returns bytes in words, such as 1.2 MB."""
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"
