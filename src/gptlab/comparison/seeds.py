"""Whether the difference of two settings is more than the noise of their seeds: a paired t interval."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from gptlab.comparison.curves import Line, decimals_for, number


def interval(differences: np.ndarray) -> tuple[float, float]:
    """The 95 % interval of the mean of differences, (n,), n >= 2: Student's t with n - 1 degrees of freedom."""
    from scipy.special import stdtrit  # a third of a second

    n = len(differences)
    with np.errstate(over="ignore", invalid="ignore"):  # perplexities of diverged runs go up to 1e304
        half = float(stdtrit(n - 1, 0.975) * differences.std(ddof=1) / math.sqrt(n))
        return float(differences.mean() - half), float(differences.mean() + half)


def verdict(lines: Sequence[Line]) -> Iterator[str]:
    """Sentences on the last values of the two best lines, paired by seed, and a warning if a line has one seed only.

    Lines of models that are not causal are passed over. A single line needs no sentence.
    """
    lines = [line for line in lines if line.is_causal]
    if len(lines) < 2:
        return
    by_seed = [_by_seed(line) for line in lines]
    common = by_seed[0].keys() & by_seed[1].keys()
    if len(common) > 1:
        differences = np.array([by_seed[1][seed] - by_seed[0][seed] for seed in common])
        yield _difference(lines[0], lines[1], differences)
    n_alone = sum(len(values) < 2 for values in by_seed)
    advice = "a difference may be noise; train each setting with several (-m seed=1,2,3)"
    if n_alone:
        yield f"one seed only ({n_alone} of {len(lines)} lines): {advice}"
    elif len(common) < 2:
        yield f"fewer than two seeds in common (the two best lines): {advice}"


def _by_seed(line: Line) -> dict[Any, float]:
    """Each seed's value at the line's last step, or its own last one if time is the budget; repeats are averaged."""
    values: dict[Any, list[float]] = {}
    for its in line.members or [line]:
        if (settings := its.runs[0].settings) is not None:
            common = its.steps == line.steps[-1] if settings.get("max_minutes") is None else [-1]
            values.setdefault(settings.get("seed"), []).append(float(its.mean[common][0]))
    return {seed: sum(ends) / len(ends) for seed, ends in values.items()}


def _difference(best: Line, second: Line, differences: np.ndarray) -> str:
    """`a is 0.1822 lower than b (95 % interval 0.1204 to 0.2440, 3 seeds in common): more than noise`."""
    word = "lower" if differences.mean() > 0 else "higher"
    differences = differences if word == "lower" else -differences
    low, high = interval(differences)
    mean, *ends = (number(value, decimals_for(best.mean[-1])) for value in (differences.mean(), low, high))
    counted = f"{len(differences)} seeds in common"
    if best.steps[-1] != second.steps[-1]:
        counted += f", at steps {best.steps[-1]:,.0f} and {second.steps[-1]:,.0f}"
    outcome = "more than noise" if low > 0 else "no more than noise"
    interval_in_words = f"95 % interval {ends[0]} to {ends[1]}, {counted}"
    return f"{best.label} is {mean} {word} than {second.label} ({interval_in_words}): {outcome}"
