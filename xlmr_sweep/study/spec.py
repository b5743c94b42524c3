"""The declaration of a whole study. In: a mapping, as a YAML file holds it. Out: a frozen `Study`.

Pure: reads no file, and imports neither torch nor ray. `ClusterSpec` and the fields marked "Runtime" cannot change a score
and are not part of a trial's identity. All other fields are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, ValidationError, ValidationInfo, field_validator, model_validator

from xlmr_sweep.errors import StudyError
from xlmr_sweep.study.canonical import Declared, fingerprint
from xlmr_sweep.study.cluster_spec import ClusterSpec
from xlmr_sweep.study.data_spec import DataSpec, InstructionSpec
from xlmr_sweep.study.model_spec import NAME, ModelSpec
from xlmr_sweep.study.problems import changed, problem_of
from xlmr_sweep.study.prompt_sets import PromptSpec, with_sets
from xlmr_sweep.study.recipes import INSTRUCT_RUNTIME, FinetuneSpec, InstructSpec, ZeroShotSpec
from xlmr_sweep.study.tasks import TASKS, TaskSpec
from xlmr_sweep.study.variant_spec import DECLARED, VariantSpec, as_list

Paradigm = Literal["baseline", "prompted", "instructed"]
PARADIGMS: tuple[Paradigm, ...] = ("baseline", "prompted", "instructed")

AT = "@"
"""Stands between a model and a variant in the name of an instruction job. No name of a model holds it."""

NO_ZERO_SHOT = "0 is zero-shot, which baseline has not: its classification head is new, and an untrained head guesses"


def _task(value: Any) -> Any:
    if isinstance(value, str):
        if value not in TASKS:
            raise ValueError(f"unknown task {value!r}; known are {', '.join(TASKS)}, or declare one as a mapping")
        return TASKS[value]
    return value


class Study(Declared):
    """A whole study: model x paradigm x task x training size x seed (paper, section 4)."""

    name: str = Field(pattern=NAME)
    models: tuple[ModelSpec, ...] = Field(min_length=1)
    paradigms: tuple[Paradigm, ...] = Field(default=PARADIGMS, min_length=1)
    tasks: tuple[Annotated[TaskSpec, BeforeValidator(_task)], ...] = Field(
        default=tuple(TASKS.values()), min_length=1, validate_default=False
    )
    sizes: tuple[Annotated[int, Field(strict=True)], ...] = Field(min_length=1)
    """Training sizes in examples. 0 is zero-shot: `prompted` and `instructed` are scored without training, once for all seeds.
    `baseline` has no such trials: its head is new, and an untrained head guesses."""

    seeds: tuple[Annotated[int, Field(strict=True)], ...] = Field(min_length=1)
    """Each seeds the draw of the few examples and the training, which use independent random numbers."""

    max_train_size: int = Field(default=128, ge=1)
    """The cap on sizes (paper, section 4.3). Runtime: a larger size is an error, and no trial changes."""

    data: DataSpec = DataSpec()
    instructions: InstructionSpec = InstructionSpec()
    instruct: InstructSpec = InstructSpec()
    finetune: FinetuneSpec = FinetuneSpec()
    zero_shot: ZeroShotSpec = ZeroShotSpec()
    variants: Annotated[tuple[VariantSpec, ...], BeforeValidator(as_list)] = ()
    """Named changes of instruction tuning, its data and the prompts, as a list or a grid. The study as declared is one more."""

    prompts: dict[str, Annotated[tuple[PromptSpec, ...], Field(min_length=1)]] = Field(default_factory=dict)
    """Several prompts of a task, by the task's name, or the name of a set (`xlmr_sweep/study/prompt_sets.py`). Each is asked in
    trials of its own, in place of the task's own prompt."""

    cluster: ClusterSpec = ClusterSpec()
    track: tuple[Literal["tensorboard", "wandb", "mlflow"], ...] = ("tensorboard",)
    """Runtime. Trackers that are told how the study goes, as one run each."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for field in ("models", "tasks"):
            _refuse_twice(field, [item.name for item in getattr(self, field)])
        _refuse_alike("models", [model.name for model in self.models])
        for field in ("paradigms", "sizes", "seeds", "track"):
            _refuse_twice(field, list(getattr(self, field)))
        for size in self.sizes:
            if size < 0:
                raise ValueError(f"sizes: {size} is not a training size; the smallest is 0, which is zero-shot")
            if size > self.max_train_size:
                raise ValueError(f"sizes: {size} is above max_train_size {self.max_train_size}")
        if set(self.sizes) == {0} and set(self.paradigms) == {"baseline"}:
            raise ValueError(f"sizes: {NO_ZERO_SHOT}")
        for seed in self.seeds:
            if not 0 <= seed < 2**63:
                raise ValueError(f"seeds: {seed} is {'negative' if seed < 0 else 'above 2^63 - 1'}")
        wanted = self.instructions.tokenizer
        if wanted is not None and wanted not in [model.name for model in self.models]:
            raise ValueError(f"instructions.tokenizer: no model {wanted!r} in this study")
        self._check_variants()
        self._check_prompts()
        return self

    @field_validator("prompts", mode="before")
    @classmethod
    def _with_sets(cls, raw: Any, info: ValidationInfo) -> Any:
        return with_sets(raw, [task.name for task in info.data["tasks"]]) if "tasks" in info.data else raw

    def _check_prompts(self) -> None:
        for task in self.prompts:
            names = self.prompt_names(task)
            _refuse_twice(f"prompts.{task}", list(names))
            seen: dict[str, str] = {}
            for name in names:
                asked = self.at(self.variant_names[0], name).task(task)
                same = seen.setdefault(fingerprint([asked.prompt, list(asked.label_words)]), name)
                if same != name:
                    raise ValueError(f"prompts.{task}: {name} is the same as {same}; leave one out")
            for variant in self.variants:
                if task in variant.template.prompts or task in variant.template.label_words:
                    raise ValueError(
                        f"variants.{variant.name}.template: task {task} has `prompts`; name its prompts and words there"
                    )

    def _check_variants(self) -> None:
        names = [DECLARED, *(variant.name for variant in self.variants)] if self.variants else []
        _refuse_twice("variants", names)
        seen: dict[str, str] = {}
        for name in names:
            part = self.at(name)
            recipe = part.instruct.model_dump(mode="json", exclude=INSTRUCT_RUNTIME)
            rows, tasks = part.instructions.model_dump(mode="json"), [task.model_dump(mode="json") for task in part.tasks]
            same = seen.setdefault(fingerprint([recipe, rows, tasks]), name)
            if same != name:
                raise ValueError(f"variants.{name}: is the same as {same}; leave one out")

    @property
    def variant_names(self) -> tuple[str, ...]:
        """The study's variants, the study as declared first. One without a name where the study declares none."""
        return (DECLARED, *(variant.name for variant in self.variants)) if self.variants else ("",)

    def prompt_names(self, task: str) -> tuple[str, ...]:
        """Returns the names of a task's prompts. A task with only its own prompt has one name, the empty one."""
        return tuple(prompt.name for prompt in self.prompts.get(task, ())) or ("",)

    def first_asked(self, task: str) -> TaskSpec:
        """Returns a task as the first variant and its first prompt ask it."""
        return self.at(self.variant_names[0], self.prompt_names(task)[0]).task(task)

    def at(self, variant: str, prompt: str = "") -> Study:
        """Returns the study with one of its variants applied. The result has no variants.

        Args:
            variant: its name.
            prompt: name of a prompt, for the tasks that have one of that name; by default each task's own.

        Raises:
            ValueError: naming the field of the variant or prompt that is wrong.
        """
        if not self.variants and not prompt:
            return self
        change = next((spec for spec in self.variants if spec.name == variant), VariantSpec(name=DECLARED))
        where = f"variants.{variant}"
        tasks: dict[str, dict[str, Any]] = {task.name: {} for task in self.tasks}
        for part, values in (("prompt", change.template.prompts), ("label_words", change.template.label_words)):
            for task, value in values.items():
                if task not in tasks:
                    raise ValueError(f"{where}.template: no task {task!r} in this study; it has {', '.join(tasks)}")
                tasks[task][part] = value
        for task, prompts in self.prompts.items():
            for spec in (spec for spec in prompts if spec.name == prompt):
                tasks[task] = spec.model_dump(mode="json", exclude={"name"}, exclude_none=True)
        return self.model_copy(
            update={
                "variants": (),
                "prompts": {},
                "instruct": changed(self.instruct, change.instruct, f"{where}.instruct"),
                "instructions": changed(self.instructions, change.instructions, f"{where}.instructions"),
                "tasks": tuple(changed(task, tasks[task.name], _where(change.name, prompt, task.name)) for task in self.tasks),
            }
        )

    @property
    def possible_jobs(self) -> list[str]:
        """Names of the instruction jobs that the study may have. Those of variants with the same recipe make the same weights."""
        if "instructed" not in self.paradigms:
            return []
        models = [model.name for model in self.models if model.instructed_folder is None]
        return [f"{model}{AT}{name}" if i else model for i, name in enumerate(self.variant_names) for model in models]

    def of_job(self, name: str) -> Study:
        """Returns the study as it is under the variant of an instruction job (`Trial.job_name`), with its several prompts."""
        return self.at(name.partition(AT)[2] or self.variant_names[0]).model_copy(update={"prompts": self.prompts})

    def model(self, name: str) -> ModelSpec:
        """Returns the model of that short name, or of that instruction job (`Trial.job_name`)."""
        return next(model for model in self.models if model.name == name.partition(AT)[0])

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


def _where(variant: str, prompt: str, task: str) -> str:
    return f"prompts.{task}.{prompt}" if prompt else f"variants.{variant}.template"


def _refuse_twice(field: str, values: list[Any]) -> None:
    for value in values:
        if values.count(value) > 1:
            raise ValueError(f"{field}: {value!r} is there twice")


def _refuse_alike(field: str, names: Sequence[str]) -> None:
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(name.casefold(), name)
        if other != name:
            raise ValueError(
                f"{field}: {other} and {name} differ in capitals alone, and some disks would mix their files; rename one"
            )


def validated(raw: Any, where: str) -> Study:
    """Returns the study that a mapping declares.

    Raises:
        StudyError: naming `where`, the field that is wrong and its value.
    """
    try:
        return Study.model_validate(raw)
    except ValidationError as error:
        field, problem = problem_of(error)
        raise StudyError(f"{where}: {field + ': ' if field else ''}{problem}") from None
