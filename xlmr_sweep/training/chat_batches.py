"""The rows of instruction tuning: a mixture in the chat template, tokenised once, masked anew each time a row comes up."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from xlmr_sweep.data.chat_rows import ChatRows, open_chat_rows, write_chat_rows
from xlmr_sweep.data.mixture_rows import open_mixture
from xlmr_sweep.errors import StorageError, StudyError
from xlmr_sweep.modeling.fsdp import World
from xlmr_sweep.modeling.source import cache_folder
from xlmr_sweep.storage.artifacts import chat_rows_folder, manifest_of, mixture_folder
from xlmr_sweep.storage.environment import package_versions
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.study.canonical import fingerprint
from xlmr_sweep.study.identity import tokenizer_identity
from xlmr_sweep.study.model_spec import ModelSpec
from xlmr_sweep.study.spec import Study
from xlmr_sweep.study.template import TEMPLATE_VERSION, ChatTemplate
from xlmr_sweep.training.batches import RowOrder
from xlmr_sweep.training.masking import Masked, mask_chats, step_draws

TOKEN_FORMAT = 1
"""How the files of tokenised rows are laid out."""


@dataclass(frozen=True)
class ChatBatches:
    """Instruction rows in the chat template, masked anew each time they come up."""

    chats: ChatRows
    order: RowOrder
    template: ChatTemplate
    rate: float
    mask_id: int

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
        chats = self.chats.take(self.order.numbers(step, indices))
        return mask_chats(chats, draws[list(indices)], self.rate, self.mask_id, self.template.tokenizer.unk_token_id)


def tokenised_once(
    study: Study, model: ModelSpec, storage: Storage, order: RowOrder, template: ChatTemplate, world: World
) -> ChatRows:
    """Returns the rows that a run takes, in a model's tokens. All ranks call it together.

    Rank 0 tokenises them, unless they are in the storage, and puts them there. The others wait for it, chunk by chunk, so that
    no wait is as long as the backend allows. A later start of the job finds them.

    Args:
        study: names the mixture.
        model: whose tokenizer it is.
        storage: with the prepared mixture.
        order: tells which rows the run takes; a short run takes few.
        template: of the model's tokenizer.
        world: the ranks.

    Raises:
        StudyError: if the mixture is not prepared, or a target does not fit the template; on every rank.
        StorageError: if the storage fails; on every rank.
    """
    folder = _folder(study, model, storage, order, template)
    error: StudyError | StorageError | None = None
    if world.rank == 0:
        try:
            if storage.read_json(manifest_of(folder)) is None:
                _write(study, storage, order, template, folder, lambda: world.gather([0]))
        except (StudyError, StorageError) as problem:
            # Said to the others below. They would wait for a rank that returns.
            error = problem
        world.gather([1])
    else:
        while not world.gather([0])[0][0]:
            continue
    told = json.loads(world.send_text(json.dumps([isinstance(error, StorageError), "" if error is None else str(error)])))
    if told[1]:
        raise error or (StorageError if told[0] else StudyError)(told[1])
    return open_chat_rows(storage.download(folder, cache_folder(storage)))


def _folder(study: Study, model: ModelSpec, storage: Storage, order: RowOrder, template: ChatTemplate) -> str:
    mixture = storage.read_json(manifest_of(mixture_folder(study))) or {}
    is_whole = order.total_rows >= order.num_rows
    decides = {
        "format": TOKEN_FORMAT,
        "mixture": mixture.get("fingerprint"),
        "tokenizer": tokenizer_identity(study, model),
        "template": [TEMPLATE_VERSION, template.max_length],
        "rows": None if is_whole else [order.num_rows, order.total_rows, order.seed],
        "versions": package_versions("tokenizers", "transformers", "xlmr_sweep"),
    }
    return chat_rows_folder(study, model, fingerprint(decides))


def _write(
    study: Study, storage: Storage, order: RowOrder, template: ChatTemplate, folder: str, after_chunk: Callable[[], object]
) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        files = Path(scratch) / "rows"
        for _ in write_chat_rows(open_mixture(study, storage), order.taken(), template, files):
            after_chunk()
        storage.upload(files, folder)
    storage.write_json(manifest_of(folder), {"num_rows": len(order.taken())})
