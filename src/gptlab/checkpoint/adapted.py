"""Adapters and their base: a checkpoint of a run with an adapter holds what was trained, and names the rest."""

from collections.abc import Callable
from hashlib import sha256

from torch import Tensor

from gptlab import build
from gptlab.checkpoint.loaded import Loaded, restored
from gptlab.errors import UserError
from gptlab.model import LanguageModel
from gptlab.model.base import fingerprint

FindBase = Callable[[str, str | None, str | None], Loaded]
"""The base of the adapter `name`, recorded under a name and with a fingerprint, if they are known."""


def fingerprint_of(loaded: Loaded) -> str:
    """A hash of the weights. With an adapter in them, it is that of its parts: the last bits of their sum depend on the
    processor.
    """
    adapter = loaded.adapter
    if adapter is None or adapter.base_fingerprint is None:
        return fingerprint(loaded.model.named_parameters())
    scale = loaded.config["adapter"]["alpha"] / loaded.config["adapter"]["rank"]
    return sha256(f"{adapter.base_fingerprint} {scale} {fingerprint(adapter.weights.items())}".encode()).hexdigest()


def find_base(
    name: str, recorded: str | None, expected: str | None, *, load: Callable[[str], Loaded], key: str = "base"
) -> Loaded:
    """The base of the adapter `name`, with the expected fingerprint if it is known; `key` is the setting that names it.

    Raises UserError if it cannot be loaded, or has other weights.
    """
    advice = f"name its base with {key}=<run, directory or Hub id>"
    if recorded is None:
        raise UserError(f"{name} is an adapter that names no base: {advice}")
    try:
        found = load(recorded)
    except UserError as error:
        raise UserError(f"{name} is an adapter, and its base cannot be loaded ({error}): {advice}") from None
    if expected is not None and fingerprint_of(found) != expected:
        raise UserError(f"{name} is an adapter of other weights than those of {recorded}: {advice}")
    return found


def adapted(config: build.Config, vocab_size: int, trained: dict[str, Tensor], base: Loaded) -> LanguageModel:
    """The model of a run with an adapter: the base's weights, with what the run trained in their place or merged.

    The base's model cannot be used afterwards. Raises UserError if the adapter does not fit, RuntimeError if names or
    shapes differ.
    """
    adapter = build.part(config, "adapter")
    longest = base.model.context_length
    base.model.shorten(min(config["model"].get("context_length", longest), longest))
    weights = {name: weight.detach() for name, weight in base.model.named_parameters()}
    model = restored(config, vocab_size, {**weights, **trained}, adapter=adapter)
    adapter.merge(model)
    return model
