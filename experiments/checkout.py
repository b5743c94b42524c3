"""Lets the scripts beside it, and the processes that they start, run this checkout's code whether or not it is installed."""

from __future__ import annotations

import os
import sys
from pathlib import Path

ROOT = str(Path(__file__).resolve().parents[1])

if ROOT not in sys.path:
    sys.path.insert(0, ROOT)
    # Of a Ray that the command starts itself, all processes have it from here.
    os.environ["PYTHONPATH"] = os.pathsep.join([ROOT, *filter(None, [os.environ.get("PYTHONPATH")])])
