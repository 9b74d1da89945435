"""The run directory: everything of one run, and nothing of it lies outside."""

import os
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


def is_rank_zero() -> bool:
    """Whether this process speaks and writes for all: the first of those that a launcher started, or the only one.

    Lightning tells the ranks that it launches LOCAL_RANK, torchrun tells RANK too, srun SLURM_PROCID (which a shell
    inside a SLURM job hands on to whatever it starts, so it is asked last).
    """
    if "RANK" in os.environ:
        return os.environ["RANK"] == "0"
    if "LOCAL_RANK" in os.environ:
        return os.environ["LOCAL_RANK"] == "0" == os.environ.get("NODE_RANK", "0")
    return os.environ.get("SLURM_PROCID", "0") == "0" == os.environ.get("NODE_RANK", "0")


def check_free(wanted: str | None) -> None:
    """Raises UserError where `run_dir=` names a directory that holds a run already."""
    if wanted is not None and any(Path(wanted).expanduser().absolute().glob("checkpoints/*.ckpt")):
        raise UserError(f"run_dir={wanted} holds a run already: go on with resume={wanted}, or name another directory")


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
            check_free(wanted)
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
    directory.mkdir(parents=True, exist_ok=True)
    leftovers = [path for pattern in WRITTEN_BY_A_RUN for path in directory.glob(pattern)]
    config = directory / "config.yaml"
    if leftovers and not (config.is_file() and "_target_: gptlab." in config.read_text(errors="replace")):
        raise UserError(f"run_dir={directory} holds a {leftovers[0].name} that is no run's: name another directory")
    for leftover in leftovers:  # of a run that ended before its first checkpoint: it is started over
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


def shared_by_ranks(wanted: str | None, experiment: str) -> Path:
    """Rank 0 claims a directory, the others are told: one run, one directory.

    Ranks that Lightning launches inherit the environment of rank 0. Under torchrun the ranks come up side by side, and
    the store that torchrun itself serves carries the choice. Elsewhere all must be told the same `run_dir=`.

    Raises:
        UserError: as `claim`; and where ranks came up side by side with nothing to ask.
    """
    if is_rank_zero():
        directory = claim(wanted, experiment)
        os.environ[HANDED_OVER] = str(directory)
        if "TORCHELASTIC_RUN_ID" in os.environ:
            _torchrun_store().set(HANDED_OVER, str(directory))
        return directory
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return Path(_torchrun_store().get(HANDED_OVER).decode())
    if HANDED_OVER in os.environ:
        return Path(os.environ[HANDED_OVER])
    if wanted is not None:
        return Path(wanted).expanduser().absolute()
    raise UserError("several ranks were started side by side: tell them all the same run_dir=<directory>")


def _torchrun_store():  # type: ignore[no-untyped-def]
    from torch.distributed import PrefixStore, TCPStore

    restart = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    store = TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)
    return PrefixStore(f"gptlab/{restart}", store)
