"""The instruction data: counts of every step, errors that name the line, and rows by number."""

from __future__ import annotations

import gzip
import hashlib
import json
import sys
from collections.abc import Iterable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from builders import dropping_tokenizer, make_encoder
from pyarrow import parquet
from rich.console import Console

from xlmr_sweep.commands.preparation import prepare_instructions
from xlmr_sweep.commands.progress import ProgressDisplay
from xlmr_sweep.data import instruction_source, mixture, mixture_writer
from xlmr_sweep.data.mixture import prepare_mixture
from xlmr_sweep.data.mixture_rows import open_mixture
from xlmr_sweep.errors import StudyError
from xlmr_sweep.storage.artifacts import instruct_folder, manifest_of, mixture_folder
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.storage.lineage import read_sources
from xlmr_sweep.study.identity import mixture_name
from xlmr_sweep.study.spec import Study

WORDS = ["User", ":", "Assistant", "is", "the", "sky", "blue", "?", "yes", "no", "it", "very", "dark", "green", "today"]

Pair = tuple[str, str]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    make_encoder(folder, words=WORDS)
    return folder


def study_of(model: Path, folder: Path | None, **instructions: Any) -> Study:
    source = {"source": "folder", "folder": folder} if folder else {}
    return Study.model_validate(
        {
            "name": "s",
            "models": [{"name": "m", "folder": model}],
            "sizes": [8],
            "seeds": [0],
            "instructions": source | instructions,
        }
    )


def jsonl(path: Path, rows: Iterable[Pair]) -> Path:
    text = "".join(json.dumps({"inputs": inputs, "targets": targets, "other": 1}) + "\n" for inputs, targets in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


ROWS = [
    ("is the sky blue ?", "yes"),
    ("is the sky green ?", "no"),
    ("is it dark ?", "it is very dark"),  # Four tokens.
    ("is it blue ?", "very very blue"),  # Three.
    ("", "yes"),
    ("is it green ?", " "),
    ("is it today ?", "no"),
]


def test_counts_histogram_and_rows(model: Path, tmp_path: Path) -> None:
    study = study_of(model, jsonl(tmp_path / "rows.jsonl", ROWS))
    storage = Storage(tmp_path / "runs")
    manifest = prepare_mixture(study, storage)
    assert manifest["counts"] == {"read": 7, "after exclude": 7, "after empty": 5, "after target filter": 4}
    assert manifest["num_rows"] == 4
    # <s> User : {5, 5, 4, 4 tokens} Assistant : {1, 1, 3, 1} </s>
    assert manifest["num_tokens"] == 4 * 6 + 18 + 6
    edges, counts = manifest["length_histogram"]["edges"], manifest["length_histogram"]["counts"]
    assert edges[:5] == [0, 4, 8, 12, 16]
    # 11 tokens, and 12, 12 and 13.
    assert counts == [0, 0, 1, 3] + [0] * (len(edges) - 5)
    assert manifest["top_targets"] == [["no", 2], ["yes", 1], ["very very blue", 1]]
    rows = open_mixture(study, storage)
    assert list(rows) == [ROWS[0], ROWS[1], ROWS[3], ROWS[6]]
    with pytest.raises(IndexError):
        rows[4]
    (shard,) = manifest["shards"]
    table = parquet.read_table(storage.local / "data" / manifest["name"] / shard)
    assert table.column_names == ["inputs", "targets"]


def test_the_fingerprint_is_that_of_all_texts_each_after_its_length(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A part for every row or two.
    monkeypatch.setattr(instruction_source, "PART_BYTES", (64, 64))
    rows = [
        ("is the sky blue ?", "yes"),
        ("is it \u00fcber dark ? \U0001f600", "no"),
        ("today " * 60, "very very blue"),
        ("it", "yes"),
    ]
    manifest = prepare_mixture(study_of(model, jsonl(tmp_path / "rows.jsonl", rows)), Storage(tmp_path / "runs"))
    expected = hashlib.sha256()
    for row in rows:
        for text in row:
            expected.update(len(text.encode()).to_bytes(8, "little") + text.encode())
    assert manifest["num_rows"] == 4
    assert manifest["fingerprint"] == expected.hexdigest()[:32]


def test_a_text_that_the_tokenizer_drops_whole_is_empty(tmp_path: Path) -> None:
    folder = make_encoder(tmp_path / "model", words=WORDS)
    content = json.loads((folder / "tokenizer.json").read_text())
    normalizer = {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "lowercase": True}
    content["normalizer"] = {**normalizer, "strip_accents": None}
    (folder / "tokenizer.json").write_text(json.dumps(content))
    invisible = "\u200b\u200b"
    rows = [("is it blue ?", "yes"), ("is it dark ?", invisible), (invisible, "no"), ("is it green ?", "it is very dark")]
    study = study_of(folder, jsonl(tmp_path / "rows.jsonl", rows))
    manifest = prepare_mixture(study, Storage(tmp_path / "runs"))
    assert manifest["counts"] == {"read": 4, "after exclude": 4, "after empty": 2, "after target filter": 1}
    assert list(open_mixture(study, Storage(tmp_path / "runs"))) == [rows[0]]


def test_a_text_of_which_a_mark_of_the_space_is_left_is_empty(tmp_path: Path) -> None:
    folder = make_encoder(tmp_path / "model", words=WORDS)
    dropping_tokenizer().save_pretrained(folder)
    rows = [("the yes", "no"), ("the yes", "\u65e5\u672c"), ("\u65e5 \u672c", "no"), ("the", "yes yes yes yes")]
    study = study_of(folder, jsonl(tmp_path / "rows.jsonl", rows))
    manifest = prepare_mixture(study, Storage(tmp_path / "runs"))
    assert manifest["counts"] == {"read": 4, "after exclude": 4, "after empty": 2, "after target filter": 1}
    assert list(open_mixture(study, Storage(tmp_path / "runs"))) == [rows[0]]


def test_second_call_reads_nothing(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = study_of(model, jsonl(tmp_path / "rows.jsonl", ROWS))
    first = prepare_mixture(study, Storage(tmp_path / "runs"))
    monkeypatch.setattr(mixture, "InstructionSource", None)
    assert prepare_mixture(study, Storage(tmp_path / "runs")) == first


def test_gzip_and_folder_give_the_same_rows_as_one_file(model: Path, tmp_path: Path) -> None:
    one = prepare_mixture(study_of(model, jsonl(tmp_path / "rows.jsonl", ROWS)), Storage(tmp_path / "one"))
    folder = tmp_path / "folder"
    folder.mkdir()
    jsonl(folder / "a.jsonl.gz", ROWS[:3])
    jsonl(folder / "b.jsonl", ROWS[3:])
    (folder / "README.md").write_text("not rows")
    two = prepare_mixture(study_of(model, folder), Storage(tmp_path / "two"))
    assert two["fingerprint"] == one["fingerprint"]
    assert two["counts"] == one["counts"]
    jsonl(folder / "b.jsonl", [("is it very green ?", "no")])
    assert prepare_mixture(study_of(model, folder), Storage(tmp_path / "two"))["fingerprint"] != one["fingerprint"]


def test_many_shards_are_mapped_and_keep_their_order(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mixture_writer, "SHARD_ROWS", 10)
    monkeypatch.setattr(instruction_source, "PART_BYTES", (500, 500))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    pairs = [(f"is it {'very ' * index} dark ?", "no") for index in range(45)]
    study = study_of(model, jsonl(tmp_path / "rows.jsonl", pairs))
    manifest = prepare_mixture(study, Storage(tmp_path / "runs"))
    assert len(manifest["shards"]) == 5
    assert list(open_mixture(study, Storage(tmp_path / "runs"))) == pairs
    assert len(list((tmp_path / "cache").rglob("*.arrow"))) == 5
    assert not list((tmp_path / "cache").rglob("*.tmp"))
    assert open_mixture(study, Storage(tmp_path / "runs"))[44] == pairs[44]


def test_exclude_leaves_files_out_and_counts_them(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    jsonl(folder / "super_glue_wic.jsonl", ROWS[:3])
    jsonl(folder / "other.jsonl", ROWS[3:])
    manifest = prepare_mixture(study_of(model, folder, exclude=["*wic*"]), Storage(tmp_path / "runs"))
    assert manifest["counts"]["read"] == 7
    assert manifest["counts"]["after exclude"] == 4
    assert manifest["excluded"] == ["super_glue_wic.jsonl"]
    with pytest.raises(StudyError, match=r"instructions.exclude: leaves none of 2 files"):
        prepare_mixture(study_of(model, folder, exclude=["*"]), Storage(tmp_path / "runs"))


def test_max_rows_and_longer_targets(model: Path, tmp_path: Path) -> None:
    path = jsonl(tmp_path / "rows.jsonl", ROWS)
    manifest = prepare_mixture(study_of(model, path, max_rows=3, max_target_tokens=4), Storage(tmp_path / "runs"))
    assert manifest["counts"] == {"read": 3, "after exclude": 3, "after empty": 3, "after target filter": 3}


def test_long_rows_count_in_the_last_bucket(model: Path, tmp_path: Path) -> None:
    path = jsonl(tmp_path / "rows.jsonl", [("very " * 2000, "yes")])
    manifest = prepare_mixture(study_of(model, path), Storage(tmp_path / "runs"))
    assert manifest["length_histogram"]["counts"][-1] == 1
    assert manifest["num_tokens"] == 512


def test_progress_is_shown(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Shown:
        calls: list[tuple[float, float | None]] = []  # noqa: RUF012

        def update(self, done: float, total: float | None = None, note: str = "") -> None:
            self.calls.append((done, total))

    monkeypatch.setattr(instruction_source, "PART_BYTES", (200, 200))
    prepare_mixture(study_of(model, jsonl(tmp_path / "rows.jsonl", ROWS)), Storage(tmp_path / "runs"), Shown())
    assert [done for done, _ in Shown.calls] == [4, 7, 7, 7]
    # How many there are is told by the bytes of those read so far.
    assert Shown.calls[0][1] == 8
    assert Shown.calls[-1] == (7, 7)


GOOD = '{"inputs": "is it blue ?", "targets": "no"}\n'


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (GOOD + "{not json\n", r"rows.jsonl: line 2: not JSON"),
        (GOOD + '["a"]\n', r"rows.jsonl: line 2: not a JSON object"),
        (GOOD * 2 + '{"inputs": "a"}\n', r"rows.jsonl: line 3: lacks the field 'targets'"),
        (GOOD + '{"inputs": 3, "targets": "a"}\n', r"rows.jsonl: line 2: field 'inputs' is int, not text"),
        ("", r"rows.jsonl: is empty"),
        ("\n\n", r"rows.jsonl: is empty"),
        ('{"inputs": "a", "targets": "very very very dark"}\n', r"no row of 1 is left with a target of at most 3 tokens"),
    ],
)
def test_bad_files_give_one_line_that_names_the_place(model: Path, tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(text)
    with pytest.raises(StudyError, match=problem) as caught:
        prepare_mixture(study_of(model, path), Storage(tmp_path / "runs"))
    assert "\n" not in str(caught.value)
    assert not Storage(tmp_path / "runs").exists("data") or not list((tmp_path / "runs").rglob("manifest.json"))


def test_a_bad_line_after_whole_shards_leaves_nothing(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mixture_writer, "SHARD_ROWS", 2)
    monkeypatch.setattr(instruction_source, "PART_BYTES", (100, 100))
    path = tmp_path / "rows.jsonl"
    path.write_text(GOOD * 6 + "{not json\n")
    with pytest.raises(StudyError, match="line 7: not JSON"):
        prepare_mixture(study_of(model, path), Storage(tmp_path / "runs"))
    assert not [found for found in (tmp_path / "runs").rglob("*") if found.is_file()]
    path.write_text(GOOD * 6)
    assert len(prepare_mixture(study_of(model, path), Storage(tmp_path / "runs"))["shards"]) == 3


def test_damaged_gzip_names_the_line(model: Path, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(gzip.compress((GOOD * 5000).encode())[:-20])
    with pytest.raises(StudyError, match=r"rows.jsonl.gz: line \d+: cannot be read"):
        prepare_mixture(study_of(model, path), Storage(tmp_path / "runs"))


def test_missing_sources_are_named(model: Path, tmp_path: Path) -> None:
    (tmp_path / "hollow").mkdir()
    (tmp_path / "hollow" / "a.txt").write_text("x")
    with pytest.raises(StudyError, match=r"instructions.folder: .*hollow holds no \*.jsonl"):
        prepare_mixture(study_of(model, tmp_path / "hollow"), Storage(tmp_path / "runs"))
    with pytest.raises(StudyError, match=r"instructions.folder: .*nowhere does not exist"):
        prepare_mixture(study_of(model, tmp_path / "nowhere"), Storage(tmp_path / "runs"))
    with pytest.raises(StudyError, match=r"not prepared"):
        open_mixture(study_of(model, jsonl(tmp_path / "r.jsonl", ROWS)), Storage(tmp_path / "runs"))


def test_hub_files_are_streamed_at_a_commit(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With local files behind the hub's listing: names, exclusion and rows go the way of a real hub study."""
    jsonl(tmp_path / "en_a.jsonl", ROWS[:4])
    jsonl(tmp_path / "en_wic.jsonl", ROWS[4:])
    files = {f"en/{path.name}": str(path) for path in sorted(tmp_path.glob("*.jsonl"))}
    monkeypatch.setattr(
        instruction_source, "hub_files", lambda spec: (files, {"commit": "c0ffee", "files": list(files)}, dict.fromkeys(files))
    )
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    study = study_of(model, None, source="hub", files="en/*.jsonl", exclude=["*wic*"])
    manifest = prepare_mixture(study, Storage(tmp_path / "runs"))
    assert manifest["resolved"]["commit"] == "c0ffee"
    assert manifest["excluded"] == ["en/en_wic.jsonl"]
    assert list(open_mixture(study, Storage(tmp_path / "runs"))) == [ROWS[0], ROWS[1], ROWS[3]]


def test_hub_files_match_the_glob_and_errors_name_the_field(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    class Listing:
        sha = "abc"
        names = ("en/merged_en.jsonl", "en/x.jsonl", "xp3.py")
        siblings = [type("File", (), {"rfilename": name, "size": 7}) for name in names]  # noqa: RUF012

    class Hub:
        def dataset_info(self, name: str, revision: str, files_metadata: bool) -> Any:
            assert files_metadata
            if name == "gone":
                raise OSError("no route")
            return Listing

    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    spec = study_of(Path(), None).instructions
    assert instruction_source.hub_files(spec)[0] == {"en/merged_en.jsonl": "hf://datasets/bigscience/xP3@abc/en/merged_en.jsonl"}
    assert instruction_source.hub_files(spec)[2] == {"en/merged_en.jsonl": 7}
    with pytest.raises(StudyError, match=r"instructions.files: .* has no file de/\*"):
        instruction_source.hub_files(spec.model_copy(update={"files": "de/*"}))
    with pytest.raises(StudyError, match=r"instructions.hub: gone@main cannot be read: no route"):
        instruction_source.hub_files(spec.model_copy(update={"hub": "gone"}))


def test_importing_loads_neither_torch_nor_ray() -> None:
    import subprocess

    imports = "import sys, xlmr_sweep.data.mixture, xlmr_sweep.data.mixture_rows"
    code = f"{imports}; assert not {{'torch', 'ray', 'transformers'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_hidden_files_are_neither_read_nor_part_of_the_identity(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "rows"
    folder.mkdir()
    jsonl(folder / "x.jsonl", ROWS[:2])
    study = study_of(model, folder)
    before = mixture_name(study)
    jsonl(folder / ".more.jsonl", [("is it very green ?", "no")])
    # As a Mac leaves it beside a file on a foreign disk.
    (folder / "._x.jsonl").write_bytes(b"\x00\x05\x16\x07")
    assert mixture_name(study) == before
    manifest = prepare_mixture(study, Storage(tmp_path / "runs"))
    assert manifest["counts"]["read"] == 2
    assert manifest["hidden"] == ["._x.jsonl", ".more.jsonl"]


def test_instruction_data_of_earlier_versions_are_not_trusted_beside_hidden_files(model: Path, tmp_path: Path) -> None:
    folder, said = tmp_path / "rows", StringIO()
    folder.mkdir()
    jsonl(folder / "x.jsonl", ROWS[:2])
    study, storage, display = study_of(model, folder), Storage(tmp_path / "runs"), ProgressDisplay(Console(file=said, width=300))
    name, weights = manifest_of(mixture_folder(study)), manifest_of(instruct_folder(study, study.models[0]))
    old = {key: value for key, value in prepare_mixture(study, storage).items() if key != "hidden"}
    storage.write_json(name, {**old, "fingerprint": "with the hidden rows"})
    tokens = manifest_of(old["tokens"])
    # Nor did an earlier version's tokens name their rows.
    storage.write_json(tokens, {key: value for key, value in storage.read_json(tokens).items() if key != "mixture"})
    storage.write_json(weights, {"weights": "w", "data": "with the hidden rows"})
    # Without hidden files there is nothing that they could have held.
    assert read_sources(storage, study).outdated == {}
    prepare_instructions(study, [study.models[0].name], storage, display)
    assert said.getvalue() == ""
    jsonl(folder / ".more.jsonl", [("is it very green ?", "no")])
    reason = "an earlier version may have read the hidden file .more.jsonl"
    assert read_sources(storage, study).outdated == {"m": reason}
    prepare_instructions(study, [study.models[0].name], storage, display)
    assert f"Making {mixture_folder(study)} anew: {reason}" in said.getvalue()
    assert f"instructions.folder: {folder}: 1 hidden file is left out: .more.jsonl" in said.getvalue()
    assert storage.read_json(name)["counts"]["read"] == 2
    assert "with the hidden rows" in read_sources(storage, study).outdated["m"]


def test_a_bad_row_is_the_error_also_where_what_is_done_cannot_be_removed(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "rows"
    folder.mkdir()
    (folder / "x.jsonl").write_text("no JSON\n")

    def refuse(self: Storage, name: str) -> None:
        if Path(self.path(name)).exists():
            raise OSError("another process still writes there")

    monkeypatch.setattr(Storage, "delete", refuse)
    with pytest.raises(StudyError, match=r"x\.jsonl"):
        prepare_mixture(study_of(model, folder), Storage(tmp_path / "runs"))
