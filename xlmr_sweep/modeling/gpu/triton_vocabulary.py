# mypy: ignore-errors
"""The methods of `vocabulary_kernels` in Triton. Logits are read twice and written once. Sums go directly into the gradients.

Every sum has a fixed order. So the result does not depend on which program runs first.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from xlmr_sweep.modeling.gpu.vocabulary_kernels import Wanted, WordUses

LOGITS_BLOCK = 4096
COLUMNS = 128
ROWS = 32


@triton.jit(do_not_specialize=["num_words"])
def cross_entropy_kernel(logits, bias, labels, weights, losses, num_words, columns_in_all, BLOCK: tl.constexpr):
    """One program computes one row: its loss, and the gradient of the logits, which replaces them."""
    row = tl.program_id(0)
    at = logits + row.to(tl.int64) * columns_in_all
    columns = tl.arange(0, BLOCK)
    greatest = tl.full((BLOCK,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, num_words, BLOCK):
        inside = start + columns < num_words
        value = tl.load(at + start + columns, mask=inside, other=0.0).to(tl.float32)
        value += tl.load(bias + start + columns, mask=inside, other=0.0)
        value = tl.where(inside, value, float("-inf"))
        larger = tl.maximum(greatest, value)
        # In a column that is always outside, both are -inf, and -inf minus -inf is NaN.
        before = tl.where(greatest == larger, 1.0, tl.exp(greatest - larger))
        added = tl.where(inside, tl.exp(value - larger), 0.0)
        total = total * before + added
        greatest = larger
    highest = tl.max(greatest, 0)
    sums = tl.sum(tl.where(total > 0, total * tl.exp(greatest - highest), 0.0), 0)
    level = highest + tl.log(sums)
    label = tl.load(labels + row)
    weight = tl.load(weights + row)
    at_label = tl.maximum(label, 0)
    wanted = tl.load(at + at_label).to(tl.float32) + tl.load(bias + at_label)
    tl.store(losses + row, tl.where(label >= 0, (level - wanted) * weight, 0.0))
    # No thread of this program may write before all have read.
    tl.debug_barrier()
    for start in range(0, columns_in_all, BLOCK):
        inside = start + columns < num_words
        value = tl.load(at + start + columns, mask=inside, other=0.0).to(tl.float32)
        value += tl.load(bias + start + columns, mask=inside, other=0.0)
        gradient = tl.exp(value - level) - tl.where(start + columns == label, 1.0, 0.0)
        gradient = tl.where(inside, gradient * weight, 0.0)
        tl.debug_barrier()
        tl.store(at + start + columns, gradient.to(logits.dtype.element_ty), mask=start + columns < columns_in_all)


@triton.jit(do_not_specialize=["num_rows", "num_words"])
def add_columns_kernel(rows, out, num_rows, num_words, columns_in_all, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """One program adds the sums over all rows of some columns."""
    columns = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    inside = columns < num_words
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(0, num_rows, ROWS):
        lines = start + tl.arange(0, ROWS)
        at = lines[:, None].to(tl.int64) * columns_in_all + columns[None, :]
        is_here = (lines < num_rows)[:, None] & inside[None, :]
        total += tl.load(rows + at, mask=is_here, other=0.0).to(tl.float32)
    before = tl.load(out + columns, mask=inside, other=0.0)
    tl.store(out + columns, before + tl.sum(total, 0), mask=inside)


@triton.jit
def sum_pieces_kernel(of_tokens, order, pieces, sums, H: tl.constexpr, BLOCK: tl.constexpr):
    """One program sums over the tokens of one piece."""
    piece = tl.program_id(0)
    start, end = tl.load(pieces + piece), tl.load(pieces + piece + 1)
    if start < end:
        columns = tl.arange(0, BLOCK)
        inside = columns < H
        total = tl.zeros((BLOCK,), tl.float32)
        for place in range(start, end):
            token = tl.load(order + place).to(tl.int64)
            total += tl.load(of_tokens + token * H + columns, mask=inside, other=0.0)
        tl.store(sums + piece.to(tl.int64) * H + columns, total, mask=inside)


@triton.jit
def add_words_kernel(sums, words, word_pieces, out, H: tl.constexpr, BLOCK: tl.constexpr):
    """One program adds the sums of one word's pieces to the row of the word."""
    place = tl.program_id(0)
    word = tl.load(words + place)
    if word >= 0:
        columns = tl.arange(0, BLOCK)
        inside = columns < H
        at = word.to(tl.int64) * H + columns
        total = tl.load(out + at, mask=inside, other=0.0)
        for piece in range(tl.load(word_pieces + place), tl.load(word_pieces + place + 1)):
            total += tl.load(sums + piece * H + columns, mask=inside, other=0.0)
        tl.store(out + at, total, mask=inside)


class TritonVocabulary:
    """Triton's kernels."""

    most_logits = 2**30

    def cross_entropy(self, logits: Tensor, bias: Tensor, wanted: Wanted) -> tuple[Tensor, Tensor]:
        """See `VocabularyKernels`."""
        losses = torch.empty(len(logits), device=logits.device)
        cross_entropy_kernel[(len(logits),)](
            logits, bias, wanted.labels, wanted.weights, losses, len(bias), logits.shape[1], BLOCK=LOGITS_BLOCK, num_warps=8
        )
        return losses, logits

    def add_columns(self, rows: Tensor, out: Tensor) -> None:
        """See `VocabularyKernels`."""
        grid = (-(-len(out) // COLUMNS),)
        add_columns_kernel[grid](rows, out, len(rows), len(out), rows.shape[1], ROWS=ROWS, COLUMNS=COLUMNS, num_warps=4)

    def add_words(self, of_tokens: Tensor, uses: WordUses, out: Tensor) -> None:
        """See `VocabularyKernels`."""
        n, hidden = of_tokens.shape
        block = 1 << max(2, (hidden - 1).bit_length())
        sums = torch.empty_like(of_tokens)
        sum_pieces_kernel[(n,)](of_tokens, uses.order, uses.pieces, sums, H=hidden, BLOCK=block, num_warps=4)
        add_words_kernel[(n,)](sums, uses.words, uses.word_pieces, out, H=hidden, BLOCK=block, num_warps=4)
