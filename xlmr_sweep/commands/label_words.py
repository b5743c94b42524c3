"""Checks label words against tokenizers before anything starts. Imports neither torch nor transformers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from xlmr_sweep.errors import StudyError
from xlmr_sweep.modeling.bare_tokenizer import BareTokenizer
from xlmr_sweep.study.model_spec import ModelSpec
from xlmr_sweep.study.plan import Trial
from xlmr_sweep.study.spec import Study
from xlmr_sweep.study.template import label_token_ids


def check_label_words(study: Study, trials: Sequence[Trial]) -> list[str]:
    """Checks that each model whose tokenizer lies in a folder has every label word of its tasks as one token.

    Returns:
        The models that could not be checked, because their tokenizer does not lie in a folder.

    Raises:
        StudyError: naming the model, the task and the word; or the folder, if it holds no tokenizer.
    """
    unchecked = []
    prompted = [trial for trial in trials if trial.paradigm != "baseline"]
    tasks = [study.task(name) for name in dict.fromkeys(trial.task for trial in prompted)]
    for model in (study.model(name) for name in dict.fromkeys(trial.model for trial in prompted)):
        tokenizer: Any = _tokenizer(model)
        if tokenizer is None:
            unchecked.append(model.name)
            continue
        for task in tasks:
            try:
                label_token_ids(tokenizer, task)
            except StudyError as error:
                raise StudyError(f"model {model.name}: {error}") from None
    return unchecked


def _tokenizer(model: ModelSpec) -> BareTokenizer | None:
    """Reads the tokenizer of a model's folder; None where its files are not there."""
    files = [] if model.folder is None else [model.folder / "tokenizer.json", model.folder / "tokenizer_config.json"]
    if not files or not all(file.is_file() for file in files):
        return None
    try:
        return BareTokenizer(*(file.read_text(encoding="utf-8") for file in files))
    except Exception as error:  # The library raises the bare class.
        raise StudyError(f"model {model.name}: {model.folder} holds no tokenizer: {error}") from None
