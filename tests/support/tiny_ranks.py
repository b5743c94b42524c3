"""A tiny masked-LM run, alone or on several gloo ranks. A module of its own, because the ranks' processes import it by name."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from rank_processes import run_ranks
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from xlmr_sweep.modeling import fsdp, memory
from xlmr_sweep.modeling.export import config_text, empty_model
from xlmr_sweep.modeling.fsdp import World, whole_weights
from xlmr_sweep.training.checkpoint import load_checkpoint, save_checkpoint
from xlmr_sweep.training.masking import Masked, mask_text, step_draws
from xlmr_sweep.training.mlm import Run
from xlmr_sweep.training.mlm_loss import MaskedLMLoss
from xlmr_sweep.training.train_settings import TrainSettings

PAD, MASK, VOCABULARY = 1, 4, 83
LIKE_TINY, LIKE_BASE, LIKE_XL = (10**6, 10**6), (0, 10**6), (0, 0)
"""FSDP's limits with which the tiny model is one group, groups that stay gathered, or groups that are freed after each pass."""
SETTINGS = TrainSettings(1e-3, 0.01, 0.2, "linear", 1.0, "fp32", 0, 1, max_tokens=4096)


def tiny(family: str = "xlm-roberta", dropout: float = 0.0, **sizes: Any) -> Any:
    """A model of two layers with seeded weights."""
    from transformers import AutoConfig, AutoModelForMaskedLM

    shape: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    } | sizes
    rates: dict[str, Any] = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    if family == "modernbert":
        shape |= {"local_attention": 8}
        rates = {"embedding_dropout": dropout, "mlp_dropout": dropout, "attention_dropout": dropout}
    elif family == "distilbert":
        rates = {"dropout": dropout, "attention_dropout": dropout, "hidden_dim": 48}
    shape = {"intermediate_size": 48, "max_position_embeddings": 40, "pad_token_id": PAD} | shape | rates
    config = AutoConfig.for_model(family, **shape)
    torch.manual_seed(0)
    model = AutoModelForMaskedLM.from_config(config)
    with torch.no_grad():  # Biases are made zero, which would hide a head that forgets them.
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    return model


@dataclass
class Rows:
    """Sequences of many lengths. A row depends on its step and index alone."""

    batch_size: int = 12
    num_steps: int = 6
    total_rows: int = 70
    seen: list[tuple[int, int]] = field(default_factory=list)

    def num_rows(self, step: int) -> int:
        return min(self.batch_size, self.total_rows - step * self.batch_size)

    def rows(self, step: int, indices: Sequence[int]) -> list[Masked]:
        self.seen += [(step, index) for index in indices]
        draws = step_draws(0, step, self.batch_size, 40)
        return [self._row(step, index, draws) for index in indices]

    def _row(self, step: int, index: int, draws: Any) -> Masked:
        generator = torch.Generator().manual_seed(step * 1000 + index)
        length = 4 + int(torch.randint(28, (1,), generator=generator))
        ids = torch.randint(5, VOCABULARY, (length,), generator=generator).tolist()
        return mask_text([0, *ids, 2], 0.15, MASK, draws[index])


def _rank(rank: int, size: int, folder: Path, limits: tuple[int, int], options: dict[str, Any]) -> None:
    """One rank: trains. Rank 0 writes the whole weights, the counts and its number of parameters to files."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store-{size}", rank=rank, world_size=size)
    world = World(rank, size)
    config = json.loads((folder / "config.json").read_text())
    model = tiny(**options) if rank == 0 else empty_model(config)
    root = MaskedLMLoss(model)
    fsdp.ONE_GROUP_PARAMETERS, memory.CPU_GATHERED_BYTES = limits
    root.spread(world, "fp32")
    num_steps = int((folder / "num-steps").read_text())
    rows = Rows() if num_steps == 6 else Rows(num_steps=num_steps, total_rows=12 * num_steps)
    run = Run(root, rows, replace(SETTINGS, clip=0.5, max_tokens=80), world)
    if (folder / "resume").is_dir():
        load_checkpoint(run, folder / "resume")

    def save(run: Run) -> None:
        if run.progress.step == 3:
            save_checkpoint(run, folder / f"saved-{size}")

    run.train(save)
    whole = whole_weights(model, world)
    held = sum(parameter.numel() for parameter in run.parameters.values())
    if rank == 0:
        save_file({name: tensor.clone() for name, tensor in whole.items()}, folder / f"whole-{size}.safetensors")
        counts = {"curve": run.progress.loss_curve, "tokens": run.progress.tokens, "held": held}
        (folder / f"counts-{size}.json").write_text(json.dumps(counts))
    dist.barrier()
    dist.destroy_process_group()


def train_on_ranks(
    size: int, folder: Path, limits: tuple[int, int] = LIKE_BASE, *, num_steps: int = 6, **options: Any
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Trains on `size` gloo ranks; returns the whole weights and rank 0's counts."""
    (folder / "config.json").write_text(json.dumps(config_text(tiny(**options))))
    (folder / "num-steps").write_text(str(num_steps))
    (folder / f"store-{size}").unlink(missing_ok=True)
    run_ranks(_rank, size, folder, limits, options)
    counts = json.loads((folder / f"counts-{size}.json").read_text())
    return load_file(folder / f"whole-{size}.safetensors"), counts


def run_of(model: Any, world: World | None = None, **changes: Any) -> Run:
    """Returns a run of a model in one process, or as one rank of a world; keywords change the settings or give rows."""
    rows = changes.pop("rows", None) or Rows()
    return Run(MaskedLMLoss(model), rows, replace(SETTINGS, **changes), world or World())


def longest_first(rows: list[Masked]) -> list[Masked]:
    """Returns rows in the order in which a batch takes them."""
    return sorted(rows, key=lambda row: -len(row.input_ids))


def plain_loss(model: Any, rows: list[Masked], reduction: str = "sum") -> Tensor:
    """As transformers has it: padding, attention mask, logits of every position."""
    ids = pad_sequence([torch.tensor(row.input_ids) for row in rows], batch_first=True, padding_value=PAD)
    labels = torch.full(ids.shape, -100)
    for i, row in enumerate(rows):
        labels[i, row.positions] = torch.tensor(row.labels)
    logits = model(input_ids=ids, attention_mask=(ids != PAD).long()).logits
    return functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction=reduction)
