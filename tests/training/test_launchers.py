import pytest

from gptlab.errors import UserError
from gptlab.training.launchers import SIZES, check_launcher, started_by

TORCHRUN = {"TORCHELASTIC_RUN_ID": "none", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4"}
SRUN = {"SLURM_STEP_ID": "0", "SLURM_JOB_NAME": "gpt", "SLURM_NTASKS": "8", "SLURM_NTASKS_PER_NODE": "4"}


@pytest.fixture(autouse=True)
def _no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in (*TORCHRUN, *SRUN):
        monkeypatch.delenv(variable, raising=False)


@pytest.mark.parametrize(
    ("variables", "name"),
    [
        ({}, None),
        (TORCHRUN, "torchrun"),
        (SRUN, "srun"),
        ({**SRUN, "SLURM_NTASKS": "2", **TORCHRUN}, "torchrun"),  # srun torchrun
        ({**SRUN, "SLURM_NTASKS": "1"}, None),  # one task, which may launch ranks
        ({**SRUN, "SLURM_JOB_NAME": "interactive"}, None),  # srun --pty bash
        ({"SLURM_JOB_NAME": "gpt", "SLURM_NTASKS": "8"}, None),  # a batch script without srun
        ({"LOCAL_RANK": "1", "WORLD_SIZE": "2"}, None),  # a rank that Lightning has launched
    ],
)
def test_who_has_started_this_process(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], name: str | None
) -> None:
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    assert started_by() == name


@pytest.mark.parametrize("variables", [TORCHRUN, SRUN])
def test_the_numbers_of_processes_must_be_those_of_the_run(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]
) -> None:
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    check_launcher(n_ranks=8, n_nodes=2)
    for n_ranks, n_nodes in ((8, 1), (4, 1), (1, 1)):
        with pytest.raises(UserError, match=r"has started 8 processes .*: 4\), and the run has"):
            check_launcher(n_ranks=n_ranks, n_nodes=n_nodes)
    monkeypatch.delenv(SIZES[started_by() or ""][1])
    with pytest.raises(UserError, match=r"PER_NODE: \?|LOCAL_WORLD_SIZE: \?"):
        check_launcher(n_ranks=8, n_nodes=2)
