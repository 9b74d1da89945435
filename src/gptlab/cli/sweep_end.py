"""The end of a sweep: what came of it, and what one would do next."""

import logging
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gptlab.cli.experiment_text import experiment_of
from gptlab.cli.explain import command_line
from gptlab.cli.report import shortened
from gptlab.files import write_whole
from gptlab.sweep.record import TrialRecord, best_of
from gptlab.sweep.search import Search

log = logging.getLogger("gptlab")

BEST, REPORT = "best.yaml", "report.html"
STATUSES = ("finished", "pruned", "failed", "interrupted")


def finish(search: Search, sweep_dir: Path, *, stopped_by: int | None) -> int:
    """Write best.yaml and report.html, say what came of it. Returns the exit status.

    Args:
        search: the sweep, as far as it has got.
        sweep_dir: its directory.
        stopped_by: the signal that stopped it; None where it came to its end.
    """
    records, definition = search.study.records(), search.definition
    best = best_of(records, direction=definition.direction)
    if best is not None:
        with _at_no_cost(BEST):
            words = [word for word in definition.words if not word.startswith(("--", "hydra."))]
            comment = f"Trial {best.number} of {'/'.join(sweep_dir.parts[-2:])}, {definition.metric} {best.metric:.6g}."
            write_whole(
                sweep_dir / BEST, experiment_of([*words, *search.words(best)], comment=comment, searched=best.values)
            )
    with _at_no_cost(REPORT):
        _write_report(search, records, sweep_dir)
    counts = {status: sum(record.status == status for record in records) for status in STATUSES}
    log.info("")
    log.info("%s", ", ".join(f"{count} {status}" for status, count in counts.items() if count) or "no trial has ended")
    if best is not None:
        log.info("best: trial %d, %s %.4f", best.number, definition.metric, best.metric)
        for word in search.words(best):
            log.info("  %s", word)
    if stopped_by is None and search.exit_status != 0:
        failed = f"more than {search.max_failed:g} of the trials have failed (hydra.sweeper.max_failed)"
        log.error("failed: %s", failed if best is not None or search.is_hopeless else "no trial has finished")
    log.info("")
    log.info("next:")
    place = shortened(sweep_dir)
    if stopped_by is not None or search.study.n_trials < search.n_trials:
        log.info("  %s", pasted([*definition.command, f"resume_sweep={place}"]))
    for line in _next_commands(best, place):
        log.info("  %s", line)
    return 128 + stopped_by if stopped_by is not None else search.exit_status


@contextmanager
def _at_no_cost(name: str) -> Iterator[None]:
    """What can be made again costs no sweep its result."""
    try:
        yield
    except Exception as error:
        log.warning("%s could not be written (%s: %s)", name, type(error).__name__, " ".join(str(error).split()))


def _write_report(search: Search, records: list[TrialRecord], sweep_dir: Path) -> None:
    from gptlab.sweep.report.page import write_report

    definition = search.definition
    axes = [entry.axis for entry in definition.parameters]
    named = [word for word in definition.command if word.startswith(("sweep=", "experiment="))]
    title = " ".join(named) or f"{definition.sampler} over {', '.join(definition.space)}"
    write_report(
        sweep_dir / REPORT,
        title=title,
        metric=definition.metric,
        direction=definition.direction,
        records=records,
        axes=axes,
    )


def _next_commands(best: TrialRecord | None, place: str) -> list[str]:
    report = Path(place, REPORT).absolute()
    lines = [f"python -m webbrowser {report.as_uri()}"] if report.exists() else []
    lines.append(f"tensorboard --logdir {shlex.quote(place)}")
    lines.append(f"gptlab compare {shlex.quote(place)}")
    if best is not None and Path(place, BEST).exists():
        lines.append(command_line("train", experiment=f"{place}/{BEST}"))
    return lines


def pasted(words: list[str]) -> str:
    """A command of train's, ready for a shell."""
    return f"{command_line('train')} {shlex.join(words)}"
