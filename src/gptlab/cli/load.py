"""The model that a command is about."""

import sys
from pathlib import Path

from gptlab.checkpoint import Loaded, load
from gptlab.checkpoint.run import find_checkpoint
from gptlab.cli.report import shortened
from gptlab.errors import UserError
from gptlab.training.run_files import CONFIG, read_summary

OUTPUTS = Path("outputs")


def load_or_newest(checkpoint: str | None, *, trust: str | list[str] | None) -> Loaded:
    """The model that `checkpoint=` names; null is the newest run under outputs/, which standard error then names.

    The newest run is the finished one that was saved last, or of any status if none has finished.

    Raises:
        UserError: if there is no model, or it needs a package that is not trusted.
    """
    if checkpoint is not None:
        return load(checkpoint, trust=trust or ())
    saved = [run_dir for run_dir in newest_runs() if find_checkpoint(run_dir) is not None]
    if not saved:
        raise UserError(f"there is no run under {OUTPUTS}/ yet: train one first, or name one with checkpoint=<path>")
    run_dir = next((run_dir for run_dir in saved if _status(run_dir) == "finished"), saved[0])
    status = _status(run_dir)
    kind = "the newest finished run" if status == "finished" else f"no run has finished; the newest ({status})"
    print(f"{kind}: {shortened(run_dir)}", file=sys.stderr, flush=True)
    return load(run_dir, trust=trust or ())


def newest_runs() -> list[Path]:
    """Run directories under outputs/; first the one that was begun, resumed or saved last."""
    times: dict[Path, float] = {}
    for path in filter(Path.is_file, [*OUTPUTS.glob(f"**/{CONFIG}"), *OUTPUTS.glob("**/checkpoints/*.ckpt")]):
        run_dir = path.parent if path.name == CONFIG else path.parents[1]
        times[run_dir] = max(times.get(run_dir, 0.0), path.stat().st_mtime)
    return sorted(times, key=lambda run_dir: times[run_dir], reverse=True)


def _status(run_dir: Path) -> str:
    return read_summary(run_dir).get("status") or "not finished"
