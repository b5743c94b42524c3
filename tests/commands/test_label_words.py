"""Label words are checked against the tokenizer before anything starts."""

from __future__ import annotations

from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from complaints import complaint
from rich.console import Console

from xlmr_sweep.commands import entry
from xlmr_sweep.commands.request import Request
from xlmr_sweep.errors import StudyError

ROOT = Path(__file__).parents[2]


def cb_whose_third_word_is(word: str) -> dict[str, Any]:
    return {
        "name": "cb",
        "labels": ["entailment", "contradiction", "neutral"],
        "label_words": ["yes", "no", word],
        "prompt": "{premise} {hypothesis}",
        "baseline": ["{premise}", "{hypothesis}"],
        "long_field": "premise",
        "folder": "CB",
    }


def test_a_label_word_of_two_tokens_is_refused(study_file: Callable[..., Path], tmp_path: Path) -> None:
    said = complaint(study_file(tasks=[cb_whose_third_word_is("not sure")]), tmp_path / "runs")
    assert "model tiny: task cb: label word 'not sure' is" in said


def test_a_tokenizer_whose_settings_name_no_token_is_checked_all_the_same(
    study_file: Callable[..., Path], tmp_path: Path
) -> None:
    """Copies of hub models often name none: transformers knows them by the tokenizer's class."""
    path = study_file()
    for settings in tmp_path.rglob("tokenizer_config.json"):
        settings.write_text('{"model_max_length": 512}')
    said = StringIO()
    request = Request(str(path), str(tmp_path / "runs"))
    assert entry.dry_run(request, Console(file=said, width=200)) == 0
    assert "Label words not checked" not in said.getvalue()
    path = study_file(tasks=[cb_whose_third_word_is("qqqq")])
    for settings in tmp_path.rglob("tokenizer_config.json"):
        settings.write_text('{"model_max_length": 512}')
    with pytest.raises(StudyError, match="model tiny: task cb: label word 'qqqq' is"):
        entry.dry_run(Request(str(path), str(tmp_path / "runs")), Console(quiet=True))
