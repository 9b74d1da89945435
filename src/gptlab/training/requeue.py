"""Cluster jobs that are stopped and started again: the run goes on by itself.

SLURM gives a job that it starts again the number that it had. A run keeps the number, and the command, of the job that
began it, in summary.json: where the same job comes by again with the same command, it is that run's next session.
Shortly before the end SLURM sends SIGUSR1 or SIGUSR2 where it was asked to (`--signal=USR1@120`; submitit: SIGUSR2).
"""

import json
import logging
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gptlab.training.run_dir import is_rank_zero
from gptlab.training.run_files import SUMMARY

log = logging.getLogger("gptlab")

JOB_NUMBERS = ("SLURM_JOB_ID", "SUBMITIT_LOCAL_JOB_ID")
STARTS = "SLURM_RESTART_COUNT"
GOES_ON = "GPTLAB_GOES_ON"
"""Environment variable with which rank 0 tells the ranks that it launches which run its job goes on with."""


def job_number() -> str | None:
    """Of the cluster job that this process is part of; None outside of one."""
    return next((os.environ[name] for name in JOB_NUMBERS if name in os.environ), None)


def job(command: list[str]) -> dict[str, Any] | None:
    """What summary.json keeps of the job; None outside of one. `command` is the overrides, as typed."""
    number = job_number()
    return None if number is None else {"number": number, "starts": os.environ.get(STARTS), "command": command}


def run_of_this_job(wanted: str | None, experiment: str, command: list[str]) -> Path | None:
    """The run that this very job began when it was started before; None where there is none.

    Args:
        wanted: `run_dir=`; None looks through the runs of the experiment, which SLURM alone makes worth while: it says
            when a job is started again.
        experiment: what runs are filed under.
        command: the overrides, as typed.
    """
    mine = job(command)
    if mine is None:
        return None
    if not is_rank_zero() and GOES_ON in os.environ:
        return Path(os.environ[GOES_ON])
    places = []
    if wanted is not None:
        places = [Path(wanted).expanduser().absolute()]
    elif mine["starts"] not in (None, "0"):
        places = sorted(Path("outputs", experiment).absolute().glob("*"), reverse=True)
    for place in places:
        began = _job_of(place)
        has_run = [began.get(name) for name in ("number", "command")] == [mine["number"], command]
        if has_run and (mine["starts"] is None or began["starts"] != mine["starts"]):  # or a rank beside us began it
            os.environ[GOES_ON] = str(place)
            return place
    return None


def _job_of(run_dir: Path) -> dict[str, Any]:
    try:
        return json.loads((run_dir / SUMMARY).read_text(encoding="utf-8"))["job"] or {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def signals() -> list[int]:
    """Those by which a cluster says that a job's time is up; none outside of one."""
    if job_number() is None:
        return []
    return [getattr(signal, name) for name in ("SIGUSR1", "SIGUSR2") if hasattr(signal, name)]


def requeue(number: int, handler: Callable[[int, Any], Any] | None) -> None:
    """Have this job started again, when its run is saved.

    Args:
        number: the signal that said so.
        handler: whose the signal was before: submitit's starts the job again, and ends the process.
    """
    if handler is not None:
        handler(number, None)
        return
    if not is_rank_zero():
        return
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    job = f"{array}_{task}" if array is not None else os.environ["SLURM_JOB_ID"]
    try:
        subprocess.run(["scontrol", "requeue", job], check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        log.warning("job %s could not be queued again: %s", job, getattr(error, "stderr", "") or error)
    else:
        log.info("job %s is queued again, and will go on from here", job)
