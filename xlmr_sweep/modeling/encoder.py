"""An encoder split where it saves work: hidden states first, then the vocabulary head only where a token is asked for.

In: any model that `AutoModelForMaskedLM` loads. For the families below the head runs on chosen positions and, for label words,
on chosen rows of the output projection; transformers itself computes every position times the whole vocabulary (8.2 GB in fp32
for 16 x 512 tokens of XLM-R). Any other model goes the plain way and a warning says so once.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

# For each transformers family: what turns a hidden state into the input of the output projection.
_TRANSFORMS: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
    "xlm-roberta": lambda m, h: m.lm_head.layer_norm(functional.gelu(m.lm_head.dense(h))),  # type: ignore[union-attr,operator]
    "roberta": lambda m, h: m.lm_head.layer_norm(functional.gelu(m.lm_head.dense(h))),  # type: ignore[union-attr,operator]
    "xlm-roberta-xl": lambda m, h: m.lm_head.layer_norm(functional.gelu(m.lm_head.dense(h))),  # type: ignore[union-attr,operator]
    "camembert": lambda m, h: m.lm_head.layer_norm(functional.gelu(m.lm_head.dense(h))),  # type: ignore[union-attr,operator]
    "bert": lambda m, h: m.cls.predictions.transform(h),  # type: ignore[union-attr,operator]
    "modernbert": lambda m, h: m.head(h),  # type: ignore[operator]
}


class MaskedLMEncoder(nn.Module):
    """A masked-LM model whose hidden states and vocabulary logits are computed apart.

    Shapes: batch B, sequence T, hidden H, vocabulary V.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.family: str = model.config.model_type  # type: ignore[union-attr,assignment]
        self.is_split = self.family in _TRANSFORMS
        if not self.is_split:
            warnings.warn(f"{self.family}: no fast path for this family; logits of every token are computed", stacklevel=2)

    @property
    def hidden_size(self) -> int:
        """H."""
        size: int = self.model.config.hidden_size  # type: ignore[union-attr,assignment]
        return size

    def hidden(self, input_ids: Tensor, attention_mask: Tensor | None = None, **extra: Tensor) -> Tensor:
        """Returns the last hidden states, (B, T, H), of token ids (B, T); `extra` goes to the encoder (token types)."""
        encoder = self.model.base_model
        states: Tensor = encoder(input_ids=input_ids, attention_mask=attention_mask, **extra).last_hidden_state  # type: ignore[operator]
        return states

    def vocabulary_logits(self, hidden: Tensor, token_ids: Tensor | None = None) -> Tensor:
        """Returns the logits of hidden states (n, H) for all tokens, (n, V), or for `token_ids` (k,), (n, k).

        The rows of the output projection are gathered before the product, so that a label word costs one row.
        """
        transformed = _TRANSFORMS[self.family](self.model, hidden)
        output: nn.Linear = self.model.get_output_embeddings()  # type: ignore[operator]
        if token_ids is None:
            return functional.linear(transformed, output.weight, output.bias)
        bias = None if output.bias is None else output.bias[token_ids]
        return functional.linear(transformed, output.weight[token_ids], bias)

    def logits_at(
        self,
        input_ids: Tensor,
        rows: Tensor,
        columns: Tensor,
        token_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        **extra: Tensor,
    ) -> Tensor:
        """Returns logits at the positions (rows[i], columns[i]) of a batch, by the plain way where there is no fast one.

        Args:
            input_ids: (B, T).
            rows: (n,) indices into B.
            columns: (n,) indices into T.
            token_ids: (k,) or None for the whole vocabulary.
            attention_mask: (B, T), 1 for tokens.
            extra: further inputs of the encoder, each (B, T).

        Returns:
            (n, k) or (n, V).
        """
        if self.is_split:
            states = self.hidden(input_ids, attention_mask, **extra)
            return self.vocabulary_logits(states[rows, columns], token_ids)
        logits: Tensor = self.model(input_ids=input_ids, attention_mask=attention_mask, **extra).logits[rows, columns]
        return logits if token_ids is None else logits[:, token_ids]


class ClassificationHead(nn.Module):
    """The head of `baseline`: dropout, dense, tanh, dropout, projection of the first token's hidden state.

    XLM-R's own shape of head (transformers' `RobertaClassificationHead`), for every family, so that families compare.
    """

    def __init__(self, hidden_size: int, num_labels: int, dropout: float, std: float) -> None:
        super().__init__()
        self.dense = nn.Linear(hidden_size, hidden_size)
        self.dropout = nn.Dropout(dropout)
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
