"""Small files that are written whole."""

import json
import os
from pathlib import Path
from typing import Any

import yaml


def write_whole(path: Path, content: str) -> None:
    """Write beside the final name, sync to disk, rename: a reader sees the old file or the new one."""
    partial = path.with_name(path.name + ".tmp")
    with partial.open("w", encoding="utf-8") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def write_json(path: Path, content: dict[str, Any]) -> None:
    write_whole(path, json.dumps(content, indent=2) + "\n")


def write_yaml(path: Path, content: dict[str, Any]) -> None:
    write_whole(path, yaml.safe_dump(content, sort_keys=False, allow_unicode=True))
