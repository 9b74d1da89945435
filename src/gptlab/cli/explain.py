"""One sentence for a user's mistake, with the nearest valid name; and commands to paste."""

import errno
import re
import shlex
import sys
import traceback
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from gptlab.arguments import nearest
from gptlab.cli.experiment_file import GROUP, file_at_fault, is_path, with_experiment_files, with_paths
from gptlab.errors import UserError


def _conf() -> Path:
    """In a wheel conf/ lies inside the package, in a checkout beside src/."""
    package = Path(__file__).resolve().parents[1]
    packaged = package / "conf"
    return packaged if packaged.is_dir() else package.parents[1] / "conf"


CONF = _conf()


FULL_ERROR = "HYDRA_FULL_ERROR"
OF_A_SWEEP = ("sweep", "sweeper", "launcher")
"""What people set of Hydra's own node."""
DISK_ERRORS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "your share of the disk (quota) is used up",
    errno.EIO: "the disk cannot be read or written (input/output error)",
}


def command_line(command: str, **overrides: object) -> str:
    """A command to paste, in the form in which this process was started."""
    script = Path(sys.argv[0])
    in_checkout = script.name in ("train.py", "generate.py") and script.with_name(f"{command}.py").is_file()
    program = ["python", shlex.quote(str(script.with_name(f"{command}.py")))] if in_checkout else ["gptlab", command]
    return " ".join([*program, *(f"{key}={shlex.quote(str(value))}" for key, value in overrides.items())])


def explain(error: Exception, config_name: str, arguments: list[str]) -> str | None:
    """One sentence for a user's mistake, None for anything else."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError) and error.errno in (
        errno.ENAMETOOLONG,
        errno.EACCES,
        errno.EPERM,
        errno.EROFS,
    ):
        return f"{error.filename}: {error.strerror}" if error.filename is not None else str(error.strerror)
    if isinstance(error, RuntimeError) and "home directory" in str(error):  # Path.expanduser
        return f"{error}: write the path without ~"
    if isinstance(error, OverrideParseException):
        return f"{error.override!r} cannot be read as key=value: put quotes around a value with special characters"
    for argument in arguments:
        if argument.startswith("sweep=") and "/" in argument and isinstance(error, MissingConfigException):
            return f"{argument} is a path: a sweep is called by its name, and its file lies in conf/sweep"
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, choice = str(error.missing_cfg_file).rpartition("/")
        options = [str(option) for option in error.options or ()]
        there_are = f" (there are {', '.join(sorted(options))})" if options else ""
        wrong = f"{group or config_name}={choice} is not one of the choices"
        return f"{file_at_fault(error)}{wrong}{nearest(choice, options)}{there_are}"
    several = re.match("Ambiguous value for argument '(.*?)'", str(error), re.DOTALL)
    if several is not None:
        return f"{several[1]} has several values: -m tries each of them, and brackets make them a list"
    if isinstance(error, ValueError) and str(error).startswith("Config group override"):  # a number, null or a list
        return next(filter(None, map(_no_choice, arguments)), None)
    if isinstance(error, ConfigCompositionException | HydraException | OmegaConfBaseException):
        key = re.search(r"Could not (?:override|delete|append to config).*? '([^'@]+)", str(error))
        if key is None:
            first, *more = str(error).splitlines()
            return with_paths(" ".join([first, *more[:1]]) if first.endswith("while composing config:") else first)
        return file_at_fault(error) + _unknown_key(key[1].lstrip("+~"), config_name, arguments)
    if isinstance(error, TypeError | ValueError | AttributeError) and _is_from_hydra(error):
        return (
            f"these overrides cannot be composed ({' '.join(str(error).split())}): {command_line(config_name)} --help"
        )
    return None


def _is_from_hydra(error: Exception) -> bool:
    """Whether Hydra itself stumbled, as over a group that is a list."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return str(frame.f_globals.get("__name__")).startswith(("hydra.", "omegaconf."))


def _no_choice(argument: str) -> str | None:
    """What to say of a group's override that names none of its choices; None of any other override."""
    key, equals, choice = argument.partition("=")
    group = key.lstrip("+~").partition("@")[0]
    there_are = sorted(path.stem for path in (CONF / group).glob("*.yaml"))
    if not group or not there_are or (group == GROUP and is_path(choice)):
        return f"{argument!r} cannot be read as key=value" if equals and not group else None
    return None if choice in there_are else f"{argument} is not one of the choices (there are {', '.join(there_are)})"


def what_failed(error: BaseException) -> str:
    """One sentence for what is no mistake of the user's."""
    if isinstance(error, OSError) and error.errno in DISK_ERRORS:
        what = DISK_ERRORS[error.errno]
        return f"{error.filename}: {what}" if error.filename is not None else what
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else ''} ({FULL_ERROR}=1 shows the traceback)"


def _unknown_key(key: str, config_name: str, arguments: list[str]) -> str:
    """`key` is in no composed configuration of this command: name what is near."""
    if key.startswith("hydra.sweeper.space"):
        return f"{key} cannot be set here: a search space is given as <key>=interval(low,high) or <key>=1,2,3"
    if key in ("hydra/sweeper", "hydra/launcher"):
        return f"{key} cannot be overridden where it was: a file of conf/sweep begins with `# @package _global_`"
    known = _known_keys(config_name, arguments)
    shows = "--cfg hydra -p hydra.sweeper" if key.startswith("hydra.") else "--help"
    group, _, name = key.rpartition(".")
    if group and name in known:
        return f"{key} is not a setting: {name} belongs to the root, write {name}=<value>"
    match = nearest(key, known) or nearest(f".{name}", [k for k in known if k.endswith(f".{name}") or "." in k])
    return f"{key} is not a setting{match} ({command_line(config_name)} {shows} shows all)"


def _known_keys(config_name: str, arguments: list[str]) -> list[str]:
    """Every dotted key of the configuration, composed with the group choices that are valid."""
    GlobalHydra.instance().clear()
    keys: list[str] = []
    with initialize_config_dir(str(CONF), version_base="1.3"):
        with suppress(UserError):  # a file that is there no more
            arguments = with_experiment_files(arguments)
        chosen = [a for a in arguments if re.fullmatch(r"[\w/]+=[\w%.-]+", a) and (CONF / a.partition("=")[0]).is_dir()]
        for overrides in (chosen, []):
            with suppress(HydraException, OmegaConfBaseException):
                composed = OmegaConf.to_container(compose(config_name, overrides=overrides, return_hydra_config=True))
                assert isinstance(composed, dict)
                hydra = composed.pop("hydra")
                keys += [*_dotted(composed), *_dotted({name: hydra[name] for name in OF_A_SWEEP}, "hydra.")]
                break
    if config_name == "train":  # it knows every group, also those of which nothing is chosen
        keys += [path.name for path in CONF.iterdir() if path.is_dir()]
    return keys


def _dotted(node: object, prefix: str = "") -> Iterator[str]:
    if isinstance(node, dict):
        for name, value in node.items():
            yield prefix + name
            yield from _dotted(value, f"{prefix}{name}.")
