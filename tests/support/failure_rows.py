"""Rows of failures as a trial's process writes them."""

from __future__ import annotations

from typing import Any


def error(line: int = 120, name: str = "ValueError", message: str = "") -> dict[str, Any]:
    where = f'Traceback\n  File "/x/trainable.py", line 5, in _run\n  File "/x/finetune.py", line {line}, in _train\n{name}'
    return {"error_class": name, "message": message, "traceback": where}
