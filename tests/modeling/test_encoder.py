"""The fast path against plain transformers: compact vocabulary and label rows only, same loss and gradients."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from builders import FAST_FAMILIES, WORDS, make_encoder
from torch.nn import functional
from transformers import AutoModelForMaskedLM, AutoTokenizer

from xlmr_sweep.data.encoding import Encoded, collate
from xlmr_sweep.modeling.compact import CompactVocabulary, build_compact, compact_weights
from xlmr_sweep.modeling.encoder import ClassificationHead, MaskedLMEncoder
from xlmr_sweep.modeling.sequences import Sequences
from xlmr_sweep.study.task_check import label_token_ids
from xlmr_sweep.study.tasks import CB

TEXTS = ["the cat sat near the river <mask> .", "a red bird <mask>", "the old dog slept under a green house so <mask> ran"]
SECOND = ["no cat slept", "the old house sat under the green river because a dog ran", "a bird"]
STD = 0.3
"""Of the classification head's weights: its gradients are then not small beside the tolerance."""


def plain_head(weights: dict[str, torch.Tensor], first: torch.Tensor) -> torch.Tensor:
    between = torch.tanh(first @ weights["dense.weight"].T + weights["dense.bias"])
    return between @ weights["out_proj.weight"].T + weights["out_proj.bias"]


@pytest.mark.parametrize("paradigm", ["prompted", "baseline"])
@pytest.mark.parametrize("family", FAST_FAMILIES)
def test_loss_and_every_gradient_equal_plain_transformers(family: str, paradigm: str, tmp_path: Path) -> None:
    folder = make_encoder(tmp_path, family)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    plain = AutoModelForMaskedLM.from_pretrained(folder, dtype=torch.float32).eval()
    assert family != "modernbert" or plain.config.sliding_window < 8
    is_prompted = paradigm == "prompted"
    encoded = tokenizer(TEXTS, None if is_prompted else SECOND, padding=True, return_tensors="pt")
    ids, mask, types = encoded["input_ids"], encoded["attention_mask"], encoded.get("token_type_ids")
    assert (types is not None) == (family == "bert")
    labels = torch.tensor([0, 2, 1])
    label_ids = torch.tensor(label_token_ids(tokenizer, CB))
    head = ClassificationHead(plain.config.hidden_size, 3, 0.0, STD)
    drawn = head.draw(torch.Generator().manual_seed(3))
    head.load_state_dict(drawn)
    plain_weights = {name: tensor.clone().requires_grad_() for name, tensor in drawn.items()}
    if is_prompted:
        columns = (ids == tokenizer.mask_token_id).nonzero(as_tuple=True)[1]
        logits = plain(**encoded).logits[torch.arange(3), columns][:, label_ids]
    else:
        assert types is None or types.any(), "the second text has a type of its own"
        columns = torch.zeros(3, dtype=torch.int64)
        logits = plain_head(plain_weights, plain.base_model(**encoded).last_hidden_state[:, 0])
    expected = functional.cross_entropy(logits, labels)
    expected.backward()

    full = {name: tensor.detach().clone() for name, tensor in plain.state_dict().items()}
    kept = CompactVocabulary.of({*ids.flatten().tolist(), *label_ids.tolist()}, tokenizer.all_special_ids)
    assert len(kept) < len(WORDS)
    small = MaskedLMEncoder(build_compact(plain.config, kept))
    assert small.is_split
    small.model.load_state_dict(compact_weights(full, plain.config.vocab_size, kept))
    small.eval()
    small_ids = kept.compact(ids)
    examples = [
        Encoded(small_ids[i][mask[i].bool()], 0, int(columns[i]), None if types is None else types[i][mask[i].bool()])
        for i in range(3)
    ]
    batch = collate(examples)
    assert batch.tokens.lengths == tuple(sorted(mask.sum(1).tolist(), reverse=True))
    if is_prompted:
        found = small.logits_at(batch.tokens, batch.mask_at, batch.counts, kept.compact(label_ids))
    else:
        found = head(small.hidden_at(batch.tokens, batch.mask_at, batch.counts))
    torch.testing.assert_close(found, logits, rtol=1e-5, atol=1e-5)
    loss = functional.cross_entropy(found, labels)
    loss.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
    gradients = {name: p.grad for name, p in plain.named_parameters() if p.grad is not None}
    num_compared = 0
    for name, parameter in small.model.named_parameters():
        if parameter.grad is None:
            continue
        wanted = gradients[name]
        if wanted.shape != parameter.grad.shape:
            unused = torch.ones(len(wanted), dtype=torch.bool)
            unused[kept.token_ids] = False
            assert not wanted[unused].any(), f"{name}: a row that was left out has a gradient"
            wanted = wanted[kept.token_ids]
        torch.testing.assert_close(parameter.grad, wanted, rtol=1e-5, atol=1e-5, msg=name)
        num_compared += 1
    assert num_compared == len(gradients) > 10
    for name, parameter in head.named_parameters():
        of_plain = plain_weights[name].grad
        assert (parameter.grad is None) == (of_plain is None) == is_prompted
        torch.testing.assert_close(parameter.grad, of_plain, rtol=1e-5, atol=1e-5, msg=name)


@pytest.mark.parametrize("family", FAST_FAMILIES)
def test_whole_vocabulary_logits_equal_plain_transformers(family: str, tmp_path: Path) -> None:
    folder = make_encoder(tmp_path, family)
    plain = AutoModelForMaskedLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids = torch.randint(4, 30, (3, 11), generator=torch.Generator().manual_seed(0))
    places = torch.tensor([4, 22, 32])
    with torch.no_grad():
        expected = plain(input_ids=ids).logits.flatten(0, 1)[places]
        found = MaskedLMEncoder(plain).logits_at(Sequences(ids.flatten(), (11, 11, 11)), places, (1, 0, 2))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", FAST_FAMILIES)
@pytest.mark.parametrize("counts", [(1, 1, 1), (2, 0, 1)])
def test_states_of_some_tokens_and_their_gradients_are_those_among_all(
    family: str, counts: tuple[int, ...], tmp_path: Path
) -> None:
    encoder = MaskedLMEncoder(AutoModelForMaskedLM.from_pretrained(make_encoder(tmp_path, family), dtype=torch.float32)).eval()
    ids = torch.randint(4, 30, (19,), generator=torch.Generator().manual_seed(0))
    tokens = Sequences(ids, (8, 6, 5), torch.zeros_like(ids) if family == "bert" else None)
    places = torch.tensor({(1, 1, 1): (15, 7, 8), (2, 0, 1): (14, 0, 7)}[counts])
    weight = torch.randn((3, encoder.hidden_size), generator=torch.Generator().manual_seed(1))

    def gradients(states: torch.Tensor) -> dict[str, torch.Tensor]:
        encoder.zero_grad()
        (states * weight).sum().backward()
        return {name: p.grad.clone() for name, p in encoder.named_parameters() if p.grad is not None}

    all_states, some = encoder.hidden(tokens)[places], encoder.hidden_at(tokens, places, counts)
    torch.testing.assert_close(some, all_states, rtol=1e-5, atol=1e-5)
    expected, found = gradients(all_states), gradients(some)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-5, msg=name)


def test_the_last_layer_computes_only_what_is_asked_for(tmp_path: Path) -> None:
    encoder = MaskedLMEncoder(AutoModelForMaskedLM.from_pretrained(make_encoder(tmp_path), dtype=torch.float32)).eval()
    rows: list[int] = []
    for layer in encoder.model.base_model.encoder.layer:
        layer.output.dense.register_forward_hook(
            lambda module, inputs, output: rows.append(inputs[0].numel() // inputs[0].shape[-1])
        )
    tokens = Sequences(torch.arange(4, 16), (7, 5))
    encoder.hidden_at(tokens, torch.tensor([11, 3]), (1, 1))
    assert rows[-1] == 2
    with pytest.raises(ValueError, match="1 places in 2 sequences"):
        encoder.hidden_at(tokens, torch.tensor([11]), (1, 1))


def test_an_unknown_family_takes_the_plain_way_and_says_so(tmp_path: Path) -> None:
    folder = make_encoder(tmp_path, "electra")
    plain = AutoModelForMaskedLM.from_pretrained(folder, dtype=torch.float32).eval()
    with pytest.warns(UserWarning, match="electra: no fast path"):
        encoder = MaskedLMEncoder(plain)
    ids = torch.tensor([0, 5, 6, 2, 0, 9, 2])
    with torch.no_grad():
        found = encoder.logits_at(Sequences(ids, (4, 3)), torch.tensor([1, 5]), (1, 1), torch.tensor([7, 8]))
        states = encoder.hidden(Sequences(ids, (4, 3)))
        for row, place, at, alone in ((0, 1, 1, ids[:4]), (1, 5, 1, ids[4:])):
            torch.testing.assert_close(found[row], plain(input_ids=alone[None]).logits[0, at, [7, 8]])
            torch.testing.assert_close(states[place], plain.base_model(input_ids=alone[None]).last_hidden_state[0, at])
