"""Graphs of micro-batches over a stand-in for `torch.cuda`: the order of calls, and the same bits with and without them."""

from __future__ import annotations

import pytest
import torch
from fake_cuda import FakeCuda, NotedStep
from static_steps import NaNBeyondTheEnd
from tiny_ranks import Rows, longest_first, tiny
from torch import Tensor

from xlmr_sweep.modeling.gpu import mlm_graphs, mlm_packing
from xlmr_sweep.modeling.gpu.mlm_graphs import MicroBatchRunner
from xlmr_sweep.modeling.gpu.mlm_packing import cut, pack
from xlmr_sweep.modeling.gpu.mlm_step import MaskedLMStep
from xlmr_sweep.modeling.gpu.static_step import Optimisation
from xlmr_sweep.modeling.gpu.torch_kernels import TorchKernels
from xlmr_sweep.modeling.gpu.vocabulary_kernels import TorchVocabulary


@pytest.fixture(autouse=True)
def _small_rungs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Less filler for a CPU."""
    monkeypatch.setattr(mlm_packing, "TOKENS", 64)
    monkeypatch.setattr(mlm_packing, "ASKED", 32)


class Made:
    def __init__(self, *, use_graphs: bool = True) -> None:
        self.cuda = FakeCuda()
        model = tiny("xlm-roberta", dropout=0.3, max_position_embeddings=60)
        kernels = TorchKernels(torch.float32, adds=True)
        self.step = MaskedLMStep(model, 2, Optimisation(1.0, 0.01), torch.float32, NaNBeyondTheEnd(), kernels, TorchVocabulary())
        self.runner = MicroBatchRunner(NotedStep(self.step, self.cuda), use_graphs=use_graphs, cuda=self.cuda)

    def run(self, number: int, least: int = 2, seed: int = 5) -> Tensor:
        rows = longest_first(Rows().rows(number, range(8)))
        batches, shape = cut(rows, 512, self.step.longest, least)
        made = pack(batches, shape, self.step.table, 9, range(least))
        self.cuda.log.clear()
        self.runner.run(shape, torch.from_numpy(made.numbers), seed)
        return self.step.state.grads.clone()


def test_a_new_shape_is_run_captured_and_checked_before_the_step_begins() -> None:
    made = Made()
    made.run(0)
    start = ["begin", "seed"]
    check = [*start, "pool", "add", *start, "synchronize", "captured add", *start, "replay"]
    assert made.cuda.log == [*check, *start, "replay", "replay"]
    made.run(1)
    assert made.cuda.log == [*start, "replay", "replay"], "a shape is captured once"
    assert len(set(map(id, made.cuda.pools))) == 1


def test_replays_have_the_bits_of_passes_without_a_graph() -> None:
    """So it makes no difference which shapes a run that goes on has captured."""
    graphs, plain = Made(), Made(use_graphs=False)
    for number, least in ((0, 2), (1, 3), (0, 2)):
        assert torch.equal(graphs.run(number, least), plain.run(number, least))
    assert "replay" not in plain.cuda.log


def test_after_too_many_shapes_a_pass_runs_in_the_graphs_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlm_graphs, "MOST_GRAPHS", 1)
    made, plain = Made(), Made(use_graphs=False)
    made.run(0)
    rows = longest_first(Rows(batch_size=40).rows(0, range(40)))
    batches, shape = cut(rows, 4096, made.step.longest)
    for one in (made, plain):
        numbers = pack(batches, shape, one.step.table, 9, [3]).numbers
        one.cuda.log.clear()
        one.runner.run(shape, torch.from_numpy(numbers), 5)
    assert made.cuda.log == ["begin", "seed", "add"]
    assert len(set(map(id, made.cuda.pools))) == 1
    assert torch.equal(made.step.state.grads, plain.step.state.grads)


@pytest.mark.parametrize(("fault", "reason"), [("breaks_capture", "not permitted"), ("spoils_replay", "bits")])
def test_without_a_sound_graph_the_passes_run_without_it_and_say_why(fault: str, reason: str) -> None:
    made, plain = Made(), Made(use_graphs=False)
    setattr(made.cuda, fault, True)
    assert torch.equal(made.run(0), plain.run(0))
    assert reason in str(made.runner.refusal)
    made.run(1)
    assert made.cuda.log == ["begin", "seed", "add", "add"]
