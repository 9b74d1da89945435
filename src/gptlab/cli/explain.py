"""One sentence for a user's mistake, with the nearest valid name; and commands to paste."""

import errno
import re
import shlex
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from omegaconf import OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from gptlab.arguments import nearest
from gptlab.build import flatten
from gptlab.errors import UserError

PACKAGE = Path(__file__).resolve().parents[1]
CONF = next(filter(Path.is_dir, (PACKAGE / "conf", PACKAGE.parents[1] / "conf")))  # of a wheel, of a checkout
FULL_ERROR = "HYDRA_FULL_ERROR"
HYDRA_SETTINGS = ("sweep", "sweeper", "launcher")
"""What users set of Hydra's own node."""
DISK_ERRORS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "your share of the disk (quota) is used up",
    errno.EIO: "the disk cannot be read or written (input/output error)",
}
PLACE_ERRORS = (errno.ENAMETOOLONG, errno.EACCES, errno.EPERM, errno.EROFS)
ALIASES = {
    **dict.fromkeys(("lr", "learning_rate"), "optimizer.lr"),
    **dict.fromkeys(("epochs", "max_epochs", "n_epochs", "num_epochs"), "max_steps"),
    **dict.fromkeys(("n_layer", "num_layers"), "model.n_layers"),
    **dict.fromkeys(("n_head", "num_heads"), "model.n_heads"),
    **dict.fromkeys(("n_embd", "hidden_size"), "model.d_model"),
    **dict.fromkeys(("batch", "bs"), "batch_size"),
    **dict.fromkeys(("accumulate_grad_batches", "gradient_accumulation_steps"), "micro_batch_size"),
    "gradient_clip_val": "grad_clip",
    "devices": "trainer.devices",
    "dropout": "model.dropout",
    "block_size": "context_length",
    "n": "num_samples",
    "fast_dev_run": "max_steps",
}
"""Names of other projects, and the settings that they mean here."""
ADVICE = {
    "max_steps": "a run is measured in optimizer steps; for a short trial write max_steps=2",
    "micro_batch_size": "the sequences that one device holds at once; gradients accumulate up to batch_size",
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
    if isinstance(error, OSError) and error.errno in PLACE_ERRORS:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, MissingMandatoryValue):
        return f"{error.full_key} is missing: set it with {error.full_key}=<value>"
    if isinstance(error, OverrideParseException):
        advice = "put quotes around a value with special characters" if "=" in error.override else "settings have a key"
        return f"{error.override!r} cannot be read as key=value: {advice}, such as prompt=... or data.path=..."
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, choice = str(error.missing_cfg_file).rpartition("/")
        return _no_such_choice(group, choice, [str(option) for option in error.options or ()])
    if several := re.match("Ambiguous value for argument '(.*?)'", str(error), re.DOTALL):
        return f"{several[1]} has several values: -m tries each of them, and brackets make them a list"
    if str(error).startswith("Config group override"):  # a number, null or a list
        for group, _, choice in (argument.lstrip("+~").partition("=") for argument in arguments):
            options = [path.stem for path in (CONF / group.partition("@")[0]).glob("*.yaml")] if group else []
            if options and choice not in options:
                return _no_such_choice(group, choice, options)
    if key := re.search(r"Could not (?:override|delete|append to config).*? '([^'@]+)", str(error)):
        return _unknown_key(key[1].lstrip("+~"), config_name, arguments)
    if isinstance(error, ConfigCompositionException | HydraException | OmegaConfBaseException):
        first, *more = str(error).splitlines()
        return " ".join([first, *more[:1]]) if first.endswith("while composing config:") else first
    *_, (frame, _) = [(None, 0), *traceback.walk_tb(error.__traceback__)]
    is_from_hydra = frame is not None and str(frame.f_globals.get("__name__")).startswith(("hydra.", "omegaconf."))
    if is_from_hydra and not isinstance(error, OSError):  # that is a full disk or a closed pipe
        return f"these overrides cannot be composed ({error}): {command_line(config_name)} --help"
    return None


def _no_such_choice(group: str, choice: str, options: list[str]) -> str:
    there_are = f"there are {', '.join(sorted(options))}"
    if f"{group}/".startswith("data/") and (Path(choice).suffix or not (CONF / group).is_dir()):
        path = f"{group}/{choice}".removeprefix("data/")
        return f"data={path}: data is chosen by name ({there_are}); for a file write data.path={path}"
    folder, name = group.partition("/")[0], Path(choice)
    if name.suffix in (".yaml", ".yml"):
        put = f"put the file into <directory>/{folder}/ and write --config-dir=<directory> {folder}={name.stem}"
        return f"{folder}= takes a name, not a path: {put}"
    return f"{group}={choice} is not one of the choices{nearest(choice, options)} ({there_are})"


def _unknown_key(key: str, config_name: str, arguments: list[str]) -> str:
    """`key` is in no composed configuration of this command: name what is near."""
    known = _known_keys(config_name, arguments)
    group, _, name = key.rpartition(".")
    meant = ALIASES.get(name, name if group else None)  # without its group it is a setting of the root
    if meant in known and meant != key:
        return f"{key} is not a setting: write {meant}=<value>" + (f" ({ADVICE[meant]})" if meant in ADVICE else "")
    if key in known:
        return f"{key} cannot be set: another override has switched {group} off"
    same_name = [k for k in known if k.endswith(f".{name}")]  # model.n_kv_heads, of model.attention
    match = nearest(key, same_name) or nearest(key, known) or nearest(f".{name}", [k for k in known if "." in k])
    shows = "--cfg hydra -p hydra.sweeper" if key.startswith("hydra.") else "--help"
    return f"{key} is not a setting{match} ({command_line(config_name)} {shows} shows all)"


def _known_keys(config_name: str, arguments: list[str]) -> list[str]:
    """Every dotted key of the configuration, composed with the group choices that are valid."""
    chosen = [a for a in arguments if re.fullmatch(r"[\w/]+=[\w-]{1,99}", a)]
    chosen = [a for a in chosen if (CONF / f"{a.replace('=', '/')}.yaml").is_file()]
    keys = [path.name for path in CONF.iterdir() if path.is_dir()] if config_name in ("train", "plan") else []
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"), suppress(HydraException, OmegaConfBaseException):
        config: Any = OmegaConf.to_container(compose(config_name, overrides=chosen, return_hydra_config=True))
        config["hydra"] = {name: config["hydra"][name] for name in HYDRA_SETTINGS}
        leaves = [key for key, _ in flatten(config)]
        keys += [*leaves, *{key.rpartition(".")[0] for key in leaves if "." in key}]
    return keys
