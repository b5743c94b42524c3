"""Texts of the demo world: the same in every process, and fewer are the first of more."""

import hashlib
import json
import subprocess
import sys

from xlmr_sweep.data.demo import instruction_rows, pretraining_texts, task_rows
from xlmr_sweep.study.tasks import TASKS

DIGEST = """
import hashlib, json
from xlmr_sweep.data.demo import instruction_rows, pretraining_texts, task_rows
made = [pretraining_texts(5, 300), instruction_rows(5, 300), [task_rows(t, 5) for t in ("boolq", "cb", "copa", "rte", "wic")]]
print(hashlib.sha256(json.dumps(made).encode()).hexdigest())
"""


def test_another_process_with_another_hash_seed_makes_the_same_bytes() -> None:
    made = [pretraining_texts(5, 300), instruction_rows(5, 300), [task_rows(task, 5) for task in sorted(TASKS)]]
    command = [sys.executable, "-c", DIGEST]
    other = subprocess.run(command, env={"PYTHONHASHSEED": "7"}, capture_output=True, text=True, check=True).stdout
    assert other.strip() == hashlib.sha256(json.dumps(made).encode()).hexdigest()


def test_fewer_texts_are_the_first_of_more() -> None:
    assert pretraining_texts(4, 20) == pretraining_texts(4, 40)[:20]
    assert instruction_rows(4, 20) == instruction_rows(4, 40)[:20]
    assert pretraining_texts(4, 20) != pretraining_texts(5, 20)
