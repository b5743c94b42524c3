"""Arithmetic of memory: against the meta device at the real sizes, what autograd keeps, and what a real trial takes."""

from __future__ import annotations

import gc
import json
import mmap
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import WORDS, make_encoder
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoConfig, AutoModelForMaskedLM

from xlmr_sweep.commands.memory_forecast import memory_of_models
from xlmr_sweep.data.examples import prepare_task
from xlmr_sweep.modeling import attention, memory
from xlmr_sweep.modeling.architecture import KNOWN, Architecture
from xlmr_sweep.modeling.compact import CompactVocabulary, build_compact
from xlmr_sweep.modeling.encoder import MaskedLMEncoder
from xlmr_sweep.modeling.fsdp import World
from xlmr_sweep.modeling.memory import (
    GPU_BYTES,
    GPU_RESERVE,
    HEAP_SHARE,
    PROCESS_BYTES,
    compacted,
    evaluation_bytes,
    gpus_needed,
    process_bytes,
    token_bytes,
    trial_memory,
)
from xlmr_sweep.modeling.sequences import Sequences
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.study.plan import expand
from xlmr_sweep.study.reading import load_study
from xlmr_sweep.training.finetune import finetune
from xlmr_sweep.training.peak_memory import reset_peak_memory
from xlmr_sweep.training.warm_state import WarmState

PAPER = load_study("paper")
XL, XXL = (KNOWN[f"facebook/xlm-roberta-{size}"] for size in ("xl", "xxl"))
MINI = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}


def kind_of(hub: str) -> str:
    return "xlm-roberta-xl" if "xl" in hub.rsplit("-", 1)[1] else "xlm-roberta"


@pytest.mark.parametrize("hub", list(KNOWN))
def test_compacted_parameters_equal_the_built_model(hub: str) -> None:
    shape = KNOWN[hub]
    kind = kind_of(hub)
    config = AutoConfig.for_model(
        kind,
        hidden_size=shape.hidden,
        num_hidden_layers=shape.num_layers,
        intermediate_size=shape.ffn,
        num_attention_heads=shape.num_heads,
        vocab_size=shape.vocabulary,
        max_position_embeddings=514,
        type_vocab_size=1,
        pad_token_id=1,
    )
    kept = CompactVocabulary.of(range(10_000), [])
    with torch.device("meta"):
        model = build_compact(config, kept)
    assert sum(p.numel() for p in model.parameters()) == compacted(shape, 10_000).num_parameters
    assert compacted(shape, 10**6) == shape


def test_xl_fits_one_gpu_and_xxl_four() -> None:
    small = {name: compacted(shape, 32_768) for name, shape in (("xl", XL), ("xxl", XXL))}
    assert gpus_needed(small["xl"], PAPER.finetune, "bf16") == 1
    assert gpus_needed(small["xxl"], PAPER.finetune, "bf16") == 4
    # With its whole vocabulary XL does not.
    assert gpus_needed(XL, PAPER.finetune, "bf16") == 2
    one = trial_memory(small["xl"], PAPER.finetune, precision="bf16")
    assert one.states == 16 * small["xl"].num_parameters
    assert 60e9 < one.total < GPU_BYTES - GPU_RESERVE


@contextmanager
def kept_bytes(model: torch.nn.Module) -> Iterator[list[int]]:
    """Counts what autograd keeps for the backward pass, each storage once, the model's own weights not at all."""
    own = {p.untyped_storage()._cdata for p in model.parameters()}
    seen: dict[int, Any] = {}
    total = [0]

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own and storage._cdata not in seen:
            seen[storage._cdata] = storage
            total[0] += storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield total


def encoder(dropout: float, kind: str = "xlm-roberta", **shape: Any) -> MaskedLMEncoder:
    rates = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    config = AutoConfig.for_model(kind, vocab_size=300, pad_token_id=1, type_vocab_size=1, **shape, **rates)
    return MaskedLMEncoder(AutoModelForMaskedLM.from_config(config)).train()


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_kept_tensors_on_a_cpu_are_as_computed(dropout: float) -> None:
    model = encoder(dropout, **MINI)
    tokens = Sequences(torch.randint(5, 300, (8 * 40,)), (40,) * 8)
    with kept_bytes(model) as total:
        model.hidden(tokens)
    shape = Architecture(6, 384, 1536, 300, heads=12)
    expected = 6 * 320 * token_bytes(shape, "fp32", 40, on_gpu=False, dropout=dropout > 0) + 12 * 6 * 384**2
    assert total[0] == pytest.approx(expected, rel=0.05)


def test_kept_tensors_of_a_gpus_bf16_are_as_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same layers under autocast with the fused attention, on a CPU."""
    monkeypatch.setattr(attention, "attend", attention.attend_padded)
    model = encoder(0.0, **MINI | {"num_hidden_layers": 3})
    tokens = Sequences(torch.randint(5, 300, (8 * 64,)), (64,) * 8)
    with kept_bytes(model) as total, torch.autocast("cpu", torch.bfloat16):
        model.hidden(tokens)
    shape = Architecture(3, 384, 1536, 300, heads=12)
    memory = trial_memory(shape, PAPER.finetune.model_copy(update={"batch_size": 8, "max_length": 64}), precision="bf16")
    assert total[0] == pytest.approx(memory.gathered + memory.computed, rel=0.15)


@pytest.mark.parametrize("hub", list(KNOWN))
@pytest.mark.parametrize(("precision", "on_gpu"), [("bf16", True), ("bf16", False), ("fp32", False)])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_a_layer_of_the_real_size_keeps_what_is_computed(
    hub: str, precision: str, on_gpu: bool, dropout: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By fake tensors, which have sizes and no content: two layers less one, without the bf16 copies of the weights."""
    shape, length = KNOWN[hub], 128

    def fused(*parts: Any) -> torch.Tensor:
        # A GPU's fused attention keeps no mask of its dropout, and neither does the CPU's without dropout.
        *inputs, _, window = parts
        return attention.attend_padded(*inputs, 0.0, window)

    if on_gpu:
        monkeypatch.setattr(attention, "attend", fused)
    sizes = {"hidden_size": shape.hidden, "intermediate_size": shape.ffn, "num_attention_heads": shape.num_heads}
    kept = []
    with FakeTensorMode():
        for layers in (1, 2):
            model = encoder(dropout, kind=kind_of(hub), num_hidden_layers=layers, **sizes)
            tokens = Sequences(torch.randint(5, 300, (2 * length,)), (length,) * 2)
            autocast = torch.autocast("cpu", torch.bfloat16) if precision == "bf16" else nullcontext()
            with kept_bytes(model) as total, autocast:
                model.hidden(tokens)
            kept.append(total[0])
    h, f = shape.hidden, shape.ffn
    copies = 2 * (4 * h * h + 2 * h * f) if precision == "bf16" else 0 if shape.pre_norm else 12 * h * h
    expected = 2 * length * token_bytes(shape, precision, length, on_gpu=on_gpu, dropout=dropout > 0)
    # Sequences of one length need no padding, of which a GPU keeps 2 H more: 5 %.
    assert kept[1] - kept[0] - copies == pytest.approx(expected - on_gpu * 2 * h * 2 * length, rel=0.01)


def own_bytes() -> int:
    found = re.search(r"RssAnon:\s+(\d+)", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) * 1024


def test_a_trials_peak_is_predicted_and_is_its_own(study_file: Callable[..., Path], tmp_path: Path) -> None:
    """A 7 M-parameter shape with heads of 64, as base has, and inputs of one length; then a small trial in the same process."""
    if not Path("/proc/self/status").exists():
        pytest.skip("own memory is told by Linux")
    folder = make_encoder(tmp_path / "mini", "bert")
    shape = MINI | {"num_hidden_layers": 4, "num_attention_heads": 6, "max_position_embeddings": 512}
    config = json.loads((folder / "config.json").read_text()) | shape
    AutoModelForMaskedLM.from_config(AutoConfig.for_model(config.pop("model_type"), **config)).save_pretrained(folder)
    # At this length a third of what a step keeps is the attention's.
    settings = {"steps": 2, "batch_size": 4, "learning_rate": 1e-4, "max_length": 320, "precision": "fp32", "eval_tokens": 1280}
    study = load_study(str(study_file(models=[{"name": "mini", "folder": str(folder)}], finetune=settings)))
    for path in (tmp_path / "superglue" / "CB").glob("*.jsonl"):
        lines = path.read_text().splitlines()
        # One batch to evaluate.
        lines = lines[:4] if path.stem == "val" else lines
        rows = [json.loads(line) | {"premise": " ".join(WORDS[:8] * 50)} for line in lines]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    storage = Storage(tmp_path / "runs")
    prepare_task(study, study.task("cb"), storage)
    trial = next(t for t in expand(study) if (t.task, t.paradigm, t.train_size) == ("cb", "prompted", 8))
    gc.collect()
    reset_peak_memory(torch.device("cpu"))
    before = own_bytes()
    warm = WarmState(study, storage, World())
    peaks = [finetune(trial, warm).columns["peak_memory_bytes"] for _ in range(2)]
    inputs = warm.inputs(trial)
    assert {len(example.input_ids) for example in inputs.train} == {320}
    full = Architecture.from_config(json.loads((folder / "config.json").read_text()))
    assert full is not None
    assert full.num_heads == 6
    # What a dry run prints, without what this process holds before the first trial.
    (need,) = memory_of_models(study, {"mini": full}, [trial], {"mini": len(inputs.kept)})
    expected = need.bytes_declared - PROCESS_BYTES
    # The starting weights are no memory of the process's own.
    for peak in peaks:
        assert peak - before == pytest.approx(expected, rel=0.15)
    # The next trial's peak is not the greatest that the process ever had.
    del warm
    gc.collect()
    tiny = [{"name": "tiny", "folder": str(make_encoder(tmp_path / "tiny"))}]
    other = load_study(str(study_file(models=tiny, finetune=settings | {"max_length": 64})))
    storage = Storage(tmp_path / "others")
    prepare_task(other, other.task("cb"), storage)
    trial = next(t for t in expand(other) if (t.task, t.paradigm, t.train_size) == ("cb", "prompted", 8))
    small = finetune(trial, WarmState(other, storage, World())).columns["peak_memory_bytes"]
    assert small < peaks[0] - 0.5 * expected


def test_a_process_needs_room_for_its_evaluation_where_that_is_more() -> None:
    shape = Architecture(6, 384, 1536, 300)
    memory = trial_memory(shape, PAPER.finetune.model_copy(update={"max_length": 8}), precision="fp32", on_gpu=False)
    most = 4.0 * shape.num_parameters + evaluation_bytes(shape, 32_768)
    assert process_bytes(shape, memory, 32_768) == PROCESS_BYTES + HEAP_SHARE * most > PROCESS_BYTES + HEAP_SHARE * memory.total
    assert process_bytes(shape, memory, 0) == PROCESS_BYTES + HEAP_SHARE * memory.total


@pytest.mark.parametrize(("flags", "expected"), [("fpu avx2", False), ("fpu avx512_bf16", True), ("amx_bf16 amx_tile", True)])
def test_memory_on_a_cpu_is_that_of_its_own_arithmetic(
    flags: str, expected: bool, study_file: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "cpuinfo"
    file.write_text(f"processor\t: 0\nflags\t\t: {flags}\n")
    monkeypatch.setattr(memory, "CPU_INFO", file)
    assert memory.cpu_has_bf16() is expected
    shape = Architecture(12, 768, 3072, 250_002)
    needed = {}
    for precision in ("auto", "bf16", "fp32"):
        settings = {"steps": 2, "batch_size": 16, "learning_rate": 1e-4, "max_length": 256, "precision": precision}
        study = load_study(str(study_file(finetune=settings)))
        (need,) = memory_of_models(study, {"tiny": shape}, expand(study)[:1], {"tiny": 5_000})
        needed[precision] = need.bytes_declared
    assert needed["auto"] == needed["bf16" if expected else "fp32"]
    assert needed["bf16"] < 0.9 * needed["fp32"]


def test_a_family_without_a_fast_path_needs_its_whole_vocabulary_and_all_logits(study_file: Callable[..., Path]) -> None:
    settings = {"steps": 2, "batch_size": 16, "learning_rate": 1e-4, "max_length": 256, "precision": "fp32", "eval_tokens": 256}
    study = load_study(str(study_file(finetune=settings)))
    fast = Architecture.from_config({**MINI, "model_type": "bert", "num_attention_heads": 6, "vocab_size": 128_100})
    slow = Architecture.from_config({**MINI, "model_type": "electra", "num_attention_heads": 6, "vocab_size": 128_100})
    assert fast is not None
    assert slow is not None
    found = [memory_of_models(study, {"tiny": shape}, expand(study)[:1], {"tiny": 5_000})[0] for shape in (fast, slow)]
    assert [need.rows for need in found] == [5_000, 128_100]
    tokens = study.finetune.batch_size * study.finetune.max_length
    more = 12 * (128_100 - 5_000) * (MINI["hidden_size"] + 1) + 8 * tokens * 128_100
    assert found[1].bytes_declared - found[0].bytes_declared == pytest.approx(HEAP_SHARE * more, rel=1e-3)


def test_shared_pages_that_a_trial_looked_at_in_its_setup_are_not_its_peak(
    study_file: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first trial of a node puts the weights into the store."""
    if not Path("/proc/self/status").exists():
        pytest.skip("own memory is told by Linux")
    study = load_study(str(study_file()))
    storage = Storage(tmp_path / "runs")
    prepare_task(study, study.task("cb"), storage)
    trial = next(t for t in expand(study) if (t.task, t.paradigm, t.train_size) == ("cb", "prompted", 8))
    warm = WarmState(study, storage, World())
    usual = finetune(trial, warm).columns["peak_memory_bytes"]
    model = WarmState.model
    size = 400 * 2**20

    def looks(self: WarmState, *arguments: object) -> object:
        shared = mmap.mmap(-1, size)
        shared.write(b"x" * size)
        shared.close()
        return model(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(WarmState, "model", looks)
    assert finetune(trial, warm).columns["peak_memory_bytes"] < usual + size / 4
