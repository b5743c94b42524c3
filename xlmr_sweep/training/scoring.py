"""Scores of a trial that depend on its logits. What predictions score is in `xlmr_sweep.study.task_metrics`."""

from __future__ import annotations

import torch
from torch import Tensor


def calibrated(logits: Tensor, content_free: Tensor) -> Tensor:
    """Returns logits divided, as probabilities, by what the prompt gives without content (Zhao et al. 2021, section 5).

    Args:
        logits: logits of the examples, (E, L).
        content_free: logits of prompts without content, (C, L). The mean of their probabilities counts.
    """
    return logits - torch.softmax(content_free.double(), dim=1).mean(dim=0).log().to(logits.dtype)
