"""A cluster's job that is started again goes on with its run."""

import json
import signal
from pathlib import Path
from unittest.mock import Mock

import pytest

from gptlab.training.requeue import job, requeue, run_of_this_job, signals

COMMAND = ["optimizer.lr=1e-3"]


@pytest.fixture
def slurm(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Inside of SLURM's job 7, in its first start."""
    for name in ("SLURM_RESTART_COUNT", "SLURM_ARRAY_JOB_ID", "SLURM_PROCID", "GPTLAB_GOES_ON"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    return monkeypatch


def begin(run: Path) -> Path:
    run.mkdir(parents=True)
    (run / "summary.json").write_text(json.dumps({"job": job(COMMAND)}))
    return run


def test_outside_of_a_cluster_nothing_is_looked_for(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLURM_JOB_ID", "SUBMITIT_LOCAL_JOB_ID"):
        monkeypatch.delenv(name, raising=False)
    begin(workplace / "mine")
    assert job(COMMAND) is None
    assert signals() == []
    assert run_of_this_job("mine", "default", COMMAND) is None


def test_a_job_that_starts_again_finds_the_run_of_its_command(slurm: pytest.MonkeyPatch, workplace: Path) -> None:
    run = begin(workplace / "outputs" / "default" / "2026-01-01_00-00-00")
    assert run_of_this_job(None, "default", COMMAND) is None, "the same start: another command line of one script"
    slurm.setenv("SLURM_RESTART_COUNT", "1")
    assert run_of_this_job(None, "default", COMMAND) == run
    assert run_of_this_job(str(run), "default", COMMAND) == run
    assert run_of_this_job(None, "default", ["optimizer.lr=1"]) is None
    assert run_of_this_job(None, "other", COMMAND) is None
    slurm.setenv("SLURM_JOB_ID", "8")
    assert run_of_this_job(None, "default", COMMAND) is None


def test_ranks_that_lightning_launches_go_where_the_first_went(slurm: pytest.MonkeyPatch, workplace: Path) -> None:
    run = begin(workplace / "mine")
    slurm.setenv("SLURM_RESTART_COUNT", "1")
    assert run_of_this_job("mine", "default", COMMAND) == run
    (run / "summary.json").write_text(json.dumps({"job": job(COMMAND)}))  # the first rank's new session
    slurm.setenv("LOCAL_RANK", "1")
    slurm.setenv("GPTLAB_RUN_DIR", str(run))
    assert run_of_this_job("mine", "default", COMMAND) == run
    slurm.delenv("GPTLAB_GOES_ON")
    assert run_of_this_job("mine", "default", COMMAND) is None, "it has begun a new one"


def test_ranks_that_srun_starts_go_on_however_late_they_come(slurm: pytest.MonkeyPatch, workplace: Path) -> None:
    slurm.setenv("SLURM_RESTART_COUNT", "1")
    run = begin(workplace / "mine")  # the first rank's new session
    slurm.setenv("SLURM_PROCID", "1")
    assert run_of_this_job("mine", "default", COMMAND) == run


def test_of_two_runs_of_one_command_the_unfinished_goes_on(slurm: pytest.MonkeyPatch, workplace: Path) -> None:
    runs = [begin(workplace / "outputs" / "default" / name) for name in ("1", "2")]
    slurm.setenv("SLURM_RESTART_COUNT", "1")
    assert run_of_this_job(None, "default", COMMAND) == runs[1]
    content = json.loads((runs[1] / "summary.json").read_text())
    (runs[1] / "summary.json").write_text(json.dumps({**content, "status": "finished"}))
    assert run_of_this_job(None, "default", COMMAND) == runs[0]


def test_submitit_queues_its_own_jobs(slurm: pytest.MonkeyPatch) -> None:
    handler = Mock()
    requeue(signal.SIGUSR2, handler)
    handler.assert_called_once_with(signal.SIGUSR2, None)


@pytest.mark.parametrize(("array", "asked_for"), [(None, "7"), ("5", "5_2")])
def test_slurm_is_asked_to_start_the_job_again(
    slurm: pytest.MonkeyPatch, workplace: Path, array: str | None, asked_for: str
) -> None:
    scontrol = workplace / "scontrol"
    scontrol.write_text(f"#!/bin/sh\necho $@ > {workplace}/asked\n")
    scontrol.chmod(0o755)
    slurm.setenv("PATH", str(workplace), prepend=":")
    if array is not None:
        slurm.setenv("SLURM_ARRAY_JOB_ID", array)
        slurm.setenv("SLURM_ARRAY_TASK_ID", "2")
    requeue(signal.SIGUSR1, None)
    assert (workplace / "asked").read_text() == f"requeue {asked_for}\n"


def test_a_job_that_cannot_be_queued_again_is_a_warning(
    slurm: pytest.MonkeyPatch, workplace: Path, caplog: pytest.LogCaptureFixture
) -> None:
    slurm.setenv("PATH", str(workplace))
    slurm.setattr("gptlab.training.requeue.log.propagate", True)
    requeue(signal.SIGUSR1, None)
    assert "job 7 could not be queued again" in caplog.text
