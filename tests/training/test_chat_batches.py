"""Instruction rows are tokenised once: equal to the template's own tokens, on every rank, and not again after a restart."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import make_encoder

from xlmr_sweep.data import chat_rows
from xlmr_sweep.data.chat_rows import open_chat_rows, write_chat_rows
from xlmr_sweep.data.mixture import prepare_mixture
from xlmr_sweep.errors import StorageError, StudyError
from xlmr_sweep.modeling.fsdp import World
from xlmr_sweep.modeling.loading import load_tokenizer
from xlmr_sweep.modeling.source import base_source
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.study.spec import Study
from xlmr_sweep.study.template import ChatTemplate
from xlmr_sweep.training.batches import RowOrder
from xlmr_sweep.training.chat_batches import ChatBatches, tokenised_once

WORDS = ["User", ":", "Assistant", "is", "the", "sky", "sea", "blue", "green", "?", "yes", "no"]
ROWS = [(f"is the {('sky', 'sea', 'zzz')[i % 3]} blue ? " * (1 + i % 13), "yes" if i % 2 else "no no") for i in range(50)]


@pytest.fixture
def made(tmp_path: Path) -> tuple[Study, Storage, ChatTemplate]:
    make_encoder(tmp_path / "model", words=WORDS)
    lines = [json.dumps({"inputs": inputs, "targets": targets}) + "\n" for inputs, targets in ROWS]
    (tmp_path / "rows.jsonl").write_text("".join(lines))
    study = Study.model_validate(
        {
            "name": "s",
            "models": [{"name": "m", "folder": tmp_path / "model"}],
            "sizes": [8],
            "seeds": [0],
            "instructions": {"source": "folder", "folder": tmp_path / "rows.jsonl"},
        }
    )
    storage = Storage(tmp_path / "runs")
    prepare_mixture(study, storage)
    tokenizer = load_tokenizer(base_source(storage, study, study.models[0]))
    return study, storage, ChatTemplate(tokenizer, 48)


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Notes how many rows each call of the template fills."""
    calls: list[int] = []
    encode = ChatTemplate.encode_pairs

    def spy(template: ChatTemplate, users: Sequence[str], targets: Sequence[str]) -> Any:
        calls.append(len(users))
        return encode(template, users, targets)

    monkeypatch.setattr(ChatTemplate, "encode_pairs", spy)
    return calls


@pytest.mark.parametrize("chunk", [7, 4096])
def test_rows_are_the_templates_own(
    made: tuple[Study, Storage, ChatTemplate], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    template = made[2]
    monkeypatch.setattr(chat_rows, "CHUNK_ROWS", chunk)
    numbers = np.array([0, 3, 4, 11, 30, 31, 32, 49])
    assert list(write_chat_rows(ROWS, numbers, template, tmp_path / "kept"))[-1] == len(numbers)
    wanted = np.array([49, 3, 3, 12 - 1])
    taken = open_chat_rows(tmp_path / "kept").take(wanted)
    expected = template.encode_pairs([ROWS[i][0] for i in wanted], [ROWS[i][1] for i in wanted])
    assert max(len(one.input_ids) for one in expected) == template.max_length, "one is cut"
    cuts = np.cumsum(taken.lengths)[:-1]
    assert [ids.tolist() for ids in np.split(taken.input_ids, cuts)] == [one.input_ids for one in expected]
    assert taken.spans.tolist() == [[*one.user, *one.target] for one in expected]


def test_a_second_start_and_every_epoch_tokenise_nothing(
    made: tuple[Study, Storage, ChatTemplate], monkeypatch: pytest.MonkeyPatch
) -> None:
    study, storage, template = made
    calls = counted(monkeypatch)
    order = RowOrder.of(len(ROWS), 8, seed=1, epochs=3)
    first = tokenised_once(study, study.models[0], storage, order, template, World())
    assert sum(calls) == len(ROWS)
    again = tokenised_once(study, study.models[0], storage, order, template, World())
    batches = ChatBatches(again, order, template, 0.15, template.tokenizer.mask_token_id)
    for step in range(order.num_steps):
        assert len(batches.rows(step, range(batches.num_rows(step)))) == batches.num_rows(step)
    assert sum(calls) == len(ROWS)
    assert np.array_equal(first.input_ids, again.input_ids)


def test_a_short_run_tokenises_only_the_rows_it_takes(
    made: tuple[Study, Storage, ChatTemplate], monkeypatch: pytest.MonkeyPatch
) -> None:
    study, storage, template = made
    calls = counted(monkeypatch)
    order = RowOrder.of(len(ROWS), 8, seed=1, max_steps=2)
    rows = tokenised_once(study, study.models[0], storage, order, template, World())
    assert sum(calls) == 16
    taken = {order.at(step, index) for step in range(2) for index in range(8)}
    assert rows.numbers.tolist() == sorted(taken)
    longer = RowOrder.of(len(ROWS), 8, seed=1, max_steps=3)
    assert len(tokenised_once(study, study.models[0], storage, longer, template, World()).numbers) == 24


def test_half_written_rows_are_made_again(made: tuple[Study, Storage, ChatTemplate], monkeypatch: pytest.MonkeyPatch) -> None:
    study, storage, template = made
    order = RowOrder.of(len(ROWS), 8, seed=1)

    def killed(*arguments: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Storage, "write_json", killed)
        with pytest.raises(KeyboardInterrupt):
            tokenised_once(study, study.models[0], storage, order, template, World())
    (ids,) = Path(storage.path("data")).glob("*/tokens/*/ids.bin")
    ids.write_bytes(b"")
    assert len(tokenised_once(study, study.models[0], storage, order, template, World()).numbers) == len(ROWS)


class Ranks(World):
    """One of two ranks, which hears what a script says that rank 0 tells."""

    def gather(self, values: Sequence[int]) -> list[list[int]]:
        return [[self.told.pop(0)], list(values)]  # type: ignore[attr-defined]

    def send_text(self, text: str) -> str:
        return str(self.text)  # type: ignore[attr-defined]


def rank_1(told: list[int], error: str, *, is_storage: bool = False) -> World:
    world = Ranks(1, 2)
    object.__setattr__(world, "told", told)
    object.__setattr__(world, "text", json.dumps([is_storage, error]))
    return world


def test_other_ranks_wait_chunk_by_chunk_and_read_what_rank_0_wrote(
    made: tuple[Study, Storage, ChatTemplate], monkeypatch: pytest.MonkeyPatch
) -> None:
    study, storage, template = made
    order = RowOrder.of(len(ROWS), 8, seed=1)
    first = tokenised_once(study, study.models[0], storage, order, template, World())
    calls = counted(monkeypatch)
    told = [0, 0, 0, 1]
    rows = tokenised_once(study, study.models[0], storage, order, template, rank_1(told, ""))
    assert (told, calls) == ([], [])
    assert np.array_equal(rows.input_ids, first.input_ids)


def test_every_rank_hears_of_a_storage_that_fails(
    made: tuple[Study, Storage, ChatTemplate], monkeypatch: pytest.MonkeyPatch
) -> None:
    study, storage, template = made
    order = RowOrder.of(len(ROWS), 8, seed=1)

    def full(*arguments: Any) -> None:
        raise StorageError("no space left")

    monkeypatch.setattr(Storage, "upload", full)
    for world in (World(), rank_1([1], "no space left", is_storage=True)):
        with pytest.raises(StorageError, match="no space left"):
            tokenised_once(study, study.models[0], storage, order, template, world)


def test_every_rank_refuses_a_target_that_does_not_fit(made: tuple[Study, Storage, ChatTemplate]) -> None:
    study, storage, template = made
    order = RowOrder.of(len(ROWS), 8, seed=1)
    tight = ChatTemplate(template.tokenizer, 7)
    refused: list[Callable[[], Any]] = [
        lambda: tokenised_once(study, study.models[0], storage, order, tight, World()),
        lambda: tokenised_once(study, study.models[0], storage, order, tight, rank_1([1], "a target of 2 tokens does not fit")),
    ]
    for call in refused:
        with pytest.raises(StudyError, match="target of . tokens does not fit"):
            call()
