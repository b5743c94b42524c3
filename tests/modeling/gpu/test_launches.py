"""The whole step on the meta device: the same operations for any two batches of a shape, no value read, few launches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from static_steps import STATIC_FAMILIES, examples, tiny
from torch.utils._python_dispatch import TorchDispatchMode

from xlmr_sweep.modeling.gpu.flash import FlashAttention
from xlmr_sweep.modeling.gpu.packing import RowShape
from xlmr_sweep.modeling.gpu.static_step import strict_determinism

BASE = {
    "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072,
    "max_position_embeddings": 514,
}  # fmt: skip
NO_LAUNCH = (
    "view", "aten.t.", "slice", "select.int", "unsqueeze", "unbind", "expand", "detach", "empty", "split", "alias", "transpose",
)  # fmt: skip
"""Operations that make views or take memory."""

MOST_LAUNCHES = 650

SHAPE = RowShape(1664, 16, 256, 7)

Lengths = st.lists(st.integers(1, 100), min_size=1, max_size=16)
"""Of the batches that this shape holds, with its seven fillers of at most 256 tokens."""


class Recorded(TorchDispatchMode):
    """Operations with every argument that is no tensor; tensors count with shape and type."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, Any]] = []

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Nothing is compiled here, and torch's wrapper for that case would take as long as all the rest."""
        return False

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        self.calls.append((str(func), (_plain(args), _plain(kwargs))))
        return func(*args, **kwargs)

    def launches(self) -> list[str]:
        return [name for name, _ in self.calls if not any(word in name for word in NO_LAUNCH)]


def _plain(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return ("tensor", tuple(value.shape), value.stride(), value.dtype)
    if isinstance(value, list | tuple):
        return tuple(_plain(item) for item in value)
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value


@pytest.fixture(scope="module", autouse=True)
def _meta_adamw() -> Iterator[None]:
    """torch has no meta kernel of it."""
    library = torch.library.Library("aten", "IMPL")
    library.impl("_fused_adamw_.tensor_lr", lambda *args, **options: None, "Meta")
    yield
    library._destroy()


@cache
def made_of(family: str, **changes: Any) -> Any:
    """One step for all batches, as in a warm process."""
    return tiny(family, device="meta", attention=FlashAttention(), dtype=torch.bfloat16, dropout=0.1, **{**BASE, **changes})


def record(
    lengths: list[int], rate: float, family: str = "xlm-roberta", seed: int = 0, *, training: bool = True, **changes: Any
) -> Recorded:
    made = made_of(family, **changes)
    # Packed for real: nothing of it may reach the operations.
    rows = made.rows([examples(lengths, seed)], SHAPE, [rate], training=training)
    recorded = Recorded()
    with strict_determinism(), recorded:
        (made.step.train if training else made.step.evaluate)(rows)
    return recorded


@cache
def base_step(classification: bool) -> Recorded:
    return record([96] * 16, 1e-5, classification=classification)


def test_two_batches_of_one_shape_run_the_same_operations_with_the_same_arguments() -> None:
    """So no length, count or learning rate is baked into a graph. On the meta device a value that is read raises."""
    one, other = base_step(False), record([207, 30, 55], 3e-4)
    assert len(one.calls) > 500
    assert one.calls == other.calls


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("classification", [False, True])
@pytest.mark.parametrize("family", STATIC_FAMILIES)
def test_any_two_batches_of_one_shape_run_the_same_operations(family: str, classification: bool, training: bool) -> None:
    """Training and evaluation, label words and heads: two layers show it as well as twelve."""
    changes = {"classification": classification, "training": training, "num_hidden_layers": 2}
    expected = record([96] * 16, 1e-5, family, **changes)

    # Hypothesis begins with the simplest: one text of one token, and no learning rate.
    @settings(max_examples=2)
    @given(Lengths, st.floats(0, 1, width=32), st.integers(0, 9))
    def check(lengths: list[int], rate: float, seed: int) -> None:
        assume(fits(lengths))
        assert record(lengths, rate, family, seed, **changes).calls == expected.calls

    check()


def fits(lengths: list[int]) -> bool:
    """Tells whether filler can be cut so that every slot has 1 to 256 tokens."""
    left, slots = SHAPE.tokens - sum(lengths), SHAPE.slots - len(lengths)
    return slots <= left <= slots * SHAPE.longest


@pytest.mark.parametrize("classification", [False, True])
def test_a_step_of_base_s_shape_launches_little(classification: bool) -> None:
    launches = base_step(classification).launches()
    assert 300 < len(launches) <= MOST_LAUNCHES


def test_a_layer_adds_a_fixed_number_of_launches() -> None:
    counts = [len(record([96] * 16, 1e-5, num_hidden_layers=n).launches()) for n in (2, 3, 4)]
    assert counts[2] - counts[1] == counts[1] - counts[0] <= 42


def test_reading_a_value_inside_the_step_would_be_seen() -> None:
    class Reads(FlashAttention):
        def forward(self, query: Any, key: Any, value: Any, offsets: Any, p: float, scale: float) -> Any:
            offsets.keys[-1].item()
            return super().forward(query, key, value, offsets, p, scale)

    made = tiny("xlm-roberta", device="meta", attention=Reads(), dtype=torch.bfloat16)
    rows = made.rows([examples([5])], RowShape(64, 4, 24, 3), [1e-3])
    with strict_determinism(), pytest.raises(RuntimeError, match="meta"):
        made.step.train(rows)
