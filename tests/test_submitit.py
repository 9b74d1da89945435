"""A job that submitit stops and requeues resumes its run."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from conftest import ROOT, TINY
from same_run import rows, summary

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="finds the job's process in /proc"),
]


def test_a_preempted_job_resumes_with_resume_auto(workplace: Path) -> None:
    changes = ("max_steps=600", "validate_every=300", "save_every=1000", "resume=auto", "hydra/launcher=submitit_local")
    command = [sys.executable, str(ROOT / "train.py"), "-m", *TINY, *changes, "hydra.sweep.dir=sweep"]
    typed = subprocess.Popen([*command, f"data.path={workplace}/poem.txt"], cwd=workplace)
    run = workplace / "sweep" / "0"
    deadline = time.monotonic() + 120
    while not ((run / "metrics.csv").exists() and len((run / "metrics.csv").read_text().splitlines()) > 5):
        assert time.monotonic() < deadline
        assert typed.poll() is None
        time.sleep(0.02)
    (controller,) = (int(path.name) for path in (workplace / "sweep" / ".submitit").iterdir() if path.name.isdigit())
    (job,) = map(int, Path(f"/proc/{controller}/task/{controller}/children").read_text().split())
    os.kill(job, signal.SIGUSR2)
    assert typed.wait(timeout=120) == 0
    assert summary(run)["status"] == "finished"
    assert [int(row["step"]) for row in rows(run)] == list(range(1, 601))
    assert "resuming from step" in (run / "train.log").read_text()
