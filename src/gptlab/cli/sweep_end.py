"""The end of a sweep: what came of it, and what one would do next."""

import logging
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gptlab.cli.experiment_text import experiment_of, is_of_root
from gptlab.cli.explain import command_line
from gptlab.cli.report import shortened
from gptlab.files import write_whole
from gptlab.sweep.definition import Definition
from gptlab.sweep.record import STATUSES, TrialRecord, best_of
from gptlab.sweep.search import Search

log = logging.getLogger("gptlab")

BEST, REPORT = "best.yaml", "report.html"


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
            comment = f"Trial {best.number} of {'/'.join(sweep_dir.parts[-2:])}, {definition.metric} {best.metric:.6g}."
            write_whole(
                sweep_dir / BEST,
                experiment_of([*definition.words, *search.words(best)], comment=comment, searched=best.values),
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
        hope = ["hydra.sweeper.max_failed=1"] if search.is_hopeless else []
        log.info("  %s", pasted([*definition.command, *hope, f"resume_sweep={place}"]))
    for line in _next_commands(definition, Path(place)):
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
    run_again = f"gptlab train {shlex.join(_run_again(definition, sweep_dir))}"
    write_report(
        sweep_dir / REPORT,
        title=title,
        metric=definition.metric,
        direction=definition.direction,
        records=records,
        axes=axes,
        run_again=run_again if (sweep_dir / BEST).exists() else None,
    )


def _next_commands(definition: Definition, place: Path) -> list[str]:
    report = (place / REPORT).absolute()
    lines = [f"python -m webbrowser {report.as_uri()}"] if report.exists() else []
    lines.append(f"tensorboard --logdir {shlex.quote(str(place))}")
    lines.append(f"gptlab compare {shlex.quote(str(place))}")
    if (place / BEST).exists():
        lines.append(pasted(_run_again(definition, place)))
    return lines


def _run_again(definition: Definition, place: Path) -> list[str]:
    """The words that repeat the best trial."""
    return [*filter(is_of_root, definition.words), f"experiment={place / BEST}"]


def pasted(words: list[str]) -> str:
    """A command of train's, ready for a shell."""
    return f"{command_line('train')} {shlex.join(words)}"
