"""Whether an exported folder is the model that was trained: transformers loads it, and its logits are compared.

In: the model in memory, a few masked rows, and later the folder. Out: how far apart the logits are, or an error in one line.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoModelForMaskedLM

from xlmr_sweep.errors import StudyError
from xlmr_sweep.modeling.fsdp import World
from xlmr_sweep.modeling.loading import quiet
from xlmr_sweep.modeling.sharded import reshard
from xlmr_sweep.training.batches import collate
from xlmr_sweep.training.masking import Masked
from xlmr_sweep.training.mlm_loss import MaskedLMLoss

NUM_ROWS = 2
"""Rows whose logits are compared. The largest model takes half a minute for them on one core."""

MOST_APART = {"fp32": 1e-3, "bf16": 5e-2}
"""Largest difference allowed, as a share of the greatest logit. Layers that are spread over ranks are gathered in bf16."""


def probe_rows(rows: Sequence[Masked]) -> list[Masked]:
    """Returns the shortest of some rows, longest first."""
    return sorted(rows, key=lambda row: -len(row.input_ids))[-NUM_ROWS:]


def trained_logits(root: MaskedLMLoss, rows: Sequence[Masked], world: World, precision: str) -> Tensor:
    """Returns the logits (n, V) at the masked tokens of some rows, in host memory. All ranks call it together.

    Args:
        root: left in evaluation mode.
        rows: the same on all ranks.
        world: the ranks.
        precision: `bf16` where layers are gathered in it, else `fp32`.
    """
    root.eval()
    with torch.no_grad(), torch.autocast(world.device.type, torch.bfloat16, enabled=precision == "bf16"):
        logits = root.logits(collate(rows).to(world.device)).float().cpu()
    if world.size > 1:
        reshard(root)
    return logits


def check_export(folder: Path, rows: Sequence[Masked], expected: Tensor, precision: str) -> float:
    """Loads an exported folder as transformers does and compares its logits with those of the model in memory.

    Args:
        folder: holds configuration, weights and tokenizer.
        rows: the rows that `expected` was computed from.
        expected: result of `trained_logits`.
        precision: `bf16` where the model's layers were gathered in it, else `fp32`.

    Returns:
        The greatest difference, as a share of the greatest logit.

    Raises:
        StudyError: if the folder does not load, or computes something else.
    """
    try:
        with quiet():
            model, info = AutoModelForMaskedLM.from_pretrained(
                folder, dtype=torch.float32, trust_remote_code=False, output_loading_info=True
            )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise StudyError(f"{folder}: the exported weights do not load: {' '.join(str(error).split())[:300]}") from None
    if info["missing_keys"]:
        raise StudyError(f"{folder}: the exported weights lack {', '.join(sorted(info['missing_keys'])[:3])}")
    with torch.no_grad():
        found = torch.cat([_logits(model.eval(), row) for row in rows])
    apart = float((found - expected).abs().max() / expected.abs().max().clamp_min(1e-9)) if len(expected) else 0.0
    if not apart <= MOST_APART[precision]:
        raise StudyError(
            f"{folder}: the exported weights compute other logits than the trained model: they differ by {apart:.2g} of the "
            "greatest logit; nothing is published, and the last checkpoint is kept"
        )
    return apart


def _logits(model: torch.nn.Module, row: Masked) -> Tensor:
    ids = torch.as_tensor(row.input_ids, dtype=torch.int64)[None]
    logits: Tensor = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0]
    return logits[torch.as_tensor(row.positions, dtype=torch.int64)]
