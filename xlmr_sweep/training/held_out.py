"""How well a model fills masked targets of rows that it does not train on.

In: a loss module, whole or spread over ranks, and this rank's masked rows. Out: means over all ranks. No random number is drawn
and nothing of the run changes, so a run that is scored ends with the bits of one that is not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from xlmr_sweep.data.chat_rows import ChatRows, ChatShard
from xlmr_sweep.modeling.fsdp import World
from xlmr_sweep.modeling.sharded import reshard
from xlmr_sweep.training.batches import RowOrder, collate, plan_micro_batches
from xlmr_sweep.training.masking import Masked
from xlmr_sweep.training.mlm_loss import MaskedLMLoss


@dataclass(frozen=True)
class HeldOutScore:
    """Of the held-out rows of all ranks."""

    loss: float
    """Mean of the masked tokens, of inputs and targets."""
    on_inputs: float | None
    """Mean of those of inputs; None where there is none."""
    on_targets: float
    """Mean of those of targets."""
    accuracy: float
    """Share of the masked tokens of targets at which the right token has the greatest logit."""


HASHED_ROWS = 4096
"""Rows whose tokens are hashed at a time, so that memory stays small."""


def num_seen(chats: ChatRows, order: RowOrder) -> int:
    """Returns how many held-out rows have the same tokens as a row that the run takes: they are no news to the model.

    Reads the tokens of all rows once: 22 M took 0.26 s on one core, so the 2.7 billion of the paper take about half a minute.
    """
    hashes = np.concatenate([_hashes(shard) for shard in chats.shards])
    taken = order.taken()
    places = taken if chats.numbers is None else np.searchsorted(chats.numbers, taken)
    is_held_out = np.isin(taken, order.held_out)
    return int(np.isin(hashes[places[is_held_out]], hashes[places[~is_held_out]]).sum())


def _hashes(shard: ChatShard) -> NDArray[np.uint64]:
    """Returns 64 bits for each row, (R,), that are the same for equal rows and, almost surely, for no others."""
    longest = int(np.diff(shard.offsets).max(initial=0))
    # A sum of the tokens, each times a number of its place. The end of a row is a token too: two rows may differ in length alone.
    factors = np.random.Generator(np.random.Philox(key=0)).integers(1, 2**63, longest + 1, dtype=np.uint64)
    found = []
    for first in range(0, len(shard.offsets) - 1, HASHED_ROWS):
        offsets = shard.offsets[first : first + HASHED_ROWS + 1]
        lengths, ids = np.diff(offsets), shard.ids[offsets[0] : offsets[-1]].astype(np.uint64)
        place = np.arange(len(ids)) - np.repeat(offsets[:-1] - offsets[0], lengths)
        found.append(np.add.reduceat(ids * factors[place], offsets[:-1] - offsets[0]) + factors[lengths])
    return np.concatenate([np.zeros(0, dtype=np.uint64), *found])


def score_held_out(root: MaskedLMLoss, rows: Sequence[Masked], world: World, precision: str, max_tokens: int) -> HeldOutScore:
    """Scores held-out rows. All ranks call it together, each with its share of the rows.

    Args:
        root: the loss module, in training mode. It is in training mode again afterwards.
        rows: this rank's rows.
        world: the ranks.
        precision: `bf16` or `fp32`.
        max_tokens: tokens of one pass on one rank.
    """
    mine = sorted(rows, key=lambda row: -len(row.input_ids))
    most = max(numbers[0] for numbers in world.gather([len(mine)]))
    lengths = [len(row.input_ids) for row in mine] + [0] * (most - len(mine))
    bounds = [max(places) for places in zip(*world.gather(lengths), strict=True)]
    sums = torch.zeros(5, dtype=torch.float64, device=world.device)
    root.eval()
    with torch.no_grad(), torch.autocast(world.device.type, torch.bfloat16, enabled=precision == "bf16"):
        for start, end in plan_micro_batches(bounds, max_tokens):
            batch = collate(mine[start:end]).to(world.device)
            losses, is_right = root.answers(batch)
            targets = batch.is_target
            number = torch.full_like(sums[0], len(losses))
            sums += torch.stack([losses.sum(), (losses * targets).sum(), (is_right & targets).sum(), number, targets.sum()])
    root.train()
    if world.size > 1:
        reshard(root)
    loss, of_targets, right, num_masked, num_targets = world.add(sums.tolist())
    num_inputs = num_masked - num_targets
    return HeldOutScore(
        loss / max(1.0, num_masked),
        (loss - of_targets) / num_inputs if num_inputs else None,
        of_targets / max(1.0, num_targets),
        right / max(1.0, num_targets),
    )
