"""Learning-rate schedules: functions of the step that return a factor on the configured learning rate.

`step` counts the optimizer steps done before the one that the factor is for; the first is 0.
"""

import math


def cosine(step: int, *, total_steps: int, warmup_steps: int | float, floor: float) -> float:
    """Linear warm-up, then half a cosine down to a floor (Loshchilov and Hutter 2017, arXiv:1608.03983).

    Args:
        step: steps done before this one.
        total_steps: where the cosine reaches the floor; it stays there.
        warmup_steps: an integer is steps, a float below 1 a share of total_steps.
        floor: the last factor, a share of the learning rate.

    Raises:
        ValueError: floor outside [0, 1], or a warm-up outside [0, total_steps].
    """
    if not 0 <= floor <= 1:
        raise ValueError(f"floor={floor} must lie in [0, 1]: it is a share of the learning rate")
    warmup = _n_warmup_steps(warmup_steps, total_steps)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if step >= total_steps:
        return floor
    progress = (step - warmup) / (total_steps - warmup)
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))


def constant(step: int, *, total_steps: int, warmup_steps: int | float) -> float:
    """Linear warm-up, then the configured learning rate. Arguments and errors as in `cosine`."""
    return min(1.0, (step + 1) / (_n_warmup_steps(warmup_steps, total_steps) + 1))


def _n_warmup_steps(warmup_steps: int | float, total_steps: int) -> int:
    n_steps = round(warmup_steps * total_steps) if isinstance(warmup_steps, float) else warmup_steps
    if not 0 <= warmup_steps <= total_steps or (isinstance(warmup_steps, float) and warmup_steps >= 1):
        raise ValueError(
            f"warmup_steps={warmup_steps} must be a number of steps in [0, {total_steps}], or a share of them below 1"
        )
    return n_steps
