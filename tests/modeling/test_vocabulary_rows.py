"""A vocabulary cut over ranks: the loss and every gradient are those of one process with transformers' whole matrix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from rank_processes import run_ranks
from safetensors.torch import load_file, save_file
from tiny_ranks import SETTINGS, VOCABULARY, Rows, longest_first, tiny
from torch import Tensor

from xlmr_sweep.modeling import fsdp
from xlmr_sweep.modeling.fsdp import World, local_gradients, whole_weights
from xlmr_sweep.modeling.sharded import reshard
from xlmr_sweep.training import mlm_loss
from xlmr_sweep.training.batches import collate
from xlmr_sweep.training.export_check import probe_rows, trained_logits
from xlmr_sweep.training.held_out import score_held_out
from xlmr_sweep.training.masking import Masked
from xlmr_sweep.training.mlm import Run
from xlmr_sweep.training.mlm_loss import MaskedLMLoss
from xlmr_sweep.training.plain_step import PlainStep

pytestmark = [pytest.mark.ranks, pytest.mark.slow]

FEW, WHOLE = 4 * VOCABULARY * 2, 2**28
"""Logits at once: of two tokens of the whole vocabulary, or of all."""


class SomeRows(Rows):
    """Of which only those that pass have masked tokens."""

    def __init__(self, masked: str) -> None:
        super().__init__()
        self._passes = {"all": lambda index: True, "even": lambda index: index % 2 == 0, "none": lambda index: False}[masked]

    def rows(self, step: int, indices: Sequence[int]) -> list[Masked]:
        found = super().rows(step, indices)
        return [
            row if self._passes(index) else replace(row, positions=[], labels=[])
            for index, row in zip(indices, found, strict=True)
        ]


def model_of(family: str, tied: bool = True, **sizes: int) -> Any:
    model = tiny(family, tie_word_embeddings=tied, **sizes)
    if not tied:
        assert model.get_output_embeddings().weight is not model.get_input_embeddings().weight
    return model


def first_step(root: MaskedLMLoss, world: World, precision: str, masked: str) -> tuple[float, Run]:
    """Both passes over the first global batch, cut into micro-batches, and the sum of the ranks' losses."""
    run = Run(root, SomeRows(masked), replace(SETTINGS, max_tokens=40, precision=precision), world)
    root.train()
    assert isinstance(run.steps, PlainStep)
    mine = run.steps.prepare(0)
    assert sum(len(row.input_ids) for row in mine) > run.settings.max_tokens
    return float(run.steps.gradients(0, mine).numbers[0]), run


def _rank(rank: int, size: int, folder: Path, options: dict[str, Any], precision: str, masked: str, logit_bytes: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=size)
    fsdp.ONE_GROUP_PARAMETERS, mlm_loss.LOGIT_BYTES = 0, logit_bytes
    world = World(rank, size)
    model = model_of(**options)
    root = MaskedLMLoss(model)
    root.spread(world, precision)
    gathered = note_gathered()
    # What is asked without a gradient comes first, and leaves no trace in it.
    asked = asked_of(root, world, precision)
    loss, _ = first_step(root, world, precision, masked)
    # The names of gradients as whole tensors, by the same way as weights.
    with torch.no_grad():
        for (_, gradient), parameter in zip(local_gradients(root), root.parameters(), strict=True):
            parameter.to_local().copy_(torch.zeros(()) if gradient is None else gradient)
    whole = whole_weights(model, world)
    if rank == 0:
        save_file(
            {"loss": torch.tensor(loss), **asked, **{name: t.clone() for name, t in whole.items()}}, folder / "told.safetensors"
        )
    matrix = (model.config.vocab_size, model.config.hidden_size)
    assert matrix[1:] in gathered
    assert matrix not in gathered
    dist.barrier()
    dist.destroy_process_group()


def asked_of(root: MaskedLMLoss, world: World, precision: str) -> dict[str, Tensor]:
    """Logits of two rows, the score of ten that the ranks share, and logits of three words, on one rank of fewer rows."""
    rows = [replace(row, num_targets=1) for row in Rows().rows(5, range(10))]
    score = score_held_out(root, rows[world.rank :: world.size], world, precision, 60)
    logits = trained_logits(root, probe_rows(rows), world, precision)
    batch = collate(longest_first(rows[: 3 - min(1, world.rank)]))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        words = root.word_logits(batch.tokens, batch.positions, batch.counts, torch.tensor([80, 3, 41]))
    root.train()
    if world.size > 1:
        reshard(root)
    asked = {"asked/logits": logits, "asked/score": torch.tensor([score.loss, score.accuracy]), "asked/words": words.float()}
    return {name: values.contiguous() for name, values in asked.items()}


def note_gathered() -> list[tuple[int, ...]]:
    """Notes the shapes of all parameters that FSDP gathers."""
    from torch.distributed.fsdp._fully_shard import _fsdp_param_group

    shapes: list[tuple[int, ...]] = []
    plain = _fsdp_param_group.foreach_all_gather

    def spy(params: Any, *args: Any) -> Any:
        shapes.extend(tuple(param._orig_size) for param in params)
        return plain(params, *args)

    _fsdp_param_group.foreach_all_gather = spy
    return shapes


def on_ranks(
    folder: Path, size: int, options: dict[str, Any], precision: str, masked: str, logit_bytes: int
) -> dict[str, Tensor]:
    run_ranks(_rank, size, folder, options, precision, masked, logit_bytes)
    return load_file(folder / "told.safetensors")


@pytest.mark.parametrize(
    ("size", "options", "masked", "logit_bytes"),
    [
        (2, {"family": "xlm-roberta", "tied": False}, "all", FEW),
        (2, {"family": "xlm-roberta"}, "none", WHOLE),
        (2, {"family": "bert"}, "all", FEW),
        (2, {"family": "modernbert", "tied": False}, "even", WHOLE),
        # A token of the text is the padding token, whose look-up gives no gradient.
        (2, {"family": "xlm-roberta", "pad_token_id": 9, "max_position_embeddings": 60}, "all", WHOLE),
        # 22 rows a rank, of which the last has 17. Two ranks have no masked token.
        (4, {"family": "xlm-roberta"}, "even", FEW),
    ],
)
def test_loss_and_gradients_are_those_of_one_process(
    size: int, options: dict[str, Any], masked: str, logit_bytes: int, tmp_path: Path
) -> None:
    told = on_ranks(tmp_path, size, options, "fp32", masked, logit_bytes)
    model = model_of(**options)
    loss, _ = first_step(MaskedLMLoss(model), World(), "fp32", masked)
    assert told.pop("loss").item() == pytest.approx(loss, rel=1e-6)
    for name, of_one in asked_of(MaskedLMLoss(model_of(**options)), World(), "fp32").items():
        torch.testing.assert_close(told.pop(name), of_one, rtol=1e-5, atol=1e-5, msg=name)
    expected = dict(model.named_parameters(remove_duplicate=False))
    assert told.keys() == expected.keys()
    for name, parameter in expected.items():
        wanted = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        torch.testing.assert_close(told[name], wanted, rtol=1e-5, atol=1e-6, msg=name)
    assert (masked == "none") == (loss == 0)


def test_a_token_without_a_row_is_named(tmp_path: Path) -> None:
    run_ranks(_rank_asks_beyond, 1, tmp_path)


def _rank_asks_beyond(rank: int, size: int, folder: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=size)
    fsdp.ONE_GROUP_PARAMETERS = 0
    model = tiny()
    root = MaskedLMLoss(model)
    root.spread(World(rank, size), "fp32")
    with pytest.raises(IndexError, match=f"token 99, but the vocabulary has {VOCABULARY} rows"):
        model.get_input_embeddings()(torch.tensor([[3, 99, 5]]))
    dist.destroy_process_group()


def test_bf16_is_as_near_as_in_one_process(tmp_path: Path) -> None:
    options = {"family": "xlm-roberta"}
    told = on_ranks(tmp_path, 2, options, "bf16", "all", FEW)
    exact, alone = model_of(**options), model_of(**options)
    loss, _ = first_step(MaskedLMLoss(exact), World(), "fp32", "all")
    first_step(MaskedLMLoss(alone), World(), "bf16", "all")
    assert told.pop("loss").item() == pytest.approx(loss, rel=1e-2)
    asked = asked_of(MaskedLMLoss(model_of(**options)), World(), "fp32")
    for name in ("asked/logits", "asked/score", "asked/words"):
        torch.testing.assert_close(told[name], asked[name], rtol=5e-2, atol=5e-2, msg=name)
    of_one = dict(alone.named_parameters(remove_duplicate=False))
    for name, parameter in exact.named_parameters(remove_duplicate=False):
        assert parameter.grad is not None
        scale = parameter.grad.abs().max()
        apart, usual = ((gradient - parameter.grad).abs().max() / scale for gradient in (told[name], of_one[name].grad))
        assert apart < max(3 * usual, 0.02), name
