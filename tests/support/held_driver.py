"""A driver of an instruction job that waits: with a Ray of its own: `python held_driver.py STORAGE NOTES < study.json`."""

from __future__ import annotations

import sys
from pathlib import Path

import ray
from held_job import held_work

from xlmr_sweep.cluster import instruct_job
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.study.spec import Study

if __name__ == "__main__":
    uri, notes = sys.argv[1:]
    instruct_job.instruction_rank = held_work(Path(notes))
    ray.init("local", num_cpus=2, num_gpus=0, object_store_memory=100 * 2**20, include_dashboard=False, log_to_driver=False)
    study = Study.model_validate_json(sys.stdin.read())
    instruct_job.run_instruct(study, "m", Storage(uri), num_ranks=study.model("m").instruct_ranks, use_gpu=False)
    ray.shutdown()
