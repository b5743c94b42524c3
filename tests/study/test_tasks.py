"""The five tasks, and labels as publishers spell them."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from xlmr_sweep.study.tasks import BOOLQ, CB, COPA, RTE, TASKS, WIC, TaskSpec


def labelled(*labels: str) -> TaskSpec:
    return RTE.model_copy(update={"labels": labels})


def test_the_five_tasks_are_those_of_superglue() -> None:
    assert list(TASKS) == ["boolq", "cb", "copa", "rte", "wic"]
    assert BOOLQ.fields == ("passage", "question")
    assert COPA.fields == ("choice1", "choice2", "premise", "question")
    assert WIC.fields == ("sentence1", "sentence2", "word")
    assert [task.num_train for task in TASKS.values()] == [9427, 250, 400, 2490, 5428]
    assert [task.num_validation for task in TASKS.values()] == [3270, 56, 100, 277, 638]
    assert [task.metric for task in TASKS.values()] == ["accuracy", "macro_f1", "accuracy", "accuracy", "accuracy"]


@pytest.mark.parametrize(
    ("task", "raw", "label"),
    [
        (BOOLQ, True, 1),
        (BOOLQ, False, 0),
        (BOOLQ, 1, 1),
        (BOOLQ, "True", 1),
        (CB, "neutral", 2),
        (CB, 1, 1),
        (CB, "1", 1),
        (COPA, 0, 0),
        (RTE, "not_entailment", 1),
        (WIC, True, 1),
    ],
)
def test_labels_are_read_as_publishers_spell_them(task: TaskSpec, raw: object, label: int) -> None:
    assert task.parse_label(raw) == label


@pytest.mark.parametrize("raw", [-1, 3, "other", None, 0.5, 1.0, True, "01", ""])
def test_unknown_and_hidden_labels_are_refused(raw: object) -> None:
    with pytest.raises(ValueError, match="is not one of entailment"):
        CB.parse_label(raw)


@pytest.mark.parametrize(
    ("labels", "raw", "read"),
    [
        (("1", "0"), (0, 1, "0", "1"), (1, 0, 1, 0)),
        (("1", "2", "3"), (1, 2, 3, "3"), (0, 1, 2, 2)),
        (("-1", "1"), (-1, 1), (0, 1)),
        (("True", "False"), (True, False, "true"), (0, 1, 0)),
        (("true", "false"), (True, False), (0, 1)),
        (("0", "1"), (0, True, False), (0, 1, 0)),
        (("10", "20"), (10, 20, 0, 1), (0, 1, 0, 1)),
    ],
)
def test_a_value_that_is_a_labels_name_is_that_label(labels: Sequence[str], raw: Sequence[object], read: Sequence[int]) -> None:
    assert tuple(map(labelled(*labels).parse_label, raw)) == read


@pytest.mark.parametrize(
    ("labels", "raw"),
    [
        (("true", "false"), 1),
        (("true", "false"), "0"),
        (("True", "False"), 0),
        (("1", "0"), True),
        (("True", "TRUE"), True),
        (("1.0", "0.0"), 1),
        (("1.0", "2.0"), "1"),
        (("01", "00"), 0),
        (("\uff11", "\uff10"), 0),
    ],
)
def test_a_value_of_two_readings_is_refused_with_both(labels: Sequence[str], raw: object) -> None:
    with pytest.raises(ValueError, match=f"could be '{labels[0]}' or '{labels[1]}'"):
        labelled(*labels).parse_label(raw)


def test_a_number_is_the_label_that_spells_it_otherwise() -> None:
    assert [labelled("0.0", "1.0").parse_label(raw) for raw in (0, 1, "1", "1.0")] == [0, 1, 1, 1]
    assert labelled("1.0", "2.0").parse_label(2) == 1
    with pytest.raises(ValueError, match="label 0 is not one of 1.0, 2.0"):
        labelled("1.0", "2.0").parse_label(0)


def test_a_number_beside_labels_that_are_numbers_is_no_position() -> None:
    with pytest.raises(ValueError, match="label 0 is not one of 1, 2, 3"):
        labelled("1", "2", "3").parse_label(0)


@pytest.mark.parametrize(
    ("labels", "is_doubtful"),
    [
        (("1", "0"), True),
        (("1", "2", "3"), True),
        (("true", "false"), True),
        (("0", "1"), False),
        (("1.0", "0.0"), True),
        (("0.0", "1.0"), False),
        (("nan", "inf"), False),
        (("10", "20"), False),
        (("false", "true"), False),
        (("neg", "pos"), False),
    ],
)
def test_labels_that_were_once_read_otherwise_are_known(labels: Sequence[str], is_doubtful: bool) -> None:
    assert labelled(*labels).has_doubtful_labels == is_doubtful


def test_no_built_in_task_is_concerned() -> None:
    assert not [name for name, task in TASKS.items() if task.has_doubtful_labels]
