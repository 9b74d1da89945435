"""Trials of sweeps that nobody ran."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gptlab.sweep.definition import Definition
from gptlab.sweep.space import Parameter
from gptlab.sweep.trial import TrialRecord

LR = Parameter("optimizer.lr", "log_uniform", (1e-5, 1e-1))
WIDTH = Parameter("model.d_model", "choice", (64, 128, 256))
ATTENTION = Parameter("model/attention", "choice", ("fused", "plain"))
MIXED = Parameter("a.key", "choice", ("null", "true", 1.5, "[0.9, 0.95]", "$x^2$ <b>", "a_long_name_" * 5))
LONG_KEYS = [Parameter(f"callbacks.some_very_long_name.of_a_setting_{i}", "uniform", (0.0, 1.0)) for i in range(5)]


def definition(space: list[Parameter], **changes: Any) -> Definition:
    """Of a sweep over these keys."""
    content: dict[str, Any] = {
        "arguments": ["tokenizer=char"],
        "space": {entry.key: {entry.kind: list(entry.values)} for entry in space},
        "sampler": "random",
        "pruner": None,
        "n_trials": 24,
        "n_jobs": 1,
        "max_failed": 0.5,
        "seed": 1,
        "metric": "val_loss",
        "direction": "minimize",
        "validate_every": 10,
        "max_steps": 100,
        "command": ["sweep=x"],
    }
    return Definition(**{**content, **changes})


def trial(number: int, values: dict[str, Any], *, status: str = "finished", **more: Any) -> TrialRecord:
    """One that has got somewhere; `more` are other attributes."""
    summary = {"val_loss": more.get("metric"), "steps": 30, "tokens": 3000, "seconds": 1.5}
    about = {"reason": None, "metric": None, "summary": summary, "run_dir": Path("/sweep", str(number)), **more}
    return TrialRecord(number=number, status=status, values=values, **about)


def some_trials(
    n: int, space: list[Parameter], metric: Callable[[dict[str, Any]], float], statuses: tuple[str, ...] = ("finished",)
) -> list[TrialRecord]:
    """Random values, the same each time; the metric comes of them, and the statuses take turns."""
    generator = random.Random(0)
    trials = []
    for number in range(n):
        values: dict[str, Any] = {}
        for entry in space:
            number_of_range = 10 ** generator.uniform(-5, -1) if entry.is_log else generator.uniform(0, 1)
            values[entry.key] = generator.choice(entry.values) if entry.is_list else number_of_range
        status = statuses[number % len(statuses)]
        has_value = status in ("finished", "pruned")
        trials.append(trial(number, values, status=status, metric=metric(values) if has_value else None))
    return trials
