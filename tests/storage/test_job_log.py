"""The log of an instruction job, written by several threads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from xlmr_sweep.storage.artifacts import job_log_file
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.storage.job_log import JobLog


def test_lines_of_several_threads_are_all_kept(tmp_path: Path) -> None:
    log = JobLog(Storage(tmp_path), "m-1")
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(log.write, [f"line {number}" for number in range(40)]))
    lines = (tmp_path / job_log_file("m-1")).read_text().splitlines()
    assert sorted(int(line.rpartition(" ")[2]) for line in lines) == list(range(40))
