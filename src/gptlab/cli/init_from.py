"""`init_from=<model>`: a run that starts from weights that are there already, with their sizes and their tokenizer."""

from pathlib import Path
from typing import Any

from gptlab import build
from gptlab.build import Config
from gptlab.checkpoint import Loaded
from gptlab.checkpoint.loaded import filled
from gptlab.errors import UserError
from gptlab.model import GPT
from gptlab.tokenizer import Tokenizer

SIZES = ("n_layers", "n_heads", "d_model", "qkv_bias", "tie_head")
"""What of a model its weights decide. Dropout, attention and the rest stay the user's."""

POSITIONS = "trunk.position_embedding.weight"


def starting_config(loaded: Loaded, config: Config, overrides: list[str]) -> Config:
    """The configuration of a run that starts from weights: sizes and tokenizer are theirs.

    Args:
        loaded: the weights.
        config: what the user composed.
        overrides: the command line.

    Raises:
        UserError: where the command line asks for something else, or for a context that the weights do not have.
    """
    given = {override.partition("=")[0].lstrip("+~") for override in overrides}
    theirs = loaded.config["model"]
    sizes = {name: theirs[name] for name in SIZES}
    for name, size in sizes.items():
        wanted = config["model"].get(name)
        if wanted != size and given & {"model", f"model.{name}"}:
            raise UserError(f"model.{name}={_shown(wanted)}: init_from={loaded.name} has {_shown(size)}; leave it out")
    if "model/init" in given:
        raise UserError(f"model/init: init_from={loaded.name} has weights already; leave it out")
    wanted, there_are = config["model"]["context_length"], loaded.model.context_length
    if wanted > there_are:
        raise UserError(f"context_length={wanted}: init_from={loaded.name} has {there_are} positions; use no more")
    tokenizer = config["tokenizer"]
    if loaded.tokenizer is not None:
        tokenizer = loaded.config["tokenizer"]
        if tokenizer != config["tokenizer"] and any(key.partition(".")[0] == "tokenizer" for key in given):
            kind = tokenizer["_target_"].rpartition(".")[2]
            raise UserError(f"tokenizer: init_from={loaded.name} brings its own, a {kind}; leave it out")
    here = Path(loaded.name).expanduser()
    at_its_commit = f"{loaded.name.partition('@')[0]}@{loaded.path.name}"
    init_from = str(here.absolute()) if here.exists() else at_its_commit  # what it was, whatever has the name later
    return {**config, "init_from": init_from, "model": {**config["model"], **sizes}, "tokenizer": tokenizer}


def check_vocabulary(loaded: Loaded, tokenizer: Tokenizer) -> None:
    """Raises UserError where the weights have another number of tokens than the text's tokenizer."""
    n_tokens = loaded.model.head.out_features
    if tokenizer.vocab_size != n_tokens:
        raise UserError(
            f"init_from={loaded.name} has {n_tokens:,} tokens and no tokenizer of its own, and this run's tokenizer "
            f"has {tokenizer.vocab_size:,}: choose the one that it was trained with"
        )


def initial_model(loaded: Loaded, config: Config) -> GPT:
    """The model that the configuration describes, with the weights themselves, not copies of them.

    A context shorter than the weights' keeps the first positions.
    """
    weights = {name: weight.detach() for name, weight in loaded.model.named_parameters()}  # a tied head is in it once
    model = build.meta_model(config, loaded.model.head.out_features)
    weights[POSITIONS] = weights[POSITIONS][: model.context_length].clone()
    loaded.model.to("meta")  # the weights are the new model's now: on a GPU, no copy stays behind
    return filled(model, weights)


def _shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
