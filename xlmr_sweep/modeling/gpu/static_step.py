"""One training step over fixed buffers: forward, backward, clipping, AdamW. Nothing is read back, so a CUDA graph can hold it.

In: a trial's model, whose weights move into one flat buffer; rows of `packing` on the device. Out: the weights, changed in place;
the step's loss, at its place in a (steps,) buffer; and the count of steps, one higher. `evaluate` writes logits in the same way.

The same function runs on a CPU, where tests compare it with the plain way, and on the meta device, where they count its launches.

Shapes: S slots, L labels.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from xlmr_sweep.modeling.gpu.blocks import Row, Views
from xlmr_sweep.modeling.gpu.flash import Attention
from xlmr_sweep.modeling.gpu.heads import Classification, Head, LabelWords
from xlmr_sweep.modeling.gpu.layout import Layout, move_into
from xlmr_sweep.modeling.gpu.model_parts import blocks_of, layout_of, table_of
from xlmr_sweep.modeling.gpu.packing import EXTRA, RowShape
from xlmr_sweep.modeling.gpu.products import write_product
from xlmr_sweep.modeling.gpu.torch_kernels import AdamWState, Kernels

FLOATS = ("weights", "learning_rate", "corrections")
"""Fields of a row that hold the bits of fp32 numbers."""


@dataclass(frozen=True)
class Optimisation:
    """Settings of the optimiser."""

    clip: float
    weight_decay: float


@dataclass
class Rows:
    """The rows of a trial's steps, and the place of the next one."""

    shape: RowShape
    numbers: Tensor
    """(steps, width) int32."""
    at: Tensor
    """(1,) int32: the step that comes next."""
    results: Tensor
    """Training: (steps,) losses. Evaluation: (steps, S, L) logits."""


class StaticStep:
    """The step of one model, with its buffers.

    Args:
        model: a model of transformers on its device. Its parameters become views of a flat buffer.
        head: the classification head of `baseline`, or None for label words.
        num_labels: L.
        first_position: the position of a sequence's first token.
        head_dropout: dropout of the classification head.
        optimisation: the optimiser's settings.
        dtype: type of the products.
        attention: computes attention.
        kernels: compute all else except products.
    """

    def __init__(
        self, model: nn.Module, head: nn.Module | None, num_labels: int, first_position: int, head_dropout: float,
        optimisation: Optimisation, dtype: torch.dtype, attention: Attention, kernels: Kernels,
    ) -> None:  # fmt: skip
        config: Any = model.config
        self.layout = layout_of(model, head)
        self.optimisation, self.num_labels = optimisation, num_labels
        device = next(model.parameters()).device
        self.device = device
        self._dtype = dtype
        self.state = move_weights(self.layout, device, dtype, self.layout.num_embedded)
        views = Views(
            self.layout.views(self.state.weights),
            self.layout.views(self.state.low, 0 if dtype == torch.float32 else self.layout.num_embedded),
            self.layout.views(self.state.grads),
        )
        self.table = table_of(model, first_position)
        self.longest = self.table.positions - first_position if self.table.positions else int(config.max_position_embeddings)
        self.kernels = kernels
        self._blocks = blocks_of(model, views, attention, kernels, write_product)
        self._head: Head = LabelWords(self._blocks, num_labels) if head is None else Classification(self._blocks, head_dropout)
        self._labels = torch.arange(num_labels, dtype=torch.int32, device=device)
        self._numbers = torch.arange(2**16, dtype=torch.int32, device=device)
        self._places = torch.arange(len(views.master["embeddings"]), dtype=torch.int32, device=device)

    def begin(self) -> None:
        """Zeroes the moments and the count of an earlier trial, in place. The weights stay."""
        for tensor in (self.state.firsts, self.state.seconds, self.state.count):
            tensor.zero_()
        self.refresh()

    def refresh(self) -> None:
        """Makes the copies in the products' type again. Call it after weights were put in."""
        if self.state.low is not self.state.weights:
            self.state.low.copy_(self.state.weights[self.state.num_embedded :])

    def trained(self) -> list[Tensor]:
        """Returns the buffers that a step changes."""
        state = self.state
        return [state.weights, state.firsts, state.seconds] + ([] if state.low is state.weights else [state.low])

    def rows(self, shape: RowShape, num_steps: int, *, is_training: bool) -> Rows:
        """Returns buffers for the rows of so many steps."""
        numbers = torch.zeros((num_steps, shape.width), dtype=torch.int32, device=self.device)
        size = (num_steps,) if is_training else (num_steps, shape.slots, self.num_labels)
        at = torch.zeros(1, dtype=torch.int32, device=self.device)
        return Rows(shape, numbers, at, torch.zeros(size, device=self.device))

    @torch.no_grad()
    def train(self, rows: Rows) -> None:
        """Takes the next step of a trial.

        Raises:
            RuntimeError: if called outside `strict_determinism`.
        """
        demand_determinism()
        fields = self._next(rows)
        row = self._row(fields, rows.shape)
        chain = self.state.grads[slice(*self.layout.chain)]
        self.kernels.begin(fields["draw"], chain, is_training=True)
        states, embedded, layers = self._blocks.forward(row, is_training=True)
        logits, kept = self._head.forward(states, row, is_training=True)
        loss, of_logits = self._loss(logits, fields["labels"], fields["weights"])
        of_states, of_labels = self._head.backward(of_logits, kept, row)
        del states, kept
        self._embed_backward(self._blocks.backward(of_states, row, embedded, layers), of_labels, row)
        self.kernels.end_backward()
        norm = torch.linalg.vector_norm(self.state.grads)
        divisor = ((norm + 1e-6) / self.optimisation.clip).clamp_(min=1.0)
        self.kernels.adamw(self.state, fields["learning_rate"], fields["corrections"], divisor, self.optimisation.weight_decay)
        self._note(rows, loss)

    @torch.no_grad()
    def evaluate(self, rows: Rows) -> None:
        """Computes the logits of the next row."""
        fields = self._next(rows)
        row = self._row(fields, rows.shape)
        self.kernels.begin(fields["draw"], self.state.grads[slice(*self.layout.chain)], is_training=False)
        states, _, _ = self._blocks.forward(row, is_training=False)
        logits, _ = self._head.forward(states, row, is_training=False)
        self._note(rows, logits)

    def _next(self, rows: Rows) -> dict[str, Tensor]:
        numbers = rows.numbers.index_select(0, rows.at)[0]
        views = {name: numbers[place] for name, place in rows.shape.fields.items()}
        return {name: view.view(torch.float32) if name in FLOATS else view for name, view in views.items()}

    def _row(self, fields: dict[str, Tensor], shape: RowShape) -> Row:
        rows_at = fields["rows_at"].view(3, shape.tokens + EXTRA)
        # One asked token per slot.
        each = self._numbers[: shape.slots + 1]
        return Row(rows_at, fields["offsets"], fields["asked"], each, fields["slot_at"], shape.longest, 1)

    def _embed_backward(self, of_states: Tensor, of_labels: Tensor | None, row: Row) -> None:
        """Writes the embeddings' gradient, from the gradients of the tokens, (N, H), and of the label words' rows, (k, H)."""
        grads = self._blocks.views.grads["embeddings"]
        rows = functional.pad(of_states.to(self._dtype), (0, 0, 0, EXTRA))
        if of_labels is not None:
            rows[row.num_tokens : row.num_tokens + len(of_labels)] = of_labels
        # A product with ones where a token uses a row. It is exact, deterministic and one launch; index_add would sort or lock.
        self._blocks.product(self.kernels.uses(row.rows_at, self._places), rows, grads)

    def _loss(self, logits: Tensor, labels: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the weighted cross-entropy and its gradient, (S, L)."""
        is_label = labels[:, None] == self._labels
        log_probabilities = torch.log_softmax(logits, 1)
        # A missing example has weight 0.
        loss = -(log_probabilities.masked_fill(is_label.logical_not(), 0.0).sum(1) * weights).sum()
        return loss, (log_probabilities.exp() - is_label.float()) * weights[:, None]

    def _note(self, rows: Rows, result: Tensor) -> None:
        """Puts a result at its place and counts the step. The host reads no index."""
        is_here = (self._numbers[: len(rows.results)] == rows.at).view(-1, *[1] * result.dim())
        torch.where(is_here, result, rows.results, out=rows.results)
        rows.at.add_(1)


def move_weights(layout: Layout, device: torch.device, dtype: torch.dtype, num_embedded: int) -> AdamWState:
    """Returns a step's buffers with the parameters' values. The first `num_embedded` elements get no copy in `dtype`."""
    # Zeros, because gaps between entries are part of the gradient's norm.
    weights = torch.zeros(layout.total, device=device)
    move_into(layout, weights)
    if device.type == "cuda":
        # Otherwise the parameters' old memory would stay reserved beside the buffers.
        torch.cuda.empty_cache()
    grads, firsts, seconds = (torch.zeros(layout.total, device=device) for _ in range(3))
    low = weights
    if dtype != torch.float32:
        low = torch.zeros(layout.total - num_embedded, dtype=dtype, device=device)
    count = torch.zeros((), device=device)
    return AdamWState(weights, grads, firsts, seconds, low, num_embedded, layout.num_decayed, count)


@contextmanager
def strict_determinism() -> Iterator[None]:
    """Runs a block with deterministic kernels only, and without filling new memory, which was half of all launches."""
    was, only_warned = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    memory: Any = torch.utils.deterministic
    filled = memory.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    memory.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(was, warn_only=only_warned)
        memory.fill_uninitialized_memory = filled


def demand_determinism() -> None:
    """Raises an error outside `strict_determinism`.

    Raises:
        RuntimeError: if called outside it.
    """
    # With warn_only, the flash kernels' backward pass would use atomic additions.
    if not torch.are_deterministic_algorithms_enabled() or torch.is_deterministic_algorithms_warn_only_enabled():
        raise RuntimeError("a static step runs inside strict_determinism()")
