"""What every warm process has from the start: modules that take seconds to import, and what the first save of a model makes."""

from __future__ import annotations

import gc

import pyarrow.dataset  # noqa: F401
import torch.distributed.fsdp  # noqa: F401
from transformers.conversion_mapping import get_checkpoint_conversion_mapping
from transformers.models.xlm_roberta import modeling_xlm_roberta  # noqa: F401

import xlmr_sweep.commands.run
import xlmr_sweep.commands.subcommands
import xlmr_sweep.training.checkpoint
import xlmr_sweep.training.finetune
import xlmr_sweep.training.warm_state  # noqa: F401

get_checkpoint_conversion_mapping("xlm-roberta")
# Collections in the processes then leave these objects alone.
gc.collect()
gc.freeze()
