"""Files of instruction rows, and studies that read them."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from xlmr_sweep.study.spec import Study

WORDS = ["User", ":", "Assistant", "is", "the", "sky", "blue", "?", "yes", "no", "it", "very", "dark", "green", "today"]


def rows(number: int = 120, seed: int = 0) -> list[dict[str, str]]:
    rng = random.Random(seed)
    texts = [" ".join(rng.choices(WORDS[3:], k=rng.randint(1, 20))) for _ in range(number)]
    return [{"inputs": text, "targets": " ".join(rng.choices(WORDS[8:], k=rng.randint(1, 5)))} for text in texts]


def lines(found: Sequence[dict[str, str]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in found).encode()


def study_of(model: Path, folder: Path | str, more: Sequence[dict[str, Any]] = (), **instructions: Any) -> Study:
    return Study.model_validate(
        {
            "name": "s",
            "models": [{"name": "m", "folder": model}, *more],
            "sizes": [8],
            "seeds": [0],
            "instruct": {"max_length": 16},
            "instructions": {"source": "folder", "folder": folder, **instructions},
        }
    )
