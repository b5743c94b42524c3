"""What a preparation of instruction data leaves, and other processes that do its work."""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Iterator, Sequence
from pathlib import Path

from xlmr_sweep.data.part_work import PartDone, PartWork
from xlmr_sweep.data.row_files import Segment


def digest(storage: Path) -> dict[str, str]:
    """Returns a hash of each file that a preparation leaves, by name. The manifest of a mixture tells when it was made."""
    found = {}
    for path in sorted(path for path in (storage / "data").rglob("*") if path.is_file()):
        content = path.read_bytes()
        if path.name == "manifest.json":
            content = json.dumps({**json.loads(content), "created_at": ""}).encode()
        found[path.relative_to(storage).as_posix()] = hashlib.sha256(content).hexdigest()
    return found


def backwards(work: PartWork, segments: Sequence[Segment]) -> Iterator[PartDone]:
    """Other processes: the parts in another order, each with the work as it comes out of a pickle."""
    for segment in reversed(segments):
        for payload in segment.payloads():
            yield pickle.loads(pickle.dumps(work))(payload)  # noqa: S301 - its own.
