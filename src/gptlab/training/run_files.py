"""The files of a run directory, as one run leaves them to the session that goes on with it."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import yaml

from gptlab.files import PARTIAL, as_yaml, write_whole
from gptlab.training.log import TRAIN_LOG

CONFIG, SUMMARY = "config.yaml", "summary.json"
LAST, PREVIOUS, BEST = "last.ckpt", "previous.ckpt", "best.ckpt"
SEAL = "# unchanged since the run wrote it: "

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""Plain data alone; libyaml's where it is there, for the other needs a second for two hundred runs."""

APPENDED = (TRAIN_LOG, "events.out.tfevents.*")
"""What grows by records that do not say of which step they are; metrics.csv's do."""


def write_config(run_dir: Path, config: dict[str, Any]) -> None:
    """The configuration for people, with a checksum behind it by which a damaged file is known."""
    text = as_yaml(config)
    write_whole(run_dir / CONFIG, f"{text}{SEAL}{_checksum(text)}\n")


def read_config(run_dir: Path) -> dict[str, Any] | None:
    """What `write_config` wrote; None where that is not what is there now."""
    try:
        text, _, checksum = (run_dir / CONFIG).read_text(encoding="utf-8").rpartition(SEAL)
    except (OSError, UnicodeDecodeError):
        return None
    return LOADER(text).get_single_data() if checksum.strip() == _checksum(text) else None


def _checksum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def read_summary(run_dir: Path) -> dict[str, Any]:
    """The content of summary.json; nothing where it cannot be read."""
    try:
        content = json.loads((run_dir / SUMMARY).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def appended_sizes(run_dir: Path) -> dict[str, int]:
    """How long the files are that only grow: with this in a checkpoint, what is written later can be cut off."""
    return {path.name: path.stat().st_size for pattern in APPENDED for path in run_dir.glob(pattern)}


def _traceback(log: Path, start: int) -> bytes:
    """What a log has, behind a place, of why the run failed: that is still to be read."""
    later = log.read_bytes()[start:]
    begin = later.find(b"Traceback (most recent call last)")
    return later[later.rfind(b"\n", 0, begin) + 1 :] if begin >= 0 else b""


def cut_back(run_dir: Path, sizes: dict[str, int]) -> None:
    """Bring those files to the lengths that they had; those that came later go. Leftovers of broken writes go too."""
    for path in [path for pattern in APPENDED for path in run_dir.glob(pattern)]:
        if path.name not in sizes:
            path.unlink()
        elif path.stat().st_size > sizes[path.name]:
            why = _traceback(path, sizes[path.name]) if path.name == TRAIN_LOG else b""
            os.truncate(path, sizes[path.name])
            with path.open("ab") as file:
                file.write(why)
    for leftover in [*run_dir.glob(f"*{PARTIAL}"), *run_dir.glob(f"checkpoints/*{PARTIAL}")]:
        leftover.unlink()
