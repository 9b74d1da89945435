"""`gptlab inspect`: one page that shows what a model does with a text. Imports no Lightning."""

import hashlib
import math
import re
import shlex
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from omegaconf import DictConfig

from gptlab import build
from gptlab.checkpoint import Loaded
from gptlab.cli.compose import run_command
from gptlab.cli.load import load_or_newest
from gptlab.cli.report import counted, shortened
from gptlab.errors import UserError
from gptlab.files import absolute, made_whole
from gptlab.inspection.analyze import MAX_TOKENS, Inspection, analyze
from gptlab.inspection.page import PAGE, foreign, write_inspection
from gptlab.signals import END_OF_PROCESS, leave, signal_handler
from gptlab.training.devices import device_type


@dataclass(frozen=True)
class InspectionSettings:
    """The settings of inspect.yaml."""

    prompt: str
    checkpoint: str | None
    trust: str | list[str] | None
    base: str | None
    to: str | None
    top_k: int
    accelerator: str

    def __post_init__(self) -> None:
        if self.top_k < 1:
            raise ValueError(f"top_k={self.top_k} must be at least 1")


def run_inspect(cfg: DictConfig) -> int:
    """Run the model over the prompt, write the directory, and print where it is."""
    settings = build.settings_of(InspectionSettings, build.resolve(cfg))
    device = device_type(settings.accelerator, key="accelerator")
    loaded = load_or_newest(settings.checkpoint, trust=settings.trust, base=settings.base)
    ids = _encode(loaded, settings.prompt)
    to = settings.to if settings.to is not None else _place(loaded, settings.prompt)
    directory = absolute(to)
    if directory.is_dir() and (others := foreign(directory)):
        raise UserError(f"to={to} holds other things ({others[0]}): name a new directory")

    print(f"inspecting {settings.checkpoint or shortened(loaded.path)}, {counted(len(ids), 'token')}", flush=True)
    model = loaded.model.to(device)
    inspection = analyze(model, ids, top_k=settings.top_k)
    if inspection.no_attention:
        print(f"  without attention: {inspection.no_attention}")
    with signal_handler(*END_OF_PROCESS, handler=leave), made_whole(directory, to) as new:
        write_inspection(
            new,
            inspection,
            loaded.needed_tokenizer(),
            token_vectors=model.token_vectors,
            prompt=settings.prompt,
            facts=_facts(loaded, inspection),
            step=loaded.training.get("steps", 0),
        )
    place = shortened(directory)
    print(f"  {_loss(inspection)}\n" if len(ids) > 1 else "", end="")
    print(f"  {place}/{PAGE}, with files for TensorBoard beside it")
    print(f"\nnext:\n  python -m webbrowser {(directory / PAGE).as_uri()}")
    print(f"  tensorboard --logdir {'outputs' if place.startswith('outputs/') else shlex.quote(place)}")
    return 0


def _encode(loaded: Loaded, prompt: str) -> list[int]:
    """The prompt's ids: at least one, and no more than the page can show."""
    most = min(loaded.model.context_length, MAX_TOKENS)
    try:
        ids = loaded.needed_tokenizer().encode(prompt)
    except ValueError as error:
        raise UserError(f"prompt={prompt!r}: {error}") from None
    if not 0 < len(ids) <= most:
        raise UserError(f"the prompt has {len(ids):,} tokens: 1 to {most:,} of this model can be shown")
    return ids


def _place(loaded: Loaded, prompt: str) -> str:
    """`inspect/<prompt>` in a run's directory; otherwise `inspect/<model>-<prompt>` here.

    The name ends in a checksum if letters, digits and spaces are not the whole text.
    """
    is_run = loaded.path.parent.name == "checkpoints"
    text = prompt if is_run else f"{loaded.name} {prompt}"
    name = re.sub(r"[^A-Za-z0-9]+", "-", text)[:40].strip("-")
    if name.replace("-", " ") != text:
        name = f"{name}-{hashlib.sha256(text.encode('utf-8', 'replace')).hexdigest()[:6]}".strip("-")
    return str(Path(loaded.path.parents[1] if is_run else "", "inspect", name))


def _facts(loaded: Loaded, inspection: Inspection) -> dict[str, str]:
    """The rows of the page's head."""
    n_parameters = sum(parameter.numel() for parameter in loaded.model.parameters())
    sizes = (f"{name} {value:,}" for name, value in loaded.model.sizes.items() if isinstance(value, int))
    steps = loaded.training.get("steps")
    facts = {
        "model": shortened(loaded.path) if Path(loaded.name).exists() else loaded.name,
        "size": ", ".join([f"{n_parameters:,} parameters", *sizes]),
        "trained": f"{steps:,} steps" if steps is not None else "",
        "text": counted(len(inspection.ids), "token"),
        "loss": _loss(inspection),
    }
    return {name: value for name, value in facts.items() if value}


def _loss(inspection: Inspection) -> str:
    if not len(inspection.losses):
        return ""  # a single token has none
    mean = float(inspection.losses.mean())
    return f"{mean:.2f} nats per token, perplexity {math.exp(min(mean, 700.0)):,.1f}"


main = partial(run_command, run_inspect, config_name="inspect")
