"""An encoder in two parts: hidden states of all tokens without padding, then the head only at the positions that are asked for.

In: any model that `AutoModelForMaskedLM` loads. For families with a fast path (`families.py`) sequences run end to end through
transformers' own layers with an attention of ours. The head runs only on chosen positions and, for label words, on chosen rows of
the output projection; transformers itself computes every position times the whole vocabulary (8.2 GB in fp32 for 16 x 512 tokens
of XLM-R). Any other model goes the plain, padded way, and a warning says so once.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from xlmr_sweep.modeling import attention
from xlmr_sweep.modeling.cpu.dropout import Dropout, replace_dropout
from xlmr_sweep.modeling.cpu.layer import quicken_layers
from xlmr_sweep.modeling.families import HeadTransform, model_family
from xlmr_sweep.modeling.last_layer import narrow_last_layer
from xlmr_sweep.modeling.sequences import Sequences

_TRANSFORMS: dict[HeadTransform, Callable[[nn.Module, Tensor], Tensor]] = {
    "dense, gelu, norm": lambda m, h: m.lm_head.layer_norm(functional.gelu(m.lm_head.dense(h))),  # type: ignore[union-attr,operator]
    "predictions.transform": lambda m, h: m.cls.predictions.transform(h),  # type: ignore[union-attr,operator]
    "head": lambda m, h: m.head(h),  # type: ignore[operator]
    "nothing": lambda m, h: h,
}
"""What turns a hidden state into the input of the output projection."""


class MaskedLMEncoder(nn.Module):
    """A masked-LM model that computes hidden states and vocabulary logits separately.

    Shapes: B sequences of N tokens in all, hidden H, vocabulary V.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        config: Any = model.config
        self.family = model_family(config)
        self.is_split = self.family.has_fast_path
        self._narrows = False
        if self.is_split:
            config._attn_implementation = attention.NAME
            quicken_layers(model)
            self._narrows = narrow_last_layer(model)
        else:
            text = "no fast path for this family; batches are padded, logits of all tokens computed"
            warnings.warn(f"{self.family.model_type}: {text}", stacklevel=2)
        replace_dropout(model)
        # RoBERTa's first position is the one after the padding token's id. Counting from 0 would be silently wrong.
        self._first_position = config.pad_token_id + 1 if self.family.counts_positions_from_padding else 0

    @property
    def hidden_size(self) -> int:
        """H."""
        size: int = self.model.config.hidden_size  # type: ignore[union-attr,assignment]
        return size

    def hidden_at(self, tokens: Sequences, places: Tensor, counts: tuple[int, ...]) -> Tensor:
        """Returns the last hidden states of some of the tokens, (n, H). Where it can, the last layer computes only these.

        Args:
            tokens: N of them.
            places: (n,) indices into N, in any order.
            counts: how many of the places lie in each sequence, in the sequences' order.

        Raises:
            ValueError: if there are not as many counts as sequences, or as many places as counted.
        """
        if len(counts) != len(tokens.lengths) or sum(counts) != len(places):
            raise ValueError(f"{len(places)} places in {len(tokens.lengths)} sequences, but counts are {counts}")
        if not self._narrows:
            return self.hidden(tokens).index_select(0, places)
        order = places.argsort()
        return self.hidden(tokens, asked=(places[order], counts)).index_select(0, order.argsort())

    def hidden(self, tokens: Sequences, **more: Any) -> Tensor:
        """Returns the last hidden states, (N, H)."""
        encoder: Any = self.model.base_model
        if not self.is_split:
            output = encoder(**self._padded(tokens))
            return self._unpadded(output.last_hidden_state, tokens)
        options: dict[str, Any] = {"lengths": tokens.lengths, **more}
        if tokens.token_type_ids is not None:
            options["token_type_ids"] = tokens.token_type_ids[None]
        if self.family.takes_masks_by_layer_type:
            # Otherwise it makes N x N masks, which nothing reads.
            options["attention_mask"] = {"full_attention": None, "sliding_attention": None}
        positions = tokens.offsets().add_(self._first_position)
        states: Tensor = encoder(input_ids=tokens.input_ids[None], position_ids=positions[None], **options).last_hidden_state
        return states[0]

    def vocabulary_logits(self, hidden: Tensor, token_ids: Tensor | None = None) -> Tensor:
        """Returns the logits of hidden states (n, H) for all tokens, (n, V), or for `token_ids` (k,), (n, k).

        The rows of the output projection are gathered before the product, so that a label word costs one row.
        """
        transformed = self.transformed(hidden)
        output: nn.Linear = self.model.get_output_embeddings()  # type: ignore[operator]
        if token_ids is None:
            return functional.linear(transformed, output.weight, output.bias)
        bias = None if output.bias is None else output.bias[token_ids]
        return functional.linear(transformed, output.weight[token_ids], bias)

    def transformed(self, hidden: Tensor) -> Tensor:
        """Returns the input of the output projection for hidden states, (n, H) to (n, H)."""
        if self.family.head_transform is None:
            raise ValueError(f"{self.family.model_type}: the input of its output projection is not known")
        return _TRANSFORMS[self.family.head_transform](self.model, hidden)

    def logits_at(self, tokens: Sequences, places: Tensor, counts: tuple[int, ...], token_ids: Tensor | None = None) -> Tensor:
        """Returns logits at some of the tokens, in the plain way where there is no fast one.

        Args:
            tokens: N of them.
            places: (n,) indices into N.
            counts: how many of the places lie in each sequence.
            token_ids: (k,) or None for the whole vocabulary.

        Returns:
            (n, k) or (n, V).
        """
        if self.is_split:
            return self.vocabulary_logits(self.hidden_at(tokens, places, counts), token_ids)
        logits = self._unpadded(self.model(**self._padded(tokens)).logits, tokens)[places]
        return logits if token_ids is None else logits[:, token_ids]

    def _padded(self, tokens: Sequences) -> dict[str, Tensor]:
        """Returns transformers' own inputs, each (B, T)."""
        fill: int = self.model.config.pad_token_id or 0  # type: ignore[union-attr,assignment]
        inputs = {
            "input_ids": tokens.padded(tokens.input_ids, fill),
            "attention_mask": tokens.padded(torch.ones_like(tokens.input_ids), 0),
        }
        if tokens.token_type_ids is not None:
            inputs["token_type_ids"] = tokens.padded(tokens.token_type_ids, 0)
        return inputs

    def _unpadded(self, rows: Tensor, tokens: Sequences) -> Tensor:
        """Returns the tokens' part, (N, ...), of rows (B, T, ...)."""
        return torch.cat([row[:length] for row, length in zip(rows, tokens.lengths, strict=True)])


class ClassificationHead(nn.Module):
    """The head of `baseline`: dropout, dense, tanh, dropout, projection of the first token's hidden state.

    The shape is that of XLM-R (transformers' `RobertaClassificationHead`) for every family, so that families can be compared.
    """

    def __init__(self, hidden_size: int, num_labels: int, dropout: float, std: float) -> None:
        super().__init__()
        self.dense = nn.Linear(hidden_size, hidden_size)
        self.dropout = Dropout(dropout)
        self.out_proj = nn.Linear(hidden_size, num_labels)
        self._std = std

    def draw(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Returns new weights by name, normal with the model's initializer range; biases are zero."""
        return {
            name: torch.empty(p.shape).normal_(0.0, self._std, generator=generator) if p.ndim == 2 else torch.zeros(p.shape)
            for name, p in self.named_parameters()
        }

    def forward(self, first: Tensor) -> Tensor:
        """Returns the logits (B, num_labels) of the first token's states (B, H)."""
        return self.out_proj(self.dropout(torch.tanh(self.dense(self.dropout(first)))))  # type: ignore[no-any-return]
