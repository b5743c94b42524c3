"""One call a step against torch's own clipping and AdamW."""

from __future__ import annotations

import pytest
import torch

from xlmr_sweep.modeling.optimizer import AdamW, clip_divisor, make_optimizer, square_norm


@pytest.mark.parametrize("clip", [0.05, 1e6])
def test_steps_equal_torch_clipping_and_adamw(clip: float) -> None:
    generator = torch.Generator().manual_seed(0)
    start = [torch.randn(shape, generator=generator) for shape in ((5, 3), (4,), (2, 2))]
    ours, theirs = ([torch.nn.Parameter(tensor.clone()) for tensor in start] for _ in range(2))
    groups = [[{"params": p[::2], "weight_decay": 0.1}, {"params": p[1:2], "weight_decay": 0.0}] for p in (ours, theirs)]
    mine, plain = AdamW(groups[0], 0.01), torch.optim.AdamW(groups[1], lr=0.01, eps=1e-8)
    for step in range(6):
        for index, pair in enumerate(zip(ours, theirs, strict=True)):
            # The last parameter gets no gradient in the first two steps, so its bias correction lags behind.
            gradient = torch.randn(pair[0].shape, generator=generator)
            for parameter in pair:
                parameter.grad = None if index == 2 and step < 2 else gradient.clone()
        square = square_norm([p.grad for p in ours if p.grad is not None])
        torch.nn.utils.clip_grad_norm_(theirs, clip)
        mine.step_divided(clip_divisor(square, clip))
        plain.step()
        assert all(parameter.grad is None for parameter in ours)
        if step < 2:
            assert torch.equal(ours[2], start[2])
    for one, two in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-6, atol=1e-7)


def test_matrices_decay_and_biases_and_normalisations_do_not() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.LayerNorm(2))
    start = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    # This rank holds nothing of the last bias, as where there are more ranks than rows.
    parameters = {**dict(model.named_parameters()), "1.bias": torch.nn.Parameter(torch.zeros(0))}
    optimizer = make_optimizer(model, parameters, learning_rate=0.1, weight_decay=0.5)
    for parameter in parameters.values():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step_divided(torch.ones(()))
    # Without a gradient a step is the decay alone: 1 - 0.1 * 0.5.
    for name, factor in (("0.weight", 0.95), ("0.bias", 1.0), ("1.weight", 1.0)):
        torch.testing.assert_close(parameters[name].detach(), start[name] * factor)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 3
    # A rank that holds no matrix has no group of them.
    assert len(make_optimizer(model, {"0.bias": parameters["0.bias"]}, 0.1, 0.5).param_groups) == 1
