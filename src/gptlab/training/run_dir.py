"""The run directory: everything of one run lies in it, and one process writes into it."""

import itertools
import os
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from gptlab.errors import UserError
from gptlab.training.run_files import CONFIG, CURVES, METRICS, SUMMARY, TRAIN_LOG, read_config, truncate_logs

RUN_DIR_VARIABLE = "GPTLAB_RUN_DIR"  # by which rank 0 tells the ranks that it launches where the run lies
WRITTEN_BY_A_RUN = (CONFIG, METRICS, CURVES, SUMMARY, TRAIN_LOG)
UNNAMED = ("experiment", "data", "run_dir", "resume", "path", "cache_dir", "prompt")
"""Settings that are left out of a run's name."""
LOCK = ".lock"
LOCK_TIMEOUT = 7.0  # seconds: data workers of a killed run notice within 5, and hold its lock until then


def is_rank_zero() -> bool:
    """Whether this process writes and logs for all: the first that a launcher started, or the only one.

    Lightning sets LOCAL_RANK, torchrun also RANK, srun SLURM_PROCID, which a shell in a SLURM job passes on to all.
    """
    rank = next((os.environ[name] for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID") if name in os.environ), "0")
    return rank == "0" and ("RANK" in os.environ or os.environ.get("NODE_RANK", "0") == "0")


def check_free(run_dir: str | Path | None) -> None:
    """Raises UserError if `run_dir=` names a directory that holds a checkpoint."""
    if run_dir is not None and any(Path(run_dir).expanduser().glob("checkpoints/*.ckpt")):
        raise UserError(f"run_dir={run_dir} holds a run already: use resume={run_dir}, or name another directory")


@contextmanager
def lock_run_dir(run_dir: Path, *, key: str, timeout: float | None = None) -> Iterator[None]:
    """Within the block no other process writes into this run. The lock ends with the process.

    Raises:
        UserError: if another process holds it for `timeout` seconds; `key` is the setting that named the run.
    """
    lock = FileLock(run_dir / LOCK)
    try:
        lock.acquire(timeout=LOCK_TIMEOUT if timeout is None else timeout)
    except Timeout:
        raise UserError(f"{key}={run_dir}: another process is training this run: let it end, or stop it") from None
    try:
        yield
    finally:
        with suppress(OSError):  # Windows cannot delete open files
            (run_dir / LOCK).unlink()
        lock.release()


@contextmanager
def create_run_dir(wanted: str | None, experiment: str, label: str = "") -> Iterator[Path]:
    """The locked directory of a new run. It is removed again if the run does not get as far as config.yaml.

    Args:
        wanted: `run_dir=`; None for outputs/<experiment>/<date_time>_<label>, with a suffix if that is taken.
        experiment, label: parts of the default.

    Raises:
        UserError: if it holds a run with a checkpoint or other files of such names, is locked, or cannot be made.
    """
    name = "_".join(filter(None, (datetime.now().strftime("%Y-%m-%d_%H-%M-%S"), label)))
    place = Path("outputs", experiment).absolute() if wanted is None else Path(wanted).expanduser().absolute()
    with ExitStack() as stack:
        try:
            place.mkdir(parents=True, exist_ok=True)
            directory = make_new(place / name) if wanted is None else place
            stack.callback(_remove_empty, directory)
            stack.enter_context(lock_run_dir(directory, key="run_dir"))
        except OSError as error:
            raise UserError(f"run_dir={wanted or place} cannot be written ({error.strerror}): name another") from None
        check_free(wanted)
        names = [name for name in WRITTEN_BY_A_RUN if (directory / name).exists()]
        if names and read_config(directory) is None:
            raise UserError(f"run_dir={directory} holds a {names[0]} that no run wrote: name another directory")
        (directory / METRICS).unlink(missing_ok=True)
        try:
            yield directory
        finally:
            if not (directory / CONFIG).exists():
                truncate_logs(directory, {})


def _remove_empty(directory: Path) -> None:
    """Remove a directory, and those above it as far as the working directory, as long as they are empty."""
    with suppress(OSError):  # the first directory that is not empty ends it
        os.removedirs(os.path.relpath(directory))


def run_label(overrides: list[str]) -> str:
    """What a command changes, for the name of its run: `lr-1e-3_d_model-64`; as many settings as fit into 40 letters.

    Paths, experiments and the implied `data=text` are left out.
    """
    label = ""
    for override in overrides:
        key, _, value = override.lstrip("+").partition("=")
        name = key.replace("/", ".").rpartition(".")[2]
        longer = "_".join(filter(None, (label, re.sub(r"[^\w.+-]", "", f"{name}-{value}"))))
        if name not in UNNAMED and "/" not in value and len(longer) <= 40:
            label = longer
    return label


def make_new(directory: Path) -> Path:
    """Create a directory, with a suffix if the name is taken."""
    for number in itertools.count(1):
        candidate = directory if number == 1 else directory.with_name(f"{directory.name}-{number}")
        with suppress(FileExistsError):  # another run began in the same second
            candidate.mkdir()
            return candidate
    raise AssertionError


def shared_by_ranks(choose: Callable[[], Path], *, wanted: str | None) -> Path:
    """Rank 0 chooses a directory and tells the others.

    Ranks that Lightning launches inherit rank 0's environment. Under other launchers (torchrun, srun) all ranks need
    the same `run_dir=`.

    Raises:
        UserError: as `choose`; or if a rank cannot know the choice.
    """
    if is_rank_zero():
        directory = choose()
        os.environ[RUN_DIR_VARIABLE] = str(directory)
        return directory
    told = os.environ.get(RUN_DIR_VARIABLE)
    if told is None and wanted is None:
        raise UserError("several ranks were started side by side: give them all the same run_dir=<directory>")
    return Path(told or str(wanted)).expanduser().absolute()


def forget_ranks() -> None:
    """After a run: the next one in this process chooses its own directory."""
    os.environ.pop(RUN_DIR_VARIABLE, None)
