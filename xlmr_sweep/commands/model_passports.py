"""`--check-models`: every model of a command is checked as a run would check it, and shown with all that was found.

In: a study, its storage, the trials of a command. Out: passports, and what is wrong with the other models. Loads torch and
transformers; fetches small files of hub models, and no weights.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from rich.console import Console

from xlmr_sweep.commands.memory_forecast import forecast_memory
from xlmr_sweep.commands.passport import Head, Passport, Size, memory_of, prompted_tasks, words_of
from xlmr_sweep.commands.preparation import check_models
from xlmr_sweep.data.demo import build_tokenizer
from xlmr_sweep.errors import StudyError
from xlmr_sweep.modeling.architecture import shape_of
from xlmr_sweep.modeling.families import model_family, usable_length
from xlmr_sweep.modeling.hub_reach import hub_or_cache
from xlmr_sweep.modeling.loading import load_config, load_tokenizer
from xlmr_sweep.modeling.model_check import has_whole_head
from xlmr_sweep.modeling.parameter_count import count_parameters
from xlmr_sweep.modeling.source import ModelSource, base_source
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.study.demo import DEMO_MODELS
from xlmr_sweep.study.model_spec import ModelSpec
from xlmr_sweep.study.plan import Trial
from xlmr_sweep.study.spec import Study


def examine_models(
    study: Study, storage: Storage, trials: Sequence[Trial], console: Console
) -> tuple[list[Passport], list[StudyError]]:
    """Checks all models that some trials need.

    Args:
        study: the study.
        storage: its folder, which stays as it is.
        trials: the command's trials.
        console: prints the warnings.

    Returns:
        The passports of the models that can serve, and what is wrong with the others.
    """
    passports, problems = [], []
    names = list(dict.fromkeys(trial.model for trial in trials))
    hub = [name for name in names if study.model(name).hub is not None]
    fetched = f"; small files of {', '.join(hub)} come from the hub or its cache, and no weights" if hub else ""

    def say(line: str) -> None:
        console.print(line, highlight=False, markup=False, soft_wrap=True)

    say(f"Checking {len(names)} models{fetched}")
    with hub_or_cache(say) if hub else nullcontext():
        for name in names:
            mine = [trial for trial in trials if trial.model == name]
            try:
                passports.append(_examine(study, storage, mine, console))
            except StudyError as error:
                problems.append(error)
    return passports, problems


def _examine(study: Study, storage: Storage, trials: Sequence[Trial], console: Console) -> Passport:
    """Returns the passport of the one model of some trials.

    Raises:
        StudyError: naming the model and what is wrong.
    """
    model = study.model(trials[0].model)
    tasks = prompted_tasks(study, trials, model.name)
    check_models(study, storage, trials, console, keep_commits=False)
    if model.demo is None:
        source = base_source(storage, study, model)
        tokenizer, known = load_tokenizer(source), _of_files(source)
    else:
        tokenizer, known = _demo_tokenizer(study), _of_demo(study, storage, model)
    memory = memory_of(forecast_memory(study, storage, trials, set()), model.name)
    return Passport(model.name, mask=tokenizer.mask_token, label_words=words_of(tokenizer, tasks), memory=memory, **known)


def _demo_tokenizer(study: Study) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        build_tokenizer(study.data.seed, Path(folder))
        return load_tokenizer(ModelSource("demo", folder))


def _of_files(source: ModelSource) -> dict[str, Any]:
    config, count = load_config(source), count_parameters(source)
    heads: dict[bool | None, Head] = {True: "whole", False: "new", None: "not looked at"}
    return {
        "family": config.model_type,
        "size": Size(count.total, count.body),
        "positions": usable_length(config.to_dict()),
        "head": heads[has_whole_head(source)],
        "is_fast": model_family(config).has_fast_path,
    }


def _of_demo(study: Study, storage: Storage, model: ModelSpec) -> dict[str, Any]:
    shape = shape_of(study, storage, model)
    assert shape is not None, "the shapes of demo models are declared"
    return {
        "family": shape.model_type,
        "size": Size(shape.num_parameters, shape.num_body_parameters, shape.exact),
        "positions": DEMO_MODELS[str(model.demo)].max_position_embeddings - 2,
        "head": "made by the study",
        "is_fast": shape.is_fast,
    }
