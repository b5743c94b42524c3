# mypy: ignore-errors
"""Triton kernels of a static step. Each does the work of several torch operators in one launch. Imported only if Triton is there.

A sum over rows has two steps in a fixed order. Each program sums its own rows into its own line of `partials`. Then one sum over
the lines serves all biases and norms. So the result does not depend on which program runs first.

Shapes: n rows of H numbers; `BLOCK` is the power of two that holds H; P programs.
"""

import triton
import triton.language as tl

ROUNDS: tl.constexpr = tl.constexpr(7)
"""Rounds of Philox: the fewest that pass the usual statistical tests (Salmon et al. 2011)."""


@triton.jit
def _kept(draw, salt, row, threshold, BLOCK: tl.constexpr):
    """Returns which numbers of a row dropout keeps. One draw gives four words, one for each of four neighbours."""
    seed = tl.load(draw).to(tl.int64) * 4096 + salt
    quarter: tl.constexpr = BLOCK // 4
    offsets = row * quarter + tl.arange(0, quarter)
    a, b, c, d = tl.randint4x(seed, offsets, ROUNDS)
    words = tl.reshape(tl.join(tl.join(a, b), tl.join(c, d)), (BLOCK,))
    return words.to(tl.uint32, bitcast=True) >= threshold.to(tl.uint32)


@triton.jit(do_not_specialize=["salt", "threshold"])
def add_norm_kernel(
    x, residual, norm, total, out, low, mean, rstd, mask, draw, salt, threshold, scale, eps,
    H: tl.constexpr, BLOCK: tl.constexpr, HAS_X: tl.constexpr, DROPS: tl.constexpr, WANTS_OUT: tl.constexpr,
    HAS_SHIFT: tl.constexpr, IS_RMS: tl.constexpr,
):  # fmt: skip
    """Computes norm(residual + dropout(x)). One program computes one row."""
    row = tl.program_id(0)
    columns = tl.arange(0, BLOCK)
    inside = columns < H
    at = row.to(tl.int64) * H + columns
    value = tl.load(residual + at, mask=inside, other=0.0).to(tl.float32)
    if HAS_X:
        added = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
        if DROPS:
            keep = _kept(draw, salt, row, threshold, BLOCK)
            tl.store(mask + at, keep.to(tl.int8), mask=inside)
            added = tl.where(keep, added * scale, 0.0)
        value += added
        tl.store(total + at, value, mask=inside)
    centred = tl.where(inside, value, 0.0)
    if not IS_RMS:
        average = tl.sum(value, 0) / H
        centred = tl.where(inside, value - average, 0.0)
        tl.store(mean + row, average)
    inverse = 1.0 / tl.sqrt(tl.sum(centred * centred, 0) / H + eps)
    normed = centred * inverse * tl.load(norm + columns, mask=inside, other=0.0)
    if HAS_SHIFT:
        normed += tl.load(norm + H + columns, mask=inside, other=0.0)
    tl.store(rstd + row, inverse)
    if WANTS_OUT:
        tl.store(out + at, normed, mask=inside)
    tl.store(low + at, normed.to(low.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["n", "of_norm_at", "of_bias_at"])
def add_norm_backward_kernel(
    of_low, of_rest, total, norm, mean, rstd, mask, of_x, of_total, partials, scale, n, width, of_norm_at, of_bias_at,
    H: tl.constexpr, BLOCK: tl.constexpr, DROPS: tl.constexpr, HAS_REST: tl.constexpr, REST_IS_SUM: tl.constexpr,
    HAS_BIAS: tl.constexpr, HAS_SHIFT: tl.constexpr, IS_RMS: tl.constexpr,
):  # fmt: skip
    """Computes gradients of both summands, and this program's sums over rows for the norm's weights and biases and `x`'s bias."""
    program = tl.program_id(0)
    columns = tl.arange(0, BLOCK)
    inside = columns < H
    weight = tl.load(norm + columns, mask=inside, other=0.0)
    of_weight = tl.zeros((BLOCK,), dtype=tl.float32)
    of_shift = tl.zeros((BLOCK,), dtype=tl.float32)
    of_bias = tl.zeros((BLOCK,), dtype=tl.float32)
    for row in range(program, n, tl.num_programs(0)):
        at = row * H + columns
        gradient = tl.load(of_low + at, mask=inside, other=0.0).to(tl.float32)
        if HAS_REST:
            rest = tl.load(of_rest + at, mask=inside, other=0.0)
            if not REST_IS_SUM:
                gradient += rest
        inverse = tl.load(rstd + row)
        normed = tl.load(total + at, mask=inside, other=0.0)
        if not IS_RMS:
            normed -= tl.load(mean + row)
        normed = tl.where(inside, normed * inverse, 0.0)
        of_weight += gradient * normed
        of_shift += gradient
        weighted = gradient * weight
        along = tl.sum(weighted * normed, 0) / H
        if IS_RMS:
            of_sum = (weighted - normed * along) * inverse
        else:
            level = tl.sum(weighted, 0) / H
            of_sum = (weighted - level - normed * along) * inverse
        if HAS_REST and REST_IS_SUM:
            of_sum += rest
        tl.store(of_total + at, of_sum, mask=inside)
        if DROPS:
            of_sum = tl.where(tl.load(mask + at, mask=inside, other=0) != 0, of_sum * scale, 0.0)
        rounded = of_sum.to(of_x.dtype.element_ty)
        tl.store(of_x + at, rounded, mask=inside)
        of_bias += tl.where(inside, rounded.to(tl.float32), 0.0)
    line = partials + program.to(tl.int64) * width
    tl.store(line + of_norm_at + columns, of_weight, mask=inside)
    if HAS_SHIFT:
        tl.store(line + of_norm_at + H + columns, of_shift, mask=inside)
    if HAS_BIAS:
        tl.store(line + of_bias_at + columns, of_bias, mask=inside)


@triton.jit(do_not_specialize=["n", "of_bias_at"])
def sum_rows_kernel(
    rows, inputs, out, partials, n, columns_in_all, stride, width, of_bias_at, BLOCK: tl.constexpr, GELU: tl.constexpr
):
    """Sums over this program's rows. With `GELU` it first computes and stores gelu's gradient, and then sums it."""
    program = tl.program_id(0)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < columns_in_all
    of_bias = tl.zeros((BLOCK,), dtype=tl.float32)
    for row in range(program, n, tl.num_programs(0)):
        at = row * stride + columns
        value = tl.load(rows + at, mask=inside, other=0.0).to(tl.float32)
        if GELU:
            given = tl.load(inputs + at, mask=inside, other=0.0).to(tl.float32)
            below = 0.5 * (1.0 + tl.erf(given * 0.7071067811865476))
            density = 0.3989422804014327 * tl.exp(-0.5 * given * given)
            rounded = (value * (below + given * density)).to(out.dtype.element_ty)
            tl.store(out + at, rounded, mask=inside)
            value = rounded.to(tl.float32)
        of_bias += value
    # Writes up to the next entry. A gap would hold whatever was in memory, and that would count in the gradient's norm.
    is_own = columns < (columns_in_all + 7) // 8 * 8
    tl.store(partials + program.to(tl.int64) * width + of_bias_at + columns, of_bias, mask=is_own)


@triton.jit
def _activated(x, IS_GELU: tl.constexpr):
    """Returns an activation of x and its derivative."""
    if IS_GELU:
        below = 0.5 * (1.0 + tl.erf(x * 0.7071067811865476))
        slope = below + x * 0.3989422804014327 * tl.exp(-0.5 * x * x)
    else:
        below = 1.0 / (1.0 + tl.exp(-x))
        slope = below * (1.0 + x * (1.0 - below))
    return x * below, slope


@triton.jit
def gate_kernel(inner, out, F, BLOCK: tl.constexpr, IS_GELU: tl.constexpr):
    """Computes activation(first half) * second half of a part of a row."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < F
    first = tl.load(inner + row * 2 * F + columns, mask=inside, other=0.0).to(tl.float32)
    second = tl.load(inner + row * 2 * F + F + columns, mask=inside, other=0.0).to(tl.float32)
    active, _ = _activated(first, IS_GELU)
    tl.store(out + row * F + columns, (active * second).to(out.dtype.element_ty), mask=inside)


@triton.jit
def gate_backward_kernel(gradient, inner, out, F, BLOCK: tl.constexpr, IS_GELU: tl.constexpr):
    """Computes the gradients of both halves of a part of a row."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < F
    given = tl.load(gradient + row * F + columns, mask=inside, other=0.0).to(tl.float32)
    first = tl.load(inner + row * 2 * F + columns, mask=inside, other=0.0).to(tl.float32)
    second = tl.load(inner + row * 2 * F + F + columns, mask=inside, other=0.0).to(tl.float32)
    active, slope = _activated(first, IS_GELU)
    tl.store(out + row * 2 * F + columns, (given * second * slope).to(out.dtype.element_ty), mask=inside)
    tl.store(out + row * 2 * F + F + columns, (given * active).to(out.dtype.element_ty), mask=inside)


@triton.jit
def rotate_kernel(heads, cos, sin, stride, D: tl.constexpr, BLOCK: tl.constexpr):
    """Turns one head of one row, in place. Pairs are the two halves of a head."""
    row, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    half: tl.constexpr = D // 2
    columns = tl.arange(0, BLOCK)
    inside = columns < half
    at = heads + row * stride + head * D + columns
    first = tl.load(at, mask=inside, other=0.0).to(tl.float32)
    second = tl.load(at + half, mask=inside, other=0.0).to(tl.float32)
    c = tl.load(cos + row * half + columns, mask=inside, other=0.0)
    s = tl.load(sin + row * half + columns, mask=inside, other=0.0)
    tl.store(at, (first * c - second * s).to(heads.dtype.element_ty), mask=inside)
    tl.store(at + half, (second * c + first * s).to(heads.dtype.element_ty), mask=inside)


@triton.jit
def uses_kernel(rows_at, out, n, columns_in_all, BLOCK: tl.constexpr):
    """Writes 1 where a token uses a row of a table (its word, position or type), and 0 elsewhere."""
    token = tl.program_id(0)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    is_used = (columns == tl.load(rows_at + token)) | (columns == tl.load(rows_at + n + token))
    is_used = is_used | (columns == tl.load(rows_at + 2 * n + token))
    at = token.to(tl.int64) * columns_in_all + columns
    tl.store(out + at, is_used.to(out.dtype.element_ty), mask=columns < columns_in_all)


@triton.jit(do_not_specialize=["decay"])
def adamw_kernel(
    weights, grads, firsts, seconds, low, rate, corrections, divisor, decay, total, num_embedded, num_decayed,
    BETA_1: tl.constexpr, BETA_2: tl.constexpr, EPS: tl.constexpr, HAS_LOW: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """AdamW as in torch's fused kernel, with divided gradients. It also writes the copy for the products."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < total
    step_size = tl.load(rate)
    weight = tl.load(weights + at, mask=inside)
    gradient = tl.load(grads + at, mask=inside) / tl.load(divisor)
    first = tl.load(firsts + at, mask=inside)
    second = tl.load(seconds + at, mask=inside)
    weight -= tl.where(at < num_decayed, step_size * decay, 0.0) * weight
    first = first + (1 - BETA_1) * (gradient - first)
    second = BETA_2 * second + (1 - BETA_2) * gradient * gradient
    below = tl.sqrt(second) / tl.load(corrections + 1) + EPS
    weight -= step_size / tl.load(corrections) * first / below
    tl.store(weights + at, weight, mask=inside)
    tl.store(firsts + at, first, mask=inside)
    tl.store(seconds + at, second, mask=inside)
    if HAS_LOW:
        tl.store(low + at - num_embedded, weight.to(low.dtype.element_ty), mask=inside & (at >= num_embedded))
