"""Programs other than Lightning that start the ranks of a run."""

import os

from gptlab.errors import UserError

SIZES = {"torchrun": ("WORLD_SIZE", "LOCAL_WORLD_SIZE"), "srun": ("SLURM_NTASKS", "SLURM_NTASKS_PER_NODE")}
"""Variables with the number of processes in all, and on each node."""


def started_by() -> str | None:
    """The program that started this process as one of several; None if Lightning starts the others, if any.

    A shell in a SLURM job hands on the job's variables. SLURM calls such a step `bash` or `interactive`.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return "torchrun"
    is_one_of_several = "SLURM_STEP_ID" in os.environ and int(os.environ.get("SLURM_NTASKS", "1")) > 1
    is_shell = os.environ.get("SLURM_JOB_NAME") in ("bash", "interactive")
    return "srun" if is_one_of_several and not is_shell else None


def check_launcher(*, n_ranks: int, n_nodes: int) -> None:
    """Raises UserError if a launcher has started other numbers of processes than the run is to have."""
    if (name := started_by()) is None:
        return
    started = [os.environ.get(variable, "?") for variable in SIZES[name]]
    if started != [str(n_ranks), str(n_ranks // n_nodes)]:
        raise UserError(
            f"{name} has started {started[0]} processes ({SIZES[name][1]}: {started[1]}), and the run has "
            f"trainer.devices={n_ranks // n_nodes} on each node and trainer.num_nodes={n_nodes}: change one of them"
        )
