"""Instruction rows in a folder and in a bucket: the same files are read, the same are left out and named, all are counted."""

from __future__ import annotations

import json
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from builders import make_encoder
from instruction_files import WORDS, lines, rows, study_of
from pyarrow import fs
from rich.console import Console

from xlmr_sweep.commands.preparation import prepare_instructions
from xlmr_sweep.commands.progress import ProgressDisplay
from xlmr_sweep.data.instruction_source import InstructionSource, bucket_files
from xlmr_sweep.data.mixture import prepare_mixture
from xlmr_sweep.data.mixture_rows import open_mixture
from xlmr_sweep.errors import StudyError
from xlmr_sweep.storage.artifacts import manifest_of, mixture_folder
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.study.spec import Study


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_encoder(tmp_path_factory.mktemp("model"), words=WORDS)


@pytest.fixture(scope="module")
def server() -> Iterator[Any]:
    pytest.importorskip("moto.server", reason="needs the test extra: pip install -e '.[test]'")
    from s3_server import s3_server

    with s3_server() as running:
        yield running


@pytest.mark.parametrize("is_bucket", [False, True])
def test_what_is_left_out_is_named_and_counted(model: Path, tmp_path: Path, is_bucket: bool) -> None:
    folder, said = tmp_path / "rows", StringIO()
    folder.mkdir()
    for number, name in enumerate(("a.jsonl", "wic.jsonl", "b.jsonl", ".h.jsonl", "c.json", "d.parquet", "README.md")):
        (folder / name).write_bytes(lines(rows(10, seed=number)))
    (folder / "e.jsonl").mkdir()
    place = folder.as_uri() if is_bucket else str(folder)
    study = study_of(model, folder.as_uri() if is_bucket else folder, exclude=["wic*"], max_target_tokens=9)
    storage, display = Storage(tmp_path / "runs"), ProgressDisplay(Console(file=said, width=40))
    prepare_instructions(study, ["m"], storage, display)
    first, second, *_ = said.getvalue().splitlines()
    assert first == f"instructions.folder: {place}: 1 hidden file is left out: .h.jsonl"
    assert second == f"instructions.folder: {place}: 3 files of another kind are left out: c.json, d.parquet, e.jsonl"
    manifest = storage.read_json(manifest_of(mixture_folder(study)))
    assert (manifest["hidden"], manifest["excluded"]) == ([".h.jsonl"], ["wic.jsonl"])
    assert (manifest["counts"]["read"], manifest["counts"]["after exclude"]) == (30, 20)
    kept = [(row["inputs"], row["targets"]) for seed in (0, 2) for row in rows(10, seed=seed)]
    assert list(open_mixture(study, storage)) == kept


def test_hidden_files_of_the_hub_are_left_out_unless_one_is_named_itself(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("en/.a.jsonl", "en/b.jsonl", ".gitattributes")

    class Hub:
        def dataset_info(self, name: str, **asked: object) -> Any:
            listing = [type("File", (), {"rfilename": name, "size": 7}) for name in names]
            return type("Info", (), {"sha": "abc", "siblings": listing})

    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)

    def source_of(files: str) -> InstructionSource:
        study = study_of(model, model).model_dump(mode="json")
        return InstructionSource(Study.model_validate(study | {"instructions": {"source": "hub", "hub": "x/y", "files": files}}))

    every = source_of("*")
    assert [file.label for file in every.files] == ["en/b.jsonl"]
    assert every.notes == ["instructions.hub: x/y: 2 hidden files are left out: .gitattributes, en/.a.jsonl"]
    assert [file.label for file in source_of("en/.a.jsonl").files] == ["en/.a.jsonl"]


def test_a_bucket_reached_by_a_uri_with_a_query_is_read_whatever_its_keys_are(
    server: Any, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = fs.S3FileSystem(endpoint_override=f"127.0.0.1:{server.own_port}", scheme="http", region="us-east-1")
    odd = "b ?#%20é&=.jsonl"
    for number, key in enumerate(("a.jsonl", odd, ".h.jsonl", "c.json", "deep.jsonl/part.jsonl")):
        with own.open_output_stream(f"bucket/odd/{key}") as file:
            file.write(lines(rows(10, seed=number)))
    # Neither a folder's own key nor folders whose names begin alike are its files.
    for key in ("odd2/x.jsonl", "odd.jsonl", "od/x.jsonl"):
        with own.open_output_stream(f"bucket/{key}") as file:
            file.write(lines(rows(3)))
    uri = server.uri("odd/").replace("s3://", "s3://testing:testing@")
    study, storage = study_of(model, uri, max_target_tokens=9), Storage(tmp_path / "runs")
    said: list[str] = []
    manifest = prepare_mixture(study, storage, say=said.append)
    kept = [(row["inputs"], row["targets"]) for seed in (0, 1) for row in rows(10, seed=seed)]
    assert list(open_mixture(study, storage)) == kept
    assert said == [
        "instructions.folder: s3://***@bucket/odd: 1 hidden file is left out: .h.jsonl",
        "instructions.folder: s3://***@bucket/odd: 2 files of another kind are left out: c.json, deep.jsonl",
    ]
    sizes = {name: len(lines(rows(10, seed=seed))) for name, seed in (("a.jsonl", 0), (odd, 1))}
    assert manifest["resolved"]["files"] == {f"s3://***@bucket/odd/{name}": size for name, size in sizes.items()}
    assert "testing:testing" not in json.dumps({key: value for key, value in manifest.items() if key != "identity"})


@pytest.mark.parametrize(
    ("path", "said"),
    [("nothing/here", "holds no file of instruction rows"), ("one.jsonl", "is a file; give the URI of its folder")],
)
def test_a_uri_that_is_no_folder_of_rows_is_one_line(server: Any, path: str, said: str) -> None:
    own = fs.S3FileSystem(endpoint_override=f"127.0.0.1:{server.own_port}", scheme="http", region="us-east-1")
    with own.open_output_stream("bucket/one.jsonl") as file:
        file.write(b"{}\n")
    with pytest.raises(StudyError, match=rf"instructions\.folder: s3://bucket/{path} {said}") as error:
        bucket_files(server.uri(path))
    assert "\n" not in str(error.value)
