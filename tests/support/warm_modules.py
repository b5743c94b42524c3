"""What takes seconds to import or to make first, without ray, which reads at once what its process shall be."""

from __future__ import annotations

import gc

import aiohttp.web  # noqa: F401
import fsspec  # noqa: F401
import google.protobuf.descriptor_pb2  # noqa: F401
import grpc  # noqa: F401
import jsonschema  # noqa: F401
import opencensus.stats.stats  # noqa: F401
import opentelemetry.sdk.metrics  # noqa: F401
import pandas  # noqa: F401
import prometheus_client  # noqa: F401
import pyarrow.dataset
import pyarrow.fs  # noqa: F401
import requests  # noqa: F401
import torch.distributed.fsdp  # noqa: F401
from transformers.conversion_mapping import get_checkpoint_conversion_mapping
from transformers.models.xlm_roberta import modeling_xlm_roberta  # noqa: F401

import xlmr_sweep.training.checkpoint
import xlmr_sweep.training.finetune
import xlmr_sweep.training.warm_state  # noqa: F401

get_checkpoint_conversion_mapping("xlm-roberta")
# Collections in the processes then leave these objects alone.
gc.collect()
gc.freeze()
