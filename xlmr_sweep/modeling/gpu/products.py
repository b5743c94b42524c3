"""Gradients of matrices as products of two factors in 16 bits, summed in fp32: written, or added to what is there.

In: the gradient of a product's outcome and its input. Out: the gradient of its weights, in place.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor


class Product(Protocol):
    """One way to put left^T right into an fp32 gradient."""

    def __call__(self, left: Tensor, right: Tensor, out: Tensor) -> None:
        """Takes factors (n, A) and (n, B) and a gradient (A, B)."""


def write_product(left: Tensor, right: Tensor, out: Tensor) -> None:
    """Writes left^T right, summed in fp32 whatever the factors' type."""
    if left.dtype == torch.float32:
        torch.mm(left.t(), right, out=out)
    elif left.device.type == "cpu":
        # Has no product of another type than its factors.
        out.copy_(left.t() @ right)
    else:
        torch.ops.aten.mm.dtype_out(left.t(), right, torch.float32, out=out)


def add_product(left: Tensor, right: Tensor, out: Tensor) -> None:
    """Adds left^T right, summed in fp32 whatever the factors' type: the product itself begins with what is there."""
    if left.dtype == torch.float32:
        out.addmm_(left.t(), right)
    elif left.device.type == "cpu":
        out.add_(left.t() @ right)
    else:
        torch.ops.aten.addmm.dtype_out(out, left.t(), right, torch.float32, out=out)


def add_in_two(left: Tensor, right: Tensor, out: Tensor) -> None:
    """The same for a torch whose product does not begin with an fp32 matrix: one more pass over the gradient."""
    out.add_(torch.ops.aten.mm.dtype(left.t(), right, torch.float32))


def adding_product(device: torch.device, dtype: torch.dtype) -> Product:
    """Returns the faster of the two ways to add that a device has."""
    if device.type != "cuda" or dtype == torch.float32:
        return add_product
    factor, out = torch.ones((16, 16), dtype=dtype, device=device), torch.ones((16, 16), device=device)
    try:
        add_product(factor, factor, out)
    except RuntimeError:
        return add_in_two
    return add_product if bool((out == 17).all()) else add_in_two
