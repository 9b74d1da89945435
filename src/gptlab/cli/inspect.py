"""`gptlab inspect`: one page that shows what a model does with a text. Imports no Lightning."""

import hashlib
import math
import re
import shlex
import shutil
from dataclasses import dataclass
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
from gptlab.inspection.files import PAGE, foreign, write_inspection
from gptlab.signals import END_OF_PROCESS, leave, signal_handler
from gptlab.training.devices import device_type

LONGEST_NAME = 40


@dataclass(frozen=True)
class InspectionSettings:
    """The settings of inspect.yaml."""

    prompt: str
    checkpoint: str | None
    trust: str | list[str] | None
    to: str | None
    top_k: int
    accelerator: str

    def __post_init__(self) -> None:
        if not self.prompt:
            raise ValueError("prompt= is empty: there must be at least one token to look at (prompt=<text>)")
        if self.top_k < 1:
            raise ValueError(f"top_k={self.top_k} must be at least 1")
        if self.to == "":
            raise ValueError("to= is empty: it names the directory that is made")


def main(arguments: list[str]) -> int:
    """The exit status of one inspection command."""
    return run_command(run_inspect, config_name="inspect", arguments=arguments)


def run_inspect(cfg: DictConfig) -> int:
    """Run the model over the prompt, write the directory, and print where it is."""
    settings = build.settings_of(InspectionSettings, build.resolve(cfg))
    device = device_type(settings.accelerator, key="accelerator")
    if settings.to is not None:
        _check_place(settings.to)
    loaded = load_or_newest(settings.checkpoint, trust=settings.trust)
    ids = _encode(loaded, settings.prompt)
    to = settings.to if settings.to is not None else str(_place(loaded, settings.prompt))
    directory = _check_place(to)

    print(f"inspecting {settings.checkpoint or shortened(loaded.path)}, {counted(len(ids), 'token')}", flush=True)
    model = loaded.model.to(device)
    inspection = analyze(model, ids, top_k=settings.top_k)
    if inspection.no_attention:
        print(f"  without attention: {inspection.no_attention}")
    with signal_handler(*END_OF_PROCESS, handler=leave), made_whole(directory, to, clear=shutil.rmtree) as partial:
        write_inspection(
            partial,
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


def _check_place(to: str) -> Path:
    """The directory to make, or to replace. Raises UserError if something else is there."""
    directory = absolute(to)
    if directory.is_symlink() or directory.is_file():
        raise UserError(f"to={to} is there already and is not a directory: name a new one")
    others = foreign(directory) if directory.is_dir() else []
    if others:
        raise UserError(f"to={to} holds other things ({others[0]}): name a new directory")
    return directory


def _place(loaded: Loaded, prompt: str) -> Path:
    """`inspect/<prompt>` in a run's directory; otherwise `inspect/<model>/<prompt>` here."""
    if loaded.path.parent.name == "checkpoints":
        return loaded.path.parents[1] / "inspect" / _file_name(prompt)
    model = loaded.path.name if Path(loaded.name).expanduser().exists() else loaded.name
    return Path("inspect", _file_name(model), _file_name(prompt))


def _file_name(text: str) -> str:
    """A file name for any text; it ends in a checksum if it is not the text itself.

    >>> _file_name("The fog"), _file_name("The fog?")
    ('The-fog', 'The-fog-6c8719')
    """
    name = re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-")[:LONGEST_NAME].strip("-")
    if name.replace("-", " ") == text:
        return name
    return "-".join(filter(None, [name, hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:6]]))


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
        "attention": f"not shown: {inspection.no_attention}" if inspection.no_attention else "",
    }
    return {name: value for name, value in facts.items() if value}


def _loss(inspection: Inspection) -> str:
    if not len(inspection.losses):
        return ""  # a single token has none
    mean = float(inspection.losses.mean())
    return f"{mean:.2f} nats per token, perplexity {math.exp(min(mean, 700.0)):,.1f}"
