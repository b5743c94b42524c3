"""The demo's tokenizer: it knows every word of the demo world, and is the same each time it is built."""

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from xlmr_sweep.data.demo import (
    build_tokenizer,
    instruction_rows,
    lexicon,
    pretraining_texts,
    task_rows,
)
from xlmr_sweep.study.task_check import label_token_ids
from xlmr_sweep.study.tasks import TASKS
from xlmr_sweep.study.template import ChatTemplate


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("tokenizer")
    build_tokenizer(0, made)
    return made


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(str(folder))


def test_special_tokens_have_the_ids_of_xlm_r(tokenizer: Any) -> None:
    assert tokenizer.convert_ids_to_tokens([0, 1, 2, 3]) == ["<s>", "<pad>", "</s>", "<unk>"]
    assert tokenizer.mask_token_id == len(tokenizer) - 1
    assert 600 <= len(tokenizer) <= 1500
    pair = tokenizer("Anna", "Tom")["input_ids"]
    assert [pair[0], pair[2], pair[3], pair[5]] == [0, 2, 2, 2]


def test_label_words_and_the_words_of_the_world_are_one_token_each(tokenizer: Any) -> None:
    for task in TASKS.values():
        assert len(label_token_ids(tokenizer, task)) == len(task.labels)
    words = [*lexicon.PEOPLE, *lexicon.COLOURS, *lexicon.THINGS, *lexicon.AMBIGUOUS, *lexicon.TOPICS]
    encoded = tokenizer([f" {word}" for word in words], add_special_tokens=False)["input_ids"]
    assert [len(ids) for ids in encoded] == [1] * len(words)


def test_no_text_of_the_world_holds_an_unknown_token_or_exceeds_its_length(tokenizer: Any) -> None:
    texts = tokenizer(pretraining_texts(0, 2000))["input_ids"]
    assert max(map(len, texts)) <= 64
    assert not any(3 in ids for ids in texts)
    template = ChatTemplate(tokenizer, 128)
    rows = instruction_rows(0, 2000)
    chats = template.encode_pairs([row["inputs"] for row in rows], [row["targets"] for row in rows])
    assert max(chat.target[1] - chat.target[0] for chat in chats) <= 3
    assert max(len(chat.input_ids) for chat in chats) <= 64
    for task in TASKS.values():
        prompts = template.encode_prompts(task, task_rows(task.name, 0)["validation"])
        assert max(len(prompt.input_ids) for prompt in prompts) <= 64
        assert not any(3 in prompt.input_ids for prompt in prompts)


def test_building_the_tokenizer_again_writes_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    build_tokenizer(0, tmp_path)
    names = sorted(path.name for path in folder.iterdir())
    assert "tokenizer.json" in names
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    for name in names:
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()
