"""Gradients of matrices. They are products of two factors in 16 bits, summed in fp32, and are written or added.

In: the input of a product and the gradient of its outcome. Out: the gradient of its weights, in place.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor


class Product(Protocol):
    """A function that puts left^T right into an fp32 gradient."""

    def __call__(self, left: Tensor, right: Tensor, out: Tensor) -> None:
        """Takes factors (n, A) and (n, B), and the gradient (A, B) to write or add to."""


def write_product(left: Tensor, right: Tensor, out: Tensor) -> None:
    """Writes left^T right. Sums are in fp32, whatever the factors' type."""
    if left.dtype == torch.float32:
        torch.mm(left.t(), right, out=out)
    elif left.device.type == "cpu":
        # A CPU has no product whose type differs from its factors'.
        out.copy_(left.t() @ right)
    else:
        torch.ops.aten.mm.dtype_out(left.t(), right, torch.float32, out=out)


def add_product(left: Tensor, right: Tensor, out: Tensor) -> None:
    """Adds left^T right. Sums are in fp32, whatever the factors' type. The product itself starts from the old gradient."""
    if left.dtype == torch.float32:
        out.addmm_(left.t(), right)
    elif left.device.type == "cpu":
        out.add_(left.t() @ right)
    else:
        torch.ops.aten.addmm.dtype_out(out, left.t(), right, torch.float32, out=out)


def add_in_two(left: Tensor, right: Tensor, out: Tensor) -> None:
    """Adds left^T right if torch's product cannot start from an fp32 matrix. It takes one more pass over the gradient."""
    out.add_(torch.ops.aten.mm.dtype(left.t(), right, torch.float32))


def adding_product(device: torch.device, dtype: torch.dtype) -> Product:
    """Returns the faster of the two functions that add, as far as the device has it."""
    if device.type != "cuda" or dtype == torch.float32:
        return add_product
    factor, out = torch.ones((16, 16), dtype=dtype, device=device), torch.ones((16, 16), device=device)
    try:
        add_product(factor, factor, out)
    except RuntimeError:
        return add_in_two
    return add_product if bool((out == 17).all()) else add_in_two
