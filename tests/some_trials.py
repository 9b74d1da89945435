"""Trials of sweeps that nobody ran."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from gptlab.sweep.record import Axis, TrialRecord

LR = Axis("optimizer.lr", is_log=True, choices=None)
DROPOUT = Axis("model.dropout", is_log=False, choices=None)
WIDTH = Axis("model.d_model", is_log=False, choices=(64, 128, 256))
ATTENTION = Axis("model/attention", is_log=False, choices=("fused", "plain"))
MIXED = Axis("a.key", is_log=False, choices=(None, True, "null", 1.5, "[0.9, 0.95]", "$x^2$ <b>", "a_long_name_" * 5))
LONG_KEYS = [Axis(f"callbacks.some_very_long_name.of_a_setting_{i}", is_log=False, choices=None) for i in range(5)]


def trial(number: int, values: dict[str, Any], *, status: str = "finished", **more: Any) -> TrialRecord:
    """One that has got somewhere; `more` are other attributes."""
    metric = more.get("metric")
    summary = {"val_loss": metric, "steps": 30, "tokens": 3000, "seconds": 1.5}
    about = {"reason": None, "metric": None, "summary": summary, "run_dir": Path("/sweep", str(number)), **more}
    return TrialRecord(number=number, status=status, values=values, **about)


def some_trials(
    n: int, axes: list[Axis], metric: Callable[[dict[str, Any]], float], *, statuses: tuple[str, ...] = ("finished",)
) -> list[TrialRecord]:
    """Values at random, the same each time; the metric comes of them, and the statuses take turns."""
    generator = random.Random(0)
    trials = []
    for number in range(n):
        values: dict[str, Any] = {}
        for axis in axes:
            number_of_range = 10 ** generator.uniform(-5, -1) if axis.is_log else generator.uniform(0, 1)
            values[axis.key] = generator.choice(axis.choices) if axis.choices else number_of_range
        status = statuses[number % len(statuses)]
        has_value = status in ("finished", "pruned")
        trials.append(trial(number, values, status=status, metric=metric(values) if has_value else None))
    return trials


texts = st.text() | st.sampled_from(
    ["</script>", "<b>&amp;", '"onload="x', "'", "{{table}}", "a\r\nb", "a,b;c", "\x00"]
)
numbers = st.floats() | st.integers(-(2**70), 2**70)
records = st.lists(
    st.builds(
        trial,
        number=st.integers(0, 10**6),
        values=st.fixed_dictionaries({"a": texts | numbers | st.booleans() | st.none(), "b/c": numbers}),
        status=st.sampled_from(["finished", "pruned", "failed", "interrupted", "running"]),
        reason=st.none() | texts,
        metric=st.none() | st.floats(),
    ),
    max_size=8,
    unique_by=lambda record: record.number,
)
"""Anything that a sweep may come to, over ANY_AXES."""
ANY_AXES = [Axis("a", is_log=False, choices=("x", None, 1)), Axis("b/c", is_log=True, choices=None)]
