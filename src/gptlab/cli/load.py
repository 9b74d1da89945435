"""The model that a command is about, or whose weights a run starts from."""

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from gptlab import build
from gptlab.build import Config
from gptlab.checkpoint import Loaded, load
from gptlab.checkpoint.adapted import find_base
from gptlab.checkpoint.loaded import restored
from gptlab.checkpoint.run import find_checkpoint, read_checkpoint
from gptlab.checkpoint.trust import packages_of
from gptlab.cli.explain import command_line
from gptlab.cli.free_text import key_of
from gptlab.cli.report import shortened
from gptlab.errors import UserError
from gptlab.model import LanguageModel
from gptlab.tokenizer import Tokenizer
from gptlab.training.run_files import CONFIG, read_summary

OUTPUTS = Path("outputs")


def load_or_newest(
    checkpoint: str | None, *, trust: str | list[str] | None, base: str | None = None, classifiers: bool = False
) -> Loaded:
    """The model that `checkpoint=` names; null is the newest run under outputs/, which standard error then names.

    The newest run is the finished one that was saved last, or of any status if none has finished. `base` names the
    weights under an adapter, if they are not where it says.

    Raises:
        UserError: if there is no model, it is a classifier and `classifiers` is false, or a package is not trusted.
    """
    loaded = load(checkpoint if checkpoint is not None else _newest(), trust=trust or (), base=base)
    if base is not None and loaded.adapter is None:
        raise UserError(f"base={base} is for adapters, and {loaded.name} is a whole model: leave it out")
    if not (loaded.model.generates or classifiers):
        command = command_line("classify", checkpoint=loaded.name)
        raise UserError(f'{loaded.name} is a classifier, and writes no text: {command} text="..."')
    return loaded


def _newest() -> Path:
    saved = [run_dir for run_dir in newest_runs() if find_checkpoint(run_dir) is not None]
    if not saved:
        raise UserError(f"there is no run under {OUTPUTS}/ yet: train one first, or name one with checkpoint=<path>")
    statuses = {run_dir: read_summary(run_dir).get("status") or "not finished" for run_dir in saved}
    run_dir = next((run_dir for run_dir in saved if statuses[run_dir] == "finished"), saved[0])
    is_finished = statuses[run_dir] == "finished"
    kind = "the newest finished run" if is_finished else f"no run has finished; the newest ({statuses[run_dir]})"
    print(f"{kind}: {shortened(run_dir)}", file=sys.stderr, flush=True)
    return run_dir


def newest_runs() -> list[Path]:
    """Run directories under outputs/; first the one that was begun, resumed or saved last."""
    times: dict[Path, float] = {}
    for path in filter(Path.is_file, [*OUTPUTS.glob(f"**/{CONFIG}"), *OUTPUTS.glob("**/checkpoints/*.ckpt")]):
        run_dir = path.parent if path.name == CONFIG else path.parents[1]
        times[run_dir] = max(times.get(run_dir, 0.0), path.stat().st_mtime)
    return sorted(times, key=lambda run_dir: times[run_dir], reverse=True)


def starting_weights(config: Config, checkpoint: Path | None, overrides: Sequence[str]) -> tuple[Loaded | None, Config]:
    """What `init_from` names, and the configuration: what the weights decide, tokenizer and template are theirs.

    A run that resumes from a checkpoint starts from that one, or from the weights under its adapter, which are not in
    it. Raises UserError if `overrides`, the command line, asks for something else than the weights have, or for a
    longer context.
    """
    if config["init_from"] is None:
        return None, config
    if checkpoint is not None and "adapter" not in config:
        return load(checkpoint, trust=packages_of(config)), config
    if checkpoint is not None:
        expected = read_checkpoint(checkpoint)["gptlab"]["base_fingerprint"]
        trusting = partial(load, trust=packages_of(config))
        loaded = find_base(str(checkpoint), config["init_from"], expected, load=trusting, key="init_from")
        return loaded, {**config, "init_from": _lasting_name(loaded)}
    loaded = load(config["init_from"], trust=config["trust"] or ())
    given = {key_of(override) for override in overrides}
    wanted, theirs = config["model"], loaded.config["model"]
    if not loaded.model.generates and "labels" not in wanted:
        raise UserError(f"init_from={loaded.name} is a classifier: only a classifier starts from it")
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
    config = {**config, "init_from": _lasting_name(loaded), "model": {**wanted, **fixed}, "tokenizer": tokenizer}
    learned = loaded.config.get("data", {}).get("template")
    if learned is not None and "template" in config["data"] and not any("template" in key for key in given):
        config["data"] = {**config["data"], "template": learned}
    return loaded, config


def _lasting_name(loaded: Loaded) -> str:
    """An absolute path, or a repository at its commit: these weights, even if the name moves on."""
    here = Path(loaded.name).expanduser()
    return str(here.absolute()) if here.exists() else f"{loaded.name.partition('@')[0]}@{loaded.path.name}"


def initial_model(loaded: Loaded, config: Config, tokenizer: Tokenizer) -> LanguageModel:
    """The model that the configuration describes, with the loaded weights themselves, not copies of them.

    A context shorter than the weights' keeps the first positions. A classifier has a new head unless the weights are
    those of one with the same labels. Raises UserError if the weights have another number of tokens than the tokenizer.
    """
    n_tokens, longest = loaded.model.vocab_size, loaded.model.context_length
    if tokenizer.vocab_size != n_tokens:
        raise UserError(
            f"init_from={loaded.name} has {n_tokens:,} tokens and no tokenizer of its own, and this run's tokenizer "
            f"has {tokenizer.vocab_size:,}: choose the one that it was trained with"
        )
    loaded.model.shorten(min(config["model"].get("context_length", longest), longest))
    weights = {name: weight.detach() for name, weight in loaded.model.named_parameters()}  # a tied head is in it once
    if config["model"].get("labels") != loaded.config["model"].get("labels"):
        weights = {name: weight for name, weight in weights.items() if not name.startswith("head.")}
        weights |= build.model(config, n_tokens).head.state_dict(prefix="head.")
    loaded.model.to("meta")  # the weights are the new model's now: on a GPU, no copy stays behind
    return restored(config, n_tokens, weights).train()
