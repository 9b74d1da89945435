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
    _check_floor(floor)
    warmup = _n_steps("warmup_steps", warmup_steps, total_steps)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if step >= total_steps:
        return floor
    progress = (step - warmup) / (total_steps - warmup)
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))


def constant(step: int, *, total_steps: int, warmup_steps: int | float) -> float:
    """Linear warm-up, then the configured learning rate. Arguments and errors as in `cosine`."""
    return min(1.0, (step + 1) / (_n_steps("warmup_steps", warmup_steps, total_steps) + 1))


def wsd(step: int, *, total_steps: int, warmup_steps: int | float, decay_steps: int | float, floor: float) -> float:
    """Warm-up, stable, decay (Hu et al. 2024, arXiv:2404.06395), both linear (Hägele et al. 2024, arXiv:2405.18392).

    Args:
        step, total_steps, warmup_steps, floor: as in `cosine`.
        decay_steps: the last steps of the run; an integer, or a float below 1 as a share of total_steps.

    Raises:
        ValueError: as in `cosine`.
    """
    _check_floor(floor)
    warmup = _n_steps("warmup_steps", warmup_steps, total_steps)
    decay = _n_steps("decay_steps", decay_steps, total_steps)
    if step >= total_steps:
        return floor
    return min(1.0, (step + 1) / (warmup + 1), floor + (1 - floor) * (total_steps - step) / max(decay, 1))


def _check_floor(floor: float) -> None:
    if not 0 <= floor <= 1:
        raise ValueError(f"floor={floor} must lie in [0, 1]: it is a share of the learning rate")


def _n_steps(name: str, value: int | float, total_steps: int) -> int:
    n_steps = round(value * total_steps) if isinstance(value, float) else value
    if not 0 <= value <= total_steps or (isinstance(value, float) and value >= 1):
        raise ValueError(f"{name}={value} must be a number of steps in [0, {total_steps}], or a share of them below 1")
    return n_steps
