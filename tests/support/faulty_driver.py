"""The product's command with work that only waits: `python faulty_driver.py STUDY STORAGE ADDRESS NOTES SECONDS`."""

from __future__ import annotations

import sys
from pathlib import Path

import faulty_work
from ray import cloudpickle

from xlmr_sweep.commands import entry
from xlmr_sweep.commands.exit_status import exit_with
from xlmr_sweep.commands.request import Request

if __name__ == "__main__":
    study, storage, address, notes, seconds = sys.argv[1:]
    cloudpickle.register_pickle_by_value(faulty_work)
    work = faulty_work.Faulty(Path(notes), float(seconds))
    exit_with(lambda console: entry.run(Request(study, storage), address, console, work=work))
