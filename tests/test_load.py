"""Which model a command takes if none is named."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import Result

OLD = Path(__file__).parent / "checkpoint" / "run-0.1.0"


def make_run(name: str, status: str | None, *, time: int) -> None:
    run = Path("outputs/default", name)
    (run / "checkpoints").mkdir(parents=True)
    shutil.copy(OLD / "checkpoints" / "last.ckpt", run / "checkpoints")
    os.utime(run / "checkpoints" / "last.ckpt", (time, time))
    if status is not None:
        (run / "summary.json").write_text(json.dumps({"status": status}))


@pytest.mark.parametrize(
    ("runs", "said"),
    [
        ({"a": "finished", "b": "finished"}, "the newest finished run: outputs/default/b\n"),
        ({"a": "finished", "b": "interrupted", "c": None}, "the newest finished run: outputs/default/a\n"),
        ({"a": "failed", "b": "interrupted"}, "no run has finished; the newest (interrupted): outputs/default/b\n"),
        ({"a": None}, "no run has finished; the newest (not finished): outputs/default/a\n"),
    ],
)
def test_the_newest_finished_run_is_taken_and_named(
    gptlab: Callable[..., Result], workplace: Path, runs: dict[str, str | None], said: str
) -> None:
    for time, (name, status) in enumerate(runs.items(), start=1_000_000):
        make_run(name, status, time=time)
    result = gptlab("generate", "prompt=The", "max_new_tokens=1")
    assert (result.status, result.err) == (0, said)
