"""Hydra: from the command line to a configuration, and from whatever happens then to an exit status."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import hydra
from omegaconf import DictConfig

from gptlab.cli.explain import CONF, explain
from gptlab.cli.free_text import quote_free_text

FULL_ERROR = "HYDRA_FULL_ERROR"


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

    try:
        with _argv([typed[0], *_flags_first(quote_free_text(arguments))]):
            hydra.main(version_base="1.3", config_path=str(CONF), config_name=config_name)(composed)()
    except SystemExit as error:
        if not ends:  # --help, or flags that Hydra's parser refuses
            return error.code if isinstance(error.code, int) else 0
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    except Exception as error:
        ends.append(error)
    finally:
        restore()

    end = ends[-1] if ends else 0
    if isinstance(end, int):
        return end
    if isinstance(end, BrokenPipeError):  # whoever read our output has gone, as with `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    if wants_traceback:
        raise end
    line = explain(end, config_name, arguments)
    print("error: " + " ".join(line.splitlines()) if line else f"failed: {_one_line(end)}", file=sys.stderr)
    return 2 if line else 1


def _flags_first(arguments: list[str]) -> list[str]:
    """`a=1 -m b=2,3` too: Hydra's parser takes no override on both sides of a flag."""
    multirun = [argument for argument in arguments if argument in ("-m", "--multirun")]
    return [*multirun[:1], *(argument for argument in arguments if argument not in multirun)]


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


def _one_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else ''} ({FULL_ERROR}=1 shows the traceback)"
