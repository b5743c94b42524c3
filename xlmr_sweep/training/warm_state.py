"""What outlives a trial in a warm process: tokenised data, starting weights, built modules. Nothing trained.

In: a study, its storage, the ranks. Out, for a trial: tokenised examples, and a module whose every weight was just copied from
the starting weights, so that a warm trial equals a cold one to the last bit.
"""

from __future__ import annotations

import copy
import gc
import json
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

import torch
from torch import Tensor, nn

from xlmr_sweep.data.encoding import Batch, Encoded, encode_task
from xlmr_sweep.data.examples import few_shot, load_task
from xlmr_sweep.data.tokenised import TaskInputs, compact_inputs, from_arrays, to_arrays
from xlmr_sweep.modeling.compact import always_kept, build_compact, compact_weights
from xlmr_sweep.modeling.device import resolve_precision
from xlmr_sweep.modeling.encoder import ClassificationHead, MaskedLMEncoder
from xlmr_sweep.modeling.fsdp import World, shard_model
from xlmr_sweep.modeling.loading import load_config, load_tokenizer, starting_weights
from xlmr_sweep.modeling.memory_pages import unmap
from xlmr_sweep.modeling.sharded import fill_sharded
from xlmr_sweep.modeling.source import ModelSource, base_source, instructed_source
from xlmr_sweep.modeling.weights import as_arrays, as_tensors, stamp
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.storage.lineage import read_sources
from xlmr_sweep.study.canonical import fingerprint
from xlmr_sweep.study.identity import task_data_name
from xlmr_sweep.study.plan import Trial
from xlmr_sweep.study.spec import Study
from xlmr_sweep.study.tasks import TaskSpec
from xlmr_sweep.study.template import label_token_ids
from xlmr_sweep.training.shared_arrays import LocalArrays, SharedArrays, num_bytes

NO_SHAPE = ("_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version")
"""Entries of a configuration that say nothing about the module."""

KEEP_BYTES = 4 * 2**30
"""A process keeps at most this much of tokenised data, and of starting weights, beyond what its trial needs."""

KEEP_MODULES_BYTES = 128 * 2**20
"""And of modules, on its device: those of small models, whose trials are short. A larger one is built anew for another task, in
less time than a step; kept ones would be memory that no prediction and no measured share knows of."""


LOOK_AWAY_BYTES = 128 * 2**20
"""Starting weights beyond this are unmapped while a trial trains: pages that one process alone looks at count as its own, and the
next trial has them back in no time."""


@dataclass(frozen=True)
class StartingWeights:
    """One model's starting weights in fp32, by state dict name, in host memory that others may share: only to be read."""

    tensors: dict[str, Tensor]
    config: Any


class TrialModel(nn.Module):
    """An encoder with what a paradigm puts on it: label words at the mask, or a classification head."""

    def __init__(self, encoder: MaskedLMEncoder, head: ClassificationHead | None, label_ids: Tensor) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head
        self.register_buffer("label_ids", label_ids, persistent=False)

    def forward(self, batch: Batch) -> Tensor:
        """Returns the logits (B, num_labels) of a batch."""
        if self.head is not None:
            return cast(Tensor, self.head(self.encoder.hidden_at(batch.tokens, batch.mask_at, batch.counts)))
        return self.encoder.logits_at(batch.tokens, batch.mask_at, batch.counts, cast(Tensor, self.label_ids))


T = TypeVar("T")


class LruCache(Generic[T]):
    """The most recently used things within a number of bytes; the last one always stays."""

    def __init__(self, max_bytes: int = KEEP_BYTES) -> None:
        self._max_bytes = max_bytes
        self._items: OrderedDict[Any, tuple[T, int]] = OrderedDict()

    def get(self, key: Any, make: Callable[[], T], size: Callable[[T], int]) -> T:
        """Returns the kept thing of that key, or makes it."""
        if key in self._items:
            self._items.move_to_end(key)
            return self._items[key][0]
        if sum(n for _, n in self._items.values()) > self._max_bytes:
            # The last one stayed though it is larger than that. Before the next is made, so that both are never there at once;
            # modules refer to themselves, and only the collector takes them away.
            self._items.clear()
            gc.collect()
        thing = make()
        self._items[key] = (thing, size(thing))
        while len(self._items) > 1 and sum(n for _, n in self._items.values()) > self._max_bytes:
            self._items.popitem(last=False)
        return thing


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
        self._inputs: LruCache[TaskInputs] = LruCache()
        self._weights: LruCache[StartingWeights] = LruCache()
        self._modules: LruCache[TrialModel] = LruCache(KEEP_MODULES_BYTES)
        self._tokenizers: dict[ModelSource, Any] = {}
        self._weights_known: dict[tuple[str, bool], str | None] = {}
        """Fingerprints of starting weights, by model and whether they are instruction-tuned."""

    def source(self, trial: Trial) -> ModelSource:
        """Returns where the trial's starting weights are."""
        model = self.study.model(trial.model)
        if trial.paradigm == "instructed":
            return instructed_source(self.storage, self.study, model)
        return base_source(self.storage, self.study, model)

    def inputs(self, trial: Trial) -> TaskInputs:
        """Returns the trial's task, tokenised."""
        prompted = trial.paradigm != "baseline"
        # The instructed model has its base model's tokenizer, so both share the tokenised data.
        source = base_source(self.storage, self.study, self.study.model(trial.model))

        def size(inputs: TaskInputs) -> int:
            return sum(8 * len(e.input_ids) + 500 for e in (*inputs.train, *inputs.validation))

        return self._inputs.get((source, trial.task, prompted), lambda: self._encode(source, trial.task, prompted), size)

    def few_shot(self, trial: Trial) -> list[Encoded]:
        """Returns the trial's training examples, tokenised."""
        return few_shot(self.inputs(trial).train, trial.train_size, trial.seed)

    def starting_weights(self, trial: Trial) -> StartingWeights:
        """Returns the weights that the trial starts from."""
        source = self.source(trial)
        # Weights that were made anew in the same folder are others.
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
        # Weights that were instruction-tuned elsewhere may come with a configuration (dropout) of their own.
        config = load_config(self.source(trial)).to_dict()
        shape = json.dumps({name: value for name, value in config.items() if name not in NO_SHAPE}, default=str)
        key = (trial.model, trial.task, trial.paradigm != "baseline", shape)

        def size(module: TrialModel) -> int:
            return sum(p.nbytes for p in module.parameters())

        module = self._modules.get(key, lambda: self._build(trial, inputs), size)
        head = {} if module.head is None else module.head.draw(head_generator)
        weights = None if self.world.rank else self.starting_weights(trial)
        start = {} if weights is None else _compact(weights, inputs)
        start |= {f"head.{name}": tensor for name, tensor in head.items()}
        if self.world.size == 1:
            module.load_state_dict(start)
        else:
            fill_sharded(module, start, self.world)
        if weights is not None:
            _look_away(weights)
        return module

    def resolved(self, trial: Trial) -> dict[str, Any]:
        """Returns what the trial was made from, for its record: fingerprints of data and weights, hub commit, row counts."""
        # Read at the first trial of each: a model's instruction-tuned weights may be made while this process runs.
        key = (trial.model, trial.paradigm == "instructed")
        if key not in self._weights_known:
            self._weights_known[key] = read_sources(self.storage, self.study).of(trial)["weights"]
        inputs = self.inputs(trial)
        return {
            "data": inputs.fingerprint,
            "num_train_pool": len(inputs.train),
            "num_validation": len(inputs.validation),
            "weights": self._weights_known[key],
            "commit": getattr(load_config(self.source(trial)), "_commit_hash", None),
            "vocabulary_kept": len(inputs.kept),
        }

    def _encode(self, source: ModelSource, task_name: str, prompted: bool) -> TaskInputs:
        task, length = self.study.task(task_name), self.study.finetune.max_length
        data_name = task_data_name(self.study, task)
        declared = [stamp(source), task.model_dump(mode="json"), prompted, length, data_name]
        key = f"tokens of {source.name} {task_name} {fingerprint(declared)}"
        return from_arrays(self._shared.get(key, lambda: to_arrays(self._tokenised(source, task, prompted))))

    def tokenizer(self, trial: Trial) -> Any:
        """Returns the tokenizer of the trial's inputs."""
        return self._tokenizer(base_source(self.storage, self.study, self.study.model(trial.model)))

    def _tokenizer(self, source: ModelSource) -> Any:
        if source not in self._tokenizers:
            self._tokenizers[source] = load_tokenizer(source)
        return self._tokenizers[source]

    def _tokenised(self, source: ModelSource, task: TaskSpec, prompted: bool) -> TaskInputs:
        tokenizer, config = self._tokenizer(source), load_config(source)
        data = load_task(self.study, task, self.storage)
        length = self.study.finetune.max_length
        pools = {
            split: encode_task(tokenizer, task, rows, length, prompted=prompted)
            for split, rows in (("train", data.train), ("validation", data.validation))
        }
        labels = label_token_ids(tokenizer, task) if prompted else []
        always = always_kept(config, tokenizer)
        return compact_inputs(task, pools, labels, always, config.vocab_size, data.fingerprint, tokenizer)

    def _build(self, trial: Trial, inputs: TaskInputs) -> TrialModel:
        config = copy.deepcopy(load_config(self.source(trial)))
        finetune = self.study.finetune
        if finetune.dropout is not None:
            set_dropout(config, finetune.dropout)
        # Other ranks get their slices from rank 0, so that a host never holds a whole model a rank.
        with torch.device("meta" if self.world.rank else "cpu"):
            encoder = MaskedLMEncoder(build_compact(config, inputs.kept))
            head = None
            if trial.paradigm == "baseline":
                num_labels = len(self.study.task(trial.task).labels)
                std = getattr(config, "initializer_range", 0.02)
                head = ClassificationHead(encoder.hidden_size, num_labels, dropout_of(config), std)
        module = TrialModel(encoder, head, inputs.label_ids)
        if self.world.size == 1:
            return module.to(self.world.device)
        shard_model(module, self.world, resolve_precision(finetune.precision, self.world.device))
        return module


def _compact(weights: StartingWeights, inputs: TaskInputs) -> dict[str, Tensor]:
    compact = compact_weights(weights.tensors, weights.config.vocab_size, inputs.kept)
    return {f"encoder.model.{name}": tensor for name, tensor in compact.items()}


def _look_away(weights: StartingWeights) -> None:
    """Takes a large model's starting weights out of this process's table until its next trial reads them."""
    arrays = as_arrays(weights.tensors)
    if num_bytes(arrays) > LOOK_AWAY_BYTES:
        unmap(arrays.values())


def set_dropout(config: Any, probability: float) -> None:
    """Sets every dropout probability of a transformers configuration."""
    for name, value in vars(config).items():
        if "dropout" in name and isinstance(value, int | float) and not isinstance(value, bool):
            setattr(config, name, probability)


def dropout_of(config: Any) -> float:
    """Returns the dropout probability of a model's classification head: its own, else that of its hidden states."""
    for name in ("classifier_dropout", "hidden_dropout_prob"):
        value = getattr(config, name, None)
        if value is not None:
            return float(value)
    return 0.0
