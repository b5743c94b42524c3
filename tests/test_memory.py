"""Arithmetic of memory: against the meta device at the real sizes, what autograd keeps, and what a real trial takes."""

from __future__ import annotations

import gc
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import WORDS, make_encoder
from transformers import AutoConfig, AutoModelForMaskedLM

from xlmr_sweep.architecture import KNOWN, Architecture
from xlmr_sweep.data.examples import prepare_task
from xlmr_sweep.finetune import finetune, reset_peak_memory
from xlmr_sweep.memory import (
    GPU_BYTES,
    GPU_RESERVE,
    HEAP_SHARE,
    PROCESS_BYTES,
    compacted,
    evaluation_bytes,
    gpus_needed,
    needs,
    process_bytes,
    token_bytes,
    trial_memory,
)
from xlmr_sweep.modeling import attention
from xlmr_sweep.modeling.compact import CompactVocabulary, build_compact
from xlmr_sweep.modeling.encoder import MaskedLMEncoder
from xlmr_sweep.modeling.fsdp import World
from xlmr_sweep.modeling.sequences import Sequences
from xlmr_sweep.plan import expand
from xlmr_sweep.storage import Storage
from xlmr_sweep.study import load_study
from xlmr_sweep.workbench import Workbench

PAPER = load_study("paper")
XL, XXL = (KNOWN[f"facebook/xlm-roberta-{size}"] for size in ("xl", "xxl"))
MINI = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}


@pytest.mark.parametrize("hub", list(KNOWN))
def test_compacted_parameters_equal_the_built_model(hub: str) -> None:
    shape = KNOWN[hub]
    kind = "xlm-roberta-xl" if "xl" in hub.rsplit("-", 1)[1] else "xlm-roberta"
    config = AutoConfig.for_model(
        kind,
        hidden_size=shape.hidden,
        num_hidden_layers=shape.num_layers,
        intermediate_size=shape.ffn,
        num_attention_heads=shape.hidden // 64,
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


def test_a_dry_run_says_what_each_model_of_the_paper_needs() -> None:
    shapes = {model.name: KNOWN[str(model.hub)] for model in PAPER.models}
    found = {need.model: need for need in needs(PAPER, shapes, expand(PAPER), {"xlmr-base": 8_500})}
    assert [need.gpus_needed for need in found.values()] == [1, 1, 1, 4]
    assert (found["xlmr-base"].rows, found["xlmr-base"].rows_are_known) == (8_500, True)
    assert not found["xlmr-xl"].rows_are_known
    # Four trials of base and two of large share a GPU as the study declares them.
    assert all(need.bytes_declared / 1e9 < 80 * min(1, float(need.gpus_declared)) for need in found.values())


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


def encoder(dropout: float, device: str = "cpu", **shape: Any) -> MaskedLMEncoder:
    rates = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    config = AutoConfig.for_model("xlm-roberta", vocab_size=300, pad_token_id=1, type_vocab_size=1, **shape, **rates)
    with torch.device(device):
        return MaskedLMEncoder(AutoModelForMaskedLM.from_config(config)).train()


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_kept_tensors_on_a_cpu_are_as_computed(dropout: float) -> None:
    model = encoder(dropout, **MINI)
    tokens = Sequences(torch.randint(5, 300, (8 * 40,)), (40,) * 8)
    with kept_bytes(model) as total:
        model.hidden(tokens)
    shape = Architecture(6, 384, 1536, 300)
    expected = 6 * 320 * token_bytes(shape, "fp32", 40, 12, on_gpu=False, dropout=dropout > 0) + 12 * 6 * 384**2
    assert total[0] == pytest.approx(expected, rel=0.05)


def test_kept_tensors_of_a_gpus_bf16_are_as_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same layers under autocast with the fused attention, on a CPU."""
    monkeypatch.setattr(attention, "attend", attention._fused_padded)
    model = encoder(0.0, **MINI)
    tokens = Sequences(torch.randint(5, 300, (8 * 64,)), (64,) * 8)
    with kept_bytes(model) as total, torch.autocast("cpu", torch.bfloat16):
        model.hidden(tokens)
    shape = Architecture(6, 384, 1536, 300)
    memory = trial_memory(shape, PAPER.finetune.model_copy(update={"batch_size": 8, "max_length": 64}), precision="bf16")
    assert total[0] == pytest.approx(memory.gathered + memory.computed, rel=0.15)


def own_bytes() -> int:
    found = re.search(r"RssAnon:\s+(\d+)", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) * 1024


def test_a_trials_peak_is_predicted_and_is_its_own(study_file: Callable[..., Path], tmp_path: Path) -> None:
    """A 22 M-parameter shape whose every input is cut to the same length; then a small trial in the same process."""
    if not Path("/proc/self/status").exists():
        pytest.skip("own memory is told by Linux")
    folder = make_encoder(tmp_path / "mini", "bert")
    config = json.loads((folder / "config.json").read_text()) | MINI
    AutoModelForMaskedLM.from_config(AutoConfig.for_model(config.pop("model_type"), **config)).save_pretrained(folder)
    settings = {"steps": 2, "batch_size": 8, "learning_rate": 1e-4, "max_length": 64, "precision": "fp32"}
    tiny = {"name": "tiny", "folder": str(make_encoder(tmp_path / "tiny"))}
    study = load_study(str(study_file(models=[{"name": "mini", "folder": str(folder)}, tiny], finetune=settings)))
    for path in (tmp_path / "superglue" / "CB").glob("*.jsonl"):
        rows = [json.loads(line) | {"premise": " ".join(WORDS[:8] * 12)} for line in path.read_text().splitlines()]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    storage = Storage(tmp_path / "runs")
    prepare_task(study, study.task("cb"), storage)
    trials = {t.model: t for t in expand(study) if (t.task, t.paradigm, t.train_size) == ("cb", "prompted", 8)}
    gc.collect()
    reset_peak_memory(torch.device("cpu"))
    before = own_bytes()
    bench = Workbench(study, storage, World())
    peaks = [finetune(trials["mini"], bench).columns["peak_memory_bytes"] for _ in range(2)]
    inputs = bench.inputs(trials["mini"])
    assert {len(example.input_ids) for example in inputs.train} == {64}
    full = Architecture.from_config(json.loads((folder / "config.json").read_text()))
    assert full is not None
    shape = compacted(full, len(inputs.kept))
    memory = trial_memory(shape, study.finetune, precision="fp32", on_gpu=False, num_heads=12)
    expected = process_bytes(shape, memory, 64 * len(inputs.validation)) - PROCESS_BYTES
    assert expected == HEAP_SHARE * memory.total > 4.0 * shape.num_parameters + evaluation_bytes(shape, 576)
    # The starting weights are no memory of the process's own.
    for peak in peaks:
        assert peak - before == pytest.approx(expected, rel=0.15)
    # The next trial's peak is not the greatest that the process ever had.
    del bench
    gc.collect()
    small = finetune(trials["tiny"], Workbench(study, storage, World())).columns["peak_memory_bytes"]
    assert small < peaks[0] - 0.5 * expected
