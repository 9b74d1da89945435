"""Several ranks, started by each launcher: if one dies, the others end with its name, and the run resumes exactly."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from conftest import TINY, Result
from same_run import rows, summary, weights

TRAIN = (sys.executable, "-m", "gptlab", "train")
CPU = tuple(setting for setting in TINY if not setting.startswith("trainer="))
EXACT = (*CPU, "model.dropout=0.2", "save_every=2", "resume=auto", "run_dir=run")
HOST = socket.gethostname()
MOMENTS = {
    "training": ("kill", "on_train_batch_start", 4),
    "saving": ("kill", "on_save_checkpoint", 4),
    "writing": ("kill_in_write", "on_save_checkpoint", 4),
    "validation": ("kill", "on_validation_batch_start", 3),
}
"""What happens, in which hook of which step, counted from 0. Steps 2 and 4 are saved, and step 3 is validated."""


def ranks(trainer: str, devices: int = 2, nodes: int = 1) -> tuple[str, ...]:
    return (f"trainer={trainer}", "trainer.accelerator=cpu", f"trainer.devices={devices}", f"trainer.num_nodes={nodes}")


def accident(kind: str | float, rank: int, hook: str, step: int) -> str:
    node = f"kind: {kind}, rank: {rank}, hook: {hook}, step: {step}, directory: run"
    return f"+callbacks.accident={{_target_: accidents.RankAccident, {node}}}"


def start(*command: str, **variables: str) -> subprocess.Popen:
    """A process that finds the accidents."""
    path = os.pathsep.join((str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")))
    environment = {**os.environ, "PYTHONPATH": path, **variables}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def ends(*processes: subprocess.Popen) -> tuple[list[int], str, float]:
    """Exit statuses, all that was printed, and the seconds from the accident to the end of all."""
    out = "".join("".join(process.communicate(timeout=200)) for process in processes)
    happened = Path("run", "happened")
    seconds = time.time() - float(happened.read_text()) if happened.exists() else 0.0
    return [process.returncode for process in processes], out, seconds


def finish(*arguments: str) -> None:
    statuses, out, _ = ends(start(*TRAIN, *arguments))
    assert statuses == [0], out


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, torch.Tensor]]:
    """The weights of a run on two ranks that nothing stops."""
    found: dict[str, dict[str, torch.Tensor]] = {}

    def train(trainer: str) -> dict[str, torch.Tensor]:
        if trainer not in found:
            run = tmp_path_factory.mktemp(trainer) / "run"
            finish(*EXACT[:-1], f"run_dir={run}", *ranks(trainer))
            found[trainer] = weights(run)
        return found[trainer]

    return train


def assert_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_the_others_name_a_rank_that_was_killed_and_one_rank_sees_the_same_batches(
    gptlab: Callable[..., Result], workplace: Path
) -> None:
    same = (*EXACT, "model.dropout=0")
    statuses, out, seconds = ends(start(*TRAIN, *same, *ranks("fsdp2"), accident("kill", 1, "on_train_batch_start", 4)))
    assert statuses == [1], out
    assert f"failed at step 4: rank 1 on {HOST} has died\n" in out
    assert "Traceback" not in out
    assert seconds < 60
    assert (summary(workplace / "run")["status"], summary(workplace / "run")["failure"]) == (
        "failed",
        f"rank 1 on {HOST} has died",
    )
    result = gptlab("train", *same, "trainer=cpu")
    assert result.status == 0, result.err
    assert gptlab("train", *same[:-2], "model.dropout=0", "run_dir=alone", "trainer=cpu").status == 0
    for row, expected in zip(rows(workplace / "run"), rows(workplace / "alone"), strict=True):
        assert row["tokens"] == expected["tokens"]
        assert float(row["train/loss"]) == pytest.approx(float(expected["train/loss"]), rel=1e-5)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("trainer", "moment", "rank"),
    [
        *(("ddp", moment, 0) for moment in ("training", "saving", "validation")),
        *(("fsdp2", moment, 1) for moment in ("training", "saving", "validation")),
        ("fsdp2", "writing", 0),
    ],
)
def test_a_run_whose_rank_was_killed_resumes_exactly(
    workplace: Path, undisturbed: Callable[[str], dict[str, torch.Tensor]], trainer: str, moment: str, rank: int
) -> None:
    kind, hook, step = MOMENTS[moment]
    command = (*EXACT, *ranks(trainer), accident(kind, rank, hook, step))
    statuses, out, seconds = ends(start(*TRAIN, *command))
    assert statuses == [1 if rank == 1 else -signal.SIGKILL], out
    assert f"rank {rank} on {HOST} has died" in out
    assert seconds < 60
    print(f"{trainer}, {moment}, rank {rank}: {seconds:.1f} s")
    finish(*command)
    assert_equal(weights(workplace / "run"), undisturbed(trainer))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["kill_launched", "raise"])
def test_a_rank_that_waits_ends_and_a_rank_that_fails_is_named(workplace: Path, kind: str) -> None:
    rank = {"kill_launched": 0, "raise": 1}[kind]
    command = (*EXACT, *ranks("ddp"), accident(kind, rank, "on_train_batch_start", 4))
    statuses, out, seconds = ends(start(*TRAIN, *command))
    assert statuses == [1], out
    assert seconds < 60
    if kind == "raise":
        assert f"failed at step 4: rank 1 on {HOST} failed: RuntimeError: a cosmic ray\n" in out
    else:
        assert f"failed: rank 1 on {HOST} has died; resume={workplace / 'run'} resumes the run\n" in out
        assert summary(workplace / "run")["failure"] == f"rank 1 on {HOST} has died"
    finish(*command)


@pytest.mark.slow
def test_a_rank_that_is_busy_for_a_minute_is_not_taken_for_dead(
    workplace: Path, undisturbed: Callable[[str], dict[str, torch.Tensor]]
) -> None:
    """Longer than any period of the watch, which ends a connection to a machine that is gone after 40 s."""
    finish(*EXACT, *ranks("ddp"), accident(60, 1, "on_save_checkpoint", 4))
    assert (workplace / "run" / "happened").exists()
    assert_equal(weights(workplace / "run"), undisturbed("ddp"))


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("trainer", ["ddp", "fsdp2"])
def test_torchrun_on_two_nodes(workplace: Path, trainer: str) -> None:
    def nodes(*changes: str) -> tuple[list[int], str, float]:
        address = ("--nnodes=2", "--nproc-per-node=2", "--master-addr=127.0.0.1", f"--master-port={free_port()}")
        torchrun = (sys.executable, "-m", "torch.distributed.run", *address)
        command = ("-m", "gptlab", "train", *EXACT, *ranks(trainer, nodes=2), *changes)
        return ends(*(start(*torchrun, f"--node-rank={node}", *command) for node in range(2)))

    statuses, out, seconds = nodes(accident("kill", 3, "on_train_batch_start", 4))
    assert statuses == [1, 1], out
    for other in ("failed at step 4", "rank 1", "rank 2"):
        assert f"{other}: rank 3 on {HOST} has died\n" in out
    assert seconds < 60
    finish(*EXACT, *ranks(trainer))
    assert summary(workplace / "run")["status"] == "finished"
    if trainer == "ddp":
        statuses, out, _ = nodes("trainer.num_nodes=1", "run_dir=other")
        assert statuses == [1, 1], "torchrun's own"
        assert "torchrun has started 4 processes (LOCAL_WORLD_SIZE: 2), and the run has trainer.devices=2 on" in out
        assert not (workplace / "other").exists()


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_srun_on_two_nodes(workplace: Path, undisturbed: Callable[[str], dict[str, torch.Tensor]]) -> None:
    job = {"SLURM_JOB_ID": "4711", "SLURM_JOB_NAME": "gpt", "SLURM_STEP_ID": "0", "SLURM_NODELIST": "127.0.0.1"}
    job |= {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "1", "SLURM_NNODES": "2", "SLURM_LOCALID": "0"}

    def srun(*changes: str) -> tuple[list[int], str, float]:
        command = (*TRAIN, *EXACT, *ranks("ddp", devices=1, nodes=2), *changes)
        tasks = [{"SLURM_PROCID": str(rank), "SLURM_NODEID": str(rank)} for rank in range(2)]
        port = str(free_port())
        return ends(*(start(*command, **job, **task, MASTER_PORT=port) for task in tasks))

    statuses, out, _ = srun(accident("signal", 0, "on_train_batch_start", 3))
    assert statuses == [128 + signal.SIGUSR1, 0], out
    assert "died" not in out
    (workplace / "run" / "happened").unlink()
    statuses, out, seconds = srun(accident("kill", 0, "on_train_batch_start", 5))
    assert statuses == [-signal.SIGKILL, 1]
    assert f"rank 1: rank 0 on {HOST} has died\n" in out
    assert seconds < 60
    assert srun()[0] == [0, 0]
    assert_equal(weights(workplace / "run"), undisturbed("ddp"))
