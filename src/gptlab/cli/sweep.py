"""A multirun, from what Hydra has of it to its exit status: `-m`, `sweep=<choice>` and `resume_sweep=<directory>`."""

import logging
import os
import signal
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, cast

from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig, OmegaConf, open_dict

from gptlab import build
from gptlab.cli.experiment_file import with_experiment_files
from gptlab.cli.experiment_text import make_paths_absolute, plain_config, with_absolute_paths
from gptlab.cli.explain import CONF
from gptlab.cli.free_text import plain_words, quote_free_text
from gptlab.cli.report import counted, shortened
from gptlab.cli.search_space import examples, plain_key, search_space
from gptlab.cli.sweep_end import finish, pasted
from gptlab.cli.trials import Trials, child_words, unresolved
from gptlab.errors import UserError
from gptlab.settings import SweepSettings
from gptlab.signals import END_OF_PROCESS, answering, leave, unanswered
from gptlab.sweep.definition import SWEEP, Definition
from gptlab.sweep.search import Search
from gptlab.sweep.space import Parameter, Values
from gptlab.sweep.study import mend
from gptlab.sweep.trial import PATIENCE
from gptlab.training.log import RunLog
from gptlab.training.run_dir import LOCK, held, is_rank_zero, make_new
from gptlab.training.run_files import CONFIG

log = logging.getLogger("gptlab")

DEFAULT_PLACE = "outputs/multirun/${now:"
"""How conf/train.yaml's hydra.sweep.dir begins: another one was named by somebody."""
SUBDIR = "${hydra.job.num}"
PLACES = ("run_dir=", "resume_sweep=", "hydra.sweep.dir=")
"""What a sweep's command line may have, and its trials' have not."""


def sweep(
    config: DictConfig, loader: Any, overrides: list[str], make_launcher: Callable[[DictConfig], Launcher]
) -> int:
    """All trials of a sweep. Everything is checked before there is a directory, and before the first trial.

    Args:
        config: as composed without what is swept, with the `hydra` node.
        loader: Hydra's, which composes with other overrides.
        overrides: the command line, in Hydra's grammar.
        make_launcher: makes what runs trials, from the configuration with the sweep's directory in it.

    Returns:
        The exit status: 0; 1 where too many trials have failed, or where none has finished; 130 and 143 for signals.
    """
    _check_is_a_sweep(config)
    settings = build.sweep_settings(OmegaConf.to_container(config.hydra.sweeper, resolve=True))  # type: ignore[arg-type]
    fixed, space = search_space(settings.space or {}, overrides, sampler=settings.sampler, loader=loader)
    space = [with_absolute_paths(entry) for entry in space]
    fixed = [word for word in fixed if not word.startswith(PLACES)]
    _check_space(config, loader, fixed, space)
    files_say = partial(_what_files_say, config, loader, fixed, space)
    definition = _definition(config, settings, child_words(config, fixed), space, files_say(), overrides)
    trials = Trials(config, definition, fixed, make_launcher)
    run_log = RunLog(speaks=True)
    with ExitStack() as stack:
        stack.enter_context(answering(*unanswered(*END_OF_PROCESS), by=leave))
        stack.callback(run_log.close)
        sweep_dir = _resumed(config.resume_sweep, definition) if config.resume_sweep else _new_directory(config)
        stack.enter_context(held(sweep_dir, key="resume_sweep"))
        if config.resume_sweep is None:
            _check_is_free(sweep_dir)  # once more: it may have been another's until now
        _wait_for_trials_of_a_killed_sweep(sweep_dir)
        mend(sweep_dir)
        definition.write(sweep_dir)
        search = Search(
            sweep_dir, definition, n_trials=settings.n_trials, n_jobs=trials.n_jobs, max_failed=settings.max_failed
        )
        log.info("%s in %s", counted(search.n_trials, "trial"), shortened(sweep_dir))
        stopped_by = search.run(trials.in_directory(sweep_dir))
        stack.enter_context(answering(signal.SIGINT, by=lambda *_: None))  # Ctrl-C once more: the end is near
        _say_what_has_changed(definition, files_say)
        return finish(search, sweep_dir, stopped_by=stopped_by)


def _check_is_a_sweep(config: DictConfig) -> None:
    if not is_rank_zero() or "TORCHELASTIC_RUN_ID" in os.environ:
        raise UserError(
            "a sweep is started once, without torchrun or srun: each of its trials launches its own ranks (trainer=ddp)"
        )
    if int(os.environ.get("SLURM_NTASKS", "1")) > 1 and "SLURM_STEP_ID" in os.environ:
        raise UserError("a sweep is started once, and this srun starts it several times: srun --ntasks=1")
    if _as_written(config.hydra.sweep, "subdir") != SUBDIR:
        raise UserError(
            "hydra.sweep.subdir= names no runs here: they are called 0, 1, ... (results.csv has their values)"
        )
    if config.resume is not None:
        raise UserError("resume= goes on with one run; a sweep goes on with resume_sweep=<its directory>")


def _definition(
    config: DictConfig,
    settings: SweepSettings,
    words: list[str],
    space: list[Parameter],
    files_say: dict[str, Any],
    overrides: list[str],
) -> Definition:
    hydra = unresolved(config.hydra.overrides.hydra)
    by_flag = "hydra.mode=MULTIRUN" in hydra
    typed = [*overrides, *(word for word in hydra if word != "hydra.mode=MULTIRUN")]
    flags = [*(word for word in words if word.startswith("--")), *(["-m"] if by_flag else [])]
    not_of_this_session = [word for word in typed if not word.startswith(PLACES)]
    return Definition(
        words=words,
        space={entry.key: entry.definition for entry in space},
        config=files_say,
        sampler=settings.sampler,
        pruner=settings.pruner,
        seed=settings.seed,
        metric=settings.metric,
        direction=settings.direction,
        validate_every=config.validate_every,
        max_steps=config.max_steps,
        command=[*flags, *plain_words(not_of_this_session)],
    )


def _what_files_say(config: DictConfig, loader: Any, fixed: list[str], space: list[Parameter]) -> dict[str, Any]:
    """Dotted keys and values: those that all trials have, and under `model/attention=plain: ` what a swept choice adds.

    Values are as written, paths absolute. Raises Hydra's own errors on a choice that is none.
    """

    def leaves(words: list[str]) -> dict[str, Any]:
        plain = plain_config(loader.load_sweep_config(config, [*fixed, *quote_free_text(words)]))
        make_paths_absolute(plain)
        return dict(build.leaves(plain))

    of_all = leaves([])
    swept = [plain_key(entry.key).replace("/", ".") for entry in space]
    said = {key: of_all[key] for key in of_all if not any(f"{key}.".startswith(f"{one}.") for one in swept)}
    for entry in space:
        for word in map(entry.override, entry.examples if _chooses_files(entry, config) else ()):
            said |= {f"{word}: {key}": value for key, value in leaves([word]).items() if of_all.get(key, ...) != value}
    return said


def _chooses_files(entry: Parameter, config: DictConfig) -> bool:
    """Whether its values are choices of a group, and not those of a setting."""
    group = plain_key(entry.key)
    return isinstance(entry, Values) and (
        "/" in group or isinstance(config.get(group), DictConfig) or (CONF / group).is_dir()
    )


def _say_what_has_changed(definition: Definition, files_say: Callable[[], dict[str, Any]]) -> None:
    """Each trial reads conf's files when it begins: whoever edits them meanwhile has several models in one table."""
    try:
        with_experiment_files(definition.words)  # reads those anew that are named by their paths
        change = definition.difference(replace(definition, config=files_say()))
    except Exception as error:
        change = f"they cannot be read now: {' '.join(str(error).split())}"
    if change is not None:
        log.warning("the files of this sweep have changed while it ran, later trials may differ from it: %s", change)


def _check_space(config: DictConfig, loader: Any, fixed: list[str], space: list[Parameter]) -> None:
    """Raises UserError, or Hydra's own errors, on a key that is none, and where no trial is possible."""

    def composed(words: list[str]) -> DictConfig:
        return loader.load_sweep_config(config, [*fixed, *quote_free_text(words)])

    for entry in space:
        composed([entry.override(entry.examples[0])])
    first_error: UserError | None = None
    for words in examples(space):
        try:
            candidate = build.resolve(_without_hydra(composed(words)))
            build.check(candidate, trains_tokenizer=candidate.get("init_from") is None)
            build.source(candidate)
        except UserError as error:
            first_error = first_error or error
        else:
            return
    if first_error is not None:
        raise first_error


def _without_hydra(config: DictConfig) -> DictConfig:
    config = config.copy()
    with open_dict(config):
        config.pop("hydra", None)
    return config


def _resumed(resume_sweep: str, definition: Definition) -> Path:
    sweep_dir = Path(resume_sweep).expanduser().absolute()
    difference = Definition.read(sweep_dir).difference(definition)
    if difference is not None:
        raise UserError(f"resume_sweep={resume_sweep} is another sweep: {difference}")
    return sweep_dir


def _as_written(node: DictConfig, key: str) -> Any:
    return cast(dict[str, Any], OmegaConf.to_container(node, resolve=False))[key]


def _check_is_free(place: Path) -> None:
    """Raises UserError where a sweep's directory is to be, and something of one is there already."""
    if (place / SWEEP).exists():
        where = shortened(place)
        raise UserError(f"{where} holds a sweep already: go on with resume_sweep={where}, or name another directory")
    if any(place.glob(f"*/{CONFIG}")) or any(place.glob("*/checkpoints/*.ckpt")):
        raise UserError(f"{shortened(place)} holds runs already: name another directory for the sweep")


def _wait_for_trials_of_a_killed_sweep(sweep_dir: Path) -> None:
    """They have noticed, and save: until then they may write to the journal, and nobody knows from where they go on."""
    for run_dir in (lock.parent for lock in sweep_dir.glob(f"[0-9]*/{LOCK}")):
        try:
            with held(run_dir, key="resume_sweep", patience=PATIENCE):
                pass
        except UserError:
            raise UserError(f"resume_sweep={sweep_dir}: its trial {run_dir.name} is still at work, try again") from None


def _new_directory(config: DictConfig) -> Path:
    """A directory of this sweep's own: `run_dir=`, `hydra.sweep.dir=`, or outputs/<sweep>/<date_time>."""
    named = config.run_dir
    if not str(_as_written(config.hydra.sweep, "dir")).startswith(DEFAULT_PLACE):
        named = config.hydra.sweep.dir
    name = Path(config.hydra.runtime.choices.get("sweep") or "multirun").stem
    place = Path(named).expanduser().absolute() if named is not None else Path("outputs", name).absolute()
    if named is not None:
        _check_is_free(place)
    try:
        place.mkdir(parents=True, exist_ok=True)
        return place if named is not None else make_new(place / datetime.now().strftime("%Y-%m-%d_%H-%M-%S"))
    except OSError as error:
        raise UserError(f"{named or place} cannot be made ({error.strerror or error}): name another place") from None


def command_to_resume(resume_sweep: str) -> str:
    """What to say where `resume_sweep=` came without the command that began the sweep."""
    words = Definition.read(Path(resume_sweep).expanduser().absolute()).command
    return f"resume_sweep goes with the command of its sweep: {pasted([*words, f'resume_sweep={resume_sweep}'])}"
