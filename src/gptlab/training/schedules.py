"""Learning-rate schedules: functions of the step that return a factor on the configured learning rate.

`step` counts the optimizer steps that are done before the one that the factor is for; 0 is the first.
"""

import math


def cosine(step: int, *, total_steps: int, warmup_steps: int, floor: float) -> float:
    """Linear warm-up, then half a cosine down to a floor (Loshchilov and Hutter 2017, arXiv:1608.03983).

    Args:
        step: steps done before this one.
        total_steps: where the cosine arrives at the floor; it stays there.
        warmup_steps: how many steps the way up takes; the first step already has a small rate.
        floor: the last factor, a share of the learning rate.

    Raises:
        ValueError: floor outside [0, 1], or a warm-up longer than the whole.
    """
    if not 0 <= floor <= 1:
        raise ValueError(f"floor={floor} must lie in [0, 1]: it is a share of the learning rate")
    if not 0 <= warmup_steps <= total_steps:
        raise ValueError(
            f"warmup_steps={warmup_steps} must lie in [0, {total_steps}], the steps there are: lower it for a short run"
        )
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    if step >= total_steps:
        return floor
    progress = (step - warmup_steps) / (total_steps - warmup_steps)
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))


def constant(step: int, *, warmup_steps: int) -> float:
    """Linear warm-up, then the configured learning rate for ever."""
    if warmup_steps < 0:
        raise ValueError(f"warmup_steps={warmup_steps} must be 0 or more")
    return min(1.0, (step + 1) / (warmup_steps + 1))
