"""`gptlab inspect`: pictures of what a model does with a text. Imports no Lightning."""

import hashlib
import math
import re
import shlex
from pathlib import Path

from omegaconf import DictConfig

from gptlab import build
from gptlab.checkpoint import Loaded
from gptlab.cli.asked_for import load_asked_for
from gptlab.cli.compose import run_command
from gptlab.cli.report import counted, shortened
from gptlab.directories import absolute, made_whole
from gptlab.errors import UserError
from gptlab.inspection.board import embedded_ids
from gptlab.inspection.files import PAGE, foreign, remove_earlier, write_inspection
from gptlab.inspection.look import MAX_TOKENS, Inspection, look
from gptlab.inspection.tokens import token_texts
from gptlab.signals import END_OF_PROCESS, answering, leave
from gptlab.training.devices import device_type

LONGEST_NAME = 40


def main(arguments: list[str]) -> int:
    """The exit status of one inspection command."""
    return run_command(run_inspect, config_name="inspect", arguments=arguments)


def run_inspect(cfg: DictConfig) -> int:
    """Look, write, and say where it is."""
    settings = build.inspection_settings(build.resolve(cfg))
    device = device_type(settings.accelerator, key="accelerator")
    if settings.to is not None:
        _check_place(settings.to)
    loaded = load_asked_for(settings.checkpoint)
    ids = _encode(loaded, settings.prompt)
    to = settings.to if settings.to is not None else str(_place(loaded, settings.prompt))
    directory = _check_place(to)

    print(f"looking into {settings.checkpoint or shortened(loaded.path)}, {counted(len(ids), 'token')}", flush=True)
    try:
        inspection = look(loaded.model.to(device), ids, top_k=settings.top_k)
    except ValueError as error:
        raise UserError(f"{loaded.name} cannot be looked into: {error}") from None
    if not (inspection.attention.isfinite().all() and inspection.layer_probabilities.isfinite().all()):
        raise UserError(f"{loaded.name} computes nan: there is nothing to look at")
    embedding = loaded.model.trunk.token_embedding.weight
    shown = [*ids, *inspection.next_ids.flatten().tolist(), *inspection.layer_ids.flatten().tolist()]
    texts = token_texts(loaded.needed_tokenizer(), [*shown, *embedded_ids(ids, len(embedding))])
    with answering(*END_OF_PROCESS, by=leave), made_whole(directory, to, clear=remove_earlier) as partial:
        write_inspection(
            partial,
            inspection,
            texts,
            embedding,
            prompt=settings.prompt,
            facts=_facts(loaded, inspection),
            step=loaded.training.get("steps", 0),
        )
    _report(directory, inspection, texts)
    return 0


def _encode(loaded: Loaded, prompt: str) -> list[int]:
    """The prompt's ids: at least one, and no more than can be shown."""
    tokenizer = loaded.needed_tokenizer()
    context = loaded.model.context_length
    try:
        ids = tokenizer.encode(prompt)
    except ValueError as error:
        raise UserError(f"prompt={prompt!r}: {error}") from None
    if not ids:
        raise UserError(f"prompt={prompt!r} has no token to look at")
    if len(ids) > context:
        raise UserError(f"the prompt has {len(ids):,} tokens, and this model sees {context:,}: give a shorter one")
    if len(ids) > MAX_TOKENS:
        raise UserError(f"the prompt has {len(ids):,} tokens: maps of more than {MAX_TOKENS} cannot be read")
    return ids


def _check_place(to: str) -> Path:
    """The directory to make, or to make again. Raises UserError where something else is there."""
    directory = absolute(to)
    if directory.is_symlink() or directory.is_file():
        raise UserError(f"to={to} is there already, and no directory: name one that is made")
    others = foreign(directory) if directory.is_dir() else []
    if others:
        raise UserError(f"to={to} holds other things ({others[0]}): name a directory that is not there")
    return directory


def _place(loaded: Loaded, prompt: str) -> Path:
    """`inspect/<prompt>` in a run's directory, else `inspect/<model>/<prompt>` here."""
    if loaded.path.parent.name == "checkpoints":
        return loaded.path.parents[1] / "inspect" / _file_name(prompt)
    model = loaded.path.name if Path(loaded.name).expanduser().exists() else loaded.name
    return Path("inspect", _file_name(model), _file_name(prompt))


def _file_name(text: str) -> str:
    """A name for every text; where it cannot be the text itself, a checksum tells it from others.

    >>> _file_name("The fog"), _file_name("The fog?")
    ('The-fog', 'The-fog-6c8719')
    """
    name = re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-")[:LONGEST_NAME].strip("-")
    if name.replace("-", " ") == text:
        return name
    return "-".join(filter(None, [name, hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:6]]))


def _facts(loaded: Loaded, inspection: Inspection) -> dict[str, str]:
    """What the page says at its head."""
    n_layers, n_heads, n_tokens, _ = inspection.attention.shape
    n_parameters = sum(parameter.numel() for parameter in loaded.model.parameters())
    steps = loaded.training.get("steps")
    facts = {
        "model": shortened(loaded.path) if Path(loaded.name).exists() else loaded.name,
        "size": f"{counted(n_layers, 'layer')}, {counted(n_heads, 'head')} each, {n_parameters:,} parameters",
        "trained": f"{steps:,} steps" if steps is not None else "",
        "text": counted(n_tokens, "token"),
        "loss": _loss(inspection),
    }
    return {name: value for name, value in facts.items() if value}


def _loss(inspection: Inspection) -> str:
    if not len(inspection.losses):
        return ""  # a single token has none
    mean = float(inspection.losses.mean())
    return f"{mean:.2f} nats per token, perplexity {math.exp(min(mean, 700.0)):,.1f}"


def _report(directory: Path, inspection: Inspection, texts: dict[int, str]) -> None:
    """The result in two lines, and what one would do next."""
    place = shortened(directory)
    if len(inspection.losses):
        worst = int(inspection.losses.argmax())
        token = texts[int(inspection.ids[worst + 1])]
        print(f"  mean loss {_loss(inspection)}; the most surprising token: {token} ({inspection.losses[worst]:.2f})")
    pictures = len(list(directory.glob("*.png")))
    print(f"  {place}/ holds {PAGE}, {pictures} pictures, and what TensorBoard reads")
    logdir = "outputs" if Path(place).parts[:1] == ("outputs",) else shlex.quote(place)
    print("\nnext:")
    print(f"  python -m webbrowser {(directory / PAGE).as_uri()}")
    print(f"  tensorboard --logdir {logdir}")
