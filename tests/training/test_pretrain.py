"""Pre-training of a demo model: a folder that transformers loads, and the same bits after a kill at any step."""

from __future__ import annotations

import errno
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from builders import write_tokenizer
from warm_process import warm_context

from xlmr_sweep.data import demo
from xlmr_sweep.errors import StorageError, StudyError
from xlmr_sweep.modeling.export import weights_hash
from xlmr_sweep.storage import files as storage_module
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.study.identity import model_folder_name
from xlmr_sweep.study.spec import Study
from xlmr_sweep.training import pretrain

STUDY = Study.model_validate(
    {"name": "s", "models": [{"name": "m", "demo": "probe"}], "sizes": [8], "seeds": [0], "data": {"source": "demo"}}
)
WORDS = ["a", "cat", "dog", "sat", "ran", "here", "there", "now"]


def patch_demo(interval_s: float = 0.0, steps: int = 60) -> None:
    """Puts a model of some steps over eight words in the demo's place, with a checkpoint after every step."""
    recipe = demo.Pretraining(steps=steps, batch_size=8, learning_rate=3e-3, max_length=24)
    demo.DEMO_MODELS["probe"] = demo.DemoModel(layers=2, hidden=16, heads=2, ffn=32, pretrain=recipe, dropout=0.1)
    texts = [" ".join(WORDS[(i * k + k) % len(WORDS)] for k in range(3 + i % 9)) for i in range(100)]
    demo.pretraining_texts = lambda seed: texts
    demo.build_tokenizer = lambda seed, folder: write_tokenizer(folder, WORDS)
    pretrain.CHECKPOINT_INTERVAL_S = interval_s


@pytest.fixture(autouse=True)
def _probe(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for module, name in ((demo, "pretraining_texts"), (demo, "build_tokenizer"), (pretrain, "CHECKPOINT_INTERVAL_S")):
        monkeypatch.setattr(module, name, getattr(module, name))
    patch_demo(interval_s=1e9)
    yield
    del demo.DEMO_MODELS["probe"]


def hold_at(limit: int) -> None:
    """Has this process stand before a step, so that on no machine it ends before it is killed."""
    rows = pretrain.TextBatches.rows

    def held(batches: pretrain.TextBatches, step: int, indices: Sequence[int]) -> Any:
        while step == limit:
            time.sleep(1)
        return rows(batches, step, indices)

    pretrain.TextBatches.rows = held


def train(storage: Storage) -> dict[str, Any]:
    return pretrain.pretrain_demo_model(STUDY, "m", storage)


def test_writes_a_folder_that_transformers_loads_and_a_manifest(tmp_path: Path) -> None:
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    storage = Storage(tmp_path)
    manifest = train(storage)
    folder = tmp_path / "models" / model_folder_name(STUDY, STUDY.model("m"))
    assert json.loads((folder / "manifest.json").read_text()) == json.loads(json.dumps(manifest))
    model, info = AutoModelForMaskedLM.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"]
    assert len(AutoTokenizer.from_pretrained(folder)) == model.config.vocab_size
    assert weights_hash(folder) == manifest["weights"]
    assert manifest["steps"] == 60
    assert manifest["loss_curve"][-1][1] < manifest["loss_curve"][0][1] - 0.3
    assert manifest["tokens"] > manifest["masked_tokens"] >= 60 * 8
    assert storage.read_json(f"models/{folder.name}/progress.json")["done"] == 60
    assert not storage.exists(f"models/{folder.name}.partial")


def test_finished_model_is_not_trained_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    patch_demo(interval_s=1e9, steps=5)
    first = train(Storage(tmp_path))
    monkeypatch.setattr(pretrain, "Run", None)
    assert train(Storage(tmp_path)) == json.loads(json.dumps(first))


def test_two_runs_give_the_same_bits(tmp_path: Path) -> None:
    patch_demo(interval_s=1e9, steps=20)
    assert train(Storage(tmp_path / "a"))["weights"] == train(Storage(tmp_path / "b"))["weights"]


def test_only_demo_models_are_pre_trained(tmp_path: Path) -> None:
    study = STUDY.replaced(models=[{"name": "m", "hub": "FacebookAI/xlm-roberta-base"}])
    with pytest.raises(StudyError, match="only models with `demo`"):
        pretrain.pretrain_demo_model(study, "m", Storage(tmp_path))


@pytest.mark.parametrize("location", ["path", "fsspec"])
def test_a_full_disk_is_waited_for_at_every_write_and_changes_no_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, location: str
) -> None:
    patch_demo(interval_s=1e9, steps=15)
    straight, pauses = train(Storage(tmp_path / "straight")), []
    patch_demo(interval_s=0.0, steps=15)
    storage = FullNowAndThen(tmp_path / "runs" if location == "path" else f"local://{tmp_path}/runs", 1000)
    monkeypatch.setattr(storage_module, "time", SimpleNamespace(sleep=pauses.append, monotonic=time.monotonic))
    assert train(storage)["weights"] == straight["weights"]
    assert len(pauses) == len(storage.refused)
    kinds = {name.partition(".partial/")[2].partition("-")[0] or "whole" for name in storage.refused}
    assert {"step", "latest.json", "whole"} <= kinds, "checkpoints, what names them, and the model itself"
    assert storage.folders("models") == [model_folder_name(STUDY, STUDY.model("m"))]


def test_a_disk_that_stays_full_ends_pre_training_with_one_line(tmp_path: Path) -> None:
    patch_demo(interval_s=0.0)
    storage = FullForEver(tmp_path / "runs", 0.1)
    with pytest.raises(StorageError, match=r"step-1: .*No space left on device.*; tried for 0\.1 s") as caught:
        train(storage)
    assert "\n" not in str(caught.value)


class FullNowAndThen(Storage):
    """Has no room the first time that a file or folder is written."""

    def __init__(self, location: Path | str, patience_s: float) -> None:
        super().__init__(location, patience_s)
        self.refused: list[str] = []

    def _must_refuse(self, name: str) -> bool:
        return name not in self.refused

    def _check_room(self, name: str) -> None:
        # The progress file tells how far a run is. It is written without patience.
        if self._must_refuse(name) and not name.endswith("progress.json"):
            self.refused.append(name)
            raise OSError(errno.ENOSPC, "No space left on device", name)

    def write_once(self, name: str, data: bytes) -> None:
        self._check_room(name)
        super().write_once(name, data)

    def upload_once(self, folder: Path, name: str, beside: bool) -> None:
        self._check_room(name)
        super().upload_once(folder, name, beside)


class FullForEver(FullNowAndThen):
    """Never has room."""

    def _must_refuse(self, name: str) -> bool:
        return True


def train_and_stand(location: str, limit: int) -> None:
    patch_demo(steps=20)
    hold_at(limit)
    train(Storage(location))


@pytest.mark.slow
def test_killed_at_several_steps_ends_with_the_same_bits(tmp_path: Path) -> None:
    patch_demo(interval_s=1e9, steps=20)
    straight = train(Storage(tmp_path / "straight"))
    storage = Storage(tmp_path / "killed")
    latest = f"models/{model_folder_name(STUDY, STUDY.model('m'))}.partial/latest.json"
    seen = []
    for stop in (3, 12):
        # Killed while it makes the next steps, or at the latest where it stands.
        process = warm_context().Process(target=train_and_stand, args=(storage.uri, stop + 4))
        process.start()
        while process.exitcode is None:
            state = storage.read_json(latest)
            if state and int(state["folder"].removeprefix("step-")) >= stop:
                process.kill()
                process.join()
                seen.append(storage.read_json(latest)["folder"])
            time.sleep(0.002)
    assert len(set(seen)) == 2, "a run ended before it was killed"
    manifest = train(storage)
    assert manifest["weights"] == straight["weights"]
    assert manifest["loss_curve"] == straight["loss_curve"]
    assert manifest["tokens"] == straight["tokens"]
