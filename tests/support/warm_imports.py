"""What every warm process of unit tests has from the start: what others have, and the commands, which import ray."""

from __future__ import annotations

import gc

import warm_modules  # noqa: F401

import xlmr_sweep.commands.run
import xlmr_sweep.commands.subcommands  # noqa: F401

# Collections in the processes then leave these objects alone.
gc.collect()
gc.freeze()
