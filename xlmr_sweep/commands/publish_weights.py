"""The instruction-tuned weights that `publish` sends, with card, recipe and `.eval_results`. In: a storage. Out: files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from xlmr_sweep.commands.publish_cards import CardFacts
from xlmr_sweep.commands.publish_data import MANIFEST, public_recipe
from xlmr_sweep.commands.publish_model_card import model_card
from xlmr_sweep.errors import MissingFolderError, StudyError
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.storage.lineage import read_sources
from xlmr_sweep.storage.relocated import tuned_folder
from xlmr_sweep.study.spec import Study

if TYPE_CHECKING:
    from analysis.artifacts import Artifacts

RECIPE = "instruction_tuning.json"
"""The manifest of the weights, without what says who made them where."""

EVAL_RESULTS = ".eval_results"
"""Where the hub looks for scores: https://huggingface.co/docs/hub/eval-results."""

OWN_FILES = (MANIFEST, "progress.json")
"""Files of a folder of weights that are no part of the model."""


def tuned_models(storage: Storage, study: Study, found: Artifacts) -> dict[str, str]:
    """Returns the folder of each model whose instruction-tuned weights this storage made.

    Raises:
        StudyError: if there is none, or if some were made from other data or weights than those that are there now.
    """
    folders = {model.name: tuned_folder(storage, study, model) for model in study.models if model.name in found.instructed}
    if not folders:
        raise StudyError(f"--weights: {storage} holds no instruction-tuned weights; make them with run_instruct.py")
    outdated: Mapping[str, str] = {}
    with suppress(MissingFolderError):
        outdated = read_sources(storage, study).outdated
    for name, changed in outdated.items():
        raise StudyError(f"--weights: those of model {name} are outdated: {changed}; run the study again first")
    return folders


def weight_files(storage: Storage, folder: str) -> list[str]:
    """Returns the names of the files of a folder of weights that transformers loads."""
    return [name for name in storage.names(folder) if name not in OWN_FILES]


def model_texts(facts: CardFacts, model: str, manifest: Mapping[str, Any]) -> dict[str, bytes]:
    """Returns the files beside the weights: card, recipe, and the scores in the hub's format."""
    recipe = public_recipe(manifest)
    return {
        "README.md": model_card(facts, model, manifest).encode(),
        RECIPE: (json.dumps(recipe, indent=1, sort_keys=True) + "\n").encode(),
        **eval_results(facts, model),
    }


def eval_results(facts: CardFacts, model: str) -> dict[str, bytes]:
    """Returns a file a task in the format of `.eval_results`: the mean score of the instructed trials at the largest size.

    There is none unless the tasks are from the hub, because the format names a data set there. The hub shows a score only if that
    data set is registered as a benchmark.
    """
    from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

    from analysis.citation import as_yaml

    study, files = facts.study, {}
    points = facts.derived["curves"]
    points = points[(points["model"] == model) & (points["paradigm"] == "instructed") & (points["num_seeds"] > 0)]
    if study.data.source != "hub":
        return {}
    for task, rows in points.groupby("task"):
        best = rows.sort_values("train_size").iloc[-1].to_dict()
        spec = study.task(str(task))
        entry = EvalResultEntry(
            dataset_id=study.data.hub,
            task_id=spec.hub_config or str(task),
            value=round(float(best["mean"]), 6),
            source_url=facts.url or None,
            source_name=facts.cited.title if facts.url else None,
            notes=f"{spec.metric} on the validation split after fine-tuning on {best['train_size']} examples, mean of "
            f"{best['num_seeds']} seeds; study fingerprint {facts.cited.study or 'unknown'}",
        )
        files[f"{EVAL_RESULTS}/{task}.yaml"] = as_yaml(eval_result_entries_to_yaml([entry])).encode()
    return files
