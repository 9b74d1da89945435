"""The run directory: everything of one run, and nothing of it lies outside."""

import os
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from gptlab.errors import UserError

HANDED_OVER = "GPTLAB_RUN_DIR"
"""Environment variable with which rank 0 tells the ranks that it launches where the run lies."""

WRITTEN_BY_A_RUN = (
    "config.yaml",
    "metrics.csv",
    "curves.png",
    "summary.json",
    "train.log",
    "events.out.tfevents.*",
)


def process_rank() -> int:
    """This process's rank, as a launcher told it; 0 where nothing launched it."""
    for variable in ("RANK", "SLURM_PROCID", "LOCAL_RANK"):
        if variable in os.environ:
            return int(os.environ[variable])
    return 0


def claim(wanted: str | None, experiment: str) -> Path:
    """Make the directory of a new run, for this process alone.

    Args:
        wanted: `run_dir=`; None for outputs/<experiment>/<date_time>, with a suffix where that is taken.
        experiment: what the default is filed under.

    Raises:
        UserError: where it holds a run that was begun, or cannot be made.
    """
    try:
        if wanted is not None:
            return _take(Path(wanted).expanduser().absolute())
        parent = Path("outputs", experiment).absolute()
        parent.mkdir(parents=True, exist_ok=True)
        return _make_new(parent / datetime.now().strftime("%Y-%m-%d_%H-%M-%S"))
    except OSError as error:
        place = wanted if wanted is not None else Path("outputs", experiment)
        raise UserError(
            f"run_dir={place} cannot be written ({error.strerror or error}): "
            f"name another place with run_dir=<directory>"
        ) from None


def _take(directory: Path) -> Path:
    if any(directory.glob("checkpoints/*.ckpt")):
        raise UserError(
            f"run_dir={directory} holds a run already: go on with resume={directory}, or name another directory"
        )
    directory.mkdir(parents=True, exist_ok=True)
    for pattern in WRITTEN_BY_A_RUN:  # of a run that ended before its first checkpoint: it is started over
        for leftover in directory.glob(pattern):
            leftover.unlink()
    if not os.access(directory, os.W_OK):
        raise PermissionError(None, "no permission to write", str(directory))
    return directory


def _make_new(directory: Path) -> Path:
    candidate, number = directory, 1
    while True:
        try:
            candidate.mkdir()
        except FileExistsError:  # another run began in the same second
            number += 1
            candidate = directory.with_name(f"{directory.name}-{number}")
        else:
            return candidate


def shared_by_ranks(claim_directory: Callable[[], Path]) -> Path:
    """Rank 0 chooses, the others are told: one run, one directory.

    Ranks that Lightning launches inherit the environment of rank 0. Under torchrun the ranks come up side by side, and
    the store that torchrun itself serves carries the choice.

    Raises:
        UserError: where ranks came up side by side without a store to ask, and without `run_dir=`.
    """
    if process_rank() == 0:
        directory = claim_directory()
        os.environ[HANDED_OVER] = str(directory)
        if "TORCHELASTIC_RUN_ID" in os.environ:
            _torchrun_store().set(HANDED_OVER, str(directory))
        return directory
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return Path(_torchrun_store().get(HANDED_OVER).decode())
    if HANDED_OVER in os.environ:
        return Path(os.environ[HANDED_OVER])
    raise UserError("several ranks were started side by side: tell them all the same run_dir=<directory>")


def _torchrun_store():  # type: ignore[no-untyped-def]
    from torch.distributed import PrefixStore, TCPStore

    restart = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    store = TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)
    return PrefixStore(f"gptlab/{restart}", store)
