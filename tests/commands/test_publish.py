"""`xlmr-sweep publish`: the folder, the cards, the hub (a stand-in on this machine), and what must not go out."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml
from builders import make_record
from hub_server import Hub, Repository, hub_server
from pyarrow import parquet
from typer.testing import CliRunner

from xlmr_sweep.commands.publish_data import public_recipe, public_study
from xlmr_sweep.commands.publish_scores import problem_of_predictions
from xlmr_sweep.commands.subcommands import app
from xlmr_sweep.storage.artifacts import PREDICTIONS, instruct_folder, manifest_of, predictions_file
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.storage.records import write_record
from xlmr_sweep.storage.study_file import write_study
from xlmr_sweep.study.plan import expand, plan_fingerprint
from xlmr_sweep.study.reading import load_study
from xlmr_sweep.study.spec import Study
from xlmr_sweep.study.tasks import CB

TOKEN = "hf_" + "MarkedTokenOfThisTest" * 2
SCORES = {"baseline": 0.5, "prompted": 0.6, "instructed": 0.75}
NUM_EVAL = 20


@pytest.fixture(scope="module")
def study() -> Study:
    return Study.model_validate(
        {
            "name": "small",
            "models": [{"name": "base", "hub": "FacebookAI/xlm-roberta-base"}],
            "tasks": ["cb", "wic"],
            "sizes": [4, 8],
            "seeds": [0, 1],
        }
    )


@pytest.fixture(scope="module")
def storage(study: Study, tmp_path_factory: pytest.TempPathFactory) -> Storage:
    """24 trials with predictions, and instruction-tuned weights."""
    storage = Storage(tmp_path_factory.mktemp("storage") / "runs")
    write_study(storage, study)
    for trial in expand(study):
        num_right = round(SCORES[trial.paradigm] * NUM_EVAL)
        label = [i % 2 for i in range(NUM_EVAL)]
        columns: dict[str, Any] = {
            "example_id": [str(i) for i in range(NUM_EVAL)],
            "label": label,
            "prediction": [value if i < num_right else 1 - value for i, value in enumerate(label)],
            "score_0": [0.5] * NUM_EVAL,
        }
        sink = pa.BufferOutputStream()
        parquet.write_table(pa.table(columns), sink)
        storage.write(predictions_file(trial.trial_id), sink.getvalue().to_pybytes())
        changes = {"score": num_right / NUM_EVAL, "host": "secret-host", "finished_at": "2026-11-27T10:00:00+00:00"}
        write_record(storage, make_record(trial, **changes))
    folder = instruct_folder(study, study.models[0])
    storage.write(f"{folder}/config.json", b"{}")
    storage.write(f"{folder}/model.safetensors", b"weights")
    storage.write(f"{folder}/progress.json", b"{}")
    made = {
        "weights": "abc",
        "base": None,
        "data": "def",
        "steps": 10,
        "loss_curve": [[1, 5.0], [10, 2.0]],
        "host": "secret-host",
    }
    storage.write_json(manifest_of(folder), made)
    return storage


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with hub_server(TOKEN) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        # The protocol of the hub's newer file store has no stand-in.
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        yield hub


def publish(*arguments: str | Path) -> tuple[int, str]:
    """Runs the command in this process; returns its exit status and what it said."""
    done = CliRunner().invoke(app, ["publish", *map(str, arguments)])
    return done.exit_code, done.output


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def published(storage: Storage, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("published") / "out"
    status, said = publish("--storage", storage, "--to", folder, "--weights", "--license", "cc-by-4.0")
    assert (status, said.splitlines()[-1].startswith(f"Published to {folder}: 1 data set and 1 model, ")) == (0, True), said
    return folder


def test_results_and_predictions_are_the_storages(published: Path, storage: Storage, study: Study) -> None:
    results = parquet.read_table(published / "dataset/data/results.parquet").to_pandas()
    assert len(results) == 24
    assert results.groupby("paradigm")["score"].mean().to_dict() == SCORES
    assert "host" not in results
    predictions = parquet.read_table(published / "dataset/data/predictions/cb.parquet").to_pandas()
    trial = next(trial for trial in expand(study) if trial.task == "cb")
    kept = parquet.read_table(storage.local / predictions_file(trial.trial_id)).to_pandas()  # type: ignore[operator]
    of_trial = predictions[predictions["trial_id"] == trial.trial_id].reset_index(drop=True)
    assert of_trial[kept.columns].equals(kept)
    assert set(of_trial["paradigm"]) == {trial.paradigm}
    assert len(predictions) == 12 * NUM_EVAL


def test_predictions_of_another_score_are_refused_by_name(storage: Storage, study: Study, tmp_path: Path) -> None:
    mine = Storage(tmp_path / "runs")
    shutil.copytree(storage.uri, mine.uri)
    first, second, third = (next(trial for trial in expand(study) if trial.paradigm == name) for name in SCORES)
    mine.write(predictions_file(first.trial_id), mine.read(predictions_file(second.trial_id)))
    mine.write(predictions_file(third.trial_id), b"PAR1 cut")
    status, said = publish("--storage", mine, "--to", tmp_path / "out")
    assert (status, said.count("\n")) == (2, 1)
    assert "predictions of 2 of the trials do not give their score" in said
    assert "base/baseline/cb/4/0: its record says 0.5 and its predictions give 0.6" in said
    assert "base/instructed/cb/4/0: its predictions cannot be read" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("row", "labels", "problem"),
    [
        ({"score": 0.75, "metric": "accuracy"}, [0, 1, 2, 1], ""),
        ({"score": 0.75, "metric": "accuracy", "num_eval": 5}, [0, 1, 2, 1], "it has predictions of 4 of 5 examples"),
        # Of CB, whose metric is macro-F1 over its three classes, where the record does not say it.
        ({"score": 0.6, "metric": None, "num_eval": math.nan}, [0, 1, 2, 1], ""),
        ({"score": 0.75, "metric": "macro_f1"}, [0, 1, 2, 1], "its record says 0.75 and its predictions give 0.6"),
        ({"score": 0.75, "metric": "accuracy"}, [], "its predictions lack examples"),
    ],
)
def test_predictions_are_those_of_a_score_if_they_give_it(row: dict[str, Any], labels: list[int], problem: str) -> None:
    table = pa.table({"example_id": list(map(str, labels)), "label": labels, "prediction": [0, 1, 1, 1][: len(labels)]})
    assert problem_of_predictions(row, table, CB) == problem


def test_each_file_of_predictions_is_read_once(storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    read_many = Storage.read_many

    def reading(self: Storage, names: Iterable[str]) -> list[bytes]:
        asked = list(names)
        read.extend(asked)
        return read_many(self, asked)

    monkeypatch.setattr(Storage, "read_many", reading)
    assert publish("--storage", storage, "--to", tmp_path / "out")[0] == 0
    there = [f"{PREDICTIONS}/{name}" for name in storage.names(PREDICTIONS)]
    assert sorted(name for name in read if name.startswith(PREDICTIONS)) == there


def test_every_variant_and_prompt_is_published(study: Study, tmp_path: Path) -> None:
    prompts = {"cb": [{"name": "own"}, {"name": "so", "prompt": "{premise} so {hypothesis}?"}]}
    asked = study.replaced(prompts=prompts, variants=[{"name": "few", "instruct": {"mask_rate": 0}}])
    storage = Storage(tmp_path / "runs")
    write_study(storage, asked)
    trials = expand(asked)
    for trial in trials:
        write_record(storage, {**trial.as_dict(), "score": 0.5, "metric": "accuracy", "spec": {}, "resolved": {}})
    assert publish("--storage", storage, "--to", tmp_path / "out", "--license", "cc-by-4.0")[0] == 0
    table = parquet.read_table(tmp_path / "out/dataset/data/results.parquet").to_pandas()
    assert set(table["trial_id"]) == {trial.trial_id for trial in trials}
    assert set(table["variant"]) == {"declared", "few"}
    assert set(table["prompt"].dropna()) == {"own", "so"}
    manifest = json.loads((tmp_path / "out/dataset/manifest.json").read_text())
    assert manifest["num_trials"] == manifest["num_planned"] == len(trials)


def test_what_calibration_changed_is_published_and_the_study_can_be_run_again(study: Study, tmp_path: Path) -> None:
    asked = study.replaced(sizes=[0, 4], zero_shot={"calibrate": True})
    storage = Storage(tmp_path / "runs")
    write_study(storage, asked)
    for trial in expand(asked):
        more = {} if trial.train_size else {"score_uncalibrated": 0.25}
        write_record(storage, make_record(trial, **more))
    assert publish("--storage", storage, "--to", tmp_path / "out", "--license", "cc-by-4.0")[0] == 0
    table = parquet.read_table(tmp_path / "out/dataset/data/results.parquet").to_pandas()
    assert table.loc[table["train_size"] == 0, "score_uncalibrated"].tolist() == [0.25] * 4
    again = load_study(str(tmp_path / "out/dataset/study.json"))
    assert [trial.trial_id for trial in expand(again)] == [trial.trial_id for trial in expand(asked)]


def test_the_manifest_names_every_file_and_the_study(published: Path, study: Study) -> None:
    files = contents(published / "dataset")
    manifest = json.loads(files.pop("manifest.json"))
    assert manifest["files"].keys() == files.keys()
    for name, data in files.items():
        assert manifest["files"][name] == {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    assert manifest["study_fingerprint"] == plan_fingerprint(trial.trial_id for trial in expand(study))
    assert (manifest["num_trials"], manifest["num_planned"]) == (24, 24)
    assert manifest["instructed_weights"] == {"base": "abc"}
    citation = yaml.safe_load(files["CITATION.cff"])
    assert citation["identifiers"][0]["value"] == manifest["study_fingerprint"]


def test_the_card_of_the_data_set_has_metadata_tables_and_deviations(published: Path) -> None:
    _, header, text = (published / "dataset/README.md").read_text().split("---\n", 2)
    metadata = yaml.safe_load(header)
    assert metadata["license"] == "cc-by-4.0"
    assert [config["data_files"] for config in metadata["configs"]] == [
        "data/results.parquet",
        "data/predictions/cb.parquet",
        "data/predictions/wic.parquet",
    ]
    # Prompted 0.6, instructed 0.75: 25% more at every size.
    assert "| base | 25.0 ± 0.0 | 25.0 ± 0.0 | 25.0 ± 0.0 |" in text
    assert "| base | instructed | 0.750 ± 0.000 | 0.750 ± 0.000 |" in text
    assert "* Training sizes: 4, 8; the paper has 2, 4, 8, 16, 32, 64, 128." in text
    assert "24 of 24 planned ones have a result" in text


def test_weights_go_with_a_card_and_scores_in_the_hubs_format(published: Path) -> None:
    from huggingface_hub import ModelCard, parse_eval_result_entries

    files = contents(published / "models/base")
    assert files.keys() == {
        "README.md",
        "config.json",
        "model.safetensors",
        "instruction_tuning.json",
        ".eval_results/cb.yaml",
        ".eval_results/wic.yaml",
    }
    assert files["model.safetensors"] == b"weights"
    assert ModelCard(files["README.md"].decode()).data.base_model == "FacebookAI/xlm-roberta-base"
    (entry,) = parse_eval_result_entries(yaml.safe_load(files[".eval_results/cb.yaml"]))
    assert (entry.dataset_id, entry.task_id, entry.value) == ("aps/super_glue", "cb", 0.75)
    assert entry.notes is not None
    assert "fine-tuning on 8 examples, mean of 2 seeds" in entry.notes


def test_hosts_and_folders_stay_here(published: Path, study: Study) -> None:
    for name, data in contents(published).items():
        assert b"secret-host" not in data, name
        assert str(published.parent).encode() not in data, name
    given = {"source": "folder", "folder": "s3://bucket/rows?secret_key=xyz"}
    model = {"name": "own", "folder": "/home/someone/model"}
    variant = {"name": "few", "instructions": {"folder": "/home/someone/few"}}
    shown = public_study(study.replaced(instructions=given, models=[model], variants=[variant]))
    assert shown["variants"][0]["instructions"]["folder"] == "few"
    assert shown["instructions"]["folder"] == "rows"
    assert shown["models"][0]["folder"] == "model"
    made = {"host": "secret-host", "recipe": {"mixture": {"bucket": "s3://id:xyz@bucket/rows?secret_key=xyz", "exclude": []}}}
    assert public_recipe(made) == {"recipe": {"mixture": {"bucket": "rows", "exclude": []}}}


def test_the_same_storage_gives_the_same_bytes_and_old_files_go(published: Path, storage: Storage, tmp_path: Path) -> None:
    first = contents(published)
    left_over = published / "dataset/data/predictions/gone.parquet"
    left_over.write_bytes(b"of an earlier study")
    own = published / "dataset/notes.txt"
    own.write_text("mine")
    assert publish("--storage", storage, "--to", published, "--weights", "--license", "cc-by-4.0")[0] == 0
    assert own.read_text() == "mine"
    own.unlink()
    assert contents(published) == first


@pytest.mark.parametrize(
    ("made", "said"),
    [
        ({"mine.txt": b"x"}, "holds something else"),
        ({}, "no trial has a result yet"),
    ],
)
def test_a_folder_of_others_and_a_storage_without_results_are_refused(
    made: dict[str, bytes], said: str, storage: Storage, study: Study, tmp_path: Path
) -> None:
    for name, data in made.items():
        (tmp_path / name).write_bytes(data)
    empty = Storage(tmp_path / "runs")
    write_study(empty, study)
    to = tmp_path if made else tmp_path / "out"
    status, output = publish("--storage", storage if made else empty, "--to", to)
    assert status == 2
    assert said in output
    assert not (tmp_path / "out").exists()


def test_without_yes_the_hub_is_shown_what_would_go_up_and_not_asked(hub: Hub, storage: Storage) -> None:
    status, output = publish("--storage", storage, "--to", "hub:lab/small", "--weights")
    assert status == 0
    lines = output.splitlines()
    assert lines[0] == "dataset lab/small (private)"
    assert "model lab/small-base (private)" in lines
    assert any(line.endswith("  data/results.parquet") for line in lines)
    assert lines[-1].startswith("Nothing was sent. --yes sends 1 data set and 1 model, ")
    assert hub.requests == []


def test_what_goes_up_is_private_and_what_the_folder_has(hub: Hub, storage: Storage, published: Path) -> None:
    old = Repository(True, {"data/predictions/gone.parquet": b"old", "notes.md": b"mine"})
    hub.repositories["dataset", "lab/small"] = old
    status, output = publish("--storage", storage, "--to", "hub:lab/small", "--weights", "--license", "cc-by-4.0", "--yes")
    assert status == 0, output
    assert f"Published: {hub.url}/datasets/lab/small" in output
    assert all(repository.private for repository in hub.repositories.values())
    assert hub.repositories.keys() == {("dataset", "lab/small"), ("model", "lab/small-base")}
    data, model = (hub.repositories[key].files for key in (("dataset", "lab/small"), ("model", "lab/small-base")))
    assert data.pop("notes.md") == b"mine"
    assert "data/predictions/gone.parquet" not in data
    folder = contents(published / "dataset")
    assert data.keys() == folder.keys()
    assert data["data/results.parquet"] == folder["data/results.parquet"]
    assert model["model.safetensors"] == b"weights"
    entry = yaml.safe_load(model[".eval_results/wic.yaml"])[0]
    assert entry["source"] == {"url": "https://huggingface.co/datasets/lab/small", "name": "Results of the study small"}
    for files in (data, model):
        assert not [name for name, content in files.items() if TOKEN.encode() in content]
    assert TOKEN not in output


@pytest.mark.parametrize(
    ("token", "there", "said"),
    [
        ("hf_wrong", None, "refuses the token (status 401); log in with `hf auth login`, or set HF_TOKEN"),
        (TOKEN, Repository(private=False), "lab/small is there and public; give --public, or another name"),
    ],
)
def test_a_wrong_token_and_a_public_repository_are_refused_before_anything_goes_up(
    token: str, there: Repository | None, said: str, hub: Hub, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    if there is not None:
        hub.repositories["dataset", "lab/small"] = there
    status, output = publish("--storage", storage, "--to", "hub:lab/small", "--yes")
    assert status == 2
    assert said in output.replace("\n", "")
    assert not [request for request in hub.requests if not request.startswith("GET")]
    assert token not in output


@pytest.mark.parametrize("name", ["hub:small", "hub:lab/sm all", "hub:"])
def test_a_name_that_the_hub_has_not_is_refused(name: str, storage: Storage) -> None:
    status, output = publish("--storage", storage, "--to", name)
    assert (status, "give hub:ORG/NAME" in output) == (2, True)


@pytest.mark.parametrize(("variable", "secret"), [("MY_API_KEY", "qwertyuiop"), ("", TOKEN), ("", "s3://me:pass@host/x")])
def test_a_file_that_would_hold_a_secret_is_refused(
    variable: str, secret: str, storage: Storage, study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if variable:
        monkeypatch.setenv(variable, secret)
    copy = Storage(tmp_path / "runs")
    write_study(copy, study.replaced(instructions={"source": "hub", "hub": secret}))
    for name in storage.names("records"):
        copy.write(f"records/{name}", storage.read(f"records/{name}"))
    status, output = publish("--storage", copy, "--to", tmp_path / "out")
    assert status == 2
    assert "would hold a token, key or password" in output
    assert secret not in output
    assert not os.path.lexists(tmp_path / "out")
