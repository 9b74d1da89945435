"""`resume=<run directory>`: the run's own configuration, with the few changes that leave what it trains alone."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gptlab import build
from gptlab.build import Config
from gptlab.checkpoint.run import DamagedError, is_run, read_checkpoint
from gptlab.cli.explain import command_line
from gptlab.data.corpus import Corpus
from gptlab.errors import UserError
from gptlab.files import give_name
from gptlab.training.run_files import BEST, CONFIG, LAST, PREVIOUS, read_config, read_summary

log = logging.getLogger("gptlab")

NEWEST = "last"
CHANGEABLE_KEYS = (
    *("max_steps", "validate_every", "save_every", "micro_batch_size", "on_nonfinite", "schedule.total_steps"),
    *("data.path", "data.num_workers", "data.cache_dir", "check_device"),
)
CHANGEABLE_GROUPS = ("trainer", "logger", "callbacks")


@dataclass(frozen=True)
class Stored:
    """What a run has left behind.

    Attributes:
        checkpoint: its newest whole one; None where it has not saved yet.
        steps: that are done in it.
        ours: what gptlab put into it (configuration, tokenizer, fingerprint of the text ...); empty without one.
        appended: lengths of the files that only grow, at its time.
        complaints: about newer ones that are not whole.
    """

    checkpoint: Path | None
    steps: int
    ours: dict[str, Any]
    appended: dict[str, int]
    complaints: tuple[str, ...] = ()

    @property
    def owes_validation(self) -> bool:
        return self.ours.get("owes_validation", False)


NOTHING = Stored(None, 0, {}, {})


def run_to_resume(resume: str) -> Path:
    """The run directory that `resume=` names. Raises UserError where there is none."""
    if resume == NEWEST:
        return _newest_begun(Path("outputs")).absolute()
    run_dir = Path(resume).expanduser().absolute()
    if not any(run_dir.joinpath(name).exists() for name in (CONFIG, "checkpoints")):
        raise UserError(f"resume={resume} is no run directory: neither config.yaml nor checkpoints/ are in it")
    return run_dir


def _newest_begun(outputs: Path) -> Path:
    """The run that was begun, went on, or saved last: also one that was killed before it could save."""
    times: dict[Path, float] = {}
    for config in filter(Path.is_file, outputs.glob(f"**/{CONFIG}")):
        marks = [config, *(config.parent / "checkpoints" / name for name in (LAST, PREVIOUS, BEST))]
        times[config.parent] = max(path.stat().st_mtime for path in marks if path.is_file())
    for run_dir in sorted(times, key=lambda run_dir: times[run_dir], reverse=True):
        if is_run(run_dir) or read_config(run_dir) is not None:  # and no config.yaml of something else
            return run_dir
    raise UserError(f"resume={NEWEST}: there is no run under {outputs}/ yet")


def stored(run_dir: Path) -> Stored:
    """The newest state of a run that is whole: of last.ckpt, or else of the one before it.

    Raises:
        UserError: where checkpoints are there, but none that is whole; where one cannot be read, which may pass.
    """
    complaints: list[str] = []
    for name in (LAST, PREVIOUS):
        path = run_dir / "checkpoints" / name
        if not path.is_file():
            continue
        try:
            content = read_checkpoint(path)
            appended = content["callbacks"]["Checkpoints"]["appended"]
            if not content["optimizer_states"]:
                raise KeyError
            return Stored(path, content["global_step"], content["gptlab"], appended, tuple(complaints))
        except DamagedError as error:
            complaints.append(str(error))
        except (KeyError, TypeError):
            complaints.append(f"{path} is no checkpoint that a run can go on from")
    if complaints:
        raise UserError(f"{'; '.join(complaints)}: nothing is left to go on from, start the run over")
    return NOTHING


def mend(run_dir: Path, before: Stored) -> None:
    """Make the checkpoint that a run goes on from its last one; a damaged one is put aside, under another name."""
    last = run_dir / "checkpoints" / LAST
    if before.checkpoint is None or before.checkpoint == last:
        return
    for complaint in before.complaints:
        log.warning("%s: going on from %s, of step %d", complaint, before.checkpoint.name, before.steps)
    if last.is_file():
        last.replace(last.with_name(f"{LAST}.damaged"))
    give_name(before.checkpoint, last)


def resumed_config(run_dir: Path, before: Stored, composed: Config, overrides: list[str]) -> Config:
    """The configuration that a run goes on with.

    Args:
        run_dir: the run.
        before: what it has left.
        composed: what the command line composes to; its values count where an override changes something.
        overrides: the command line.

    Raises:
        UserError: where it is finished, or where an override would change what is trained.
    """
    config = {**composed, **_own_config(run_dir, before)}  # a run of before there was some setting gets today's value
    _check_same_run(config, before)
    for override in overrides:
        key = override.partition("=")[0].lstrip("+~")
        if key == "resume":
            continue
        if _can_change(key):
            _copy(key.split("."), composed, config)
        else:
            can_change = ", ".join([*CHANGEABLE_KEYS, *(f"{group}.*" for group in CHANGEABLE_GROUPS)])
            raise UserError(f"{key} cannot change in a resumed run, only {can_change}; start a new run for the rest")
    config["run_dir"], config["resume"] = str(run_dir), str(run_dir)
    max_steps, steps = build.settings(config).max_steps, before.steps
    if steps > max_steps:
        raise UserError(f"max_steps={max_steps}: the run in {run_dir} has done {steps} steps already")
    if steps == max_steps and read_summary(run_dir).get("status") == "finished" and not before.owes_validation:
        longer = command_line("train", resume=run_dir, max_steps=2 * steps)
        raise UserError(f"the run in {run_dir} has finished its {steps} steps; to go on beyond them: {longer}")
    return config


def _own_config(run_dir: Path, before: Stored) -> Config:
    """From config.yaml, which the newest session wrote, or else from the checkpoint."""
    config = read_config(run_dir)
    if config is None and before.checkpoint is None:
        raise UserError(
            f"resume={run_dir}: its config.yaml is damaged, and there is no checkpoint yet; start the run over"
        )
    if config is None:
        log.warning("config.yaml is not as the run wrote it: going on with the configuration in %s", before.checkpoint)
        config = dict(before.ours["config"])
    return config


def _check_same_run(config: Config, before: Stored) -> None:
    """Raises UserError where a checkpoint was put there that another configuration has made."""
    theirs = dict(build.leaves(before.ours.get("config", {})))
    for key, value in build.leaves(config):
        can_change = _can_change(key) or key in ("run_dir", "resume")
        if not can_change and key in theirs and theirs[key] != value:
            raise UserError(
                f"{before.checkpoint} is of another run: its {key} is {theirs[key]}, and {value} in config.yaml"
            )


def _can_change(key: str) -> bool:
    """Whether a setting leaves alone what is trained."""
    return key in CHANGEABLE_KEYS or key.partition(".")[0] in CHANGEABLE_GROUPS


def _copy(path: list[str], source: Config, target: Config) -> None:
    """Give the target what the source has at a place, or take it away where the source has nothing there."""
    *parents, name = path
    for part in parents:
        source, target = source.get(part) or {}, target.setdefault(part, {})
    if name in source:
        target[name] = source[name]
    else:
        target.pop(name, None)


def check_same_text(before: Stored, corpus: Corpus) -> None:
    """Raises UserError where the text or its tokenizer is another than the run was trained on."""
    for what, then, now in (
        ("text", before.ours["text_fingerprint"], corpus.fingerprint),
        ("tokenizer", before.ours["tokenizer"], corpus.tokenizer.state()),
    ):
        if then != now:
            raise UserError(
                f"the {what} is not the one that {before.checkpoint} was trained on: bring the old one back "
                f"(data.path=<where it is now>), or start anew"
            )
