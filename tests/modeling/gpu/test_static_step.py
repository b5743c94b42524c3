"""The static step against transformers' own code: loss, every gradient, weights after some steps; fixed buffers and filler."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from static_steps import LABEL_IDS, STATIC_FAMILIES, examples, tiny
from torch.nn import functional

from xlmr_sweep.data.encoding import Encoded
from xlmr_sweep.modeling.gpu.gated_model import is_gated
from xlmr_sweep.modeling.gpu.packing import RowShape
from xlmr_sweep.modeling.gpu.static_step import strict_determinism

SHAPE = RowShape(tokens=64, examples=4, longest=24, fillers=3)
BATCHES = ([9, 17, 4, 6], [1, 2, 3, 4], [24, 23], [5])


def plain_logits(model: Any, head: Any, batch: Sequence[Encoded]) -> torch.Tensor:
    """Padded, by transformers."""
    ids = torch.nn.utils.rnn.pad_sequence([e.input_ids for e in batch], batch_first=True, padding_value=1)
    mask = torch.zeros_like(ids)
    inputs = {"input_ids": ids, "attention_mask": mask}
    for i, example in enumerate(batch):
        mask[i, : len(example.input_ids)] = 1
    if batch[0].token_type_ids is not None:
        inputs["token_type_ids"] = torch.nn.utils.rnn.pad_sequence([e.token_type_ids for e in batch], batch_first=True)  # type: ignore[misc]
    at = torch.tensor([e.mask_at for e in batch])
    rows = torch.arange(len(batch))
    if head is None:
        logits: torch.Tensor = model(**inputs).logits[rows, at][:, LABEL_IDS]
        return logits
    classified: torch.Tensor = head(model.base_model(**inputs).last_hidden_state[rows, at])
    return classified


@pytest.mark.parametrize("classification", [False, True])
@pytest.mark.parametrize("family", STATIC_FAMILIES)
def test_loss_gradients_weights_and_logits_equal_transformers_own(family: str, classification: bool) -> None:
    batches = [examples(lengths, i, types=family == "bert") for i, lengths in enumerate(BATCHES)]
    made = tiny(family, classification=classification, clip=0.7)
    plain = torch.nn.ModuleList([copy.deepcopy(m) for m in (made.model, made.head) if m is not None])
    names = dict(plain.named_parameters())
    ours = torch.nn.ModuleList([m for m in (made.model, made.head) if m is not None])
    of_grads = views_of_gradients(ours, made.step)
    rates = [0.0, 3e-3, 2e-3, 1e-3]
    rows = made.rows(batches, SHAPE, rates)
    decayed = [p for p in names.values() if p.ndim > 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.01}, {"params": [p for p in names.values() if p.ndim < 2], "weight_decay": 0.0}]
    )
    made.step.begin()
    least: dict[str, torch.Tensor] = {}
    for i, (batch, rate) in enumerate(zip(batches, rates, strict=True)):
        logits = plain_logits(plain[0], plain[1] if classification else None, batch)
        loss = functional.cross_entropy(logits, torch.tensor([e.label for e in batch]))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(names.values(), 0.7)
        assert norm > 0.7, "clipping counts"
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        with strict_determinism():
            made.step.train(rows)
        torch.testing.assert_close(rows.results[i], loss.detach(), rtol=1e-5, atol=1e-5)
        num_compared = 0
        for name, parameter in names.items():
            if parameter.grad is None:
                assert name not in of_grads, f"{name} is not trained"
                continue
            # A CPU's AdamW leaves the clipped gradient behind.
            torch.testing.assert_close(of_grads[name], parameter.grad, rtol=1e-5, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")  # type: ignore[misc]
            num_compared += 1
            least[name] = torch.minimum(least.get(name, torch.tensor(torch.inf)), parameter.grad.abs())
        assert num_compared == len(of_grads) > (20 if is_gated(made.model.config) else 40)
    for name, parameter in ours.named_parameters():
        # No score depends on a key's bias: its gradient is rounding, of which AdamW makes whole steps. Where positions turn it,
        # that is so of those of its numbers that turn too slowly for texts this short.
        if name.endswith("k_proj.bias"):
            counts = least[name] > 1e-6
            assert counts.any()
            torch.testing.assert_close(parameter[counts], names[name][counts], rtol=1e-5, atol=1e-5, msg=name)
        elif not name.endswith("key.bias"):
            torch.testing.assert_close(parameter, names[name], rtol=1e-5, atol=1e-5, msg=name)
    assert int(rows.at) == len(batches)
    found = made.rows(batches, SHAPE, rates, training=False)
    with strict_determinism(), torch.no_grad():
        for i, batch in enumerate(batches):
            made.step.evaluate(found)
            expected = plain_logits(plain[0], plain[1] if classification else None, batch)
            torch.testing.assert_close(found.results[i, : len(batch)], expected, rtol=1e-5, atol=1e-5)


def views_of_gradients(ours: torch.nn.Module, step: Any) -> dict[str, torch.Tensor]:
    """Returns the flat buffer's gradients by the parameters' old names: a parameter and its gradient lie at the same offset."""
    found, flat = {}, step.state.weights
    for name, parameter in ours.named_parameters():
        if parameter.untyped_storage().data_ptr() != flat.untyped_storage().data_ptr():
            continue
        start = parameter.storage_offset()
        found[name] = step.state.grads[start : start + parameter.numel()].view(parameter.shape)
    return found


def test_two_rows_of_one_shape_share_nothing_but_the_weights() -> None:
    """What an absent example and filler compute has no weight: a batch of one in a shape for four gives its own gradient."""
    one = examples([5], 3)
    gradients = []
    for shape in (SHAPE, RowShape(64, 1, 24, 3), RowShape(128, 4, 24, 6)):
        made = tiny("xlm-roberta")
        rows = made.rows([one], shape, [1e-3])
        made.step.begin()
        with strict_determinism():
            made.step.train(rows)
        gradients.append(made.step.state.grads.clone())
    for other in gradients[1:]:
        torch.testing.assert_close(other, gradients[0], rtol=1e-5, atol=1e-6)


def test_a_step_outside_strict_determinism_is_refused() -> None:
    made = tiny("xlm-roberta")
    rows = made.rows([examples([5], 3)], SHAPE, [1e-3])
    with pytest.raises(RuntimeError, match="strict_determinism"):
        made.step.train(rows)
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with pytest.raises(RuntimeError, match="strict_determinism"):
            made.step.train(rows)
    finally:
        torch.use_deterministic_algorithms(False)


def test_parameters_keep_their_names_and_values() -> None:
    made, plain = tiny("roberta"), tiny("roberta")
    state = made.model.state_dict()
    assert list(state) == list(plain.model.state_dict())
    three = [state[f"roberta.encoder.layer.0.attention.self.{part}.weight"] for part in ("query", "key", "value")]
    assert [t.shape for t in three] == [(32, 32)] * 3
    first = three[0].data_ptr()
    assert [t.data_ptr() - first for t in three] == [0, 4 * 32 * 32, 8 * 32 * 32], "one matrix for one product"
    assert made.model.lm_head.decoder.weight.data_ptr() == made.model.roberta.embeddings.word_embeddings.weight.data_ptr()
    with torch.no_grad():
        made.model.load_state_dict({name: torch.ones_like(t) for name, t in state.items()})
    assert float(made.step.state.weights.sum()) == sum(parameter.numel() for parameter in made.model.parameters())
