"""The training loop: the same gradients for any cut of a global batch, over one, two and five ranks, and across a stop."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_ranks import (
    LIKE_BASE,
    LIKE_TINY,
    LIKE_XL,
    SETTINGS,
    Rows,
    plain_loss,
    run_of,
    tiny,
    train_on_ranks,
)
from torch import Tensor

from xlmr_sweep.errors import DivergedError
from xlmr_sweep.training.masking import Masked
from xlmr_sweep.training.mlm import Run


def gradients(model: Any, max_tokens: int = 4096) -> dict[str, Tensor]:
    """Gradients of the first global batch, as AdamW's first moments hold them after one step without clipping."""
    run = run_of(model, max_tokens=max_tokens, rows=Rows(num_steps=1), clip=1e9)
    run.train()
    return {name: 10 * run.steps.state[parameter]["exp_avg"] for name, parameter in run.parameters.items()}


def test_gradients_do_not_depend_on_micro_batches() -> None:
    whole, cut = gradients(tiny()), gradients(tiny(), max_tokens=40)
    assert whole.keys() == cut.keys()
    for name in whole:
        torch.testing.assert_close(cut[name], whole[name], rtol=1e-4, atol=1e-6, msg=name)


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


def test_padding_is_counted_where_rows_are_padded_and_only_there() -> None:
    fast, padded = run_of(tiny(), max_tokens=1), run_of(tiny("distilbert"), max_tokens=10**6)
    assert fast.train().filler == 0
    padded.train()
    rows = [[len(row.input_ids) for row in Rows().rows(step, range(Rows().num_rows(step)))] for step in range(6)]
    assert padded.progress.filler == sum(len(lengths) * max(lengths) - sum(lengths) for lengths in rows)
    single = run_of(tiny("distilbert"), max_tokens=1)
    assert single.train().filler == 0, "a row alone needs no padding"


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


@pytest.mark.ranks
@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "family", "limits"),
    [
        (2, "xlm-roberta", LIKE_TINY),
        (2, "xlm-roberta-xl", LIKE_XL),
        (5, "xlm-roberta", LIKE_BASE),
        (2, "modernbert", LIKE_BASE),
        (2, "eurobert", LIKE_XL),
        (2, "gte", LIKE_BASE),
    ],
)
def test_fsdp_equals_one_process(size: int, family: str, limits: tuple[int, int], tmp_path: Path) -> None:
    model = tiny(family)
    # Two ranks make ten steps, the others six, of which the last is smaller.
    ten = {"rows": Rows(num_steps=10, total_rows=120)} if limits == LIKE_TINY else {}
    alone = run_of(model, clip=0.5, **ten).train()
    weights, counts = train_on_ranks(size, tmp_path, limits, num_steps=10 if ten else 6, family=family)
    assert counts["tokens"] == alone.tokens
    assert [loss for _, loss in counts["curve"]] == pytest.approx([loss for _, loss in alone.loss_curve], rel=1e-5)
    expected = dict(model.named_parameters(remove_duplicate=False))
    assert weights.keys() == expected.keys()
    for name, tensor in weights.items():
        torch.testing.assert_close(tensor, expected[name].detach(), rtol=1e-4, atol=3e-6, msg=name)
        assert (tensor - expected[name].detach()).abs().max() < 1e-5, name
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    assert counts["held"] < num_parameters / size * 1.5
    decoder, embeddings = model.get_output_embeddings().weight, model.get_input_embeddings().weight
    if family == "eurobert":
        assert decoder is not embeddings
        return
    assert decoder is embeddings
    tied = [name for name, parameter in expected.items() if parameter is decoder]
    assert len(tied) == 2
    assert torch.equal(weights[tied[0]], weights[tied[1]])
