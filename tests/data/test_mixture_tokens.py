"""Instruction data in tokens: once for equal tokenizers, and from the prepared texts for others."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from builders import make_encoder
from instruction_files import WORDS, lines, rows, study_of

from xlmr_sweep.data import instruction_source, mixture, mixture_tokens, mixture_writer
from xlmr_sweep.data.chat_encoder import tokens_key
from xlmr_sweep.data.mixture import prepare_mixture
from xlmr_sweep.data.mixture_tokens import prepare_tokens
from xlmr_sweep.data.part_work import PartDone, PartWork, run_here
from xlmr_sweep.data.row_files import Segment
from xlmr_sweep.errors import StudyError
from xlmr_sweep.modeling.loading import load_tokenizer
from xlmr_sweep.modeling.source import ModelSource
from xlmr_sweep.storage.files import Storage


def test_equal_tokenizers_are_used_once_and_others_from_the_prepared_texts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_encoder(tmp_path / "model", words=WORDS)
    monkeypatch.setattr(instruction_source, "PART_BYTES", (700, 700))
    monkeypatch.setattr(mixture_writer, "SHARD_ROWS", 40)
    monkeypatch.setattr(mixture, "HERE_BYTES", 0)
    monkeypatch.setattr(mixture_tokens, "PART_ROWS", 7)
    (tmp_path / "rows.jsonl").write_bytes(lines(rows()))
    make_encoder(tmp_path / "same", words=WORDS, seed=1)
    make_encoder(tmp_path / "other", words=WORDS[::-1])
    more = [{"name": name, "folder": tmp_path / name} for name in ("same", "other")]
    study, storage = study_of(model, tmp_path / "rows.jsonl", more), Storage(tmp_path / "runs")
    manifest = prepare_mixture(study, storage)
    used: list[PartWork] = []

    def noted(work: PartWork, segments: Sequence[Segment]) -> Iterator[PartDone]:
        used.append(work)
        yield from run_here(work, segments)

    monkeypatch.setattr(mixture_tokens, "run_here", noted)
    prepare_tokens(study, storage)
    assert len(used) == 1
    keys = {tokens_key(load_tokenizer(ModelSource("x", str(folder))), 16) for folder in (model, *(m["folder"] for m in more))}
    assert len(keys) == 2
    assert {path.parent.name for path in (tmp_path / "runs").glob("data/*/tokens/*/manifest.json")} == keys
    index = [json.loads(path.read_text()) for path in (tmp_path / "runs").glob("data/*/tokens/*/manifest.json")]
    assert [one["num_rows"] for one in index] == [manifest["num_rows"]] * 2
    assert {one["dtype"] for one in index} == {"uint16"}
    prepare_tokens(study, storage)
    assert len(used) == 1


def test_tokens_of_another_preparation_are_not_touched_and_deleted_ones_come_back_with_their_bytes(tmp_path: Path) -> None:
    model = make_encoder(tmp_path / "model", words=WORDS)
    stores = []
    for seed in (0, 1):
        (tmp_path / f"{seed}.jsonl").write_bytes(lines(rows(seed=seed)))
        study, storage = study_of(model, tmp_path / f"{seed}.jsonl"), Storage(tmp_path / f"runs-{seed}")
        stores.append((study, storage, tmp_path / f"runs-{seed}" / prepare_mixture(study, storage)["tokens"]))
    (study, storage, ours), (_, _, theirs) = stores
    before = {path.name: path.read_bytes() for path in ours.iterdir()}
    shutil.rmtree(ours)
    shutil.copytree(theirs, ours)
    copied = {path.name: path.read_bytes() for path in ours.iterdir()}
    for prepare in (prepare_mixture, prepare_tokens):
        with pytest.raises(StudyError, match=r"another preparation of the instruction data, .*; delete data/\S+ to make it anew"):
            prepare(study, storage)
    assert {path.name: path.read_bytes() for path in ours.iterdir()} == copied
    shutil.rmtree(ours)
    prepare_mixture(study, storage)
    prepare_tokens(study, storage)
    assert {path.name: path.read_bytes() for path in ours.iterdir()} == before
    # Without its index a folder is not whole, and the next call makes what it lacks.
    for name in ("manifest.json", "ids-00000.bin"):
        (ours / name).unlink()
    prepare_tokens(study, storage)
    assert {path.name: path.read_bytes() for path in ours.iterdir()} == before
