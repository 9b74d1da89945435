"""The trials of a sweep, as its pictures want them: sorted by what became of them, on one scale."""

from dataclasses import dataclass

from gptlab.sweep.record import TrialRecord, best_of
from gptlab.sweep.report.scale import MetricScale, is_number, scale_of_metric


@dataclass(frozen=True)
class View:
    """What all pictures of a sweep share.

    Attributes:
        finished: trials with a value, in their order.
        pruned: these too; their values are of an earlier step.
        others: that have no value to show: failed, interrupted, running.
        best: of the finished ones.
        scale: of the metric.
        metric: its name.
        worst: the end of the scale where bad values are, 0 or 1.
    """

    finished: list[TrialRecord]
    pruned: list[TrialRecord]
    others: list[TrialRecord]
    best: TrialRecord | None
    scale: MetricScale
    metric: str
    worst: float

    def place(self, record: TrialRecord) -> float:
        """Of a trial that has a value, 0 to 1."""
        return self.scale.place(record.metric)

    def is_beyond(self, record: TrialRecord) -> bool:
        """Whether it stands at the edge, because it is far worse than the others."""
        assert record.metric is not None
        return self.scale.is_beyond(record.metric)


def view_of(records: list[TrialRecord], *, metric: str, direction: str) -> View | None:
    """Sort the trials; None where none has a value."""
    records = sorted(records, key=lambda record: record.number)
    with_value = [record for record in records if is_number(record.metric)]
    finished = [record for record in with_value if record.status == "finished"]
    pruned = [record for record in with_value if record.status == "pruned"]
    values = [record.metric for record in (*finished, *pruned) if record.metric is not None]
    if not values:
        return None
    placed = {record.number for record in (*finished, *pruned)}
    return View(
        finished=finished,
        pruned=pruned,
        others=[record for record in records if record.number not in placed],
        best=best_of(finished, direction=direction),
        scale=scale_of_metric(values, direction=direction),
        metric=metric,
        worst=1.0 if direction == "minimize" else 0.0,
    )
