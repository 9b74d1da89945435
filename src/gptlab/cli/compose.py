"""Hydra: from the command line to a configuration, and from whatever happens then to an exit status."""

import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

import hydra
from hydra._internal.utils import get_args_parser
from omegaconf import DictConfig

from gptlab.cli.experiment_file import with_experiment_files
from gptlab.cli.explain import CONF, FULL_ERROR, explain, what_failed
from gptlab.cli.free_text import quote_free_text
from gptlab.errors import UserError


def run_command(task: Callable[[DictConfig], int], *, config_name: str, arguments: list[str]) -> int:
    """Compose the configuration, run the task on it, and map what happens to an exit status.

    Args:
        task: gets the composed configuration, returns an exit status.
        config_name: a root file of conf/.
        arguments: overrides and Hydra's flags, as typed.

    Returns:
        0 done, 1 failed, 2 the user's mistake, 130 Ctrl-C.
    """
    ends: list[int | Exception] = []
    wants_traceback = os.environ.get(FULL_ERROR) == "1"
    typed = list(sys.argv)
    restore = _raise_instead_of_print()

    def composed(cfg: DictConfig) -> None:
        restore()
        with _argv(typed):  # ranks that Lightning launches get the command line as it was typed
            try:
                ends.append(task(cfg))
            except Exception as error:  # Hydra would print lines of its own around it
                ends.append(error)
        if ends[-1] != 0:
            raise SystemExit  # a multirun ends here too

    logging.getLogger("hydra.utils").setLevel(logging.CRITICAL)  # it logs what it raises
    try:
        named = with_experiment_files(arguments) if config_name == "train" else arguments
        words = _flags_first(quote_free_text(named))
        _check_flags(words, config_name)
        with _argv([typed[0], *words]):
            hydra.main(version_base="1.3", config_path=str(CONF), config_name=config_name)(composed)()
    except SystemExit as error:
        if not ends:  # --version
            ends.append(error.code if isinstance(error.code, int) else 0)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    except Exception as error:
        ends.append(error)
    finally:
        restore()

    end = ends[-1] if ends else 0
    lost = _lost_output()
    if end == 0 and lost is not None:
        end = lost
    if isinstance(end, int):
        return end
    if isinstance(end, BrokenPipeError):  # whoever read our output has gone, as with `| head`
        return 128 + signal.SIGPIPE
    if wants_traceback:
        raise end
    line = explain(end, config_name, arguments)
    print("error: " + " ".join(line.splitlines()) if line else f"failed: {what_failed(end)}", file=sys.stderr)
    return 2 if line else 1


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

    parser = get_args_parser()
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


def _raise_instead_of_print() -> Callable[[], None]:
    """Hydra prints what goes wrong in composing, in several lines, and exits 1; with this variable set it raises."""
    before = os.environ.get(FULL_ERROR)
    os.environ[FULL_ERROR] = "1"

    def restore() -> None:
        if before is None:
            os.environ.pop(FULL_ERROR, None)
        else:
            os.environ[FULL_ERROR] = before

    return restore
