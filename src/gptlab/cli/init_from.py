"""`init_from=<model>`: a run that starts from existing weights, with their sizes and their tokenizer."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gptlab.build import Config
from gptlab.checkpoint import Loaded
from gptlab.checkpoint.loaded import restored
from gptlab.errors import UserError
from gptlab.model import LanguageModel
from gptlab.tokenizer import Tokenizer


def starting_config(loaded: Loaded, config: Config, overrides: Sequence[str]) -> Config:
    """The configuration of a run that starts from weights: what they decide and their tokenizer are theirs.

    Raises:
        UserError: if `overrides`, the command line, asks for something else, or for a longer context than they have.
    """
    given = {override.partition("=")[0].lstrip("+~") for override in overrides}
    wanted, theirs = config["model"], loaded.config["model"]
    fixed = {name: theirs[name] for name in loaded.model.fixed_by_weights}
    for name, value in fixed.items():
        if wanted.get(name) != value and given & {"model", f"model.{name}", f"model/{name}"}:
            raise UserError(f"model.{name}: init_from={loaded.name} has {_shown(value)}; leave it out")
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
    return {**config, "init_from": init_from, "model": {**wanted, **fixed}, "tokenizer": tokenizer}


def check_vocabulary(loaded: Loaded, tokenizer: Tokenizer) -> None:
    """Raises UserError if the weights have another number of tokens than the text's tokenizer."""
    n_tokens = loaded.model.vocab_size
    if tokenizer.vocab_size != n_tokens:
        raise UserError(
            f"init_from={loaded.name} has {n_tokens:,} tokens and no tokenizer of its own, and this run's tokenizer "
            f"has {tokenizer.vocab_size:,}: choose the one that it was trained with"
        )


def initial_model(loaded: Loaded, config: Config) -> LanguageModel:
    """The model that the configuration describes, with the loaded weights themselves, not copies of them.

    A context shorter than the weights' keeps the first positions.
    """
    longest = loaded.model.context_length
    loaded.model.shorten(min(config["model"].get("context_length", longest), longest))
    weights = {name: weight.detach() for name, weight in loaded.model.named_parameters()}  # a tied head is in it once
    loaded.model.to("meta")  # the weights are the new model's now: on a GPU, no copy stays behind
    return restored(config, loaded.model.vocab_size, weights).train()


def _shown(value: Any) -> str:
    """A setting, of a part its class."""
    return str(value.get("_target_")).rpartition(".")[2] if isinstance(value, dict) else str(value).lower()
