"""The rows of instruction tuning: a mixture in the chat template, masked anew each time a row comes up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from xlmr_sweep.data.mixture_rows import MixtureRows
from xlmr_sweep.study.template import Chat, ChatTemplate
from xlmr_sweep.training.batches import RowOrder
from xlmr_sweep.training.masking import Masked, mask_chat, step_draws

CACHED_ROWS = 100_000
"""Mixtures up to this size are tokenised once and kept; larger ones batch by batch."""


@dataclass
class ChatBatches:
    """Instruction rows in the chat template, masked anew each time they come up."""

    mixture: MixtureRows
    order: RowOrder
    template: ChatTemplate
    rate: float
    mask_id: int
    _cache: dict[int, Chat] = field(default_factory=dict)

    @property
    def num_steps(self) -> int:
        """Steps of the whole run."""
        return self.order.num_steps

    def num_rows(self, step: int) -> int:
        """Returns the number of rows of that step's global batch."""
        return self.order.size(step)

    def rows(self, step: int, indices: Sequence[int]) -> list[Masked]:
        """Returns rows of that step's global batch, masked."""
        draws = step_draws(self.order.seed, step, self.num_rows(step), self.template.max_length)
        chats = self._chats([self.order.at(step, index) for index in indices])
        return [
            mask_chat(chat, self.rate, self.mask_id, draws(index), self.template.tokenizer.unk_token_id)
            for index, chat in zip(indices, chats, strict=True)
        ]

    def _chats(self, numbers: list[int]) -> list[Chat]:
        new = [number for number in numbers if number not in self._cache]
        texts = [self.mixture[number] for number in new]
        chats = self.template.encode_pairs([text[0] for text in texts], [text[1] for text in texts]) if new else []
        found = self._cache | dict(zip(new, chats, strict=True)) if len(self.mixture) > CACHED_ROWS else self._cache
        if found is self._cache:
            self._cache.update(zip(new, chats, strict=True))
        return [found[number] for number in numbers]
