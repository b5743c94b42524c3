"""The demo's encoders: the same starting weights each time."""

import pytest
import torch

from xlmr_sweep.data.demo import DEMO_MODELS, build_model


@pytest.mark.parametrize("name", sorted(DEMO_MODELS))
def test_starting_weights_are_the_same_each_time_and_leave_the_global_stream_alone(name: str) -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first = build_model(name, 700)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(5)
    second = build_model(name, 700)
    for (key, weight), other in zip(first.state_dict().items(), second.state_dict().values(), strict=True):
        assert torch.equal(weight, other), key
    assert first.config.pad_token_id == 1
    assert first.get_output_embeddings().weight is first.get_input_embeddings().weight


def test_the_smaller_model_is_smaller() -> None:
    sizes = [sum(weight.numel() for weight in build_model(name, 700).parameters()) for name in ("tiny", "small")]
    assert sizes[0] < 0.7 * sizes[1]
