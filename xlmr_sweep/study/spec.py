"""The declaration of a study. In: a YAML file or the name of a study that ships with the project. Out: a frozen `Study`.

Pure: no torch, no ray, no network, and no file but the study's own is read. What can change a score and what cannot are
kept apart: `ClusterSpec` and the fields marked "Runtime" never enter a trial's identity.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from xlmr_sweep.errors import StudyError
from xlmr_sweep.study.canonical import Declared
from xlmr_sweep.study.tasks import TASKS, TaskSpec

Paradigm = Literal["baseline", "prompted", "instructed"]
PARADIGMS: tuple[Paradigm, ...] = ("baseline", "prompted", "instructed")
NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"


AUTO: Final = "auto"


def _fraction(value: Any) -> Any:
    """Reads a share as a user writes it: 2, 0.25 or "1/4"."""
    try:
        return float(Fraction(value)) if isinstance(value, str) else value
    except ZeroDivisionError:
        raise ValueError(f"{value!r} divides by zero") from None
    except ValueError:
        raise ValueError(f"{value!r} is no number; give one as 2, 0.25 or 1/4") from None


def _gpu_share(value: Any) -> Any:
    """Reads GPUs of a trial: `auto`, 1/n, or a whole number."""
    if value == AUTO:
        return value
    value = _fraction(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
        raise ValueError(f"{value!r} is neither 1/n, nor a whole number above 0, nor auto")
    return float(value)


def _task(value: Any) -> Any:
    if isinstance(value, str):
        if value not in TASKS:
            raise ValueError(f"unknown task {value!r}; known are {', '.join(TASKS)}, or declare one as a mapping")
        return TASKS[value]
    return value


Share = Annotated[float, BeforeValidator(_fraction), Field(gt=0)]


class ModelSpec(Declared):
    """One encoder: where its weights come from, and what it needs to run. Exactly one of hub, folder and demo is given."""

    name: str = Field(pattern=NAME)
    """Short name, as in the column `model`."""

    hub: str | None = None
    """Hub id of any encoder that `AutoModelForMaskedLM` loads."""

    folder: Path | None = None
    """Folder that transformers loads; relative paths are relative to the study file."""

    demo: str | None = None
    """Name of one of the offline demo's models, which the study pre-trains itself."""

    revision: str = "main"
    """Branch, tag or commit of the hub id; a commit makes the study reproducible for ever."""

    new_head: bool = False
    """Accepts a model without a masked-LM head: a seeded one is made, and is part of the identity."""

    instructed_folder: Path | None = None
    """Weights that were instruction-tuned elsewhere; then no instruction job runs for this model."""

    gpus: Annotated[float | Literal["auto"], BeforeValidator(_gpu_share)] = 1.0
    """Runtime. GPUs of one fine-tuning trial: 1/n to share one, a whole number, or `auto` for the 1/n that the model's first
    trial measures, alone on a whole GPU. Where there is none only `auto` counts: CPUs then follow from memory likewise."""

    cpus: Share = 1.0
    """Runtime. CPUs of one fine-tuning trial and of each of its ranks."""

    instruct_ranks: int = Field(default=1, ge=1)
    """Runtime. Ranks of the instruction job, each with one GPU where there are GPUs."""

    instruct_micro_batch: int = Field(default=16, ge=1)
    """Runtime. Times `instruct.max_length` it is the greatest number of padded tokens that a rank puts through the model at
    once, so more short sequences fit than long ones; the rest is accumulated."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        given = [key for key in ("hub", "folder", "demo") if getattr(self, key) is not None]
        if len(given) != 1:
            raise ValueError(f"model {self.name}: give exactly one of hub, folder and demo, not {given or 'none'}")
        if self.gpus == AUTO:
            return self
        if self.gpus < 1 and abs(round(1 / self.gpus) * self.gpus - 1) > 1e-6:
            raise ValueError(f"model {self.name}: gpus {self.gpus} is not 1/n of a GPU, so trials cannot fill one exactly")
        if self.gpus > 1 and self.gpus != int(self.gpus):
            raise ValueError(f"model {self.name}: gpus {self.gpus} is neither 1/n nor a whole number")
        return self

    @property
    def num_ranks(self) -> int:
        """Processes of one fine-tuning trial on GPUs: one a whole GPU, one where a GPU is shared."""
        return 1 if self.gpus == AUTO else max(1, int(self.gpus))


class DataSpec(Declared):
    """Where the tasks' examples come from."""

    source: Literal["hub", "folder", "demo"] = "hub"

    hub: str = "aps/super_glue"
    """Hub data set with one configuration a task (the official SuperGLUE rows as parquet)."""

    revision: str = "main"

    folder: Path | None = None
    """Folder of the official archive: `<TASK>/{train,val}.jsonl`; relative to the study file."""

    seed: int = 0
    """Seed of the demo world. Instructions and models of the demo follow it."""

    @model_validator(mode="after")
    def _folder_given(self) -> Self:
        if (self.source == "folder") != (self.folder is not None):
            raise ValueError("data.folder goes with data.source: folder, and only with it")
        return self


class InstructionSpec(Declared):
    """The instruction data: xP3 of the hub, a jsonl file or folder in its form, or the demo's own."""

    source: Literal["hub", "folder", "demo"] = "hub"

    hub: str = "bigscience/xP3"
    files: str = "en/merged_en.jsonl"
    """Glob of the hub's files to read. The merged file holds every English row once; per-prompt files hold them again."""

    revision: str = "main"

    folder: Path | None = None
    """A file or folder of `*.jsonl` or `*.jsonl.gz` with `inputs` and `targets`; relative to the study file."""

    max_target_tokens: int = Field(default=3, ge=1)
    """Rows with a longer target are left out (paper, section 3.1; "tokens" taken as model tokens)."""

    tokenizer: str | None = None
    """Model of this study whose tokenizer counts target tokens, so that all models train on the same rows. Default: first."""

    exclude: tuple[str, ...] = ()
    """Glob patterns of file names (or demo families) to leave out, to hold tasks out of the mixture."""

    max_rows: int | None = Field(default=None, ge=1)
    """Reads only the first rows, so many of them; for trying things out. xP3 is sorted by input: the first rows are no sample."""

    @model_validator(mode="after")
    def _folder_given(self) -> Self:
        if (self.source == "folder") != (self.folder is not None):
            raise ValueError("instructions.folder goes with instructions.source: folder, and only with it")
        return self


class InstructSpec(Declared):
    """How an encoder is instruction-tuned (paper, sections 3.1 and 4.3)."""

    learning_rate: float = Field(default=2e-5, gt=0)
    """Paper, section 4.3."""

    weight_decay: float = Field(default=0.01, ge=0)
    """Paper, section 4.3."""

    global_batch_size: int = Field(default=128, ge=1)
    """Sequences a step over all ranks (paper, section 4.3), reached by accumulation."""

    epochs: float = Field(default=1.0, gt=0)
    """Paper, section 4.3."""

    max_steps: int | None = Field(default=None, ge=1)
    """Ends earlier than the epochs say."""

    mask_rate: float = Field(default=0.15, ge=0, lt=1)
    """Share of the user part's tokens that are masked (paper, section 3.1); the target is always masked whole."""

    warmup: float = Field(default=0.06, ge=0, lt=1)
    """Share of the steps with rising learning rate. Paper silent; RoBERTa's fine-tuning (Liu et al. 2019)."""

    schedule: Literal["linear", "constant"] = "linear"
    """After the warm-up. Paper silent; linear decay as in Liu et al. 2019."""

    clip: float = Field(default=1.0, gt=0)
    """Greatest gradient norm. Paper silent; Mosbach et al. 2021."""

    max_length: int = Field(default=512, ge=8)
    """Tokens a sequence; XLM-R's limit."""

    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """Arithmetic over fp32 master weights; `auto` is bf16 where the hardware has it. What ran is recorded."""

    seed: int = Field(default=0, ge=0, le=2**63 - 1)
    """Order of the rows, masks and dropout."""

    threads: int = Field(default=1, ge=1)
    """CPU threads a rank; part of the identity because it changes rounding."""

    checkpoint_every: int = Field(default=1000, ge=1)
    """Runtime. Steps between checkpoints."""


FINETUNE_RUNTIME = {"gpu_graphs", "save_weights"}
"""Fields of `FinetuneSpec` that are no part of a trial's identity."""


class FinetuneSpec(Declared):
    """How a trial is fine-tuned (paper, sections 3.2 and 4.3; facts the paper leaves open carry their source)."""

    steps: int = Field(default=320, ge=1)
    """Paper: more than 300."""

    batch_size: int = Field(default=16, ge=1)
    """At most this and the training size. Paper silent; Scao and Rush 2021."""

    learning_rate: float = Field(default=1e-5, gt=0)
    """Paper, section 4.3."""

    weight_decay: float = Field(default=0.01, ge=0)
    """Paper silent; Mosbach et al. 2021."""

    warmup: float = Field(default=0.1, ge=0, lt=1)
    """Share of the steps with rising learning rate, then linear decay to 0. Paper silent; Mosbach et al. 2021."""

    clip: float = Field(default=1.0, gt=0)
    """Greatest gradient norm. Paper silent; Mosbach et al. 2021."""

    dropout: float | None = Field(default=None, ge=0, lt=1)
    """Replaces every dropout probability of the model; None keeps the model's own."""

    max_length: int = Field(default=256, ge=8)
    """Tokens an input. Paper silent; Scao and Rush 2021."""

    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """Arithmetic over fp32 master weights; `auto` is bf16 where the hardware has it. What ran is recorded."""

    threads: int = Field(default=1, ge=1)
    """CPU threads a rank; part of the identity because it changes rounding."""

    eval_tokens: int = Field(default=16384, ge=1)
    """Padded tokens of one evaluation batch; part of the identity because it changes rounding."""

    gpu_graphs: Literal["auto", "off"] = "auto"
    """Runtime. Captures the step of a trial on one GPU as a CUDA graph, in a model and precision that can (`auto`), or never."""

    save_weights: bool = False
    """Runtime. Keeps each trial's trained weights, with the whole vocabulary, under `weights/<trial_id>/` as a folder that
    transformers loads. As large as the model, for every trial; a trial that has a record already does not run again for it."""


class ClusterSpec(Declared):
    """Runtime. What the study expects of the cluster, and its limits. Nothing here changes a score."""

    gpus: int = Field(default=0, ge=0)
    """GPUs that a dry run assumes. A run uses what the cluster has; a Ray of the command's own has none where this is 0."""

    cpus: int | None = Field(default=None, ge=1)
    """CPUs of a Ray that the command starts itself. Default: the machine's, or what an instruction job needs if that is more."""

    trial_timeout_s: float = Field(default=6 * 3600, gt=0)
    """A trial that takes longer is killed and runs again, `max_hang_retries` times."""

    trial_stall_s: float = Field(default=1800, gt=0)
    """A trial that finishes no step for so long is killed and runs again likewise. Evaluation counts as a step; the first one,
    with imports, data and weights before it, has ten minutes at least."""

    max_hang_retries: int = Field(default=1, ge=0)
    """How often a trial starts again that was killed for taking too long or making no progress."""

    max_worker_retries: int = Field(default=2, ge=0)
    """How often a trial starts again after its worker or node died. Preemption does not count."""

    max_node_failures: int = Field(default=3, ge=1)
    """After so many trials in a row that died on a node nothing more is started there, as long as there is another node."""

    node_patience_s: float = Field(default=600, ge=0)
    """How long trials that no node can hold any more wait for one to come back; then this run leaves them out."""

    max_same_failures: int = Field(default=5, ge=1)
    """After so many trials in a row with the same traceback their model or task is stopped; the rest of the study goes on."""

    storage_patience_s: float = Field(default=600, ge=0)
    """How long writes to a storage that fails (full, read-only) are tried again before the trial fails."""


class Study(Declared):
    """A whole study: model x paradigm x task x training size x seed (paper, section 4)."""

    name: str = Field(pattern=NAME)
    models: tuple[ModelSpec, ...] = Field(min_length=1)
    paradigms: tuple[Paradigm, ...] = Field(default=PARADIGMS, min_length=1)
    tasks: tuple[Annotated[TaskSpec, BeforeValidator(_task)], ...] = Field(
        default=tuple(TASKS.values()), min_length=1, validate_default=False
    )
    sizes: tuple[Annotated[int, Field(strict=True)], ...] = Field(min_length=1)
    """Training sizes in examples."""

    seeds: tuple[Annotated[int, Field(strict=True)], ...] = Field(min_length=1)
    """Each feeds the few-shot draw and the training as separate streams."""

    max_train_size: int = Field(default=128, ge=1)
    """The cap on sizes (paper, section 4.3). Runtime: it refuses, and changes no trial."""

    data: DataSpec = DataSpec()
    instructions: InstructionSpec = InstructionSpec()
    instruct: InstructSpec = InstructSpec()
    finetune: FinetuneSpec = FinetuneSpec()
    cluster: ClusterSpec = ClusterSpec()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for field in ("models", "tasks"):
            _refuse_twice(field, [item.name for item in getattr(self, field)])
        for field in ("paradigms", "sizes", "seeds"):
            _refuse_twice(field, list(getattr(self, field)))
        for size in self.sizes:
            if size < 1:
                raise ValueError(f"sizes: {size} is not a training size; the smallest is 1")
            if size > self.max_train_size:
                raise ValueError(f"sizes: {size} is above max_train_size {self.max_train_size}")
        for seed in self.seeds:
            if not 0 <= seed < 2**63:
                raise ValueError(f"seeds: {seed} is {'negative' if seed < 0 else 'above 2^63 - 1'}")
        wanted = self.instructions.tokenizer
        if wanted is not None and wanted not in [model.name for model in self.models]:
            raise ValueError(f"instructions.tokenizer: no model {wanted!r} in this study")
        return self

    def model(self, name: str) -> ModelSpec:
        """Returns the model of that short name."""
        return next(model for model in self.models if model.name == name)

    def task(self, name: str) -> TaskSpec:
        """Returns the task of that name."""
        return next(task for task in self.tasks if task.name == name)

    def extended(self, sizes: Sequence[int] = (), seeds: Sequence[int] = ()) -> Study:
        """Returns the study with these sizes and seeds added, sorted; the study itself if they are all there."""
        return self.replaced(sizes=sorted({*self.sizes, *sizes}), seeds=sorted({*self.seeds, *seeds}))

    def replaced(self, **fields: Any) -> Study:
        """Returns the study with whole fields replaced and everything validated again.

        Raises:
            StudyError: naming the field that is wrong.
        """
        return validated({**{key: getattr(self, key) for key in type(self).model_fields}, **fields}, f"study {self.name}")


def _refuse_twice(field: str, values: list[Any]) -> None:
    for value in values:
        if values.count(value) > 1:
            raise ValueError(f"{field}: {value!r} is there twice")


REWORDED = {
    "extra_forbidden": "unknown key",
    "missing": "is not given",
    "tuple_type": "give a list, as [a, b]",
    "too_short": "the list is empty",
    "model_type": "give a mapping of keys to values",
    "string_type": "give a text, in quotes where YAML takes it for something else",
    "string_pattern_mismatch": "give a name of letters, digits, and . _ - between them",
    "invalid_key": "a key must be a text",
}
"""What of pydantic's messages speaks of Python, said in YAML's words, by the error's type."""


def validated(raw: Any, where: str) -> Study:
    """Returns the study that a mapping declares.

    Raises:
        StudyError: naming `where`, the field that is wrong and its value.
    """
    try:
        return Study.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        # A choice of types adds its own name to the field's.
        parts = [part for part in map(str, first["loc"]) if not part.startswith("function-") and part != "float"]
        field, kind, value = ".".join(parts), first["type"], first["input"]
        message = REWORDED.get(kind, first["msg"].removeprefix("Value error, "))
        if kind not in ("value_error", "extra_forbidden", "missing") and isinstance(value, str | int | float | date):
            message += f", not {str(value) if isinstance(value, date) else value!r}"
        raise StudyError(f"{where}: {field + ': ' if field else ''}{message}") from None
