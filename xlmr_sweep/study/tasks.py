"""The classification tasks: fields, labels, label words, metric and prompt. Reading their examples is in `data/`.

A task is a declaration. A study file can name one of the built-in five, or declare a task of its own.
"""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from xlmr_sweep.study.canonical import Declared


class TaskSpec(Declared):
    """One classification task, answerable by one label word (paper, section 3.2)."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]{0,99}$")
    """Short name, as in the column `task`."""

    labels: tuple[str, ...] = Field(min_length=2)
    """Names of the classes in the order of the hub's class ids."""

    label_words: tuple[str, ...]
    """One word a class, each a single token of every model's tokenizer."""

    prompt: str
    """The user part of the prompt, with `{field}` for each field. The assistant part is the mask."""

    baseline: tuple[str, ...] = Field(min_length=1, max_length=2)
    """The bare text (or pair of texts) that `baseline` sees, with `{field}` placeholders and no prompt."""

    long_field: str
    """The field that is shortened if an input is too long. The question, the mask and the target never are."""

    metric: Literal["accuracy", "macro_f1"] = "accuracy"
    """What `score` is. Macro-F1 is over all `labels`, also those that no example has (paper, section 4.2)."""

    folder: str
    """The folder of `train.jsonl` and `val.jsonl` under the data folder, as the official archive names it."""

    hub_config: str | None = None
    """The configuration on the hub; None for a task that is read from folders only."""

    num_train: int | None = None
    """Rows of the hub's training split, so that a plan can check sizes without a network."""

    num_validation: int | None = None
    """Rows of the hub's validation split, which is what trials are scored on."""

    @property
    def fields(self) -> tuple[str, ...]:
        """The data fields that the prompt and the baseline texts name, sorted."""
        named = {field for text in (self.prompt, *self.baseline) for field in placeholders(text)}
        return tuple(sorted(named))

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len(self.label_words) != len(self.labels):
            raise ValueError(f"task {self.name}: label_words has {len(self.label_words)} words for {len(self.labels)} labels")
        if len(set(self.label_words)) != len(self.label_words):
            raise ValueError(f"task {self.name}: label_words must differ from one another")
        if not all(word.strip() for word in self.label_words):
            raise ValueError(f"task {self.name}: label_words: {next(w for w in self.label_words if not w.strip())!r} is no word")
        if self.name == "average":
            raise ValueError("task average: the name is that of the pooled row of every table; choose another")
        if len(set(self.labels)) != len(self.labels):
            raise ValueError(f"task {self.name}: labels must differ from one another")
        if "label" in self.fields:
            raise ValueError(f"task {self.name}: its texts name the field 'label', which is the answer; leave it out")
        if "example_id" in self.fields:
            raise ValueError(f"task {self.name}: its texts name the field 'example_id', which the results use; call it otherwise")
        if not self.fields:
            raise ValueError(f"task {self.name}: its prompt and baseline texts name no field")
        if self.long_field not in placeholders(self.prompt):
            raise ValueError(f"task {self.name}: long_field {self.long_field!r} is not a field of its prompt")
        return self

    def parse_label(self, raw: Any) -> int:
        """Returns the class id of a label as any publisher spells it: name, truth value or id.

        A value that is a label's name is that label: "1" and 1 are the label named "1", True the label named "true" or "True". A
        number is a position only where no name fits. Where two readings are possible, they must agree.

        Raises:
            ValueError: if `raw` is no label of the task (such as -1, a hidden test label), or could be two of them.
        """
        text = str(raw) if isinstance(raw, str | int) else ""
        named = [] if isinstance(raw, bool) else [i for i, name in enumerate(self.labels) if name == text]
        if not named and text.lower() in ("true", "false"):
            named = [i for i, name in enumerate(self.labels) if name.lower() == text.lower()]
        readings = set(named) or self._other_readings(raw, text)
        if len(readings) > 1:
            both = " or ".join(repr(self.labels[i]) for i in sorted(readings))
            raise ValueError(f"label {raw!r} could be {both}, by its meaning or by its position; write the label's name")
        if not readings:
            raise ValueError(f"label {raw!r} is not one of {', '.join(self.labels)}")
        return readings.pop()

    @property
    def has_doubtful_labels(self) -> bool:
        """Whether a whole number means another label, or none, when it is taken as a name and not as a position.

        Earlier versions took every whole number as a position.
        """
        for position in range(len(self.labels)):
            try:
                if self.parse_label(position) != position:
                    return True
            except ValueError:
                return True
        return False

    def _other_readings(self, raw: Any, text: str) -> set[int]:
        """Returns the class ids that a value may mean if it is no label's name."""
        numbers = {str(i): i for i in range(len(self.labels))}
        position = {int(raw)} if isinstance(raw, bool) else {numbers[text]} if text in numbers else set()
        position &= set(numbers.values())
        truth = _TRUTHS.get(text.lower())
        alike = {i for i, name in enumerate(self.labels) if truth is not None and _TRUTHS.get(name.lower()) == truth}
        # The number 1 may be meant by a label named "1.0" or "01".
        values = [_number(name) for name in self.labels]
        if not isinstance(raw, bool) and text.isdecimal():
            alike |= {i for i, value in enumerate(values) if value == int(text)}
        if alike:
            return alike | position
        # A truth value alone names no position. Beside a label named "1" the number 0 is more likely wrong than a position.
        return set() if isinstance(raw, bool) or not set(values).isdisjoint(numbers.values()) else position


_TRUTHS = {"true": True, "1": True, "false": False, "0": False}


def _number(name: str) -> float | None:
    """Returns the number that a label's name spells; None for a name that is no number."""
    try:
        return float(name)
    except ValueError:
        return None


def placeholders(text: str) -> tuple[str, ...]:
    """Returns the field names between braces in `text`, in order.

    Raises:
        ValueError: for an unnamed or malformed placeholder.
    """
    try:
        found = [(name, spec, conversion) for _, name, spec, conversion in string.Formatter().parse(text) if name is not None]
    except ValueError as error:
        raise ValueError(f"{text!r}: {error}; write a brace that is none of a {{field}} twice") from None
    for name, spec, conversion in found:
        if not name.isidentifier() or spec or conversion:
            shown = name + (f"!{conversion}" if conversion else "") + (f":{spec}" if spec else "")
            raise ValueError(f"{text!r} holds the placeholder {{{shown}}}; use {{field}} with a field's name")
    return tuple(name for name, _, _ in found)


def render(text: str, row: Mapping[str, Any]) -> str:
    """Fills the placeholders of `text` from `row`. Braces inside the row's values stay as they are."""
    return text.format_map(row)


def rows_without_content(task: TaskSpec, texts: Sequence[str]) -> list[dict[str, Any]]:
    """Returns a row for each text without content, which fills all fields of the prompt; its label means nothing."""
    return [
        {**dict.fromkeys(task.fields, text), "label": 0, "example_id": f"content-free {number}"}
        for number, text in enumerate(texts, start=1)
    ]


# Prompts are this study's own: the paper gives none. Label words are the paper's (section 3.2).
BOOLQ = TaskSpec(
    name="boolq",
    labels=("false", "true"),
    label_words=("no", "yes"),
    prompt="{passage} Question: {question}?",
    baseline=("{question}", "{passage}"),
    long_field="passage",
    folder="BoolQ",
    hub_config="boolq",
    num_train=9427,
    num_validation=3270,
)
CB = TaskSpec(
    name="cb",
    labels=("entailment", "contradiction", "neutral"),
    label_words=("yes", "no", "maybe"),
    prompt="{premise} Question: does this imply that {hypothesis}? Yes, no or maybe?",
    baseline=("{premise}", "{hypothesis}"),
    long_field="premise",
    metric="macro_f1",
    folder="CB",
    hub_config="cb",
    num_train=250,
    num_validation=56,
)
COPA = TaskSpec(
    name="copa",
    labels=("choice1", "choice2"),
    label_words=("yes", "no"),
    prompt="{premise} First choice: {choice1} Second choice: {choice2} Question: is the first choice the more likely {question}?",
    baseline=("{premise} {question}", "{choice1} {choice2}"),
    long_field="premise",
    folder="COPA",
    hub_config="copa",
    num_train=400,
    num_validation=100,
)
RTE = TaskSpec(
    name="rte",
    labels=("entailment", "not_entailment"),
    label_words=("yes", "no"),
    prompt="{premise} Question: does this imply that {hypothesis}? Yes or no?",
    baseline=("{premise}", "{hypothesis}"),
    long_field="premise",
    folder="RTE",
    hub_config="rte",
    num_train=2490,
    num_validation=277,
)
WIC = TaskSpec(
    name="wic",
    labels=("false", "true"),
    label_words=("no", "yes"),
    prompt="First sentence: {sentence1} Second sentence: {sentence2} "
    "Question: does {word} have the same meaning in both sentences?",
    baseline=("{word} {sentence1}", "{sentence2}"),
    long_field="sentence1",
    folder="WiC",
    hub_config="wic",
    num_train=5428,
    num_validation=638,
)
TASKS: dict[str, TaskSpec] = {task.name: task for task in (BOOLQ, CB, COPA, RTE, WIC)}
