"""Several prompts of a task: one trial each, ids by what is asked, sets by name, and what is refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from builders import make_encoder
from transformers import AutoTokenizer

from xlmr_sweep.errors import StudyError
from xlmr_sweep.study.plan import Trial, asked_tasks, expand
from xlmr_sweep.study.prompt_sets import SCAO_RUSH
from xlmr_sweep.study.reading import load_study
from xlmr_sweep.study.spec import Study
from xlmr_sweep.study.task_check import check_prompt
from xlmr_sweep.study.tasks import TASKS, placeholders

OWN = {"name": "own"}
SHORT = {"name": "short", "prompt": "{premise} so {hypothesis}?"}
WORDS = {"name": "words", "label_words": ["red", "green", "new"]}


@pytest.fixture
def declare(study_file: Callable[..., Path]) -> Callable[..., Study]:
    return lambda **changes: load_study(str(study_file(**changes)))


def test_each_prompt_has_its_trials_and_baseline_has_none(declare: Callable[..., Study]) -> None:
    plain = {trial.trial_id: trial for trial in expand(declare())}
    trials = expand(declare(prompts={"cb": [OWN, SHORT, WORDS]}))
    counts = Counter((trial.paradigm, trial.task, trial.prompt) for trial in trials)
    assert counts == {
        ("baseline", "cb", ""): 4, ("baseline", "copa", ""): 4,
        **{(paradigm, "copa", ""): 4 for paradigm in ("prompted", "instructed")},
        **{(paradigm, "cb", name): 4 for paradigm in ("prompted", "instructed") for name in ("own", "short", "words")},
    }  # fmt: skip
    # The task's own prompt keeps its ids, whatever it is called here.
    assert plain.keys() <= {trial.trial_id for trial in trials}
    assert {trial.prompt for trial in trials if trial.trial_id in plain} == {"", "own"}
    short = next(trial for trial in trials if trial.prompt == "short")
    assert short.cell == "tiny/prompted/cb/short/n=4/seed=0"
    assert Trial(**short.as_dict()) == short


def test_an_id_is_that_of_the_task_with_this_prompt(declare: Callable[..., Study]) -> None:
    study = declare(prompts={"cb": [SHORT]})
    task = study.task("cb").model_copy(update={"prompt": SHORT["prompt"]})
    declared = declare().replaced(tasks=(task, study.task("copa")))
    assert [trial.trial_id for trial in expand(study)] == [trial.trial_id for trial in expand(declared)]
    assert asked_tasks(study, [trial for trial in expand(study) if trial.prompt])[0] == task


def test_prompts_and_variants_are_two_axes(declare: Callable[..., Study]) -> None:
    study = declare(prompts={"cb": [OWN, SHORT]}, variants=[{"name": "targets-only", "instruct": {"mask_rate": 0}}])
    trials = expand(study)
    of_variant = Counter((t.paradigm, t.task, t.prompt) for t in trials if t.variant == "targets-only")
    assert of_variant == {("instructed", "cb", "own"): 4, ("instructed", "cb", "short"): 4, ("instructed", "copa", ""): 4}
    assert Study.model_validate(study.model_dump(mode="json")) == study


def test_a_set_is_named_for_all_tasks_or_for_one() -> None:
    paper = load_study("paper")
    whole = paper.replaced(prompts="scao-rush")
    assert {task: whole.prompt_names(task) for task in whole.prompts} == {
        "boolq": ("question-answer", "previous-passage", "previous-passage-true"),
        "cb": ("bar", "quoted"),
        "rte": ("bar", "quoted", "true-or-false"),
        "wic": ("similar-sense", "same-meaning"),
    }
    assert whole.prompt_names("copa") == ("",)
    # Four models, seven sizes, three seeds; two paradigms with a prompt.
    assert len(expand(whole)) == 4 * 21 * (5 + 2 * (3 + 2 + 1 + 3 + 2))
    one = paper.replaced(prompts={"rte": "scao-rush"})
    assert one.prompts == {"rte": whole.prompts["rte"]}


@pytest.mark.parametrize("task", SCAO_RUSH)
def test_the_set_asks_what_the_task_has_and_can_be_asked(task: str, tmp_path: Path) -> None:
    study = load_study("paper").replaced(prompts="scao-rush")
    tokenizer = AutoTokenizer.from_pretrained(make_encoder(tmp_path / "encoder", words=["yes", "no", "maybe", "true", "false"]))
    for name in study.prompt_names(task):
        asked = study.at("", name).task(task)
        assert set(placeholders(asked.prompt)) <= set(TASKS[task].fields)
        assert asked.fields == TASKS[task].fields, "so that all prompts share the prepared examples"
        check_prompt(tokenizer, asked, 128)
    # Whether the answer is yes or true, it is that of the same class.
    words = {prompt.label_words for prompt in study.prompts[task]} - {None}
    positive = {word: row.index(word) for row in words if row is not None for word in row if word in ("yes", "true")}
    own = TASKS[task].label_words.index("yes")
    assert set(positive.values()) == {own}


@pytest.mark.parametrize(
    ("prompts", "said"),
    [
        ("scao", "prompts: no set 'scao'; there are scao-rush, or give a list"),
        ({"rte": [SHORT]}, "no task 'rte' in this study; it has cb, copa"),
        ({"copa": "scao-rush"}, "prompts.copa: the set scao-rush has prompts for boolq, cb, rte, wic"),
        ({"cb": "other"}, "prompts.cb: no set 'other'"),
        ({"cb": []}, "prompts.cb: "),
        ({"cb": [{"name": "a", "prompt": "{premise"}]}, "prompts.cb.a: .*write a brace"),
        ({"cb": [{"name": "a", "prompt": "{hypothesis}?"}]}, "prompts.cb.a: task cb: long_field 'premise' is not a field"),
        ({"cb": [{"name": "a", "label_words": ["yes", "no"]}]}, "prompts.cb.a: task cb: label_words has 2 words for 3 labels"),
        ({"cb": [OWN, {"name": "b"}]}, "prompts.cb: b is the same as own; leave one out"),
        ({"cb": [OWN, {**SHORT, "name": "own"}]}, "prompts.cb: 'own' is there twice"),
        ({"cb": [{"name": "a", "text": "x"}]}, "unknown key"),
    ],
)
def test_wrong_prompts_are_one_line(declare: Callable[..., Study], prompts: Any, said: str) -> None:
    with pytest.raises(StudyError, match=said) as error:
        declare(prompts=prompts)
    assert "\n" not in str(error.value)


def test_a_variant_does_not_change_a_task_with_several_prompts(declare: Callable[..., Study]) -> None:
    variant = {"name": "v", "template": {"label_words": {"cb": ["red", "green", "new"]}}}
    with pytest.raises(StudyError, match="variants.v.template: task cb has `prompts`; name its prompts and words there"):
        declare(prompts={"cb": [OWN, SHORT]}, variants=[variant])
