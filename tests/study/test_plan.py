"""Identity: what can change a score changes the id, what cannot does not."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from xlmr_sweep.errors import StudyError
from xlmr_sweep.study.identity import recipe_id
from xlmr_sweep.study.plan import expand, select
from xlmr_sweep.study.reading import load_study
from xlmr_sweep.study.spec import Study


def ids(study: Study) -> dict[tuple[str, str, int, int], str]:
    return {(t.paradigm, t.task, t.train_size, t.seed): t.trial_id for t in expand(study)}


@pytest.fixture
def study(study_file: Callable[..., Path]) -> Study:
    return load_study(str(study_file()))


def changed(study: Study, **fields: Any) -> set[str]:
    """Returns the paradigms whose trials got new ids."""
    before, after = ids(study), ids(study.replaced(**fields))
    return {key[0] for key in before if before[key] != after[key]}


EVERY = {"baseline", "prompted", "instructed"}


def test_a_file_that_no_trial_reads_changes_no_identity(study_file: Callable[..., Path], tmp_path: Path) -> None:
    path = study_file()
    study = load_study(str(path))
    before = [trial.trial_id for trial in expand(study)]
    model, rows = study.models[0].folder, tmp_path / "rows"
    assert model is not None
    (model / "README.md").write_text("about this model")
    assert [trial.trial_id for trial in expand(study)] == before
    rows.mkdir()
    (rows / "a.jsonl").write_text('{"inputs": "a", "targets": "b"}\n')
    spec = study.instructions.model_copy(update={"folder": rows, "exclude": ("x", "y")})
    ids = [recipe_id(study.model_copy(update={"instructions": spec}), study.models[0])]
    (rows / "notes.txt").write_text("mine")
    other = spec.model_copy(update={"exclude": ("y", "x")})
    ids += [recipe_id(study.model_copy(update={"instructions": kind}), study.models[0]) for kind in (spec, other)]
    assert len(set(ids)) == 1
    (rows / "b.jsonl").write_text('{"inputs": "a", "targets": "c"}\n')
    assert recipe_id(study.model_copy(update={"instructions": spec}), study.models[0]) != ids[0]
    (model / "README.md").unlink()


def test_settings_of_fine_tuning_change_every_trial(study: Study) -> None:
    for field, value in {"steps": 5, "learning_rate": 2e-3, "dropout": 0.0, "threads": 2, "precision": "bf16"}.items():
        assert changed(study, finetune=study.finetune.model_copy(update={field: value})) == EVERY


def test_settings_of_instruction_tuning_change_instructed_trials_only(study: Study) -> None:
    for field, value in {"learning_rate": 1e-3, "mask_rate": 0.2, "max_steps": 4, "seed": 1}.items():
        assert changed(study, instruct=study.instruct.model_copy(update={field: value})) == {"instructed"}
    assert changed(study, instructions=study.instructions.model_copy(update={"max_target_tokens": 2})) == {"instructed"}


def test_runtime_settings_change_no_trial(study: Study) -> None:
    model = study.models[0].model_copy(update={"gpus": 0.5, "cpus": 2.0, "instruct_ranks": 4, "instruct_micro_batch": 2})
    assert changed(study, models=(model,)) == set()
    assert changed(study, cluster=study.cluster.model_copy(update={"gpus": 8.0})) == set()
    assert changed(study, instruct=study.instruct.model_copy(update={"checkpoint_every": 7})) == set()
    assert changed(study, max_train_size=64) == set()


def test_a_prompt_leaves_baseline_trials_alone(study: Study) -> None:
    task = study.task("cb")
    tasks = (task.model_copy(update={"prompt": "{premise} so {hypothesis}?"}), study.task("copa"))
    assert changed(study, tasks=tasks) == {"prompted", "instructed"}
    tasks = (task.model_copy(update={"baseline": ("{hypothesis}", "{premise}")}), study.task("copa"))
    assert changed(study, tasks=tasks) == {"baseline"}
    # Either is cut at the field that is called long.
    tasks = (study.task("cb").model_copy(update={"long_field": "hypothesis"}), study.task("copa"))
    assert changed(study, tasks=tasks) == EVERY


def test_another_size_or_seed_leaves_the_others_alone(study: Study) -> None:
    before, after = ids(study), ids(study.extended([16], [7]))
    assert len(after) == 2 * 3 * 3 * 3
    assert before.items() <= after.items()


def test_new_data_or_weights_make_new_trials(study: Study, tmp_path: Path) -> None:
    before = ids(study)
    file = tmp_path / "superglue" / "CB" / "train.jsonl"
    file.write_text(file.read_text() + file.read_text().splitlines()[0] + "\n")
    after = ids(study)
    assert {key[1] for key in before if before[key] != after[key]} == {"cb"}


def test_other_data_of_the_same_size_and_time_make_new_trials(study: Study, tmp_path: Path) -> None:
    """As where an archive gives all of its files one time."""
    file = tmp_path / "superglue" / "CB" / "val.jsonl"
    os.utime(file, ns=(0, 0))
    before = ids(study)
    file.write_text(file.read_text().replace('"idx": 1}', '"idx": 7}'))
    os.utime(file, ns=(0, 0))
    after = ids(study)
    assert {key[1] for key in before if before[key] != after[key]} == {"cb"}


def test_ids_are_the_same_in_every_process(study: Study) -> None:
    assert ids(study) == ids(Study.model_validate(study.model_dump(mode="json")))


def test_select_names_what_is_unknown(study: Study) -> None:
    trials = expand(study)
    assert len(select(trials, tasks=["cb"], paradigms=["prompted"])) == 4
    with pytest.raises(StudyError, match=r"--tasks: 'wic' is not in the study; it has cb, copa"):
        select(trials, tasks=["wic"])


def test_two_names_for_the_same_weights_are_refused(study: Study) -> None:
    twin = study.models[0].model_copy(update={"name": "twin"})
    with pytest.raises(StudyError, match="two names for the same thing"):
        expand(study.replaced(models=(*study.models, twin)))


def test_a_missing_folder_is_named(study: Study, tmp_path: Path) -> None:
    gone = study.models[0].model_copy(update={"folder": tmp_path / "gone"})
    with pytest.raises(StudyError, match=r"model tiny: folder: .*gone does not exist"):
        expand(study.replaced(models=(gone,)))


def test_zero_shot_is_one_trial_for_all_seeds_that_settings_of_training_do_not_change(study: Study) -> None:
    with_zero = study.replaced(sizes=[0, 8])
    zero_shot = {t.paradigm: t for t in expand(with_zero) if t.task == "cb" and t.train_size == 0}
    assert set(zero_shot) == {"prompted", "instructed"}
    assert {trial.seed for trial in zero_shot.values()} == {0}
    assert len(expand(with_zero)) == 2 * (3 * 2 + 2)

    def untrained(study: Study) -> set[str]:
        return {trial.trial_id for trial in expand(study) if trial.train_size == 0}

    def fine_tuned(**fields: Any) -> Study:
        return with_zero.replaced(finetune=study.finetune.model_copy(update=fields))

    before = untrained(with_zero)
    assert untrained(fine_tuned(steps=9, learning_rate=0.5, dropout=0.0)) == before
    assert untrained(with_zero.replaced(seeds=[5, 7])) == before
    assert not untrained(fine_tuned(max_length=65)) & before
    calibrated = with_zero.replaced(zero_shot={"calibrate": True})
    assert not untrained(calibrated) & before
    assert set(ids(calibrated).values()) - untrained(calibrated) == set(ids(with_zero).values()) - before
