"""The rows of instruction tuning: a mixture in the chat template, tokenised once. A row gets new masks each time it is used."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from xlmr_sweep.data.chat_encoder import tokens_key
from xlmr_sweep.data.chat_rows import ChatRows, check_chat_rows, open_chat_rows, unknown_note
from xlmr_sweep.data.mixture_rows import mixture_manifest
from xlmr_sweep.data.mixture_tokens import write_tokens
from xlmr_sweep.errors import StorageError, StudyError
from xlmr_sweep.modeling.fsdp import World
from xlmr_sweep.modeling.source import cache_folder
from xlmr_sweep.storage.artifacts import manifest_of, tokens_folder
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.study.canonical import fingerprint
from xlmr_sweep.study.model_spec import ModelSpec
from xlmr_sweep.study.spec import Study
from xlmr_sweep.study.template import ChatTemplate
from xlmr_sweep.training.batches import HELD_OUT, OrderedBatches, RowOrder
from xlmr_sweep.training.masking import Counted, Masked, mask_chats, step_draws


@dataclass(frozen=True)
class ChatBatches(OrderedBatches):
    """Instruction rows in the chat template. A row gets new masks each time it is used."""

    chats: ChatRows
    order: RowOrder
    template: ChatTemplate
    rate: float
    mask_id: int
    counted: Counted = "both"

    def rows(self, step: int, indices: Sequence[int]) -> list[Masked]:
        """Returns rows of that step's global batch, masked."""
        return self._rows(step, indices, self.counted)

    def rows_with_all_masks(self, step: int, indices: Sequence[int]) -> list[Masked]:
        """Returns the same rows as if the loss counted both parts, so that each has something to predict."""
        return self._rows(step, indices, "both")

    def _rows(self, step: int, indices: Sequence[int], counted: Counted) -> list[Masked]:
        draws = step_draws(self.order.seed, step, self.num_rows(step), self.template.max_length)
        return self._masked(self.order.numbers(step, indices), draws[list(indices)], counted)

    def held_out(self, rank: int, num_ranks: int) -> list[Masked]:
        """Returns a rank's share of the rows that are not trained on, masked the same each time. Both parts count."""
        numbers = self.order.held_out
        draws = step_draws(self.order.seed, HELD_OUT, len(numbers), self.template.max_length)
        return self._masked(numbers[rank::num_ranks], draws[rank::num_ranks], "both")

    def _masked(self, numbers: NDArray[np.int64], draws: NDArray[np.float64], counted: Counted) -> list[Masked]:
        chats = self.chats.take(numbers)
        return mask_chats(chats, draws, self.rate, self.mask_id, self.template.tokenizer.unk_token_id, counted)


def tokenised_once(
    study: Study,
    model: ModelSpec,
    storage: Storage,
    order: RowOrder,
    template: ChatTemplate,
    world: World,
    log: Callable[[str], None] = lambda line: None,
) -> ChatRows:
    """Returns the rows that a run takes, in a model's tokens. All ranks call it together.

    The preparation has put them into the storage. Where it did not, as for a short run, rank 0 does. The others wait for it, part
    by part, so that no wait is as long as the backend allows. A later start of the job finds them.

    Args:
        study: names the mixture.
        model: whose tokenizer it is.
        storage: holds the prepared mixture.
        order: tells which rows the run takes; a short run takes few.
        template: the chat template in the tokens of the model.
        world: the ranks.
        log: takes a line on rows that the tokenizer cannot read.

    Raises:
        StudyError: if the mixture is not prepared, or a target does not fit the template; on every rank.
        StorageError: if the storage fails; on every rank.
    """
    key = tokens_key(template.tokenizer, template.max_length)
    every = tokens_folder(study, key)
    folder, error = every, None
    if world.rank == 0:
        try:
            folder = _made(study, model, storage, order, template, every, lambda: world.gather([0]))
        except (StudyError, StorageError) as problem:
            # The other ranks are told below. If this rank only raised, they would wait for it.
            error = problem
        world.gather([1])
    else:
        while not world.gather([0])[0][0]:
            continue
    told = json.loads(world.send_text(json.dumps([isinstance(error, StorageError), "" if error is None else str(error), folder])))
    if told[1]:
        raise error or (StorageError if told[0] else StudyError)(told[1])
    manifest = storage.read_json(manifest_of(told[2]))
    if note := unknown_note(manifest, model.name):
        log(note)
    # A mixture that was made again has other tokens in a folder of the same name.
    mixture = str(mixture_manifest(study, storage)["fingerprint"])
    return open_chat_rows(storage.download(told[2], cache_folder(storage) / mixture[:16]), manifest)


def _made(
    study: Study,
    model: ModelSpec,
    storage: Storage,
    order: RowOrder,
    template: ChatTemplate,
    every: str,
    after_part: Callable[[], object],
) -> str:
    """Returns the folder with the tokens of a run's rows: that of all rows if it was prepared, else one of its model's own."""
    mixture = mixture_manifest(study, storage)
    if check_chat_rows(storage, every, mixture):
        return every
    # Of the model's own: jobs of models with equal tokenizers may run at the same time.
    folder, numbers = f"{every}-{model.name}", None
    if order.total_rows < order.num_rows - order.num_held_out:
        apart = [order.num_held_out] if order.num_held_out else []
        folder += f"-{fingerprint([order.num_rows, order.total_rows, order.seed, *apart], 8)}"
        numbers = order.taken()
    if check_chat_rows(storage, folder, mixture):
        return folder
    for _ in write_tokens(study, storage, template.tokenizer, template.max_length, folder, numbers):
        after_part()
    return folder
