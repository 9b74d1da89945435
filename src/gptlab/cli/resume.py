"""`resume=<run directory>`: the run's own configuration, with the few changes that leave what it trains alone."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from gptlab import build
from gptlab.build import Config
from gptlab.checkpoint.compatibility import upgraded
from gptlab.checkpoint.run import DamagedError, read_checkpoint
from gptlab.cli.budget import with_steps
from gptlab.cli.explain import command_line
from gptlab.cli.free_text import key_of
from gptlab.cli.load import OUTPUTS, newest_runs
from gptlab.cli.settings import AUTO, NEWEST, settings
from gptlab.data.base import PreparedData
from gptlab.errors import UserError
from gptlab.files import give_name
from gptlab.training.budget import BUDGETS, OPEN, budget_of
from gptlab.training.run_dir import lock_run_dir, shared_by_ranks
from gptlab.training.run_files import CONFIG, LAST, PREVIOUS, ResumeState, read_config, read_summary

log = logging.getLogger("gptlab")

CHANGEABLE = (
    *(*BUDGETS, "validate_every", "save_every", "log_every", "micro_batch_size", "on_nonfinite"),
    *("schedule.total_steps", "compile", "activation_checkpointing"),
    *("data.path", "data.val_path", "data.num_workers", "data.cache_dir"),
    *("check_device", "trainer", "logger", "callbacks"),
)
"""Keys and whole groups that leave what is trained alone."""
OF_THE_COMMAND = ("run_dir", "resume", "resume_sweep", "trust")
OF_THE_DATA = "model.labels"


def state_to_resume(config: Config, stack: ExitStack) -> ResumeState:
    """What earlier sessions of the run that `resume=` names have left; an empty state for a new run.

    `stack` keeps the run's directory locked. Raises UserError if there is no run, another process trains it, or none
    of its checkpoints can be read.
    """
    resume, wanted = settings(config).resume, config["run_dir"]
    if resume is None:
        return ResumeState()
    if resume == AUTO and wanted is None:
        raise UserError("resume=auto starts or resumes the run in run_dir: add run_dir=<directory>")

    place = {NEWEST: None, AUTO: wanted}.get(resume, resume)

    def choose() -> Path:
        runs = newest_runs() if place is None else [Path(place)]
        if not runs:
            raise UserError(f"resume={NEWEST}: there is no run under {OUTPUTS}/ yet")
        run_dir = runs[0].expanduser().absolute()
        if _holds_run(run_dir):
            stack.enter_context(lock_run_dir(run_dir, key="resume"))
        elif resume != AUTO:
            raise UserError(f"resume={resume} is no run directory: neither config.yaml nor checkpoints/ are in it")
        return run_dir

    run_dir = shared_by_ranks(choose, wanted=place)
    return _read_state(run_dir) if _holds_run(run_dir) else ResumeState()


def _holds_run(run_dir: Path) -> bool:
    return any(run_dir.joinpath(name).exists() for name in (CONFIG, "checkpoints"))


def _read_state(run_dir: Path) -> ResumeState:
    """The newest readable state: of last.ckpt, or else of the one before it."""
    complaints: list[str] = []
    for path in (run_dir / "checkpoints" / name for name in (LAST, PREVIOUS)):
        if not path.is_file():
            continue
        try:
            content = read_checkpoint(path)
            if content.get("optimizer_states"):
                sizes = content["callbacks"]["Checkpoints"]["appended"]
                return ResumeState(run_dir, path, content["global_step"], content["gptlab"], sizes, tuple(complaints))
            complaints.append(f"{path} is no checkpoint that a run can resume from")
        except DamagedError as error:
            complaints.append(str(error))
    if complaints:
        raise UserError(f"{'; '.join(complaints)}: nothing is left to resume from, start the run over")
    return ResumeState(run_dir)


def make_last(state: ResumeState) -> None:
    """Make the checkpoint that a run resumes from its last one; a damaged one is put aside under another name."""
    assert state.run_dir is not None
    last = state.run_dir / "checkpoints" / LAST
    if state.checkpoint is None or state.checkpoint == last:
        return
    for complaint in state.complaints:
        log.warning("%s: resuming from %s, of step %d", complaint, state.checkpoint.name, state.steps)
    if last.is_file():
        last.replace(last.with_name(f"{LAST}.damaged"))
    give_name(state.checkpoint, last)


def is_finished(state: ResumeState, config: Config) -> bool:
    """Whether there is a run that has used up this budget and has nothing to make up for."""
    if state.run_dir is None or state.validation_pending:
        return False
    summary = read_summary(state.run_dir)
    is_used_up = config["max_steps"] in (OPEN, state.steps) and summary.get("budget") == budget_of(config)
    return summary.get("status") == "finished" and is_used_up


def check_steps(state: ResumeState, config: Config) -> None:
    """Raises UserError if the run has done more steps than its budget allows."""
    if state.steps > (n_steps := config["max_steps"]):
        raise UserError(
            f"{budget_of(config)} allows {n_steps} steps; the run in {state.run_dir} has done {state.steps}"
        )


def resumed_config(state: ResumeState, composed: Config, overrides: Sequence[str]) -> Config:
    """The run's own configuration, with those overrides of the command line that may change something.

    With `resume=auto` the command line is that of the first start: it may name settings that cannot change, as long as
    they are the run's.

    Raises:
        UserError: if an override would change what is trained.
    """
    assert state.run_dir is not None
    stored, written = state.stored.get("config"), read_config(state.run_dir)
    if written is None and stored is not None:
        log.warning("config.yaml is damaged: using the configuration in %s", state.checkpoint)
        written = stored
    if written is None:
        raise UserError(f"resume={state.run_dir}: config.yaml is damaged and nothing was saved; start the run over")
    own, is_automatic = upgraded(written), composed["resume"] == AUTO
    for key, then, now in _differences(upgraded(stored or written), own):
        if key == "init_from" and "adapter" in own:  # the weights under it have moved
            continue
        raise UserError(f"{state.checkpoint} is of another run: its {key} is {then}, and {now} in config.yaml")
    config = {**composed, **own}  # a run of an older version gets today's value of a newer setting
    decided = () if config["init_from"] is None else ("init_from", "model", "tokenizer", "data.template")  # by weights
    for key, then, now in _differences(own, composed) if is_automatic else ():
        if not key.startswith((*decided, OF_THE_DATA)):
            raise UserError(f"resume=auto: {key} was {then} when this run began, and is {now} now")
    for key in map(key_of, overrides):
        moves = key == "init_from" and "adapter" in config and not is_automatic
        if _can_change(key) or moves:
            _copy(key, composed, config)
        elif not is_automatic and key not in ("resume", "trust"):
            can_change = ", ".join(CHANGEABLE)
            raise UserError(f"{key} cannot change in a resumed run, only {can_change}; start a new run for the rest")
    if {*map(key_of, overrides)} & {*BUDGETS}:
        config |= {name: composed[name] for name in BUDGETS}  # the one that is named replaces the run's
    if config["max_steps"] != OPEN:
        config = with_steps(config, config["max_steps"])
    config["run_dir"] = str(state.run_dir)
    settings(config)
    check_steps(state, config)
    if is_finished(state, config) and not is_automatic:
        longer = command_line("train", resume=state.run_dir, max_steps=2 * state.steps)
        raise UserError(f"the run in {state.run_dir} has finished its {state.steps} steps; to train longer: {longer}")
    return config


def _differences(then: Config, now: Config) -> Iterator[tuple[str, Any, Any]]:
    """Keys that both have and that cannot change, with their different values."""
    today = dict(build.flatten(now))
    for key, value in build.flatten(then):
        if today.get(key, value) != value and not _can_change(key) and key not in OF_THE_COMMAND:
            yield key, value, today[key]


def _can_change(key: str) -> bool:
    return key in CHANGEABLE or key.partition(".")[0] in CHANGEABLE


def _copy(key: str, source: Config, target: Config) -> None:
    """Give the target what the source has under a dotted key, or remove it if the source has nothing there."""
    *parents, name = key.split(".")
    for part in parents:
        source, target = source.get(part) or {}, target.setdefault(part, {})
    if name in source:
        target[name] = source[name]
    else:
        target.pop(name, None)


def check_resumable(state: ResumeState, config: Config, data: PreparedData) -> None:
    """Check a resumed run.

    Raises:
        UserError: if the text, one of its files or its tokenizer is not what the run was trained on, or if the budget
            allows fewer steps than were done.
    """
    if state.checkpoint is None:
        return
    check_steps(state, config)
    then, today = ({str(file[0]): file for file in of or []} for of in (state.stored.get("manifest"), data.manifest))
    for name in then | today if then else ():
        if then.get(name) != today.get(name):
            what = "has changed" if name in then and name in today else "is missing" if name in then else "is new"
            raise UserError(
                f"{data.name}: {name} {what} since {state.checkpoint} was written; name the old files "
                f"(data.path=<where they are now>), or start a new run"
            )
    now = {"text_fingerprint": data.fingerprint, "tokenizer": data.tokenizer.state()}
    for key, value in now.items():
        if state.stored[key] != value:
            raise UserError(
                f"the {key.removesuffix('_fingerprint')} is not the one that {state.checkpoint} was trained on: name "
                f"the old one (data.path=<where it is now>), or start a new run"
            )
