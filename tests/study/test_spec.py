"""The declaration: the paper's study is the paper's, and every mistake is one line that names the field."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from builders import make_encoder, make_superglue

from xlmr_sweep.errors import StudyError
from xlmr_sweep.study.plan import expand
from xlmr_sweep.study.reading import load_study

OWN_TASK = {
    "name": "own",
    "labels": ["a", "b"],
    "label_words": ["yes", "no"],
    "prompt": "{text} ?",
    "baseline": ["{text}"],
    "long_field": "text",
    "folder": "Own",
}


def test_paper_is_the_papers_study() -> None:
    study = load_study("paper")
    trials = expand(study)
    assert len(trials) == 1260
    assert Counter(trial.model for trial in trials) == dict.fromkeys(["xlmr-base", "xlmr-large", "xlmr-xl", "xlmr-xxl"], 315)
    assert study.sizes == (2, 4, 8, 16, 32, 64, 128)
    assert len(study.seeds) == 3
    assert [task.name for task in study.tasks] == ["boolq", "cb", "copa", "rte", "wic"]
    assert study.paradigms == ("baseline", "prompted", "instructed")
    tuned, tuning = study.finetune, study.instruct
    assert (tuned.learning_rate, tuned.steps > 300) == (1e-5, True)
    assert (tuning.learning_rate, tuning.weight_decay, tuning.global_batch_size, tuning.epochs) == (2e-5, 0.01, 128, 1)
    assert tuning.mask_rate == 0.15
    assert study.instructions.max_target_tokens == 3
    assert [model.gpus for model in study.models] == [1, 1, 1, 4]


def test_demo_is_360_trials_of_two_models() -> None:
    study = load_study("demo")
    assert len(study.models) >= 2
    assert len(expand(study)) == 360


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"sizzes": [8]}, "sizzes: unknown key"),
        ({"finetune": {"step": 3}}, "finetune.step: unknown key"),
        ({"tasks": ["cb", "squad"]}, "unknown task 'squad'"),
        ({"paradigms": ["zero"]}, "paradigms.0"),
        ({"sizes": [-1]}, "sizes: -1 is not a training size"),
        ({"sizes": [0], "paradigms": ["baseline"]}, "sizes: 0 is zero-shot, which baseline has not"),
        ({"sizes": [129]}, "sizes: 129 is above max_train_size 128"),
        ({"sizes": [8, 8]}, "sizes: 8 is there twice"),
        ({"seeds": [-1]}, "seeds: -1 is negative"),
        ({"seeds": [2**63]}, "is above 2^63 - 1"),
        ({"seeds": [True]}, "seeds.0"),
        ({"instruct": {"seed": -1}}, "instruct.seed"),
        ({"tasks": [{**OWN_TASK, "labels": ["a", "a"]}]}, "labels must differ"),
        ({"tasks": [{**OWN_TASK, "prompt": "{text} {label} ?"}]}, "its texts name the field 'label', which is the answer"),
        (
            {"tasks": [{**OWN_TASK, "prompt": "{text} {example_id} ?"}]},
            "its texts name the field 'example_id', which the results use",
        ),
        ({"finetune": {"weight_decay": True}}, "finetune.weight_decay: yes, on or true is no number; write a number"),
        ({"finetune": {"dropout": False}}, "finetune.dropout: no, off or false is no number; write a number"),
        ({"instruct": {"max_steps": True}}, "instruct.max_steps: yes, on or true is no number"),
        ({"models": [{"name": "a", "hub": "x/y", "cpus": True}]}, "models.0.cpus: yes, on or true is no number"),
        ({"tasks": [{**OWN_TASK, "prompt": "{text:>4} ?"}]}, "placeholder {text:>4}"),
        ({"models": [{"name": "a"}]}, "exactly one of hub, folder and demo"),
        ({"models": [{"name": "a", "hub": "x/y", "gpus": 0.3}]}, "gpus 0.3 is not 1/n"),
        ({"models": [{"name": "a", "hub": "x/y", "gpus": 1.5}]}, "gpus 1.5 is neither"),
        ({"models": [{"name": "a", "hub": "x/y", "gpus": "1/0"}]}, "divides by zero"),
        (
            {"models": [{"name": "a", "hub": "x/y", "gpus": "few"}]},
            "models.0.gpus: 'few' is no number; give one as",
        ),
        (
            {"models": [{"name": "a", "hub": "x/y", "gpus": float("nan")}]},
            "models.0.gpus: Input should be a finite number",
        ),
        ({"models": "a"}, "models: give a list, as [a, b], not 'a'"),
        ({"models": ["a"]}, "models.0: give a mapping of keys to values, not 'a'"),
        ({"models": []}, "models: the list is empty"),
        (
            {"models": [{"name": "xlm-R", "hub": "x/y"}, {"name": "xlm-r", "hub": "x/z"}]},
            "models: xlm-R and xlm-r differ in capitals alone",
        ),
        ({"models": [{"name": "a" * 101, "hub": "x/y"}]}, "models.0.name: give a name of letters, digits"),
        ({"tasks": [{**OWN_TASK, "name": "t" * 101}]}, "tasks.0.name: give a name of letters, digits"),
        ({"name": "../elsewhere"}, "name: give a name of letters, digits, and . _ - between them"),
        ({"models": [{"name": "a/../../b", "hub": "x/y"}]}, "models.0.name: give a name of letters, digits"),
        ({"tasks": [{**OWN_TASK, "name": "../t"}]}, "tasks.0.name: give a name of letters, digits"),
        ({"name": 5}, "name: give a text, in quotes where YAML takes it for something else, not 5"),
        ({"sizes": ["many"]}, "sizes.0: Input should be a valid integer, not 'many'"),
        ({"tasks": [{**OWN_TASK, "prompt": "{text"}]}, "'{text': expected '}' before end of string"),
        (
            {"data": {"source": "folder", "folder": "~nobody-here/x"}},
            "study.yaml: data.folder: '~nobody-here/x' is not",
        ),
        ({"finetune": {"learning_rate": float("inf")}}, "finetune.learning_rate"),
        ({"data": {"source": "folder"}}, "data.folder goes with data.source: folder"),
        ({"instructions": {"source": "demo", "tokenizer": "huge"}}, "no model 'huge'"),
    ],
)
def test_a_wrong_study_names_its_field(study_file: Callable[..., Path], changes: dict[str, Any], said: str) -> None:
    with pytest.raises(StudyError) as error:
        load_study(str(study_file(**changes)))
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_task_that_the_demo_lacks_is_named(study_file: Callable[..., Path]) -> None:
    study = load_study(str(study_file(tasks=[OWN_TASK], data={"source": "demo"})))
    with pytest.raises(StudyError, match="task own: the demo has no such task; it has boolq"):
        expand(study)


def test_a_users_own_task_is_a_mapping(study_file: Callable[..., Path]) -> None:
    study = load_study(str(study_file(tasks=["cb", OWN_TASK])))
    assert [t.name for t in study.tasks] == ["cb", "own"]
    with pytest.raises(StudyError, match="label_words has 1 words for 2 labels"):
        load_study(str(study_file(tasks=[{**OWN_TASK, "label_words": ["yes"]}])))
    # A tokenizer of bytes has a token for a space alone.
    with pytest.raises(StudyError, match="label_words: ' ' is no word"):
        load_study(str(study_file(tasks=[{**OWN_TASK, "label_words": ["yes", " "]}])))


@pytest.mark.parametrize(("page", "num_trials"), [("README.md", 24), ("docs/own-study.md", 36)])
def test_the_own_study_of_a_page_is_one(page: str, num_trials: int, tmp_path: Path) -> None:
    """As printed, beside folders of the names that it gives."""
    text = (Path(__file__).parents[2] / page).read_text()
    make_encoder(tmp_path / "minilm", "bert", head=False)
    make_superglue(tmp_path / "superglue", ("cb", "copa", "rte"), num_train=64)
    (tmp_path / "instructions.jsonl").write_text('{"inputs": "is it ?", "targets": "yes"}\n')
    path = tmp_path / "own.yaml"
    path.write_text(text[text.index("name: own\n") :].split("```")[0])
    study = load_study(str(path))
    assert study.models[0].new_head
    assert len(expand(study)) == num_trials
