"""A vocabulary whose rows are split over the ranks, so that its matrix is never gathered and its gradient never summed.

In: a masked-LM model whose vocabulary matrices `shard_model` cut into rows. Out: the same model. It looks a token up on the rank
that holds its row, and computes a masked token's loss over the rows of all ranks. The result is that of one process, up to the
order of sums. Between ranks go only hidden states of the tokens of a step: the vocabulary is seven tenths of XLM-R base's
parameters, and XXL's would be 4 GB gathered and as much again as gradient.

Shapes: V tokens of which this rank holds v rows, hidden H, N tokens of this rank, n masked ones of all ranks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from xlmr_sweep.modeling.fsdp import World, slice_of
from xlmr_sweep.modeling.sequences import to_device


def vocabulary_weights(model: Any) -> list[nn.Parameter]:
    """Returns a masked-LM model's vocabulary matrices: one where input and output are tied, else two."""
    weights = {id(part.weight): part.weight for part in (model.get_input_embeddings(), model.get_output_embeddings())}
    return list(weights.values())


class VocabularyRows:
    """This rank's rows of a model's vocabulary, in and out."""

    def __init__(self, model: Any, world: World) -> None:
        """Lets the model look its tokens up over all ranks.

        Args:
            model: its `vocabulary_weights` are DTensors cut along the first dimension.
            world: the ranks.
        """
        self._world = world
        into, self._output = model.get_input_embeddings(), model.get_output_embeddings()
        self._in = _Matrix(into.weight, world)
        # As in torch, looking up the padding token gives no gradient.
        self._padding: int | None = into.padding_idx
        self._out = self._in if self._output.weight is into.weight else _Matrix(self._output.weight, world)
        # Token ids have no gradient, and autograd runs a backward pass only where some input has one.
        self._anchor = torch.zeros(0, requires_grad=True, device=world.device)
        into.forward = self._look_up
        self._wanted: _Wanted | None = None

    def loss(self, hidden: Tensor, labels: Tensor, is_target: Tensor, num_masked: int, logit_bytes: int) -> tuple[Tensor, Tensor]:
        """Returns the sum of this rank's masked tokens' cross-entropies, divided by the number of all of the step's, in fp32.

        The second sum is of targets only and has no gradient.

        All ranks call it together, and only in training. Meanwhile each holds the states of all ranks' masked tokens, (n, H).
        The matrix's gradient is computed in this forward pass, chunk by chunk, so that no logit is computed twice. It is the
        gradient of the sum of all ranks' losses, and assumes an upstream gradient of world_size, because FSDP averages
        gradients over the ranks.

        Args:
            hidden: (m, H) what the output projection takes, of this rank's m masked tokens.
            labels: (m,) int64 the token ids to predict.
            is_target: (m,) bool, which tokens count in the second sum.
            num_masked: of the step's global batch.
            logit_bytes: of the logits that a rank computes at once, in fp32.
        """
        # All ranks must make the same chunks. The first rank has the most rows, so its count decides.
        size = max(1, logit_bytes // (4 * -(-self._out.length // self._world.size)))
        asked = (labels, is_target)
        sums: tuple[Tensor, Tensor] = _Loss.apply(  # type: ignore[no-untyped-call]
            hidden, self._output.bias, asked, max(1, num_masked), size, self._out, self._world
        )
        return sums

    def logits(self, hidden: Tensor) -> Tensor:
        """Returns the logits of this rank's states for all tokens, (m, H) to (m, V), in fp32, without a gradient.

        All ranks call it together. Meanwhile each holds the logits of all ranks' states.
        """
        matrix, bias = self._out, self._output.bias
        counts = [numbers[0] for numbers in self._world.gather([len(hidden)])]
        every = _gathered(hidden, counts, self._world)
        weights = matrix.rows.to(every.dtype)
        mine = None if bias is None else bias[matrix.start : matrix.end].to(every.dtype)
        # By words, because ranks hold rows of words: (v, n).
        of_rows = torch.nn.functional.linear(every, weights, mine).float().t().contiguous()
        held = [slice_of(matrix.length, rank, self._world.size) for rank in range(self._world.size)]
        whole = _gathered(of_rows, [end - start for start, end in held], self._world)
        before = sum(counts[: self._world.rank])
        return whole.t()[before : before + len(hidden)]

    def expect(self, ids: Tensor) -> None:
        """Makes the next look-up ready on the host, so that it reads no value from the device. All ranks call it together.

        Args:
            ids: (N,) the tokens of this rank's next pass, in host memory.
        """
        self._wanted = _wanted(ids, self._in, self._world)

    def _look_up(self, ids: Tensor) -> Tensor:
        """The embedding's forward: tokens of any shape to (..., H)."""
        wanted = self._wanted or _wanted(ids.flatten().cpu(), self._in, self._world)
        self._wanted = None
        found: Tensor = _LookUp.apply(self._anchor, wanted, self._padding, self._in, self._world)  # type: ignore[no-untyped-call]
        return found.view(*ids.shape, -1)


class _Matrix:
    """This rank's rows of a parameter, and their gradient. The gradient lies in the same memory in every step."""

    def __init__(self, parameter: Any, world: World) -> None:
        self._parameter = parameter
        self.length: int = parameter.shape[0]
        self.start, self.end = slice_of(self.length, world.rank, world.size)
        self.rows: Tensor = parameter.to_local().detach()
        self._gradient: Tensor | None = None

    def gradient(self) -> tuple[Tensor, bool]:
        """Returns the gradient, (v, H), and whether this step wrote to it already. If not, its values are undefined."""
        if self._parameter.grad is not None and self._gradient is not None:
            return self._gradient, True
        if self._gradient is None:
            self._gradient = torch.empty_like(self.rows)
        self._parameter.grad = type(self._parameter.data).from_local(
            self._gradient,
            self._parameter.device_mesh,
            self._parameter.placements,
            run_check=False,
            shape=self._parameter.shape,
            stride=self._parameter.stride(),
        )
        return self._gradient, False


@dataclass(frozen=True)
class _Wanted:
    """The different tokens of a pass, and which rank has the row of each."""

    ids: Tensor
    """Ascending, so rank by rank."""
    places: Tensor
    """(N,) of each of the pass's tokens among them."""
    sent: list[int]
    """How many each rank is asked for."""
    received: list[int]
    """How many each rank asks for."""


def _wanted(ids: Tensor, matrix: _Matrix, world: World) -> _Wanted:
    wanted, places = torch.unique(ids, return_inverse=True)
    ends = torch.tensor([slice_of(matrix.length, rank, world.size)[1] for rank in range(world.size)])
    until = torch.searchsorted(wanted, ends).tolist()
    if until[-1] < len(wanted):
        raise IndexError(f"token {int(wanted[-1])}, but the vocabulary has {matrix.length} rows")
    sent = [end - start for start, end in zip([0, *until], until, strict=False)]
    received = [numbers[world.rank] for numbers in world.gather(sent)]
    device = matrix.rows.device
    return _Wanted(to_device(wanted, device), to_device(places, device), sent, received)


class _Loss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, bias: Tensor | None, asked: tuple[Tensor, Tensor], divisor: int, size: int,
        matrix: _Matrix, world: World,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        labels, is_target = asked
        device = hidden.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
        with torch.autocast(device, enabled=False):
            counts = [numbers[0] for numbers in world.gather([len(hidden)])]
            every, wanted = _gathered(hidden.to(dtype), counts, world), _gathered(labels, counts, world)
            rows = slice(matrix.start, matrix.end)
            weights, mine = matrix.rows.to(dtype), None if bias is None else bias[rows].to(dtype)
            losses, of_hidden = every.new_empty(len(every), dtype=torch.float32), torch.empty_like(every, dtype=torch.float32)
            of_bias = None if bias is None else torch.zeros_like(bias)
            # At least one chunk, so that there is a gradient even where no rank has a masked token.
            for start in range(0, max(1, len(every)), size):
                chunk = slice(start, start + size)
                losses[chunk], of_logits = _part(every[chunk], wanted[chunk], weights, mine, matrix, divisor)
                if of_bias is not None:
                    of_bias[rows] += of_logits.sum(0)
                of_logits = of_logits.to(dtype)
                _add_product(matrix, of_logits, every[chunk])
                of_hidden[chunk] = of_logits @ weights
            dist.all_reduce(of_hidden)
        before = sum(counts[: world.rank])
        own = slice(before, before + len(hidden))
        ctx.save_for_backward(of_hidden[own].to(hidden.dtype), of_bias)
        sums = losses[own].sum() / divisor, (losses[own] * is_target).sum() / divisor
        ctx.mark_non_differentiable(sums[1])
        return sums

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        of_hidden, of_bias = ctx.saved_tensors
        return gradient * of_hidden, None if of_bias is None else gradient * of_bias, None, None, None, None, None


def _part(
    hidden: Tensor, labels: Tensor, weights: Tensor, bias: Tensor | None, matrix: _Matrix, divisor: int
) -> tuple[Tensor, Tensor]:
    """Returns the losses (n,) of some tokens, and the gradient (n, v) of their sum / `divisor` by this rank's logits, in fp32."""
    logits = (hidden @ weights.t() if bias is None else torch.addmm(bias, hidden, weights.t())).float()
    greatest = logits.amax(1) if len(weights) else logits.new_full((len(logits),), -torch.inf)
    dist.all_reduce(greatest, dist.ReduceOp.MAX)
    logits.sub_(greatest[:, None])
    places = labels - matrix.start
    told = logits.new_zeros((2, len(logits)))
    # Which labels have their row here is not read from the device: the others add nothing.
    is_here, at = ((places >= 0) & (places < len(weights)))[:, None], places.clamp(0, max(0, len(weights) - 1))[:, None]
    if len(weights):
        told[1] = logits.gather(1, at).masked_fill_(~is_here, 0.0)[:, 0]
    told[0] = logits.exp_().sum(1)
    dist.all_reduce(told)
    logits.div_((told[0] * divisor)[:, None])
    if len(weights):
        logits.scatter_add_(1, at, is_here.to(logits.dtype) * (-1.0 / divisor))
    return told[0].log() - told[1], logits


def _add_product(matrix: _Matrix, of_logits: Tensor, hidden: Tensor) -> None:
    """Adds what the gradient of some tokens' logits, (n, v), contributes to the matrix's gradient."""
    gradient, has_begun = matrix.gradient()
    if gradient.dtype == of_logits.dtype:
        torch.addmm(gradient, of_logits.t(), hidden, beta=1.0 if has_begun else 0.0, out=gradient)
    elif has_begun:
        gradient.add_(of_logits.t() @ hidden)
    else:
        gradient.copy_(of_logits.t() @ hidden)


class _LookUp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, anchor: Tensor, wanted: _Wanted, padding: int | None, matrix: _Matrix, world: World) -> Tensor:
        sent, received = wanted.sent, wanted.received
        asked = _exchanged(wanted.ids, sent, received) - matrix.start
        found = _exchanged(matrix.rows.index_select(0, asked), received, sent)
        ctx.save_for_backward(wanted.places, asked)
        ctx.sent, ctx.received, ctx.matrix, ctx.num_ranks = sent, received, matrix, world.size
        ctx.padding = None if padding is None else padding - matrix.start
        return found.index_select(0, wanted.places)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        places, asked = ctx.saved_tensors
        matrix = cast(_Matrix, ctx.matrix)
        of_wanted = _add_rows(gradient.new_zeros((sum(ctx.sent), gradient.shape[1])), places, gradient)
        of_rows = _exchanged(of_wanted, ctx.sent, ctx.received)
        whole, has_begun = matrix.gradient()
        if not has_begun:
            whole.zero_()
        # As after FSDP's mean over the ranks.
        of_rows = of_rows / ctx.num_ranks
        if ctx.padding is not None:
            of_rows.masked_fill_((asked == ctx.padding)[:, None], 0.0)
        _add_rows(whole, asked, of_rows)
        return None, None, None, None, None


def _add_rows(to: Tensor, places: Tensor, rows: Tensor) -> Tensor:
    """Adds rows to rows of a matrix, always in the same order. A place may occur several times."""
    if to.device.type == "cpu":
        return to.index_add_(0, places, rows)
    # On a GPU index_add_ adds in any order; index_put_ sorts first.
    return to.index_put_((places,), rows, accumulate=True)


def _gathered(rows: Tensor, counts: list[int], world: World) -> Tensor:
    """Returns the rows (m, ...) of all ranks, in the order of the ranks."""
    most = max(counts)
    padded = rows if len(rows) == most else torch.cat([rows, rows.new_zeros((most - len(rows), *rows.shape[1:]))])
    every = rows.new_empty((world.size * most, *rows.shape[1:]))
    dist.all_gather_single(every, padded.contiguous())
    if min(counts) == most:
        return every
    return torch.cat([every[rank * most : rank * most + count] for rank, count in enumerate(counts)])


def _exchanged(rows: Tensor, sent: list[int], received: list[int]) -> Tensor:
    """Sends each rank its part of the rows and returns what came from each; `sent` and `received` count rows by rank."""
    out = rows.new_empty((sum(received), *rows.shape[1:]))
    dist.all_to_all_single(out, rows.contiguous(), received, sent)
    return out
