"""`-m`, `sweep=<choice>` and `resume_sweep=<directory>`: a sweep, from its configuration to its exit status."""

import logging
import os
import random
import shlex
import signal
from collections.abc import Callable
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Any, cast

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig, OmegaConf, open_dict

from gptlab import build
from gptlab.arguments import nearest
from gptlab.cli.budget import choose_budget
from gptlab.cli.compare import CompareSettings, draw_runs
from gptlab.cli.explain import command_line
from gptlab.cli.fit import HELD_OUT, train_held_out
from gptlab.cli.floors import orders_of
from gptlab.cli.free_text import FREE_TEXT, plain_words, quote_free_text
from gptlab.cli.report import counted, shortened
from gptlab.cli.search_space import plain_key, search_space
from gptlab.cli.settings import AUTO, check
from gptlab.cli.trials import OURS, trial_arguments, trial_runner, unresolved
from gptlab.errors import UserError
from gptlab.files import as_yaml, write_whole
from gptlab.signals import END_OF_PROCESS, leave, signal_handler, unhandled
from gptlab.sweep.cases import write_tables
from gptlab.sweep.definition import METRICS, SWEEP, Definition
from gptlab.sweep.hparams import write_hparams
from gptlab.sweep.report import write_report
from gptlab.sweep.search import Search
from gptlab.sweep.space import CASE, CASES, Parameter
from gptlab.sweep.study import Study
from gptlab.sweep.trial import SAVE_TIMEOUT, STATUSES, best_of, recorded_result
from gptlab.training.log import RunLog
from gptlab.training.run_dir import LOCK, is_rank_zero, lock_run_dir, make_new

log = logging.getLogger("gptlab")

DEFAULT_DIR = "outputs/multirun/${now:"
"""How hydra.sweep.dir begins in conf/train.yaml: any other value was set by the user."""
OF_THIS_SESSION = ("run_dir=", "resume_sweep=", "hydra.sweep.dir=")
"""Arguments of a sweep that its trials do not get."""
PATHS = ("data.path", "data.val_path", "data.cache_dir", "init_from")
N_EXAMPLES = 32
"""Random trials that are checked before a search space is refused."""


def sweep(
    config: DictConfig, loader: ConfigLoader, overrides: list[str], make_launcher: Callable[[DictConfig], Launcher]
) -> int:
    """Run a sweep. Everything is checked before there is a directory and before the first trial.

    Args:
        config: as composed without what is swept, with the `hydra` node; `loader` composes with other overrides.
        overrides: the command line, in Hydra's grammar.
        make_launcher: makes a launcher of trials, from the configuration with the sweep's directory in it.

    Returns:
        The exit status: 0; 1 if too many trials have failed or none has finished; 128 + the number of a signal.
    """
    _check_is_possible(config)
    sweeper = config.hydra.sweeper
    typed = unresolved(sweeper)
    swept = ({CASE: {CASES: typed["cases"]}} if typed["cases"] else {}) | (typed["space"] or {})
    fixed, space = search_space(swept, overrides, sampler=sweeper.sampler, loader=loader)
    fixed = [override for override in fixed if not override.startswith(OF_THIS_SESSION)]
    run_trials, n_jobs = trial_runner(config, make_launcher)
    definition = _definition(config, fixed, space, overrides, n_jobs=n_jobs)
    held_out = _check_trials(config, loader, fixed, definition)
    run_log = RunLog(writes=True)
    with ExitStack() as stack:
        stack.enter_context(signal_handler(*unhandled(*END_OF_PROCESS), handler=leave))
        stack.callback(run_log.close)
        resumes = config.resume_sweep is not None
        sweep_dir = _resumed(config.resume_sweep, definition) if resumes else _new_directory(config)
        stack.enter_context(lock_run_dir(sweep_dir, key="resume_sweep"))
        for lock in sweep_dir.glob(f"*/{LOCK}"):  # trials of a sweep that was killed are saving
            with lock_run_dir(lock.parent, key="resume_sweep", timeout=SAVE_TIMEOUT):
                pass
        definition.write(sweep_dir)
        write_hparams(sweep_dir, definition)
        search = Search(Study(sweep_dir, definition))
        log.info("%s in %s", counted(definition.n_planned, "trial"), shortened(sweep_dir))
        stopped_by = search.run(run_trials)
        if held_out is not None and stopped_by is None and not search.has_too_many_failures:
            stopped_by = train_held_out(sweep_dir, definition, held_out)
        stack.enter_context(signal_handler(signal.SIGINT, handler=lambda *_: None))  # what follows takes a second
        status = _finish(search, config, stopped_by=stopped_by)
        return status or int(held_out is not None and recorded_result(sweep_dir / HELD_OUT) is None)


def command_to_resume(resume_sweep: str) -> str:
    """What to say if `resume_sweep=` comes without the command that started the sweep."""
    command = Definition.read(Path(resume_sweep).expanduser().absolute()).command
    return f"resume_sweep needs the command of its sweep: {_pasted([*command, f'resume_sweep={resume_sweep}'])}"


def _check_is_possible(config: DictConfig) -> None:
    in_srun = int(os.environ.get("SLURM_NTASKS", "1")) > 1 and "SLURM_STEP_ID" in os.environ
    if not is_rank_zero() or "TORCHELASTIC_RUN_ID" in os.environ or in_srun:
        raise UserError(
            "a sweep is started once, without torchrun, with srun --ntasks=1: its trials launch ranks (trainer=ddp)"
        )
    if unresolved(config.hydra.sweep)["subdir"] != "${hydra.job.num}":
        raise UserError("hydra.sweep.subdir= is not possible: runs are called 0, 1, ... (results.csv has their values)")
    if config.resume not in (None, AUTO):
        raise UserError("resume= resumes one run; a sweep is resumed with resume_sweep=<its directory>")
    if config.hydra.sweeper.ngram is not None:
        orders_of(config.hydra.sweeper.ngram)
    if config.hydra.sweeper.held_out is not None and config.hydra.runtime.choices["hydra/launcher"] != OURS:
        raise UserError("hydra.sweeper.held_out trains on this machine: hydra/launcher=basic is needed")


def _definition(
    config: DictConfig, fixed: list[str], space: list[Parameter], overrides: list[str], *, n_jobs: int
) -> Definition:
    parts = [argument.partition("=") for argument in trial_arguments(config, fixed)]
    arguments = [f"{key}{equals}{_absolute(key, text)}" for key, equals, text in parts]
    typed = [*unresolved(config.hydra.overrides.hydra), *overrides]
    words = plain_words([word for word in typed if not word.startswith((*OF_THIS_SESSION, "hydra.mode="))])
    flags = [argument for argument in arguments if argument.startswith("--")]
    flags += ["-m"] if "hydra.mode=MULTIRUN" in typed else []
    settings = cast(dict[str, Any], OmegaConf.to_container(config.hydra.sweeper, resolve=True))
    del settings["_target_"], settings["cases"]
    nodes = {
        entry.key: {kind: [_absolute(entry.key, value) for value in values] for kind, values in entry.node.items()}
        for entry in space
    }
    settings |= {"n_jobs": n_jobs, "space": nodes, "arguments": arguments, "command": [*flags, *words]}
    settings["ngram"] = None if settings["ngram"] is None else str(settings["ngram"])
    settings |= {"validate_every": config.validate_every, "max_steps": config.max_steps}
    return build.settings_of(Definition, settings, "hydra.sweeper")


def _absolute(key: str, value: Any) -> Any:
    """The value of an override; a path is made absolute. `init_from` may name something on the Hub."""
    if plain_key(key) not in PATHS or value in ("", "null"):
        return value
    place = Path(value).expanduser().absolute()
    return str(place) if plain_key(key) != "init_from" or place.exists() else value


def _check_trials(config: DictConfig, loader: ConfigLoader, fixed: list[str], definition: Definition) -> Any:
    """The configuration of the held-out run, if there is one.

    Raises UserError or an error of Hydra's if a key or a choice is unknown, or if no trial is possible.
    """

    def composed(overrides: list[str]) -> DictConfig:
        candidate = loader.load_sweep_config(config, [*fixed, *quote_free_text(overrides)])
        with open_dict(candidate):
            candidate.pop("hydra")
        return choose_budget(candidate, [*fixed, *overrides])

    for entry in definition.parameters:
        is_choice = plain_key(entry.key) in config.hydra.runtime.choices or entry.kind == CASES
        for value in entry.examples if is_choice else entry.examples[:1]:
            alone = composed(entry.overrides(value))
            if entry.kind == CASES:
                check(build.resolve(alone))
    errors: list[UserError] = []
    choice, space = random.Random(0).choice, definition.parameters
    drawn = [tuple(choice(entry.examples) for entry in space) for _ in range(N_EXAMPLES)]
    for values in dict.fromkeys(drawn):  # each once: composing takes a third of a second
        parts = [entry.overrides(value) for entry, value in zip(space, values, strict=True)]
        try:
            candidate = build.resolve(composed([override for part in parts for override in part]))
            check(candidate)
            own_metrics = getattr(build.part(candidate, "objective"), "metrics", ())
            break
        except UserError as error:
            errors.append(error)
    else:
        raise errors[0]
    known, metric = [*METRICS, *(f"val_{name}" for name in own_metrics)], definition.metric
    if metric not in known:
        raise UserError(f"hydra.sweeper.metric={metric} is not one of {', '.join(known)}{nearest(metric, known)}")
    held_out = build.resolve(composed(definition.held_out)) if definition.held_out is not None else None
    if held_out is not None:
        check(held_out)
        if held_out["max_minutes"] is not None or held_out["max_flops"] is not None:
            raise UserError("hydra.sweeper.held_out: its loss is predicted for max_tokens or max_steps")
    return held_out


def _resumed(resume_sweep: str, definition: Definition) -> Path:
    sweep_dir = Path(resume_sweep).expanduser().absolute()
    difference = Definition.read(sweep_dir).difference(definition)
    if difference is not None:
        raise UserError(f"resume_sweep={resume_sweep} is another sweep: {difference}")
    return sweep_dir


def _new_directory(config: DictConfig) -> Path:
    """The sweep's directory: `run_dir=`, `hydra.sweep.dir=`, or outputs/<sweep>/<date_time>."""
    is_default = unresolved(config.hydra.sweep)["dir"].startswith(DEFAULT_DIR)
    named = config.run_dir if is_default else config.hydra.sweep.dir
    place = Path(named or Path("outputs", config.hydra.runtime.choices.get("sweep") or "multirun"))
    place = place.expanduser().absolute()
    if named is not None and ((place / SWEEP).exists() or any(place.glob("*/config.yaml"))):
        raise UserError(f"{named} holds runs already: resume with resume_sweep={named}, or name another directory")
    try:
        place.mkdir(parents=True, exist_ok=True)
        return place if named is not None else make_new(place / datetime.now().strftime("%Y-%m-%d_%H-%M-%S"))
    except OSError as error:
        raise UserError(f"{named or place} cannot be made ({error.strerror or error}): name another place") from None


def _finish(search: Search, config: DictConfig, *, stopped_by: int | None) -> int:
    """Write best.yaml and report.html, and print the result and the next commands. Returns the exit status."""
    study, definition = search.study, search.definition
    records, place = study.records(), Path(shortened(study.sweep_dir))
    best, again = best_of(records, direction=definition.direction), None
    counts = {status: sum(record.status == status for record in records) for status in STATUSES}
    counts["interrupted"] += counts.pop("running")  # none runs any more
    log.info(
        "\n%s", ", ".join(f"{count} {status}" for status, count in counts.items() if count) or "no trial has ended"
    )
    if best is not None:
        found = [override for entry in definition.parameters for override in entry.overrides(best.values[entry.key])]
        about = f"trial {best.number}, {definition.metric} {best.metric:.6g}"
        about += "" if best.summary.get("causal", True) else " (not causal: not comparable)"
        case = [f"case={best.values[CASE]}"] if CASE in best.values else []
        log.info("best: %s", "\n  ".join([about, *case, *found]))
        _write_best(study.sweep_dir, [*definition.arguments, *found], config, comment=f"The best of a sweep: {about}.")
        again = _best_command(place, definition.arguments)
    write_report(place / "report.html", definition, records, importances=study.importances(), run_again=again)
    if (cases := definition.cases) is not None and best is not None and definition.held_out is None:
        log.info("\n%s", write_tables(study.sweep_dir, cases, records))
        try:
            settings = CompareSettings([str(study.sweep_dir)], "steps", None, None, definition.ngram)
            log.info("%s", [*draw_runs(settings)][-1].strip())
        except UserError as error:
            log.warning("compare.png could not be drawn: %s", error)
    status = int(search.has_too_many_failures or best is None) if stopped_by is None else 128 + stopped_by
    if status == 1:
        too_many = f"more than {definition.max_failed:g} of the trials have failed (hydra.sweeper.max_failed)"
        log.error("failed: %s", too_many if search.has_too_many_failures else "no trial has finished")
    log.info("\nnext:")
    if stopped_by is not None or study.n_started < definition.n_planned:
        more = ["hydra.sweeper.max_failed=1"] if search.is_hopeless else []
        log.info("  %s", _pasted([*definition.command, *more, f"resume_sweep={place}"]))
    log.info("  python -m webbrowser %s", (study.sweep_dir / "report.html").as_uri())
    log.info("  tensorboard --logdir %s", shlex.quote(str(place)))
    log.info("  gptlab %s %s", "compare" if definition.held_out is None else "fit", shlex.quote(str(place)))
    if again is not None:
        log.info("  %s", again)
    return status


def _pasted(arguments: list[str]) -> str:
    return f"{command_line('train')} {shlex.join(arguments)}"


def _write_best(sweep_dir: Path, arguments: list[str], config: DictConfig, *, comment: str) -> None:
    """Write <sweep>/experiment/best.yaml: the arguments of a trial, as typed, for `--config-dir=<sweep>`."""
    included: list[Any] = []
    overrides: list[Any] = []
    content: dict[str, Any] = {"hydra": {"mode": "RUN"}}  # a file of conf/sweep says MULTIRUN
    for argument in arguments:
        key, _, text = argument.partition("=")
        if key.startswith(("--", "hydra.", "hydra/")):
            continue
        is_free_text = plain_key(key) in FREE_TEXT and text != "null"  # it means itself; the rest is in Hydra's grammar
        value = build.literal(text) if is_free_text else OverridesParser.create().parse_override(argument).value()
        key, value = plain_key(key), None if key.startswith("~") else value
        if key in ("experiment", "sweep"):
            included += [value if key == "experiment" else {"/sweep@_global_": value}] if value is not None else []
        elif key in config.hydra.runtime.choices:
            overrides.append({f"override /{key}": value})
        else:
            *parents, name = key.split(".")
            node = content
            for parent in parents:
                node = node.setdefault(parent, {})
            node[name] = value
    path = sweep_dir / "experiment" / "best.yaml"
    path.parent.mkdir(exist_ok=True)
    content = {"defaults": [*included, *overrides, "_self_"], **content}
    write_whole(path, f"# @package _global_\n# {comment}\n{as_yaml(content)}")


def _best_command(sweep_dir: Path, arguments: list[str]) -> str:
    """The command that repeats the best trial; `sweep_dir` as the command is to name it."""
    flags = [argument for argument in arguments if argument.startswith("--")]
    has_config_dir = any(flag.startswith("--config-dir=") for flag in flags)  # Hydra takes only one
    place = f"hydra.searchpath=[file://{sweep_dir.absolute()}]" if has_config_dir else f"--config-dir={sweep_dir}"
    return f"{command_line('train')} {shlex.join([*flags, place, 'experiment=best'])}"
