"""The training loop: the same gradients for any cut of a global batch, over one, two and eight ranks, and across a stop."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_ranks import LIKE_BASE, LIKE_TINY, LIKE_XL, PAD, SETTINGS, VOCABULARY, Rows, tiny, train_on_ranks
from torch import Tensor
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from xlmr_sweep.errors import DivergedError
from xlmr_sweep.modeling.export import config_text, weights_hash, write_weights
from xlmr_sweep.modeling.fsdp import World, local_gradients, transformer_layers, whole_weights
from xlmr_sweep.training import mlm_loss
from xlmr_sweep.training.batches import RowOrder, collate, plan_micro_batches
from xlmr_sweep.training.checkpoint import load_checkpoint, save_checkpoint
from xlmr_sweep.training.masking import Masked
from xlmr_sweep.training.mlm import Run
from xlmr_sweep.training.mlm_loss import MaskedLMLoss


def run_of(model: Any, world: World | None = None, **changes: Any) -> Run:
    rows = changes.pop("rows", None) or Rows()
    return Run(MaskedLMLoss(model), rows, replace(SETTINGS, **changes), world or World())


def longest_first(rows: list[Masked]) -> list[Masked]:
    return sorted(rows, key=lambda row: -len(row.input_ids))


def plain_loss(model: Any, rows: list[Masked], reduction: str = "sum") -> Tensor:
    """As transformers has it: padding, attention mask, logits of every position."""
    ids = pad_sequence([torch.tensor(row.input_ids) for row in rows], batch_first=True, padding_value=PAD)
    labels = torch.full(ids.shape, -100)
    for i, row in enumerate(rows):
        labels[i, row.positions] = torch.tensor(row.labels)
    logits = model(input_ids=ids, attention_mask=(ids != PAD).long()).logits
    return functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction=reduction)


def gradients(model: Any, max_tokens: int = 4096) -> dict[str, Tensor]:
    """Gradients of the first global batch, before clipping and the optimiser."""
    run = run_of(model, max_tokens=max_tokens)
    mine = run._rows(0)
    slices, _, num_masked = run._plan(mine)
    run._backward(mine, slices, num_masked)
    return {name: gradient for name, gradient in local_gradients(run.root) if gradient is not None}


@pytest.mark.parametrize("family", ["xlm-roberta", "roberta", "xlm-roberta-xl", "bert", "modernbert"])
@pytest.mark.parametrize("chunk_bytes", [4 * VOCABULARY * 5, 2**28])
def test_loss_and_gradients_equal_plain_transformers(family: str, chunk_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlm_loss, "LOGIT_BYTES", chunk_bytes)
    ours, plain = tiny(family).train(), tiny(family).train()
    rows = longest_first(Rows().rows(0, range(12)))
    root = MaskedLMLoss(ours)
    assert root.encoder.is_split
    loss = root(collate(rows))
    loss.backward()
    expected = plain_loss(plain, rows)
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    theirs = dict(plain.named_parameters())
    assert theirs
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, theirs[name].grad, rtol=1e-5, atol=1e-5, msg=name)


def test_no_logits_but_of_masked_positions(monkeypatch: pytest.MonkeyPatch) -> None:
    root = MaskedLMLoss(tiny())
    asked: list[int] = []
    whole = root.encoder.vocabulary_logits

    def spy(hidden: Tensor, token_ids: Tensor | None = None) -> Tensor:
        asked.append(len(hidden))
        return whole(hidden, token_ids)

    monkeypatch.setattr(root.encoder, "vocabulary_logits", spy)
    monkeypatch.setattr(mlm_loss, "LOGIT_BYTES", 4 * VOCABULARY * 10)
    batch = collate(longest_first(Rows().rows(0, range(12))))
    root(batch)
    assert sum(asked) == len(batch.labels) < len(batch.tokens.input_ids) / 4
    assert max(asked) == 10


def test_gradients_do_not_depend_on_micro_batches() -> None:
    whole, cut = gradients(tiny()), gradients(tiny(), max_tokens=40)
    assert whole.keys() == cut.keys()
    for name in whole:
        torch.testing.assert_close(cut[name], whole[name], rtol=1e-4, atol=1e-6, msg=name)


def test_micro_batches_cover_all_rows_within_the_budget() -> None:
    for seed, budget in itertools.product(range(20), (10, 64, 1000)):
        generator = torch.Generator().manual_seed(seed)
        lengths = sorted(torch.randint(1, 40, (17,), generator=generator).tolist(), reverse=True)
        slices = plan_micro_batches(lengths, budget)
        assert [i for start, end in slices for i in range(start, end)] == list(range(17))
        for start, end in slices:
            assert end - start == 1 or (end - start) * lengths[start] <= budget


def test_every_epoch_takes_every_row_once_in_another_order() -> None:
    order = RowOrder.of(50, 8, seed=3, epochs=2.0)
    taken = [order.at(step, index) for step in range(order.num_steps) for index in range(order.size(step))]
    assert order.num_steps == 13
    assert len(taken) == 100
    assert sorted(taken[:50]) == sorted(taken[50:]) == list(range(50))
    assert taken[:50] != taken[50:]
    assert RowOrder.of(50, 8, seed=3, epochs=2.0, max_steps=4).num_steps == 4


def test_equals_a_plain_loop_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against a loop as one would write it: whole batch, all logits, mean loss, clipping, AdamW."""
    model, plain = tiny(), tiny().train()
    run = run_of(model, clip=0.5)
    run.train()
    decayed = [p for p in plain.parameters() if p.ndim >= 2]
    others = [p for p in plain.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW([{"params": decayed, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}])
    rows, losses = Rows(), []
    for step in range(rows.num_steps):
        loss = plain_loss(plain, rows.rows(step, range(rows.num_rows(step))), "mean")
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(plain.parameters(), 0.5)
        for group in optimizer.param_groups:
            group["lr"] = SETTINGS.rate(step, rows.num_steps)
        optimizer.step()
        losses.append(loss.item())
    assert [loss for _, loss in run.progress.loss_curve] == pytest.approx(losses, rel=1e-5)
    assert run.progress.tokens == sum(
        len(row.input_ids) for step in range(6) for row in rows.rows(step, range(rows.num_rows(step)))
    )
    theirs = dict(plain.named_parameters())
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter, theirs[name], rtol=1e-4, atol=2e-6, msg=name)


def test_loss_falls_on_what_can_be_learned() -> None:
    class Same(Rows):
        def rows(self, step: int, indices: Sequence[int]) -> list[Masked]:
            return super().rows(0, [index % 3 for index in indices])

    run = run_of(tiny(), rows=Same(num_steps=60, total_rows=10_000), learning_rate=1e-2)
    curve = run.train().loss_curve
    assert curve[-1][1] < 0.3 * curve[0][1]


def test_loss_that_is_not_finite_names_the_step() -> None:
    model = tiny()

    def poison(run: Run) -> None:
        if run.progress.step == 2:
            with torch.no_grad():
                model.lm_head.bias.fill_(float("nan"))

    with pytest.raises(DivergedError, match="step 3"):
        run_of(model).train(poison)


@pytest.mark.parametrize("stop", [1, 3, 5])
def test_stopped_and_resumed_run_ends_with_the_same_bits(stop: int, tmp_path: Path) -> None:
    straight = tiny(dropout=0.1)
    whole = run_of(straight, clip=0.3).train()

    class Stopped(Exception):
        pass

    def save_and_stop(run: Run) -> None:
        if run.progress.step == stop:
            save_checkpoint(run, tmp_path)
            raise Stopped

    with pytest.raises(Stopped):
        run_of(tiny(dropout=0.1), clip=0.3).train(save_and_stop)
    torch.manual_seed(99)
    resumed = tiny(dropout=0.1)
    with torch.no_grad():
        for parameter in resumed.parameters():
            parameter.normal_()
    rows = Rows()
    run = run_of(resumed, clip=0.3, rows=rows)
    load_checkpoint(run, tmp_path)
    progress = run.train()
    assert {step for step, _ in rows.seen} == set(range(stop, 6))
    for name, parameter in resumed.named_parameters():
        assert torch.equal(parameter, dict(straight.named_parameters())[name]), name
    assert progress.loss_curve == whole.loss_curve
    assert (progress.tokens, progress.masked_tokens) == (whole.tokens, whole.masked_tokens)


def test_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    save_checkpoint(run_of(tiny()), tmp_path)
    with pytest.raises(ValueError, match="another model"):
        load_checkpoint(run_of(tiny(hidden_size=32)), tmp_path)


def test_weights_folder_loads_in_transformers_and_its_hash_ignores_the_split(tmp_path: Path) -> None:
    from transformers import AutoModelForMaskedLM

    class NoTokenizer:
        def save_pretrained(self, folder: Path) -> None: ...

    model = tiny()
    digest = write_weights(config_text(model), whole_weights(model, World()), NoTokenizer(), tmp_path / "one")
    again = AutoModelForMaskedLM.from_pretrained(tmp_path / "one")
    for name, parameter in again.named_parameters():
        assert torch.equal(parameter, dict(model.named_parameters())[name]), name
    again.save_pretrained(tmp_path / "split", max_shard_size="10KB")
    assert len(list((tmp_path / "split").glob("*.safetensors"))) > 1
    assert weights_hash(tmp_path / "split") == digest
    with torch.no_grad():
        again.lm_head.bias[0] += 1e-6
    again.save_pretrained(tmp_path / "other")
    assert weights_hash(tmp_path / "other") != digest


@pytest.mark.ranks
@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "family", "limits"),
    [
        (2, "xlm-roberta", LIKE_TINY),
        (2, "xlm-roberta-xl", LIKE_XL),
        (8, "xlm-roberta", LIKE_BASE),
        (2, "modernbert", LIKE_BASE),
    ],
)
def test_fsdp_equals_one_process(size: int, family: str, limits: tuple[int, int], tmp_path: Path) -> None:
    model = tiny(family)
    alone = run_of(model, clip=0.5).train()
    weights, counts = train_on_ranks(size, tmp_path, limits, family=family)
    assert counts["tokens"] == alone.tokens
    assert [loss for _, loss in counts["curve"]] == pytest.approx([loss for _, loss in alone.loss_curve], rel=1e-5)
    expected = dict(model.named_parameters(remove_duplicate=False))
    assert weights.keys() == expected.keys()
    for name, tensor in weights.items():
        torch.testing.assert_close(tensor, expected[name].detach(), rtol=1e-4, atol=3e-6, msg=name)
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    assert counts["held"] < num_parameters / size * 1.5
    decoder, embeddings = model.get_output_embeddings().weight, model.get_input_embeddings().weight
    assert decoder is embeddings
    tied = [name for name, parameter in expected.items() if parameter is decoder]
    assert len(tied) == 2
    assert torch.equal(weights[tied[0]], weights[tied[1]])


@pytest.mark.ranks
@pytest.mark.slow
def test_checkpoint_of_two_ranks_goes_on_bit_for_bit(tmp_path: Path) -> None:
    weights, counts = train_on_ranks(2, tmp_path, dropout=0.1)
    (tmp_path / "saved-2").rename(tmp_path / "resume")
    again, again_counts = train_on_ranks(2, tmp_path, dropout=0.1)
    assert all(torch.equal(again[name], weights[name]) for name in weights)
    assert again_counts["curve"] == counts["curve"]


@pytest.mark.ranks
@pytest.mark.slow
def test_checkpoint_is_resharded_for_another_number_of_ranks(tmp_path: Path) -> None:
    weights, counts = train_on_ranks(2, tmp_path)
    (tmp_path / "saved-2").rename(tmp_path / "resume")
    three, three_counts = train_on_ranks(3, tmp_path)
    model = tiny()
    run = run_of(model, clip=0.5)
    load_checkpoint(run, tmp_path / "resume")
    assert run.progress.step == 3
    run.train()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(three[name], weights[name], rtol=1e-4, atol=3e-6, msg=name)
        torch.testing.assert_close(parameter.detach(), weights[name], rtol=1e-4, atol=3e-6, msg=name)
    assert three_counts["curve"][:3] == counts["curve"][:3]


def test_layers_are_found_in_every_family() -> None:
    for family in ("xlm-roberta", "xlm-roberta-xl", "bert", "modernbert"):
        assert len(transformer_layers(MaskedLMLoss(tiny(family)))) == 2
