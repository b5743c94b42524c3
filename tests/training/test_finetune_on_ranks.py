"""A trial of several ranks (FSDP2 over gloo) gives what one process gives, up to the order of sums, for each family and as one
group or several."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import make_encoder
from rank_processes import run_ranks
from safetensors.torch import load_file
from tiny_ranks import LIKE_BASE, LIKE_TINY, LIKE_XL

from xlmr_sweep.data.examples import prepare_task
from xlmr_sweep.modeling.fsdp import World
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.study.plan import Trial, expand
from xlmr_sweep.study.reading import load_study
from xlmr_sweep.study.spec import Study

pytestmark = [pytest.mark.ranks, pytest.mark.slow]


def run_rank(
    rank: int,
    size: int,
    rendezvous: str,
    study: Study,
    storage: Storage,
    trials: list[Trial],
    out: str,
    limits: tuple[int, int],
) -> None:
    import torch
    import torch.distributed as dist

    from xlmr_sweep.modeling import fsdp, memory
    from xlmr_sweep.training.finetune import finetune
    from xlmr_sweep.training.warm_state import WarmState

    fsdp.ONE_GROUP_PARAMETERS, memory.CPU_GATHERED_BYTES = limits

    dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=size)
    warm = WarmState(study, storage, World(rank, size))
    # FSDP sets up what it gathers at the first pass, so the hook has to be there before.
    streams: set[str] = set()
    model = warm.model(trials[0], torch.Generator().manual_seed(0))
    for layer in fsdp.transformer_layers(model):
        layer.register_forward_hook(
            lambda module, given, state: streams.add(str((state if torch.is_tensor(state) else state[0]).dtype))
        )
    outcomes = [finetune(trial, warm) for trial in trials]
    model = warm.model(trials[0], torch.Generator().manual_seed(0))
    groups = sum(isinstance(module, fsdp_module()) for module in model.modules())
    found = {"predictions": [o.predictions for o in outcomes], "columns": [o.columns for o in outcomes], "groups": groups}
    found["streams"] = sorted(streams)
    torch.save(found, f"{out}.{rank}")
    dist.destroy_process_group()


def fsdp_module() -> Any:
    from torch.distributed.fsdp import FSDPModule

    return FSDPModule


UNEVEN, HEAD, FEW = ("prompted", "copa", 8), ("baseline", "cb", 8), ("prompted", "copa", 2)
"""Batches of 4 on 3 ranks are uneven, and a training set of 2 leaves a rank without an example."""


@pytest.mark.parametrize(
    ("size", "family", "limits", "cells"),
    [
        (3, "xlm-roberta", LIKE_TINY, [UNEVEN, HEAD, FEW, UNEVEN]),
        (3, "xlm-roberta-xl", LIKE_XL, [UNEVEN, HEAD, FEW]),
        (2, "bert", LIKE_XL, [UNEVEN, HEAD]),
        (2, "modernbert", LIKE_BASE, [UNEVEN, HEAD]),
    ],
)
def test_a_gang_equals_one_process(
    study_file: Callable[..., Path],
    tmp_path: Path,
    size: int,
    family: str,
    limits: tuple[int, int],
    cells: list[tuple[str, str, int]],
) -> None:
    import torch

    from xlmr_sweep.training.finetune import finetune
    from xlmr_sweep.training.warm_state import WarmState

    settings: dict[str, Any] = {"steps": 4, "batch_size": 4, "learning_rate": 1e-3, "max_length": 64, "precision": "fp32"}
    settings |= {"dropout": 0.0, "eval_tokens": 64, "save_weights": True}
    models = [{"name": "tiny", "folder": str(make_encoder(tmp_path / family, family, std=0.1))}]
    study = load_study(str(study_file(finetune=settings, sizes=[2, 8], models=models)))
    storage = Storage(tmp_path / "runs")
    for task in study.tasks:
        prepare_task(study, task, storage)
    trials = [next(t for t in expand(study) if (t.paradigm, t.task, t.train_size) == cell) for cell in cells]
    alone = WarmState(study, storage, World())
    expected = [finetune(trial, alone) for trial in trials]
    folders = [tmp_path / "runs" / "weights" / trial.trial_id for trial in trials[:3]]
    trained = [load_file(folder / "model.safetensors") for folder in folders]
    for folder in folders:
        shutil.rmtree(folder)
    rendezvous = f"file://{tmp_path}/rendezvous"
    run_ranks(run_rank, size, rendezvous, study, storage, trials, str(tmp_path / "out"), limits)
    ranks = [torch.load(tmp_path / f"out.{rank}", weights_only=True) for rank in range(size)]
    for found in ranks:
        assert found["groups"] == (1 if limits == LIKE_TINY else 3), "of two layers and the rest"
        for wanted, predictions, columns in zip(expected, found["predictions"], found["columns"], strict=True):
            assert columns["train_loss"] == pytest.approx(wanted.columns["train_loss"], abs=1e-5)
            assert predictions["prediction"] == wanted.predictions["prediction"]
            np.testing.assert_allclose(predictions["score_0"], wanted.predictions["score_0"], atol=1e-4)
        # The same trial again in the warm gang, after others: the same bits.
        if cells.count(UNEVEN) == 2:
            assert found["predictions"][0] == found["predictions"][3]
    assert ranks[0]["predictions"] == ranks[1]["predictions"]
    # The gang's first rank has kept the same weights, whole.
    for folder, wanted in zip(folders, trained, strict=True):
        kept = load_file(folder / "model.safetensors")
        assert kept.keys() == wanted.keys()
        for name, tensor in wanted.items():
            # Softmax does not see a key's bias: its gradient is rounding alone, of which AdamW makes whole steps.
            if name.endswith("key.bias"):
                continue
            torch.testing.assert_close(kept[name], tensor, rtol=0, atol=1e-4, msg=name)


@pytest.mark.parametrize("family", ["xlm-roberta", "xlm-roberta-xl"])
def test_in_bf16_a_gang_moves_a_loss_by_no_more_than_rounding_and_its_states_stay_in_fp32(
    study_file: Callable[..., Path], tmp_path: Path, family: str
) -> None:
    """Of XL's layers no normalisation brings the sum along the layers back to fp32, once it is in bf16."""
    import torch

    from xlmr_sweep.training.finetune import finetune
    from xlmr_sweep.training.warm_state import WarmState

    settings: dict[str, Any] = {"steps": 4, "batch_size": 4, "learning_rate": 1e-3, "max_length": 64, "precision": "bf16"}
    models = [{"name": "tiny", "folder": str(make_encoder(tmp_path / family, family, std=0.1))}]
    study = load_study(str(study_file(finetune=settings | {"dropout": 0.0}, sizes=[8], models=models)))
    storage = Storage(tmp_path / "runs")
    for task in study.tasks:
        prepare_task(study, task, storage)
    trials = [t for t in expand(study) if (t.paradigm, t.task, t.train_size, t.seed) == ("prompted", "copa", 8, 0)]
    alone = finetune(trials[0], WarmState(study, storage, World())).columns["train_loss"]
    exact = load_study(str(study_file(finetune=settings | {"dropout": 0.0, "precision": "fp32"}, sizes=[8], models=models)))
    in_fp32 = finetune(trials[0], WarmState(exact, storage, World())).columns["train_loss"]
    run_ranks(run_rank, 2, f"file://{tmp_path}/rendezvous", study, storage, trials, str(tmp_path / "out"), LIKE_XL)
    found = torch.load(tmp_path / "out.0", weights_only=True)
    assert found["streams"] == ["torch.float32"]
    assert abs(found["columns"][0]["train_loss"] - alone) < max(1e-2, 2 * abs(alone - in_fp32))
