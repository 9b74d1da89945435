"""What Hydra asks to run the jobs of a multirun."""

from collections.abc import Sequence
from pathlib import Path

from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class ProcessLauncher(Launcher):
    """Each job is a process of its own, `python -m gptlab train` with the job's overrides.

    Args:
        n_jobs: how many run at once. gptlab's own sweeper says it itself.
    """

    config: DictConfig

    def __init__(self, *, n_jobs: int) -> None:
        self.n_jobs = n_jobs

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.config = config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """For other sweepers, as Hydra's `basic`. A job that fails is an exception in its place.

        Raises:
            UserError: where more are to run at once than there are devices.
            SystemExit: with its status where a signal has ended the jobs.
        """
        from gptlab.cli.trials import child_words, shares
        from gptlab.sweep.processes import Stopped, run_processes
        from gptlab.sweep.trial import Job

        sweep_dir = Path(self.config.hydra.sweep.dir).absolute()
        jobs = [
            Job(number, tuple(child_words(self.config, list(overrides))), sweep_dir / str(number))
            for number, overrides in enumerate(job_overrides, start=initial_job_idx)
        ]
        returned = {}
        try:
            for job, end in run_processes(iter(jobs), shares(self.config, self.n_jobs)):
                failure = RuntimeError(f"trial {job.number}: {end.reason}")
                returned[job.number] = JobReturn(
                    overrides=job.words,
                    status=JobStatus.FAILED if end.status == "failed" else JobStatus.COMPLETED,
                    _return_value=failure if end.status == "failed" else end,
                )
        except Stopped as stop:
            raise SystemExit(128 + stop.number) from None
        return [returned[job.number] for job in jobs]
