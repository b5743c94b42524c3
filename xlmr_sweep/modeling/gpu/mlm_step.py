"""One step of masked language modelling over fixed buffers: micro-batches add their gradients, then AdamW. Nothing is read back.

In: a masked-LM model, whose weights move into one flat buffer; rows of `mlm_packing` on the device. Out: the weights, changed in
place; and as tensors on the device the step's loss on inputs and on targets, and the norm of its gradient.

The same functions run on a CPU, where tests compare them with the plain way, and on the meta device.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from xlmr_sweep.modeling.gpu.blocks import Row, Views
from xlmr_sweep.modeling.gpu.flash import Attention
from xlmr_sweep.modeling.gpu.mlm_head import MaskedLMHead
from xlmr_sweep.modeling.gpu.mlm_packing import PackShape
from xlmr_sweep.modeling.gpu.model_parts import blocks_of, layout_of, table_of
from xlmr_sweep.modeling.gpu.products import adding_product
from xlmr_sweep.modeling.gpu.static_step import Optimisation, demand_determinism, move_weights
from xlmr_sweep.modeling.gpu.torch_kernels import Kernels
from xlmr_sweep.modeling.gpu.vocabulary_kernels import VocabularyKernels, Wanted, WordUses

FLOATS = ("weights", "is_target")
"""Fields of a row that hold the bits of fp32 numbers."""


class MaskedLMStep:
    """The step of one model, with its buffers.

    Args:
        model: a model of transformers on its device. Its parameters become views of a flat buffer.
        first_position: the position of a sequence's first token.
        optimisation: the optimiser's settings.
        dtype: type of the products.
        attention: computes attention.
        kernels: compute all else except products. They add gradients.
        vocabulary: computes losses.
    """

    def __init__(
        self, model: nn.Module, first_position: int, optimisation: Optimisation, dtype: torch.dtype, attention: Attention,
        kernels: Kernels, vocabulary: VocabularyKernels,
    ) -> None:  # fmt: skip
        self.layout, self.optimisation = layout_of(model, None), optimisation
        self.device = next(model.parameters()).device
        # A tied output projection multiplies by the embeddings, so they have a copy too.
        self.state = move_weights(self.layout, self.device, dtype, 0)
        views = Views(*(self.layout.views(flat) for flat in (self.state.weights, self.state.low, self.state.grads)))
        self.table = table_of(model, first_position)
        self.kernels, self._vocabulary = kernels, vocabulary
        self._blocks = blocks_of(model, views, attention, kernels, adding_product(self.device, dtype))
        self._head = MaskedLMHead(self._blocks, vocabulary, self.table.words)
        num_others = len(views.master["embeddings"]) - self.table.words
        self._places = torch.arange(num_others, dtype=torch.int32, device=self.device)
        self.losses = torch.zeros(2, device=self.device)
        """The step's losses so far: on inputs, on targets."""
        self.refresh()

    @property
    def longest(self) -> int | None:
        """The most tokens in a sequence. None if positions are rotary, of which there is no table."""
        return self.table.positions - self.table.first_position if self.table.positions else None

    def refresh(self) -> None:
        """Makes the copies in the products' type again. Call it after weights were put in."""
        if self.state.low is not self.state.weights:
            self.state.low.copy_(self.state.weights)

    def begin(self) -> None:
        """Zeroes the gradients and losses of the step before."""
        self.state.grads.zero_()
        self.losses.zero_()

    def changed(self) -> list[Tensor]:
        """Returns the buffers that a micro-batch changes."""
        return [self.state.grads, self.losses]

    @torch.no_grad()
    def add(self, shape: PackShape, numbers: Tensor) -> None:
        """Adds a micro-batch's gradients and losses.

        Args:
            shape: shape of the row.
            numbers: the row, (width,) int32.

        Raises:
            RuntimeError: if called outside `strict_determinism`.
        """
        demand_determinism()
        views = {name: numbers[place] for name, place in shape.fields.items()}
        field = {name: view.view(torch.float32) if name in FLOATS else view for name, view in views.items()}
        rows_at = field["rows_at"].view(3, shape.tokens)
        row = Row(
            rows_at, field["offsets"], field["asked"], field["asked_offsets"], field["slot_at"], shape.longest, shape.longest
        )
        self.kernels.begin(field["draw"], self.state.grads[slice(*self.layout.chain)], is_training=True)
        states, embedded, layers = self._blocks.forward(row, is_training=True)
        losses, of_states = self._head.losses(states, Wanted(field["labels"], field["weights"]))
        del states
        of_tokens = self._blocks.backward(of_states, row, embedded, layers)
        self.kernels.end_backward()
        uses = WordUses(rows_at[0], field["order"], field["pieces"], field["words"], field["word_pieces"])
        self._add_embeddings(of_tokens, rows_at, uses)
        on_targets = (losses * field["is_target"]).sum()
        self.losses.add_(torch.stack([losses.sum() - on_targets, on_targets]))

    def _add_embeddings(self, of_tokens: Tensor, rows_at: Tensor, uses: WordUses) -> None:
        grads, num_words = self._blocks.views.grads["embeddings"], self.table.words
        self._vocabulary.add_words(of_tokens, uses, grads[:num_words])
        if not self.table.positions and not self.table.types:
            return
        # Positions and token types are few, so their sums are a product with ones. Here words and rotary positions are negative,
        # which is no row.
        ones = self.kernels.uses(rows_at - num_words, self._places)
        self._blocks.product(ones, of_tokens.to(ones.dtype), grads[num_words:])

    @torch.no_grad()
    def norm(self) -> Tensor:
        """Returns the norm of the step's gradient, a scalar."""
        norm: Tensor = torch.linalg.vector_norm(self.state.grads)
        return norm

    @torch.no_grad()
    def update(self, norm: Tensor, rate: Tensor, corrections: Tensor) -> None:
        """Clips the gradient and takes AdamW's step.

        Args:
            norm: norm of the gradient.
            rate: learning rate, (1,) fp32.
            corrections: of the moments' bias in this step, (2,) fp32: 1 - beta_1^step and sqrt(1 - beta_2^step).
        """
        divisor = ((norm + 1e-6) / self.optimisation.clip).clamp_(min=1.0)
        self.kernels.adamw(self.state, rate, corrections, divisor, self.optimisation.weight_decay)
