"""Triton's kernels against torch's operators. Needs Triton, and a GPU or TRITON_INTERPRET=1 (minutes on a CPU)."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest
import tiny_ranks
import torch
from static_steps import NaNBeyondTheEnd, examples, tiny

from xlmr_sweep.modeling.gpu import mlm_packing
from xlmr_sweep.modeling.gpu.mlm_packing import cut, pack
from xlmr_sweep.modeling.gpu.mlm_step import MaskedLMStep
from xlmr_sweep.modeling.gpu.packing import RowShape, Table
from xlmr_sweep.modeling.gpu.static_step import Optimisation, strict_determinism
from xlmr_sweep.modeling.gpu.torch_kernels import Kernels, TorchKernels
from xlmr_sweep.modeling.gpu.vocabulary_kernels import TorchVocabulary, VocabularyKernels, Wanted, WordUses
from xlmr_sweep.training.masking import Masked

pytest.importorskip("triton")
if not torch.cuda.is_available() and os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("no GPU, and Triton's interpreter is off", allow_module_level=True)

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SHAPE = RowShape(64, 4, 24, 3)


def triton_kernels() -> Any:
    from xlmr_sweep.modeling.gpu.triton_kernels import TritonKernels

    return TritonKernels(torch.float32, 2)


def two_steps(kernels: Kernels, family: str, *, classification: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns losses and weights after two steps on a CPU's plain attention, with no clipping."""
    made = tiny(family, classification=classification, num_labels=2, clip=1e9, kernels=kernels)
    rows = made.rows([examples([9, 17, 4, 6], 0, 2), examples([24, 23], 1, 2)], SHAPE, [1e-3, 1e-3])
    made.step.begin()
    with strict_determinism():
        made.step.train(rows)
        made.step.train(rows)
    return rows.results, made.step.state.grads


@pytest.mark.skipif(DEVICE.type == "cuda", reason="fp32 on a GPU takes the plain way")
@pytest.mark.parametrize("classification", [False, True])
@pytest.mark.parametrize("family", ["xlm-roberta", "xlm-roberta-xl", "modernbert", "eurobert", "gte"])
def test_two_steps_equal_torch_s_operators(family: str, classification: bool) -> None:
    # Two labels leave gaps between the head's entries: what a sum over rows leaves unwritten there counts in the norm.
    ours = two_steps(triton_kernels(), family, classification=classification)
    plain = two_steps(TorchKernels(torch.float32), family, classification=classification)
    for one, other in zip(ours, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def two_micro_batches(kernels: Kernels, vocabulary: VocabularyKernels, family: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns losses and gradients of a step of instruction tuning in two micro-batches, over the whole vocabulary."""
    model = tiny_ranks.tiny(family, hidden_size=32, max_position_embeddings=60)
    step = MaskedLMStep(model, 0, Optimisation(1.0, 0.01), torch.float32, NaNBeyondTheEnd(), kernels, vocabulary)
    rows = tiny_ranks.longest_first(tiny_ranks.Rows().rows(0, range(6)))
    batches, shape = cut(rows, 512, step.longest, least=2)
    made = pack(batches, shape, step.table, sum(len(row.labels) for row in rows), range(2))
    step.begin()
    with strict_determinism():
        for numbers in torch.from_numpy(made.numbers):
            step.add(shape, numbers)
    return step.losses, step.state.grads


@pytest.mark.skipif(DEVICE.type == "cuda", reason="fp32 on a GPU takes the plain way")
@pytest.mark.parametrize("family", ["eurobert", "gte"])
def test_micro_batches_add_up_to_torch_s_gradients(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from xlmr_sweep.modeling.gpu.triton_kernels import TritonKernels
    from xlmr_sweep.modeling.gpu.triton_vocabulary import TritonVocabulary

    monkeypatch.setattr(mlm_packing, "TOKENS", 64)
    monkeypatch.setattr(mlm_packing, "ASKED", 32)
    ours = two_micro_batches(TritonKernels(torch.float32, 2, adds=True), TritonVocabulary(), family)
    plain = two_micro_batches(TorchKernels(torch.float32, adds=True), TorchVocabulary(), family)
    for one, other in zip(ours, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_dropout_keeps_its_share_scales_it_and_draws_anew_each_time() -> None:
    kernels = triton_kernels()
    ones, zeros, norm = (torch.ones(400, 32, device=DEVICE), torch.zeros(400, 32, device=DEVICE), torch.ones(64, device=DEVICE))
    chain = torch.zeros(96, device=DEVICE)
    totals = []
    for draw in (7, 8, 7):
        kernels.begin(torch.tensor([draw], dtype=torch.int32, device=DEVICE), chain, is_training=True)
        normed = [kernels.add_norm(ones, zeros, norm, 1e-5, 0.1, wants_out=True) for _ in range(2)]
        totals += [one.total for one in normed]
    assert abs(float((totals[0] > 0).float().mean()) - 0.9) < 0.01
    assert sorted({round(value, 4) for value in totals[0].unique().tolist()}) == [0.0, 1.1111]
    assert torch.equal(totals[0], totals[4]), "a draw gives the same mask again"
    assert not torch.equal(totals[0], totals[1]), "but not in the next place"
    assert not torch.equal(totals[0], totals[2]), "nor in the next step"
    gradient = torch.randn(400, 32, device=DEVICE)
    of_x, of_total = kernels.add_norm_backward(gradient, None, normed[1], norm, 0.1, (chain[:64], chain[64:]), rest_is_sum=False)
    torch.testing.assert_close(of_x, of_total * (normed[1].total > 0) / 0.9)
    kernels.end_backward()
    torch.testing.assert_close(chain[64:], of_x.sum(0), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(chain[32:64], gradient.sum(0), rtol=1e-4, atol=1e-4)


def vocabulary_kernels() -> VocabularyKernels:
    from xlmr_sweep.modeling.gpu.triton_vocabulary import TritonVocabulary

    made: VocabularyKernels = TritonVocabulary()
    return made


@pytest.mark.parametrize("num_words", [90, 4097])
def test_losses_and_sums_over_the_vocabulary_equal_torch_s_operators(num_words: int) -> None:
    """Also with more words than one program reads at a time, columns beyond the words, and tokens that no word is wanted of."""
    draw = torch.Generator().manual_seed(num_words)
    columns = -(-num_words // 64) * 64
    logits = (10 * torch.randn(7, columns, generator=draw)).to(DEVICE)
    bias = torch.randn(num_words, generator=draw).to(DEVICE)
    labels = torch.tensor([0, num_words - 1, 5, -1, 5, 17, -1], dtype=torch.int32, device=DEVICE)
    weights = torch.where(labels >= 0, torch.rand(7, generator=draw).to(DEVICE), torch.zeros(7, device=DEVICE))
    wanted = Wanted(labels, weights)
    sums = []
    for kernels in (vocabulary_kernels(), TorchVocabulary()):
        losses, of_logits = kernels.cross_entropy(logits.clone(), bias, wanted)
        out = torch.ones(num_words, device=DEVICE)
        kernels.add_columns(of_logits, out)
        sums.append((losses, of_logits, out))
    for one, other in zip(*sums, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    assert not sums[0][1][:, num_words:].any()


def test_gradients_of_words_are_summed_into_their_rows() -> None:
    """Of words that fill more than one piece too, and of rows that hold a sum already."""
    table = Table(words=90, positions=66, first_position=2)
    rows = [Masked(np.full(64, 7), [3], [7]), Masked(np.full(64, 7), [5], [7]), Masked(np.arange(20), [1, 4], [8, 9])]
    batches, shape = cut(rows, 1024, 64)
    made = pack(batches, shape, table, 4, [0])
    (numbers,) = made.numbers
    fields = {name: torch.from_numpy(numbers[made.shape.fields[name]].copy()).to(DEVICE) for name in made.shape.fields}
    words_at = fields["rows_at"].reshape(3, -1)[0]
    uses = WordUses(words_at, *(fields[name] for name in ("order", "pieces", "words", "word_pieces")))
    of_tokens = torch.randn(len(words_at), 24, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    # No loss depends on filler.
    of_tokens[made.num_tokens :] = 0
    sums = []
    for kernels in (vocabulary_kernels(), TorchVocabulary()):
        out = torch.ones(90 + 66 + 4, 24, device=DEVICE)
        kernels.add_words(of_tokens, uses, out)
        sums.append(out)
    torch.testing.assert_close(*sums, rtol=1e-4, atol=1e-4)
