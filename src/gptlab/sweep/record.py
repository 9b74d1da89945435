"""What is known of a trial."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

STATUSES = ("finished", "pruned", "failed", "interrupted", "running")
ENDED = STATUSES[:3]


@dataclass(frozen=True)
class TrialRecord:
    """One run of a sweep.

    Attributes:
        number: from 0; its run directory bears it.
        status: one of STATUSES; with one of ENDED it comes to no other.
        reason: why it failed or was interrupted, in one sentence; None otherwise.
        values: what it tries: of each swept key, in the order of the search space.
        metric: what the sweep looks at (summary.json's value of that name, a pruned trial's last one); None where it
            has none.
        summary: the content of its summary.json; empty where it did not get so far.
        run_dir: its run directory, absolute.
    """

    number: int
    status: str
    reason: str | None
    values: dict[str, Any]
    metric: float | None
    summary: dict[str, Any]
    run_dir: Path


@dataclass(frozen=True)
class Axis:
    """One swept key, as pictures and tables want to know it.

    Attributes:
        key: as in an override, `optimizer.lr` or `model/attention`.
        is_log: whether it is searched on a logarithmic scale.
        choices: the values it is chosen from, in their order; None where it is a number of a range.
    """

    key: str
    is_log: bool
    choices: tuple[Any, ...] | None


def best_of(records: list[TrialRecord], *, direction: str) -> TrialRecord | None:
    """The finished trial whose metric is best (`direction`: minimize or maximize); None where none has finished."""
    finished = [record for record in records if record.status == "finished" and record.metric is not None]
    sign = 1.0 if direction == "minimize" else -1.0
    return min(finished, key=lambda record: sign * (record.metric or 0.0), default=None)
