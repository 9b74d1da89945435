"""The model that a command is about, or whose weights a run starts from."""

import sys
from collections.abc import Sequence
from pathlib import Path

from gptlab.build import Config
from gptlab.checkpoint import Loaded, load
from gptlab.checkpoint.loaded import restored
from gptlab.checkpoint.run import find_checkpoint
from gptlab.checkpoint.trust import packages_of
from gptlab.cli.free_text import key_of
from gptlab.cli.report import shortened
from gptlab.errors import UserError
from gptlab.model import LanguageModel
from gptlab.tokenizer import Tokenizer
from gptlab.training.run_files import CONFIG, read_summary

OUTPUTS = Path("outputs")


def load_or_newest(checkpoint: str | None, *, trust: str | list[str] | None) -> Loaded:
    """The model that `checkpoint=` names; null is the newest run under outputs/, which standard error then names.

    The newest run is the finished one that was saved last, or of any status if none has finished.

    Raises:
        UserError: if there is no model, or it needs a package that is not trusted.
    """
    if checkpoint is not None:
        return load(checkpoint, trust=trust or ())
    saved = [run_dir for run_dir in newest_runs() if find_checkpoint(run_dir) is not None]
    if not saved:
        raise UserError(f"there is no run under {OUTPUTS}/ yet: train one first, or name one with checkpoint=<path>")
    statuses = {run_dir: read_summary(run_dir).get("status") or "not finished" for run_dir in saved}
    run_dir = next((run_dir for run_dir in saved if statuses[run_dir] == "finished"), saved[0])
    is_finished = statuses[run_dir] == "finished"
    kind = "the newest finished run" if is_finished else f"no run has finished; the newest ({statuses[run_dir]})"
    print(f"{kind}: {shortened(run_dir)}", file=sys.stderr, flush=True)
    return load(run_dir, trust=trust or ())


def newest_runs() -> list[Path]:
    """Run directories under outputs/; first the one that was begun, resumed or saved last."""
    times: dict[Path, float] = {}
    for path in filter(Path.is_file, [*OUTPUTS.glob(f"**/{CONFIG}"), *OUTPUTS.glob("**/checkpoints/*.ckpt")]):
        run_dir = path.parent if path.name == CONFIG else path.parents[1]
        times[run_dir] = max(times.get(run_dir, 0.0), path.stat().st_mtime)
    return sorted(times, key=lambda run_dir: times[run_dir], reverse=True)


def starting_weights(config: Config, checkpoint: Path | None, overrides: Sequence[str]) -> tuple[Loaded | None, Config]:
    """What `init_from` names, and the configuration: what the weights decide and their tokenizer are theirs.

    A run that resumes from a checkpoint starts from that one. Raises UserError if `overrides`, the command line, asks
    for something else than the weights have, or for a longer context.
    """
    if config["init_from"] is None:
        return None, config
    if checkpoint is not None:
        return load(checkpoint, trust=packages_of(config)), config
    loaded = load(config["init_from"], trust=config["trust"] or ())
    given = {key_of(override) for override in overrides}
    wanted, theirs = config["model"], loaded.config["model"]
    fixed = {name: theirs[name] for name in loaded.model.fixed_by_weights}
    for name, value in fixed.items():
        if wanted.get(name) != value and given & {"model", f"model.{name}", f"model/{name}"}:
            raise UserError(f"model.{name}: init_from={loaded.name} has {value}; leave it out")
    if "model/init" in given:
        raise UserError(f"model/init: init_from={loaded.name} has weights already; leave it out")
    if config["context_length"] > loaded.model.context_length:
        has = f"init_from={loaded.name} has {loaded.model.context_length} positions"
        raise UserError(f"context_length={config['context_length']}: {has}; use no more")
    tokenizer = config["tokenizer"]
    if loaded.tokenizer is not None:
        tokenizer = loaded.config["tokenizer"]
        if tokenizer != config["tokenizer"] and any(key.partition(".")[0] == "tokenizer" for key in given):
            kind = tokenizer["_target_"].rpartition(".")[2]
            raise UserError(f"tokenizer: init_from={loaded.name} brings its own, a {kind}; leave it out")
    here = Path(loaded.name).expanduser()
    at_its_commit = f"{loaded.name.partition('@')[0]}@{loaded.path.name}"
    init_from = str(here.absolute()) if here.exists() else at_its_commit  # these weights, even if the name moves on
    return loaded, {**config, "init_from": init_from, "model": {**wanted, **fixed}, "tokenizer": tokenizer}


def initial_model(loaded: Loaded, config: Config, tokenizer: Tokenizer) -> LanguageModel:
    """The model that the configuration describes, with the loaded weights themselves, not copies of them.

    A context shorter than the weights' keeps the first positions. Raises UserError if the weights have another number
    of tokens than the tokenizer.
    """
    n_tokens, longest = loaded.model.vocab_size, loaded.model.context_length
    if tokenizer.vocab_size != n_tokens:
        raise UserError(
            f"init_from={loaded.name} has {n_tokens:,} tokens and no tokenizer of its own, and this run's tokenizer "
            f"has {tokenizer.vocab_size:,}: choose the one that it was trained with"
        )
    loaded.model.shorten(min(config["model"].get("context_length", longest), longest))
    weights = {name: weight.detach() for name, weight in loaded.model.named_parameters()}  # a tied head is in it once
    loaded.model.to("meta")  # the weights are the new model's now: on a GPU, no copy stays behind
    return restored(config, n_tokens, weights).train()
