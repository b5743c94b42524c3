"""Measures what `docs/benchmarks.md` says: `python experiments/benchmark.py NAME ...` runs `experiments/benchmarks/NAME.py`."""

from __future__ import annotations

import checkout  # noqa: F401  # isort: skip

import importlib
import signal
import sys
from pathlib import Path

INTERRUPTED = 130
FOLDER = Path(__file__).parent / "benchmarks"


def main(arguments: list[str]) -> int:
    """Dispatches to a benchmark's own `main(arguments)`; returns its exit status, or 2 for an unknown name."""
    known = sorted(path.stem for path in FOLDER.glob("*.py") if not path.stem.startswith("_"))
    if not arguments or arguments[0] in ("-h", "--help"):
        print(f"usage: benchmark.py NAME ...\n{__doc__}\nnames: {', '.join(known)}")
        return 0 if arguments else 2
    if arguments[0] not in known:
        print(f"Error: no benchmark {arguments[0]!r}; there are {', '.join(known)}", file=sys.stderr)
        return 2
    sys.path.insert(0, str(FOLDER.parent))
    # SystemExit unwinds the stack, so that a benchmark ends the processes that it started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(INTERRUPTED))
    try:
        status: int = importlib.import_module(f"benchmarks.{arguments[0]}").main(arguments[1:])
    except KeyboardInterrupt:
        return INTERRUPTED
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
