"""Instruction rows are tokenised once: equal to the template's own tokens, on every rank, and not again after a restart."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import make_encoder

from xlmr_sweep.data import mixture_tokens, mixture_writer
from xlmr_sweep.data.chat_encoder import ChatEncoder, Chats
from xlmr_sweep.data.chat_rows import ChatRows, open_chat_rows
from xlmr_sweep.data.mixture import prepare_mixture
from xlmr_sweep.data.mixture_tokens import write_tokens
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
    """Notes how many rows each call of the encoder fills."""
    calls: list[int] = []
    fill = ChatEncoder.fill

    def spy(encoder: ChatEncoder, users: Any, targets: Any) -> Chats:
        calls.append(len(users.lengths))
        return fill(encoder, users, targets)

    monkeypatch.setattr(ChatEncoder, "fill", spy)
    return calls


def ids(rows: ChatRows, numbers: Sequence[int]) -> list[int]:
    taken: list[int] = rows.take(np.array(numbers)).input_ids.tolist()
    return taken


@pytest.mark.parametrize("part", [7, 4096])
def test_rows_are_the_templates_own(
    made: tuple[Study, Storage, ChatTemplate], monkeypatch: pytest.MonkeyPatch, part: int
) -> None:
    study, storage, template = made
    monkeypatch.setattr(mixture_tokens, "PART_ROWS", part)
    monkeypatch.setattr(mixture_writer, "SHARD_ROWS", 3)
    numbers = np.array([0, 3, 4, 11, 30, 31, 32, 49])
    done = write_tokens(study, storage, template.tokenizer, template.max_length, "kept", numbers)
    assert sum(done) == len(numbers)
    assert not storage.exists("kept/parts")
    wanted = np.array([49, 3, 3, 12 - 1])
    rows = open_chat_rows(Path(storage.path("kept")), storage.read_json("kept/manifest.json"))
    assert len(rows.shards) == 3
    taken = rows.take(wanted)
    expected = template.encode_pairs([ROWS[i][0] for i in wanted], [ROWS[i][1] for i in wanted])
    assert max(len(one.input_ids) for one in expected) == template.max_length, "one is cut"
    cuts = np.cumsum(taken.lengths)[:-1]
    assert [found.tolist() for found in np.split(taken.input_ids, cuts)] == [one.input_ids for one in expected]
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
    assert ids(first, range(50)) == ids(again, range(50))


def test_a_short_run_tokenises_only_the_rows_it_takes(
    made: tuple[Study, Storage, ChatTemplate], monkeypatch: pytest.MonkeyPatch
) -> None:
    study, storage, template = made
    calls = counted(monkeypatch)
    order = RowOrder.of(len(ROWS), 8, seed=1, max_steps=2)
    rows = tokenised_once(study, study.models[0], storage, order, template, World())
    assert sum(calls) == 16
    taken = {order.at(step, index) for step in range(2) for index in range(8)}
    assert rows.numbers is not None
    assert rows.numbers.tolist() == sorted(taken)
    longer = RowOrder.of(len(ROWS), 8, seed=1, max_steps=3)
    assert len(tokenised_once(study, study.models[0], storage, longer, template, World())) == 24


def test_masks_are_the_same_on_any_number_of_ranks_and_after_a_restart(made: tuple[Study, Storage, ChatTemplate]) -> None:
    study, storage, template = made
    order = RowOrder.of(len(ROWS), 8, seed=1, epochs=2, held_out=6)

    def masks(num_ranks: int) -> list[list[list[int]]]:
        """Of three steps in the middle of the run, put together from what each rank takes, and of the held-out rows."""
        found: list[list[list[int]]] = []
        for step in (4, 5, 6, -1):
            size = order.size(step) if step > 0 else order.num_held_out
            rows: list[list[int]] = [[] for _ in range(size)]
            for rank in range(num_ranks):
                # Each rank opens the rows anew, as after a restart.
                chats = tokenised_once(study, study.models[0], storage, order, template, World())
                batches = ChatBatches(chats, order, template, 0.15, template.tokenizer.mask_token_id)
                places = range(rank, size, num_ranks)
                mine = batches.rows(step, places) if step > 0 else batches.held_out(rank, num_ranks)
                for place, row in zip(places, mine, strict=True):
                    rows[place] = [*row.input_ids, *row.positions, *row.labels]
            found.append(rows)
        return found

    assert masks(1) == masks(2) == masks(4)


def test_half_written_rows_are_made_again(made: tuple[Study, Storage, ChatTemplate], monkeypatch: pytest.MonkeyPatch) -> None:
    study, storage, template = made
    order = RowOrder.of(len(ROWS), 8, seed=1)

    def killed(*arguments: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Storage, "write_json", killed)
        with pytest.raises(KeyboardInterrupt):
            tokenised_once(study, study.models[0], storage, order, template, World())
    (half,) = Path(storage.path("data")).glob("*/tokens/*-m/ids-00000.bin")
    half.write_bytes(b"")
    assert len(tokenised_once(study, study.models[0], storage, order, template, World())) == len(ROWS)


class Ranks(World):
    """One of two ranks, which hears what a script says that rank 0 tells."""

    def gather(self, values: Sequence[int]) -> list[list[int]]:
        return [[self.told.pop(0)], list(values)]  # type: ignore[attr-defined]

    def send_text(self, text: str) -> str:
        return str(self.text)  # type: ignore[attr-defined]


def rank_1(told: list[int], error: str, *, is_storage: bool = False, folder: str = "") -> World:
    world = Ranks(1, 2)
    object.__setattr__(world, "told", told)
    object.__setattr__(world, "text", json.dumps([is_storage, error, folder]))
    return world


def test_other_ranks_wait_chunk_by_chunk_and_read_what_rank_0_wrote(
    made: tuple[Study, Storage, ChatTemplate], monkeypatch: pytest.MonkeyPatch
) -> None:
    study, storage, template = made
    order = RowOrder.of(len(ROWS), 8, seed=1)
    first = tokenised_once(study, study.models[0], storage, order, template, World())
    calls = counted(monkeypatch)
    told = [0, 0, 0, 1]
    (folder,) = Path(storage.path("data")).glob("*/tokens/*-m")
    there = rank_1(told, "", folder=str(folder.relative_to(storage.path(""))))
    rows = tokenised_once(study, study.models[0], storage, order, template, there)
    assert (told, calls) == ([], [])
    assert ids(rows, range(50)) == ids(first, range(50))


def test_every_rank_hears_of_a_storage_that_fails(
    made: tuple[Study, Storage, ChatTemplate], monkeypatch: pytest.MonkeyPatch
) -> None:
    study, storage, template = made
    order = RowOrder.of(len(ROWS), 8, seed=1)

    def full(*arguments: Any) -> None:
        raise StorageError("no space left")

    monkeypatch.setattr(Storage, "write", full)
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
