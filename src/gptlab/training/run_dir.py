"""The run directory: everything of one run, and nothing of it lies outside."""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from gptlab.errors import UserError
from gptlab.training.log import TRAIN_LOG
from gptlab.training.metrics import METRICS
from gptlab.training.run_files import APPENDED, CONFIG, SUMMARY

log = logging.getLogger("gptlab")

HANDED_OVER, GOES_ON = "GPTLAB_RUN_DIR", "GPTLAB_GOES_ON"
"""Environment variables with which rank 0 tells the ranks that it launches where the run lies, and that it goes on."""

WRITTEN_BY_A_RUN = (CONFIG, METRICS, "curves.png", SUMMARY, *APPENDED)
LOCK = ".lock"
PATIENCE = 7.0
"""Seconds. Workers of a killed run look every 5 seconds whether it lives, and hold its lock until then."""


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


@contextmanager
def held(run_dir: Path, *, key: str, patience: float | None = None) -> Iterator[None]:
    """Within the block no other process writes into this run; the lock goes with the process, however that ends.

    Raises:
        UserError: where another process is training it, also after so many seconds; `key` is what the user named it by.
    """
    lock = FileLock(run_dir / LOCK)
    try:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            log.info("another process has %s: waiting some seconds, in case that it was just killed", run_dir)
            lock.acquire(timeout=PATIENCE if patience is None else patience)
    except Timeout:
        raise UserError(f"{key}={run_dir}: another process is training this run: let it end, or stop it") from None
    try:
        yield
    finally:
        with suppress(OSError):  # as on a disk that is gone, and on Windows, which deletes no open file
            (run_dir / LOCK).unlink()
        lock.release()


@contextmanager
def claimed(wanted: str | None, experiment: str) -> Iterator[Path]:
    """The directory of a new run, for this process alone; gone again where the run does not get as far as its config.

    Args:
        wanted: `run_dir=`; None for outputs/<experiment>/<date_time>, with a suffix where that is taken.
        experiment: what the default is filed under.

    Raises:
        UserError: where it holds a run that was begun, where another process has it, or where it cannot be made.
    """
    place = Path(wanted).expanduser().absolute() if wanted is not None else Path("outputs", experiment).absolute()
    made = [path for path in (place, *place.parents) if not path.exists()]
    try:
        place.mkdir(parents=True, exist_ok=True)
        directory = place if wanted is not None else make_new(place / datetime.now().strftime("%Y-%m-%d_%H-%M-%S"))
        made = [directory, *made] if wanted is None else made
        if not os.access(directory, os.W_OK):
            raise PermissionError(None, "no permission to write", str(directory))
    except OSError as error:
        raise UserError(
            f"run_dir={wanted or Path('outputs', experiment)} cannot be written ({error.strerror or error}): "
            f"name another place with run_dir=<directory>"
        ) from None
    try:
        with held(directory, key="run_dir"):
            if wanted is not None:
                check_free(wanted)
                _clear(directory)
            try:
                yield directory
            finally:
                if not (directory / CONFIG).exists():
                    (directory / TRAIN_LOG).unlink(missing_ok=True)
    finally:
        if not (directory / CONFIG).exists():
            with suppress(OSError):  # the first that is not empty ends it
                for path in made:
                    path.rmdir()


def _clear(directory: Path) -> None:
    """Take away what a run has left that ended before its first checkpoint: it is started over."""
    leftovers = [path for pattern in WRITTEN_BY_A_RUN for path in directory.glob(pattern)]
    config = directory / CONFIG
    if leftovers and not (config.is_file() and "_target_: gptlab." in config.read_text(errors="replace")):
        raise UserError(f"run_dir={directory} holds a {leftovers[0].name} that is no run's: name another directory")
    for leftover in leftovers:
        leftover.unlink()


def make_new(directory: Path) -> Path:
    """Make a directory, with a suffix where the name is taken."""
    candidate, number = directory, 1
    while True:
        try:
            candidate.mkdir()
        except FileExistsError:  # another run began in the same second
            number += 1
            candidate = directory.with_name(f"{directory.name}-{number}")
        else:
            return candidate


def forget_ranks() -> None:
    """Behind a run: the next one in this process has ranks, and a directory, of its own."""
    for name in (HANDED_OVER, GOES_ON):
        os.environ.pop(name, None)


def shared_by_ranks(choose: Callable[[], Path], *, wanted: str | None) -> Path:
    """Rank 0 chooses a directory, the others are told: one run, one directory.

    Ranks that Lightning launches inherit the environment of rank 0. Under torchrun the ranks come up side by side, and
    the store that torchrun itself serves carries the choice. Elsewhere all must be told the same `run_dir=`.

    Raises:
        UserError: as `choose`; and where ranks came up side by side with nothing to ask.
    """
    if is_rank_zero():
        directory = choose()
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
