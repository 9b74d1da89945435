"""From words on the command line to a configuration, and from whatever happens then to an exit status."""

import logging
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from gptlab import build
from gptlab.cli.budget import choose_budget
from gptlab.cli.explain import CONF, DISK_ERRORS, FULL_ERROR, explain
from gptlab.cli.free_text import key_of, quote_free_text
from gptlab.cli.settings import check
from gptlab.errors import UserError

FULL_ERROR_IS_OURS = "GPTLAB_FULL_ERROR_IS_OURS"
FLAGS = (
    "--help -h --hydra-help --version --resolve --run -r --multirun -m --shell-completion -sc --info -i --cfg -c "
    "--package -p --config-path -cp --config-name -cn --config-dir -cd"
)


def compose(overrides: Sequence[str] = (), *, config_dir: str | Path | None = None) -> build.Config:
    """The configuration of a training run, from Python: what `gptlab train` makes of the same words.

    Args:
        overrides: as on the command line, `["experiment=shakespeare_char", "data.path=input.txt", "max_steps=100"]`.
        config_dir: a conf directory of your own, searched as `--config-dir` is.

    Returns:
        Plain data, ready for `gptlab.data_module` and `gptlab.training_module`.

    Raises:
        UserError: on a key, a choice or a value that is not possible.
    """
    words = quote_free_text(with_implied_choices([as_choice(override) for override in overrides]))
    if config_dir is not None:
        words.append(f"hydra.searchpath=[file://{Path(config_dir).expanduser().absolute()}]")
    GlobalHydra.instance().clear()
    try:
        with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
            config = build.resolve(choose_budget(hydra.compose("train", overrides=words), words))
    except Exception as error:
        sentence = explain(error, "train", list(overrides))
        raise (error if sentence is None else UserError(sentence)) from None
    check(config)
    return config


def run_command(task: Callable[[DictConfig], int], arguments: list[str], *, config_name: str) -> int:
    """The exit status of a command: 0 done, 1 failed, 2 the user's mistake, 130 Ctrl-C.

    `task` gets the configuration that `arguments` and conf/<config_name>.yaml compose to, and returns an exit status.
    """
    typed, result = sys.argv, cast(int | Exception, 0)

    def run_task(cfg: DictConfig) -> Any:
        nonlocal result
        forget_full_error()
        sys.argv = typed  # ranks that Lightning launches repeat the command line
        if HydraConfig.get().mode == RunMode.MULTIRUN:  # a job of another launcher's: its result goes to the sweeper
            from gptlab.cli.trials import run_launched_trial

            return run_launched_trial(task, cfg)
        try:
            result = task(cfg)
        except Exception as error:  # Hydra would print lines of its own around it
            result = error
        return None

    logging.getLogger("hydra.utils").setLevel(logging.CRITICAL)  # it logs what it raises
    if FULL_ERROR not in os.environ:  # without it, Hydra prints its errors instead of raising them
        os.environ |= {FULL_ERROR: "1", FULL_ERROR_IS_OURS: "1"}
    try:
        words = [as_choice(argument) for argument in arguments]
        words = quote_free_text(with_implied_choices(words) if config_name in ("train", "plan") else words)
        words.sort(key=lambda word: word.startswith("~") or ("=" in word and not word.startswith("-")))  # flags first
        _check_flags(words, config_name)
        sys.argv = [typed[0], *words]
        hydra.main(version_base="1.3", config_path=str(CONF), config_name=config_name)(run_task)()
    except SystemExit as error:  # --version, the end of a sweep, SIGTERM
        result = error.code if isinstance(error.code, int) else 0
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    except Exception as error:
        result = error
    finally:
        sys.argv = typed
        forget_full_error()
    return say(result, config_name, arguments)


def with_implied_choices(arguments: list[str]) -> list[str]:
    """`data.path=book.txt` means `data=text` unless something else (a resumed run, an experiment) chooses the data."""
    keys = {key_of(argument) for argument in arguments}
    if "data.path" not in keys or keys & {"data", "experiment"}:
        return arguments
    if "resume" in keys and "resume=auto" not in arguments:
        own = ("data.path=", "data.val_path=")
        return [f"++{argument}" if argument.startswith(own) else argument for argument in arguments]
    return ["data=text", *arguments]


def as_choice(argument: str) -> str:
    """`data.template=alpaca` names a file of the group data/template, as `data/template=alpaca` does."""
    return re.sub(r"^data\.template=(?=\w)", "data/template=", argument)


def status_and_line(result: int | Exception, config_name: str, arguments: list[str]) -> tuple[int, str]:
    """The exit status, and a line for standard error, which may be empty."""
    if isinstance(result, int):
        return result, ""
    if isinstance(result, BrokenPipeError):  # the reader of the output has ended, as with `| head`
        return 128 + signal.SIGPIPE, ""
    mistake = explain(result, config_name, arguments)
    if mistake is not None:
        return 2, "error: " + " ".join(mistake.splitlines())
    if isinstance(result, OSError) and result.errno in DISK_ERRORS:
        return 1, f"failed: {f'{result.filename}: ' if result.filename else ''}{DISK_ERRORS[result.errno]}"
    first_line = f"{type(result).__name__}: {str(result).strip()}".splitlines()[0]
    return 1, f"failed: {first_line} ({FULL_ERROR}=1 shows the traceback)"


def say(result: int | Exception, config_name: str, arguments: list[str]) -> int:
    """Print what there is to say of a command's end. Returns its exit status."""
    try:
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python would complain at its end
        result = result or error
    if isinstance(result, Exception) and os.environ.get(FULL_ERROR) == "1":
        raise result
    status, line = status_and_line(result, config_name, arguments)
    print(line, end="\n" if line else "", file=sys.stderr)
    return status


def _check_flags(words: list[str], config_name: str) -> None:
    """Raises UserError on a flag that Hydra does not know, where it would print eighteen lines, or that has no use."""
    flags = {word.partition("=")[0]: word for word in words if word.startswith("-")}
    for unknown in flags.keys() - set(FLAGS.split()):
        key, _, value = flags[unknown].lstrip("-").replace("-", "_").partition("=")
        raise UserError(f"{flags[unknown]} is no flag: settings have no dashes, write {key}={value or '<value>'}")
    if config_name != "train" and {"-m", "--multirun", "hydra.mode=MULTIRUN"} & {*flags, *words}:
        raise UserError(f"-m is for train: run {config_name} once for each value")
    if "LOCAL_RANK" not in os.environ and any(word.startswith("hydra.run.dir=") for word in words):
        raise UserError("hydra.run.dir= is not used here: name the run's directory with run_dir=<directory>")
    if {"--shell-completion", "-sc"} & flags.keys() and Path(sys.argv[0]).name != "train.py":
        raise UserError('shell completion knows train.py only: eval "$(python train.py -sc install=bash)"')


def forget_full_error() -> None:
    """Take HYDRA_FULL_ERROR away again if this process has set it: child processes must not inherit it."""
    if os.environ.pop(FULL_ERROR_IS_OURS, None) is not None:
        os.environ.pop(FULL_ERROR, None)
