"""`gptlab prepare`: turn texts into token shards that `data=shards` trains on."""

import re
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from omegaconf import DictConfig

from gptlab import build
from gptlab.arguments import Positive
from gptlab.cli.compose import run_command
from gptlab.cli.explain import command_line
from gptlab.cli.load import load_or_newest
from gptlab.cli.progress import progress_line
from gptlab.cli.report import shortened
from gptlab.data.base import published
from gptlab.data.preparation import Preparation
from gptlab.errors import UserError
from gptlab.signals import END_OF_PROCESS, leave, signal_handler
from gptlab.tokenizer import Tokenizer


@dataclass(frozen=True)
class PrepareSettings:
    path: str
    to: str
    column: str
    val_fraction: float
    shard: str
    workers: Positive
    tokenizer: build.Config
    checkpoint: str | None
    trust: str | list[str] | None


def prepare(cfg: DictConfig) -> int:
    """Do this shard's jobs that are not done, and print a total if all of them are."""
    settings = build.settings_of(PrepareSettings, build.resolve(cfg))
    share = re.fullmatch(r"(\d+)/(\d+)", settings.shard)
    if share is None or int(share[1]) >= int(share[2]):
        raise UserError(f"shard={settings.shard} must be i/n with i from 0 to n - 1, such as shard=0/4")
    names = ("path", "to", "column", "val_fraction")
    jobs = Preparation(**{name: getattr(settings, name) for name in names}, tokenizer=_tokenizer(settings))
    first, step = int(share[1]), int(share[2])
    numbers = [number for number in range(first, len(jobs.files), step) if jobs.record(number) is None]
    n, began = min(settings.workers, len(numbers)), time.monotonic()
    with signal_handler(*END_OF_PROCESS, handler=leave):
        try:
            if n > 1:
                status = _in_processes([f"{first + step * k}/{step * n}" for k in range(n)])
            else:
                status = _make(jobs, numbers, settings.shard)
        finally:
            with suppress(OSError):
                jobs.to.rmdir()  # if it is empty
    if status == 0:
        _report(jobs, numbers, time.monotonic() - began, settings)
    return status


main = partial(run_command, prepare, config_name="prepare")


def _tokenizer(settings: PrepareSettings) -> Tokenizer:
    if settings.checkpoint is not None:
        return load_or_newest(settings.checkpoint, trust=settings.trust, classifiers=True).needed_tokenizer()
    known = published(build.tokenizer_factory({"tokenizer": settings.tokenizer}))
    if known is None:
        raise UserError("prepare trains no tokenizer: use tokenizer=gpt2, or that of a run with checkpoint=<run>")
    return known


def _make(jobs: Preparation, numbers: list[int], shard: str) -> int:
    n_before = 0
    with progress_line(f"shard {shard}", None, unit="tokens") as show:
        for n_done, number in enumerate(numbers):
            note = f"{n_done}/{len(numbers)} files"
            n_before += jobs.make(number, lambda n, before=n_before, note=note: show(before + n, note))  # type: ignore[misc]
    return 0


def _in_processes(shards: list[str]) -> int:
    """Run this command for all of these shards at once; returns the exit status of one that failed, or 0."""
    command = [sys.executable, "-m", "gptlab", *sys.argv[1:], "workers=1"]
    how: dict[str, Any] = {"stdout": subprocess.DEVNULL, "start_new_session": True}  # Ctrl-C is for this process
    running = [subprocess.Popen([*command, f"shard={shard}"], **how) for shard in shards]
    try:
        statuses = [process.wait() for process in running]
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.wait()
    if min(statuses) < 0:
        raise RuntimeError(f"signal {-min(statuses)} has killed one of the {len(shards)} processes")
    return max(statuses)


def _report(jobs: Preparation, numbers: list[int], seconds: float, settings: PrepareSettings) -> None:
    """Print what was done now, the sum over all jobs, and what to do next. UserError if there is no text at all."""
    records = {number: record for number in range(len(jobs.files)) if (record := jobs.record(number)) is not None}
    if made := sum(records[n]["train_tokens"] + records[n]["val_tokens"] for n in numbers if n in records):
        print(f"{made:,} tokens in {seconds:,.1f} s: {made / seconds:,.0f} tokens/s")
    if len(records) < len(jobs.files):
        print(f"{len(records):,} of {len(jobs.files):,} files are prepared; the rest is for other shards or processes")
        return
    names = ("documents", "bytes", "train_tokens", "val_tokens")
    documents, n_bytes, train, val = (sum(record[name] for record in records.values()) for name in names)
    if not train:
        raise UserError(f"path={settings.path}: there is no text in it")
    longest = max(record["longest_document"] for record in records.values())
    shortest = min(record[name] for record in records.values() for name in names[2:] if record[name])
    print(f"{documents:,} documents, {n_bytes:,} bytes, {train + val:,} tokens ({val:,} for validation)")
    print(f"longest document {longest:,} tokens; shortest shard {shortest:,} tokens")
    words = {"data": "shards", "data.path": shortened(jobs.to)} | ({} if val else {"data.val_path": "<shards>"})
    source = {"tokenizer": "gpt2"} if settings.checkpoint is None else {"init_from": settings.checkpoint}
    print(f"\nnext:\n  {command_line('train', **words, **source)}")
