"""Variants of a study: which trials they change, which they share, and what is refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest

from xlmr_sweep.errors import StudyError
from xlmr_sweep.storage.artifacts import instruct_folder, mixture_folder
from xlmr_sweep.study.plan import Trial, expand, select
from xlmr_sweep.study.reading import load_study
from xlmr_sweep.study.seen_settings import sharing
from xlmr_sweep.study.spec import Study

TARGETS = {"name": "targets-only", "instruct": {"mask_rate": 0}}
FEWER = {"name": "short", "instructions": {"max_target_tokens": 1}}
WORDS = {"name": "words", "template": {"label_words": {"copa": ["same", "the"]}}}


@pytest.fixture
def declare(study_file: Callable[..., Path]) -> Callable[..., Study]:
    return lambda **changes: load_study(str(study_file(**changes)))


def of(trials: list[Trial], variant: str) -> list[Trial]:
    return [trial for trial in trials if trial.variant == variant]


def test_without_variants_no_trial_knows_of_them(declare: Callable[..., Study]) -> None:
    trials = expand(declare())
    assert {(trial.variant, trial.job) for trial in trials} == {("", "")}
    assert list(trials[0].as_dict()) == ["model", "paradigm", "task", "train_size", "seed", "trial_id"]
    assert Trial(**trials[0].as_dict()) == trials[0]
    assert trials[0].cell == "tiny/baseline/cb/n=4/seed=0"


def test_the_study_as_declared_is_the_first_variant_and_keeps_its_ids(declare: Callable[..., Study]) -> None:
    before, after = expand(declare()), expand(declare(variants=[TARGETS, FEWER, WORDS]))
    assert [trial.trial_id for trial in of(after, "declared")] == [trial.trial_id for trial in before]
    assert len({trial.trial_id for trial in after}) == len(after)


def test_a_variant_has_only_the_trials_that_it_changes(declare: Callable[..., Study]) -> None:
    trials = expand(declare(variants=[TARGETS, FEWER, WORDS]))
    for name in ("targets-only", "short"):
        assert {(trial.paradigm, trial.job) for trial in of(trials, name)} == {("instructed", f"tiny@{name}")}
        assert {trial.task for trial in of(trials, name)} == {"cb", "copa"}
    changed = of(trials, "words")
    assert {(trial.paradigm, trial.task) for trial in changed} == {("prompted", "copa"), ("instructed", "copa")}
    # Its weights are those of the study as declared.
    assert {trial.job_name for trial in changed} == {"tiny"}
    assert changed[0].cell.startswith("tiny/prompted/copa/words/n=")
    assert Trial(**changed[0].as_dict()) == changed[0]


def test_folders_differ_exactly_where_settings_do(declare: Callable[..., Study]) -> None:
    study = declare(variants=[TARGETS, FEWER, WORDS])
    parts = {name: study.at(name) for name in study.variant_names}
    weights = {name: instruct_folder(part, part.models[0]) for name, part in parts.items()}
    rows = {name: mixture_folder(part) for name, part in parts.items()}
    plain = declare()
    assert weights["declared"] == weights["words"] == instruct_folder(plain, plain.models[0])
    assert len(set(weights.values())) == 3
    assert rows["declared"] == rows["words"] == rows["targets-only"] == mixture_folder(plain)
    assert len(set(rows.values())) == 2
    assert study.of_job("tiny@short") == parts["short"]
    assert study.of_job("tiny") == parts["declared"] == plain
    assert study.model("tiny@short").name == "tiny"


def test_a_grid_is_every_combination_but_the_one_that_changes_nothing(declare: Callable[..., Study]) -> None:
    loss = [{"name": "both"}, TARGETS]
    words = [{"name": "usual"}, WORDS]
    study = declare(variants={"grid": {"loss": loss, "words": words}})
    assert study.variant_names == ("declared", "both+words", "targets-only+usual", "targets-only+words")
    trials = expand(study)
    counts = Counter((trial.variant, trial.paradigm, trial.task) for trial in trials)
    each = 2 * 2
    # The prompts of `words` are asked once of the base weights, and both variants of the loss are asked both ways.
    assert counts["both+words", "prompted", "copa"] == each
    assert counts["targets-only+words", "prompted", "copa"] == 0
    assert counts["targets-only+usual", "instructed", "copa"] == counts["targets-only+words", "instructed", "copa"] == each
    assert counts["targets-only+words", "instructed", "cb"] == 0
    # One job makes the weights of both.
    jobs = {trial.variant: trial.job_name for trial in trials if trial.paradigm == "instructed"}
    assert jobs == {
        "declared": "tiny",
        "both+words": "tiny",
        "targets-only+usual": "tiny@targets-only+usual",
        "targets-only+words": "tiny@targets-only+usual",
    }
    assert load_from_json(study) == study


def load_from_json(study: Study) -> Study:
    return Study.model_validate(study.model_dump(mode="json"))


def test_whose_trials_a_variant_shares_is_known_without_a_file(declare: Callable[..., Study]) -> None:
    grid = {"grid": {"loss": [{"name": "both"}, TARGETS], "words": [{"name": "usual"}, WORDS]}}
    study = declare(variants=grid)
    trials = expand(study)
    for variant in study.variant_names:
        for paradigm in study.paradigms:
            for task in ("cb", "copa"):
                has_own = any((t.variant, t.paradigm, t.task) == (variant, paradigm, task) for t in trials)
                assert has_own == (sharing(study, variant, "tiny", paradigm, task) == variant)
    assert sharing(study, "targets-only+words", "tiny", "prompted", "copa") == "both+words"
    assert sharing(study, "targets-only+words", "tiny", "instructed", "cb") == "targets-only+usual"


def test_trials_are_selected_by_variant(declare: Callable[..., Study]) -> None:
    trials = expand(declare(variants=[TARGETS, WORDS]))
    assert select(trials, variants=["words"]) == of(trials, "words")
    with pytest.raises(StudyError, match="--variants: 'x' is not in the study; it has declared, targets-only, words"):
        select(trials, variants=["x"])
    with pytest.raises(StudyError, match="--variants: 'x' is not in the study; it has none"):
        select(expand(declare()), variants=["x"])


def test_the_folder_of_a_variants_instructions_is_relative_to_the_study_file(
    declare: Callable[..., Study], tmp_path: Path
) -> None:
    (tmp_path / "few.jsonl").write_text('{"inputs": "a", "targets": "b"}\n')
    study = declare(variants=[{"name": "few", "instructions": {"source": "folder", "folder": "few.jsonl"}}])
    assert study.at("few").instructions.folder == tmp_path / "few.jsonl"


@pytest.mark.parametrize(
    ("variants", "said"),
    [
        ([{"name": "a", "instruct": {"mask_rat": 0}}], "variants.a.instruct.mask_rat: unknown key"),
        ([{"name": "a", "instruct": {"mask_rate": 2}}], "variants.a.instruct.mask_rate: .*not 2"),
        (
            [{"name": "a", "template": {"prompts": {"rte": "x"}}}],
            "variants.a.template: no task 'rte' in this study; it has cb, copa",
        ),
        ([{"name": "a", "template": {"label_words": {"cb": ["yes"]}}}], "variants.a.template: task cb: label_words has 1 words"),
        ([{"name": "a", "finetune": {"steps": 1}}], "finetune: unknown key"),
        ([{"name": "a"}], "variants.a: is the same as declared; leave one out"),
        ([{"name": "a", "instruct": {"checkpoint_every": 7}}], "variants.a: is the same as declared; leave one out"),
        ([TARGETS, {**TARGETS, "name": "b"}], "variants.b: is the same as targets-only; leave one out"),
        ([TARGETS, TARGETS], "'targets-only' is there twice"),
        ([{**TARGETS, "name": "declared"}], "'declared' is there twice"),
        ([{**TARGETS, "name": "a@b"}], "give a name of letters"),
        ({"loss": [TARGETS]}, "give a list of variants, or one key `grid`"),
        ({"grid": {"loss": [{"instruct": {}}]}}, "grid.loss: give a list of choices, each with a name"),
        (
            {"grid": {"a": [TARGETS], "b": [{"name": "x", "instruct": {"mask_rate": 0.2}}]}},
            "instruct.mask_rate is changed by two",
        ),
        ({"grid": {"a": [{**TARGETS, "name": 1.10}]}}, "grid.a: the name 1.1 is no text; write it in quotes"),
        ({"grid": {"a": [{**TARGETS, "name": "x+y"}]}}, r"the name 'x\+y' holds '\+'"),
    ],
)
def test_a_wrong_variant_is_one_line(declare: Callable[..., Study], variants: Any, said: str) -> None:
    with pytest.raises(StudyError, match=said) as error:
        declare(variants=variants)
    assert "\n" not in str(error.value)


def test_the_ablation_has_a_job_for_each_variant_and_shares_the_rest() -> None:
    study = load_study("ablation")
    trials = expand(study)
    paper = {trial.trial_id for trial in expand(load_study("paper")) if trial.model == "xlmr-base"}
    assert {trial.trial_id for trial in of(trials, "declared")} == paper
    assert len({trial.job_name for trial in trials if trial.paradigm == "instructed"}) == len(study.variant_names) == 7
    assert len(trials) == 105 * (2 + 7)


def test_the_ablation_leaves_out_whole_families_of_xp3_and_no_other() -> None:
    """File names as the script of xP3's authors makes them: data set, subset, split and prompt."""
    families = {
        "wic": ["super_glue_wic"],
        "boolq": ["super_glue_boolq"],
        "paraphrases": ["paws_labeled_final", "paws-x_en", "glue_mrpc", "glue_qqp"],
        "others": ["super_glue_multirc", "super_glue_record", "wiki_qa_None", "mlqa_mlqa.en.en", "race_high", "piqa_None"],
    }
    files = {f"en/xp3_{name}_train_Is_this_True.jsonl": kind for kind, names in families.items() for name in names}
    left: dict[str, set[str]] = {}
    for variant in load_study("ablation").variants:
        if "files" in variant.instructions:
            assert all(fnmatch(file, variant.instructions["files"]) for file in files)
            assert not fnmatch("en/merged_en.jsonl", variant.instructions["files"])
            patterns = variant.instructions.get("exclude", [])
            assert all(any(fnmatch(file, one) for file in files) for one in patterns)
            out = {file for file in files if any(fnmatch(file, one) for one in patterns)}
            left[variant.name] = {kind for file, kind in files.items() if file not in out}
            # A family is left out whole.
            assert not any(files[file] in left[variant.name] for file in out)
    every = set(families)
    assert left == {
        "per-file": every,
        "without-wic-boolq": every - {"wic", "boolq"},
        "without-paraphrases": {"others"},
    }
