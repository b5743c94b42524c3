"""The pure pieces of `benchmark.py gpu`, and what it says where there is no GPU."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from warm_process import WarmProcess, run_warm

EXPERIMENTS = Path(__file__).resolve().parents[2] / "experiments"


@pytest.fixture(autouse=True, scope="module")
def paths() -> Iterator[None]:
    sys.path.insert(0, str(EXPERIMENTS))
    yield
    sys.path.remove(str(EXPERIMENTS))


@pytest.fixture
def shapes() -> Any:
    from benchmarks.gpu_parts import shapes

    return shapes


def test_batches_are_as_long_as_sixteen_prompts_of_cb(shapes: Any) -> None:
    lengths = shapes.cb_lengths()
    assert (len(lengths), sum(lengths), max(lengths)) == (16, 16 * 96, 207)
    assert [len(example.input_ids) for example in shapes.random_examples(lengths, 100)] == lengths


def test_memory_is_predicted_of_the_shape_that_runs(shapes: Any) -> None:
    from benchmarks.gpu_parts.part_memory import predict

    for name in ("base", "large"):
        config = shapes.config_of(shapes.SHAPES[name])
        assert (config.num_hidden_layers, config.hidden_size) == (shapes.SHAPES[name].num_layers, shapes.SHAPES[name].hidden)
    assert predict("base", 1536) < predict("large", 1536) < predict("XL", 2048) < 75e9


@pytest.mark.parametrize("family", ["modernbert", "eurobert", "gte"])
def test_the_part_exact_finds_the_gated_families_equal_to_transformers_own(family: str, shapes: Any) -> None:
    from benchmarks.gpu_parts import exact_gated

    assert family in exact_gated.FAMILIES
    loss, gradients = exact_gated.against_transformers(family, torch.device("cpu"), torch.float32)
    assert loss < 1e-5
    assert gradients < 1e-4


@pytest.mark.parametrize("name", ["ModernBERT", "EuroBERT", "gte"])
def test_the_gated_shapes_are_those_of_base_models_with_dropout(name: str, shapes: Any) -> None:
    from benchmarks.gpu_parts.part_memory import predict

    config = shapes.config_of(shapes.GATED[name])
    assert (config.hidden_size, config.num_attention_heads, config.vocab_size) == (768, 12, 6_144)
    assert {value for key, value in vars(config).items() if "dropout" in key and value is not None} == {0.1}
    assert predict("22M", 1536) < predict(name, 1536) < 2 * predict("base", 1536)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so_and_ends_with_2() -> None:
    command = [sys.executable, str(EXPERIMENTS / "benchmark.py"), "gpu", "--part", "step"]
    run = run_warm(command)
    assert run.returncode == 2
    assert run.stderr.strip().endswith("Error: no CUDA GPU here")


def test_every_run_that_is_kept_names_card_date_and_commit() -> None:
    for path in sorted((EXPERIMENTS / "benchmarks" / "gpu_runs").glob("*.json")):
        run = json.loads(path.read_text())
        assert run["card"]["name"].startswith("NVIDIA"), path
        assert path.stem.removeprefix("gpu-").startswith(run["card"]["at"][:10]), path
        assert run["commit"], path
        assert run["parts"], path


def test_parts_share_what_is_left_of_the_budget() -> None:
    from benchmarks.gpu_parts.limits import WEIGHTS, OutOfTime, limit_of, time_limit

    assert limit_of("step", ["step"], 100.0) == 100.0
    parts, left = list(WEIGHTS), 300.0
    for i, part in enumerate(parts):
        left -= limit_of(part, parts[i:], left)
    assert left == pytest.approx(0.0)
    assert limit_of("step", ["step"], -1.0) == 0.0
    with pytest.raises(OutOfTime), time_limit(0.05):
        time.sleep(60)
    with time_limit(60):
        pass
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_a_part_that_is_cut_off_keeps_what_it_measured_and_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks import gpu
    from benchmarks.gpu_parts import part_instruct

    def slow(options: Any, scratch: Path, console: Any, found: dict[str, Any]) -> None:
        found["digests"] = {"first": "a", "again": "a"}
        # As if the limit had passed.
        signal.raise_signal(signal.SIGALRM)

    monkeypatch.setattr(part_instruct, "run", slow)
    # The other side's packages are not needed here.
    monkeypatch.setattr(gpu, "missing", lambda: None)
    assert gpu.main(["--small", "--part", "instruct", "--out", str(tmp_path)]) == 1
    (path,) = tmp_path.glob("gpu-*.json")
    part = json.loads(path.read_text())["parts"]["instruct"]
    assert part["cut_off"]
    assert [target["is_met"] for target in part["targets"]] == [True]


@pytest.mark.parametrize("family", ["xlm-roberta", "eurobert"])
def test_instruction_tuning_is_transformers_own_and_has_the_same_bits_after_a_stop(family: str, tmp_path: Path) -> None:
    from benchmarks.gpu_parts.exact_gated import small_shape
    from benchmarks.gpu_parts.exact_tuning import SMALL, against_transformers, same_bits

    shape = SMALL if family == SMALL.family else small_shape(family)
    loss, gradients = against_transformers(torch.device("cpu"), tmp_path / "first", shape)
    assert loss < 1e-5
    assert gradients < 1e-4
    digests = same_bits(torch.device("cpu"), tmp_path / "stopped", shape)
    assert set(digests) == {"first", "again", "resumed"}
    assert len(set(digests.values())) == 1


def test_speed_of_instruction_tuning_counts_the_steps_after_the_first_ones() -> None:
    from benchmarks.gpu_parts.part_instruct import needed_flops, time_ours, work_of

    work = work_of("small", 0)
    row = time_ours(work, torch.device("cpu"))
    tokens = 2 * 8 * 64
    assert row["tokens_s"] * 2 * row["step_s"] == pytest.approx(tokens)
    assert row["flops_s"] / row["tokens_s"] == pytest.approx(needed_flops(work, tokens, 2 * 8 * 10) / tokens)


def test_xl_gets_as_many_layers_as_fit_the_card(shapes: Any) -> None:
    from benchmarks.gpu_parts.part_instruct import layers_that_fit

    numbers = [layers_that_fit(shapes.SHAPES["XL"], 250_880, 8_192, gib * 2**30) for gib in (24, 40, 80, 140, 1_000)]
    assert numbers == sorted(numbers)
    assert numbers[0] >= 1
    assert 20 <= numbers[2] <= 30
    assert numbers[-1] == 36


def test_times_the_trainer_are_goals_where_both_ran() -> None:
    from benchmarks.gpu_parts import part_instruct, part_step, part_trials

    rows = [{"shape": "base", "tokens_s": 300.0, "plain_tokens_s": 100.0, "share": 0.3}]
    met = {t.what: t.is_met for t in part_instruct.targets({"rows": rows})}
    assert met == {"base, share of the card's peak": False, "base, times the Trainer": True}
    step = part_step.targets({"rows": [{"shape": "large", "step_ms": 12.0, "trainer_ms": 100.0}]})
    assert [t.is_met for t in step] == [True, False]
    sides = [{"side": "ours", "share": 1, "an_hour": 2000.0}, {"side": "plain", "share": 1, "an_hour": 100.0}]
    assert [t.reached for t in part_trials.targets({"rows": sides})] == [2000.0, 20.0]


@pytest.mark.ranks
def test_the_part_gang_runs_over_two_processes_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "Popen", WarmProcess)
    from argparse import Namespace

    from benchmarks.gpu_parts import part_gang
    from rich.console import Console

    found: dict[str, Any] = {}
    console = Console(width=150, record=True)
    part_gang.run(Namespace(small=True, shape=None), tmp_path, console, found)
    (row,) = found["rows"]
    assert row["num_ranks"] == 2
    assert row["tokens_s"] > 0
    (target,) = part_gang.targets(found)
    assert target.is_met
    assert "Instruction tuning over several GPUs" in console.export_text()
    assert part_gang.targets({"rows": []}) == []
