"""A step with numbers that are none is not taken."""

import math

import pytest
import torch

from gptlab.training.stepping import drop_gradient
from gptlab.training.stops import MOST_SKIPPED, NonFiniteError, NonFiniteGuard

BAD = [{"loss": math.nan, "gradient_norm": 1.0}, {"loss": 1.0, "gradient_norm": math.inf}]
GOOD = {"loss": 1.0, "gradient_norm": 1.0}


@pytest.mark.parametrize("numbers", BAD)
def test_the_run_stops_and_says_at_which_batch(numbers: dict[str, float]) -> None:
    guard = NonFiniteGuard("stop")
    assert guard.allows(0, **GOOD)
    with pytest.raises(NonFiniteError, match=r"the (loss|gradient norm) is (nan|inf) in step 8 \(batch 7 of the run\)"):
        guard.allows(7, **numbers)


@pytest.mark.parametrize("numbers", BAD)
def test_steps_are_skipped_up_to_a_bound_in_a_row(numbers: dict[str, float]) -> None:
    guard = NonFiniteGuard("skip")
    for _ in range(3):
        assert not any(guard.allows(step, **numbers) for step in range(MOST_SKIPPED))
        assert guard.allows(MOST_SKIPPED, **GOOD)
    assert guard.n_skipped == 3 * MOST_SKIPPED
    for step in range(MOST_SKIPPED):
        guard.allows(step, **numbers)
    with pytest.raises(NonFiniteError, match="the 10 steps before it were skipped too"):
        guard.allows(MOST_SKIPPED, **numbers)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("with_scaler", [False, True])
def test_a_dropped_gradient_leaves_the_weights(fused: bool, with_scaler: bool) -> None:
    """In the order in which Lightning's MixedPrecision calls: only a fused optimizer unscales in its own step."""
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([weight], lr=0.1, fused=fused)
    scaler = torch.amp.GradScaler("cpu") if with_scaler else None
    loss = weight.sum()
    (scaler.scale(loss) if scaler else loss).backward()
    if scaler is not None and not fused:
        scaler.unscale_(optimizer)
    drop_gradient(optimizer, scaler)
    scaler.step(optimizer) if scaler is not None else optimizer.step()
    assert torch.equal(weight, torch.ones(3))
