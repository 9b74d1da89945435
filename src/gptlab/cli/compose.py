"""Hydra: from the command line to a configuration, and from any exception to one line and a status."""

import os
import re
import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import hydra
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import (
    ConfigCompositionException,
    HydraException,
    MissingConfigException,
    OverrideParseException,
)
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from gptlab.build import nearest
from gptlab.cli.free_text import quote_free_text
from gptlab.errors import UserError

FULL_ERROR = "HYDRA_FULL_ERROR"


def _conf() -> Path:
    """In a wheel conf/ lies inside the package, in a checkout beside src/."""
    package = Path(__file__).resolve().parents[1]
    packaged = package / "conf"
    return packaged if packaged.is_dir() else package.parents[1] / "conf"


CONF = _conf()


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
    if wants_traceback:
        raise end
    line = _explain(end, config_name, arguments)
    print(f"error: {line}" if line else f"failed: {_one_line(end)}", file=sys.stderr)
    return 2 if line else 1


def command_line(command: str, **overrides: object) -> str:
    """A command to paste, in the form in which this process was started."""
    script = Path(sys.argv[0])
    in_checkout = script.name in ("train.py", "generate.py")
    program = ["python", str(script.with_name(f"{command}.py"))] if in_checkout else ["gptlab", command]
    return " ".join([*program, *(f"{key}={shlex.quote(str(value))}" for key, value in overrides.items())])


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


def _explain(error: Exception, config_name: str, arguments: list[str]) -> str | None:
    """One sentence for a user's mistake, None for anything else."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OverrideParseException):
        return f"{error.override!r} cannot be read as key=value: put quotes around a value with special characters"
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, choice = str(error.missing_cfg_file).rpartition("/")
        options = [str(option) for option in error.options or ()]
        there_are = f" (there are {', '.join(sorted(options))})" if options else ""
        return f"{group or config_name}={choice} is not one of the choices{nearest(choice, options)}{there_are}"
    if isinstance(error, ConfigCompositionException | HydraException | OmegaConfBaseException):
        key = re.search(r"Could not (?:override|delete|append to config).*? '([^'@]+)", str(error))
        if key is None:
            return str(error).splitlines()[0]
        return _unknown_key(key[1].lstrip("+~"), config_name, arguments)
    return None


def _unknown_key(key: str, config_name: str, arguments: list[str]) -> str:
    """`key` is in no composed configuration of this command: name what is near."""
    known = _known_keys(config_name, arguments)
    group, _, name = key.rpartition(".")
    if group and name in known:
        return f"{key} is not a setting: {name} belongs to the root, write {name}=<value>"
    match = nearest(key, known) or nearest(f".{name}", [k for k in known if k.endswith(f".{name}") or "." in k])
    return f"{key} is not a setting{match} ({command_line(config_name)} --help shows all)"


def _known_keys(config_name: str, arguments: list[str]) -> list[str]:
    """Every dotted key of the configuration, composed with the group choices that are valid."""
    GlobalHydra.instance().clear()
    keys: list[str] = []
    with initialize_config_dir(str(CONF), version_base="1.3"):
        chosen = [a for a in arguments if re.fullmatch(r"[\w/]+=[\w-]+", a) and (CONF / a.partition("=")[0]).is_dir()]
        for overrides in (chosen, []):
            with suppress(HydraException, OmegaConfBaseException):
                cfg = compose(config_name, overrides=overrides)
                keys += [
                    *_dotted(OmegaConf.to_container(cfg)),
                    *(path.name for path in CONF.iterdir() if path.is_dir()),
                ]
                break
    return keys


def _dotted(node: object, prefix: str = "") -> Iterator[str]:
    if isinstance(node, dict):
        for name, value in node.items():
            yield prefix + name
            yield from _dotted(value, f"{prefix}{name}.")
