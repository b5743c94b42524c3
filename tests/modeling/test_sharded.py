"""A step of a gang reads no value back: on the meta device, where there is none to read, it runs."""

from __future__ import annotations

import pytest
import torch

from xlmr_sweep.modeling.fsdp import World, local_parameters
from xlmr_sweep.modeling.optimizer import make_optimizer
from xlmr_sweep.modeling.sharded import step_sharded


def one_step(device: str, world: World) -> torch.nn.Module:
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2, device=device)
    parameters = local_parameters(model)
    optimizer = make_optimizer(model, parameters, 0.1, 0.0)
    model(torch.ones(4, 3, device=device)).square().sum().backward()
    step_sharded(model, parameters, optimizer, 0.5, world)
    return model


def test_a_gangs_step_reads_no_value() -> None:
    model = one_step("meta", World(device=torch.device("meta")))
    assert all(parameter.grad is None for parameter in model.parameters())
    with pytest.raises(RuntimeError, match="meta"):
        float(torch.zeros((), device="meta"))


class Doubled(World):
    """As if another rank held the same gradients."""

    def sum_on_device(self, values: torch.Tensor) -> torch.Tensor:
        assert values.dtype == torch.float64
        return values.mul_(2)


def test_the_norm_is_that_of_all_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    from xlmr_sweep.modeling import optimizer

    divisors: list[float] = []
    step = optimizer.AdamW.step_divided

    def spy(adamw: optimizer.AdamW, divisor: torch.Tensor) -> None:
        divisors.append(float(divisor))
        step(adamw, divisor)

    monkeypatch.setattr(optimizer.AdamW, "step_divided", spy)
    one_step("cpu", World())
    one_step("cpu", Doubled())
    assert divisors[0] > 1
    assert divisors[1] / divisors[0] == pytest.approx(2**0.5, rel=1e-5)
