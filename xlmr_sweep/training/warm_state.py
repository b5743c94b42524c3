"""What outlives a trial in a warm process: tokenised data, starting weights, built modules. Nothing trained.

In: a study, its storage, the ranks. Out, for a trial: tokenised examples, and a module whose every weight was just copied from
the starting weights, so that a warm trial equals a cold one to the last bit.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from xlmr_sweep.data.encoding import Encoded, encode_task, without_unknown_types
from xlmr_sweep.data.examples import few_shot, load_task
from xlmr_sweep.data.tokenised import CONTENT_FREE, TaskInputs, compact_inputs, from_arrays, to_arrays
from xlmr_sweep.modeling.compact import always_kept, compact_weights
from xlmr_sweep.modeling.fsdp import World
from xlmr_sweep.modeling.loading import load_config, load_tokenizer, starting_weights
from xlmr_sweep.modeling.memory_pages import unmap
from xlmr_sweep.modeling.model_folder import num_token_types
from xlmr_sweep.modeling.parameter_count import count_parameters
from xlmr_sweep.modeling.sharded import fill_sharded
from xlmr_sweep.modeling.source import ModelSource, base_source, instructed_source
from xlmr_sweep.modeling.weights import as_arrays, as_tensors, stamp
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.storage.lineage import read_sources
from xlmr_sweep.study.canonical import fingerprint
from xlmr_sweep.study.identity import READING_VERSION, task_data_name
from xlmr_sweep.study.plan import Trial
from xlmr_sweep.study.spec import Study
from xlmr_sweep.study.task_check import label_token_ids
from xlmr_sweep.study.tasks import TaskSpec, rows_without_content
from xlmr_sweep.training.lru_cache import LruCache
from xlmr_sweep.training.shared_arrays import LocalArrays, SharedArrays, num_bytes
from xlmr_sweep.training.trial_model import TrialModel, build_trial_model, static_rows

NO_SHAPE = ("_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version")
"""Entries of a configuration that say nothing about the module."""

CACHE_BYTES = 4 * 2**30
"""A process caches at most this much tokenised data, and as much of starting weights, beyond what its trial needs."""

MODULE_CACHE_BYTES = 128 * 2**20
"""A process caches at most this many bytes of modules on its device. Only modules of small models fit, whose trials are short. A
larger module is built again for another task, which takes less time than a step. In the cache it would take memory that neither
the predicted nor the measured size of a trial counts."""

UNMAP_BYTES = 128 * 2**20
"""Starting weights beyond this are unmapped while a trial trains. Pages that only one process maps count as its own memory, and
the next trial maps them again in no time."""


@dataclass(frozen=True)
class StartingWeights:
    """One model's starting weights in fp32, by state dict name, in host memory that others may share: only to be read."""

    tensors: dict[str, Tensor]
    config: Any


class WarmState:
    """The warm state of one process (one rank, where a trial has several) for one study.

    Args:
        study: the study.
        storage: its folder.
        world: the ranks.
        shared: what this process shares with others of its node; by default nothing.
    """

    def __init__(self, study: Study, storage: Storage, world: World, shared: SharedArrays | None = None) -> None:
        self.study = study
        self.storage = storage
        self.world = world
        self._shared = shared or LocalArrays()
        self._inputs: LruCache[TaskInputs] = LruCache(CACHE_BYTES)
        self._weights: LruCache[StartingWeights] = LruCache(CACHE_BYTES)
        self._modules: LruCache[TrialModel] = LruCache(MODULE_CACHE_BYTES)
        self._tokenizers: dict[ModelSource, Any] = {}
        self._weights_known: dict[str, str | None] = {}
        """Fingerprints of starting weights, by what names them."""
        self._parts: dict[tuple[str, str], Study] = {}

    def study_of(self, trial: Trial) -> Study:
        """Returns the study as the trial's variant and prompt have it."""
        key = (trial.variant, trial.prompt)
        if key not in self._parts:
            self._parts[key] = self.study.at(*key)
        return self._parts[key]

    def task(self, trial: Trial) -> TaskSpec:
        """Returns the trial's task, as its variant and prompt have it."""
        return self.study_of(trial).task(trial.task)

    def source(self, trial: Trial) -> ModelSource:
        """Returns where the trial's starting weights are."""
        model = self.study.model(trial.model)
        if trial.paradigm == "instructed":
            return instructed_source(self.storage, self.study_of(trial), model)
        return base_source(self.storage, self.study, model)

    def inputs(self, trial: Trial) -> TaskInputs:
        """Returns the trial's task, tokenised."""
        prompted, content_free = trial.paradigm != "baseline", self._content_free(trial)
        # The instructed model has its base model's tokenizer, so both share the tokenised data.
        source = base_source(self.storage, self.study, self.study.model(trial.model))

        def size(inputs: TaskInputs) -> int:
            return sum(8 * len(e.input_ids) + 500 for e in (*inputs.train, *inputs.validation))

        task = self.task(trial)
        key = (source, _fields(task), prompted, content_free)
        return self._inputs.get(key, lambda: self._encode(source, task, prompted, content_free), size)

    def _content_free(self, trial: Trial) -> tuple[str, ...]:
        """Returns the texts by which the trial's scores are calibrated. Only such trials hold their tokens."""
        spec = self.study.zero_shot
        return spec.content_free if spec.calibrate and trial.train_size == 0 else ()

    def _texts(self, trial: Trial) -> tuple[str, tuple[str, ...]]:
        """Returns what names the texts of a trial, and so the vocabulary that its model holds."""
        return _fields(self.task(trial)), self._content_free(trial)

    def few_shot(self, trial: Trial) -> list[Encoded]:
        """Returns the trial's training examples, tokenised."""
        return few_shot(self.inputs(trial).train, trial.train_size, trial.seed)

    def starting_weights(self, trial: Trial) -> StartingWeights:
        """Returns the weights that the trial starts from."""
        source = self.source(trial)
        # Weights that were made again in the same folder have another stamp.
        key = f"weights of {source.name} {stamp(source)}"

        def take() -> StartingWeights:
            arrays = self._shared.get(key, lambda: as_arrays(starting_weights(source)))
            return StartingWeights(as_tensors(arrays), load_config(source))

        return self._weights.get(key, take, lambda weights: num_bytes(as_arrays(weights.tensors)))

    def model(self, trial: Trial, head_generator: torch.Generator) -> TrialModel:
        """Returns the trial's module on the device, every weight just copied from the starting weights.

        With several ranks the module is spread over them by FSDP2, and rank 0 sends each its slices.

        Args:
            trial: the trial.
            head_generator: draws the classification head of `baseline`.
        """
        inputs = self.inputs(trial)
        num_labels = len(self.task(trial).labels)
        # Weights that were instruction-tuned elsewhere may come with a configuration (dropout) of their own.
        source_config = load_config(self.source(trial))
        config = source_config.to_dict()
        shape = json.dumps({name: value for name, value in config.items() if name not in NO_SHAPE}, default=str)
        rows = static_rows(source_config, inputs, num_labels, self.study.finetune, self.world)
        # Modules of the static step are no task's own.
        of_task = self._texts(trial) if rows is None else (rows, num_labels)
        key = (trial.model, of_task, trial.paradigm != "baseline", shape)

        def size(module: TrialModel) -> int:
            return sum(p.nbytes for p in module.parameters())

        module = self._modules.get(key, lambda: self._build(trial, inputs, rows), size)
        head = {} if module.head is None else module.head.draw(head_generator)
        self._fill(module, trial, head, rows)
        if module.static is not None:
            module.static.fill = lambda: self._fill(module, trial, head, rows)
        return module

    def _build(self, trial: Trial, inputs: TaskInputs, rows: int | None) -> TrialModel:
        settings = (load_config(self.source(trial)), inputs, len(self.task(trial).labels))
        has_head = trial.paradigm == "baseline"
        return build_trial_model(*settings, self.study.finetune, self.world, has_head=has_head, rows=rows)

    def _fill(self, module: TrialModel, trial: Trial, head: dict[str, Tensor], rows: int | None) -> None:
        """Copies a trial's starting weights into its module."""
        source = self.source(trial)
        key = (source.name, stamp(source), self._texts(trial), module.head is None)
        if module.static is not None and module.static.restore_start(key):
            if module.head is not None:
                module.head.load_state_dict(head)
            return
        weights = None if self.world.rank else self.starting_weights(trial)
        start = {} if weights is None else _compact(weights, self.inputs(trial), rows)
        start |= {f"head.{name}": tensor for name, tensor in head.items()}
        if self.world.size == 1:
            module.load_state_dict(start)
        else:
            fill_sharded(module, start, self.world)
        if module.static is not None:
            module.static.keep_start(key)
        if weights is not None:
            _unmap_if_large(weights)

    def kind(self, trial: Trial) -> dict[str, Any]:
        """Returns what the trial's model is, for its record: its family, and its parameters without those of the vocabulary."""
        source = base_source(self.storage, self.study, self.study.model(trial.model))
        return {"family": load_config(source).model_type, "num_body_parameters": count_parameters(source).body}

    def resolved(self, trial: Trial) -> dict[str, Any]:
        """Returns what the trial was made from, for its record: fingerprints of data and weights, hub commit, row counts."""
        # Read at the first trial of each: a model's instruction-tuned weights may be made while this process runs.
        key = f"instructed {trial.job_name}" if trial.paradigm == "instructed" else trial.model
        if key not in self._weights_known:
            self._weights_known[key] = read_sources(self.storage, self.study_of(trial)).of(trial)["weights"]
        inputs = self.inputs(trial)
        return {
            "data": inputs.fingerprint,
            "num_train_pool": len(inputs.train),
            "num_validation": len(inputs.validation),
            "weights": self._weights_known[key],
            "commit": getattr(load_config(self.source(trial)), "_commit_hash", None),
            "vocabulary_kept": len(inputs.kept),
            "reading": READING_VERSION,
        }

    def _encode(self, source: ModelSource, task: TaskSpec, prompted: bool, content_free: Sequence[str]) -> TaskInputs:
        length = self.study.finetune.max_length
        data_name = task_data_name(self.study, task)
        declared = [stamp(source), task.model_dump(mode="json"), prompted, length, data_name, list(content_free)]
        key = f"tokens of {source.name} {task.name} {fingerprint(declared)}"
        return from_arrays(self._shared.get(key, lambda: to_arrays(self._tokenised(source, task, prompted, content_free))))

    def tokenizer(self, trial: Trial) -> Any:
        """Returns the tokenizer of the trial's inputs."""
        return self._tokenizer(base_source(self.storage, self.study, self.study.model(trial.model)))

    def _tokenizer(self, source: ModelSource) -> Any:
        if source not in self._tokenizers:
            self._tokenizers[source] = load_tokenizer(source)
        return self._tokenizers[source]

    def _tokenised(self, source: ModelSource, task: TaskSpec, prompted: bool, content_free: Sequence[str]) -> TaskInputs:
        tokenizer, config = self._tokenizer(source), load_config(source)
        data = load_task(self.study, task, self.storage)
        length = self.study.finetune.max_length
        rows_of = {"train": data.train, "validation": data.validation}
        if content_free:
            rows_of[CONTENT_FREE] = rows_without_content(task, content_free)
        pools = {split: encode_task(tokenizer, task, rows, length, prompted=prompted) for split, rows in rows_of.items()}
        pools = without_unknown_types(pools, num_token_types(config))
        labels = label_token_ids(tokenizer, task) if prompted else []
        always = always_kept(config, tokenizer)
        return compact_inputs(task, pools, labels, always, config.vocab_size, data.fingerprint, tokenizer)


def _fields(task: TaskSpec) -> str:
    """Returns what tells a task from all others, also from the same task under another variant."""
    return f"{task.name} {fingerprint(task.model_dump(mode='json'))}"


def _compact(weights: StartingWeights, inputs: TaskInputs, rows: int | None) -> dict[str, Tensor]:
    compact = compact_weights(weights.tensors, weights.config.vocab_size, inputs.kept, rows)
    return {f"encoder.model.{name}": tensor for name, tensor in compact.items()}


def _unmap_if_large(weights: StartingWeights) -> None:
    """Takes a large model's starting weights out of this process's page table until its next trial reads them."""
    arrays = as_arrays(weights.tensors)
    if num_bytes(arrays) > UNMAP_BYTES:
        unmap(arrays.values())
