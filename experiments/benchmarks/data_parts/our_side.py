"""Our side of the benchmark: `python our_side.py STUDY.yaml STORAGE here|ray SECONDS_OR_0`. Prints times as JSON.

A third argument `ray` sends the parts to Ray Data. With a fourth above 0 the process kills itself after so many seconds.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[3]))

from xlmr_sweep.data import mixture
from xlmr_sweep.data.chat_encoder import ChatEncoder
from xlmr_sweep.data.mixture import prepare_mixture
from xlmr_sweep.data.part_work import run_here
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.study.reading import load_study


def main(study_file: str, storage: str, where: str, kill_after_s: float) -> None:
    """Prepares the study's instruction data and prints what that took."""
    study = load_study(study_file)
    # So that imports are not in the time, as on the other side.
    import transformers  # noqa: F401

    import xlmr_sweep.modeling.loading  # noqa: F401

    spent: list[float] = []
    _note_tokenizer(spent)
    if kill_after_s:
        threading.Timer(kill_after_s, os.kill, (os.getpid(), signal.SIGKILL)).start()
    began, used_before = time.perf_counter(), cpu_s()
    told = _Progress(began)
    if where == "ray":
        from xlmr_sweep.cluster.connect import connected
        from xlmr_sweep.cluster.ray_data import RayDataRunner

        # Otherwise this process would do a small source alone.
        mixture.HERE_BYTES = 0
        with connected("local"):
            started = time.perf_counter()
            manifest = prepare_mixture(study, Storage(storage), told, RayDataRunner("local"))
            ended = time.perf_counter()
    else:
        started = began
        manifest = prepare_mixture(study, Storage(storage), told, run_here)
        ended = time.perf_counter()
    found = {
        "seconds": ended - started,
        "starting": started - began,
        "parts_seconds": told.last_s,
        "cpu": cpu_s() - used_before,
        "tokenizer_cpu": sum(spent),
        "rows": manifest["num_rows"],
        "tokens": manifest["num_tokens"],
        "rows_of_this_run": told.done,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }
    print(json.dumps(found))


def cpu_s() -> float:
    """Returns the CPU seconds of this process and of those that it started and that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


class _Progress:
    def __init__(self, began: float) -> None:
        self._began, self.done, self.last_s = began, 0.0, 0.0

    def update(self, done: float, total: float | None = None, note: str = "") -> None:
        self.done, self.last_s = done, time.perf_counter() - self._began


def _note_tokenizer(spent: list[float]) -> None:
    """Notes the CPU time of each call of the library `tokenizers`, as on the other side. It works in the caller's thread."""
    encodings = ChatEncoder.encodings

    def timed(encoder: ChatEncoder, texts: list[str]) -> Any:
        began = time.thread_time()
        try:
            return encodings(encoder, texts)
        finally:
            spent.append(time.thread_time() - began)

    ChatEncoder.encodings = timed  # type: ignore[method-assign]


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], float(sys.argv[4]))
