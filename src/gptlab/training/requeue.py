"""Cluster jobs that are stopped and started again: the run goes on by itself.

SLURM gives a job that it starts again the number that it had. A run keeps the number, and the command, of the job that
began it, in summary.json: where the same job comes by again with the same command, it is that run's next session.
Shortly before the end SLURM sends SIGUSR1 or SIGUSR2 where it was asked to (`--signal=USR1@120`; submitit: SIGUSR2).
"""

import logging
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gptlab.training.run_dir import GOES_ON, HANDED_OVER, is_rank_zero
from gptlab.training.run_files import read_summary

log = logging.getLogger("gptlab")

JOB_NUMBERS = ("SLURM_JOB_ID", "SUBMITIT_LOCAL_JOB_ID")
STARTS = "SLURM_RESTART_COUNT"


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
    launched_by_rank_zero = not is_rank_zero() and HANDED_OVER in os.environ
    if launched_by_rank_zero:
        return Path(os.environ[GOES_ON]) if GOES_ON in os.environ else None
    is_again = mine["starts"] not in (None, "0")
    if wanted is not None:
        places = [Path(wanted).expanduser().absolute()]
    else:
        places = sorted(Path("outputs", experiment).absolute().glob("*"), reverse=True) if is_again else []
    found = [place for place in places if _is_of(mine, place, is_again=is_again)]
    unfinished = [place for place in found if read_summary(place).get("status") != "finished"]
    if not found:
        return None
    os.environ[GOES_ON] = str((unfinished or found)[0])
    return Path(os.environ[GOES_ON])


def _is_of(mine: dict[str, Any], place: Path, *, is_again: bool) -> bool:
    """Whether a run was begun by this job, in an earlier start: the first rank may just have begun one in this."""
    began = read_summary(place).get("job") or {}
    if any(began.get(name) != mine[name] for name in ("number", "command")):
        return False
    if not is_rank_zero():
        return is_again
    return mine["starts"] is None or began["starts"] != mine["starts"]


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
    own = f"{array}_{task}" if array is not None else os.environ["SLURM_JOB_ID"]
    try:
        subprocess.run(["scontrol", "requeue", own], check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        log.warning("job %s could not be queued again: %s", own, getattr(error, "stderr", "") or error)
    else:
        log.info("job %s is queued again, and will go on from here", own)
