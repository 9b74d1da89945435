"""Hydra: from the command line to a configuration, and from whatever happens then to an exit status."""

import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import hydra
from hydra._internal import utils as hydra_utils
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from gptlab.cli.experiment_file import with_experiment_files
from gptlab.cli.explain import CONF, FULL_ERROR, explain, what_failed
from gptlab.cli.free_text import quote_free_text
from gptlab.errors import UserError


def run_command(
    task: Callable[[DictConfig], int],
    *,
    config_name: str,
    arguments: list[str],
    job: Callable[[DictConfig], Any] | None = None,
) -> int:
    """Compose the configuration, run the task on it, and map what happens to an exit status.

    Args:
        task: gets the composed configuration, returns an exit status.
        config_name: a root file of conf/.
        arguments: overrides and Hydra's flags, as typed.
        job: gets the configuration instead where this is one job of a sweep, in a process of some other launcher's;
            what it returns goes to the sweep.

    Returns:
        0 done, 1 failed, 2 the user's mistake, 130 Ctrl-C.
    """
    ends: list[int | Exception] = []
    typed = list(sys.argv)

    def composed(cfg: DictConfig) -> Any:
        with _argv(typed):  # ranks that Lightning launches get the command line as it was typed
            if job is not None and HydraConfig.get().mode == RunMode.MULTIRUN:
                return job(cfg)
            try:
                ends.append(task(cfg))
            except Exception as error:  # Hydra would print lines of its own around it
                ends.append(error)
        return None

    logging.getLogger("hydra.utils").setLevel(logging.CRITICAL)  # it logs what it raises
    try:
        named = with_experiment_files(arguments) if config_name == "train" else arguments
        words = _flags_first(quote_free_text(named))
        _check_flags(words, config_name)
        with _argv([typed[0], *words]), _raising_what_it_would_print():
            hydra.main(version_base="1.3", config_path=str(CONF), config_name=config_name)(composed)()
    except SystemExit as error:
        if not ends:  # --version, and the end of a sweep
            ends.append(error.code if isinstance(error.code, int) else 0)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    except Exception as error:
        ends.append(error)

    return _say(ends[-1] if ends else 0, config_name, arguments)


def _say(end: int | Exception, config_name: str, arguments: list[str]) -> int:
    """Print what there is to say of a command's end. Returns its exit status."""
    lost = _lost_output()
    if end == 0 and lost is not None:
        end = lost
    if isinstance(end, Exception) and os.environ.get(FULL_ERROR) == "1":
        raise end
    status, line = status_and_line(end, config_name, arguments)
    if line is not None:
        print(line, file=sys.stderr)
    return status


def status_and_line(end: int | Exception, config_name: str, arguments: list[str]) -> tuple[int, str | None]:
    """The exit status, and what to say where there is something."""
    if isinstance(end, int):
        return end, None
    if isinstance(end, BrokenPipeError):  # whoever read our output has gone, as with `| head`
        return 128 + signal.SIGPIPE, None
    mistake = explain(end, config_name, arguments)
    if mistake is not None:
        return 2, "error: " + " ".join(mistake.splitlines())
    return 1, f"failed: {what_failed(end)}"


def _flags_first(arguments: list[str]) -> list[str]:
    """`a=1 -m b=2,3` too: Hydra's parser takes no override on both sides of a flag."""
    return sorted(arguments, key=lambda word: word.startswith("~") or ("=" in word and not word.startswith("-")))


def _check_flags(arguments: list[str], config_name: str) -> None:
    """Hydra's parser answers a flag that it does not know with its usage, in eighteen lines, and its own exit."""

    def refuse(message: str) -> NoReturn:
        unknown = message.removeprefix("unrecognized arguments: ")
        if unknown != message and unknown.startswith("-"):
            key, _, value = unknown.split()[0].lstrip("-").replace("-", "_").partition("=")
            message = (
                f"{unknown.split()[0]} is no flag: settings are written without dashes, {key}={value or '<value>'}"
            )
        raise UserError(message)

    parser = hydra_utils.get_args_parser()
    parser.error = refuse  # type: ignore[method-assign]
    flags = parser.parse_args(arguments)
    if flags.experimental_rerun is not None:
        raise UserError(
            "--experimental-rerun opens a pickle, which can run any program: resume=<run directory> does not"
        )
    if config_name != "train" and (flags.multirun or "hydra.mode=MULTIRUN" in flags.overrides):
        raise UserError(f"-m is for train: run {config_name} once for each")


def _lost_output() -> OSError | None:
    """What keeps standard output from being written; the rest goes nowhere, or Python would complain at its end."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OSError(error.errno, error.strerror, "standard output")
    return None


@contextmanager
def _argv(argv: list[str]) -> Iterator[None]:
    before, sys.argv = sys.argv, argv
    try:
        yield
    finally:
        sys.argv = before


@contextmanager
def _raising_what_it_would_print() -> Iterator[None]:
    """Hydra prints what goes wrong in composing, in several lines, and exits 1."""
    before = hydra_utils.run_and_report
    hydra_utils.run_and_report = lambda func: func()
    try:
        yield
    finally:
        hydra_utils.run_and_report = before
