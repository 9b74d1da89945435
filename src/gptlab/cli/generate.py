"""`gptlab generate`: continue a text. Imports no Lightning: the first token comes within seconds of pressing enter."""

import sys

import torch
from omegaconf import DictConfig

from gptlab import build
from gptlab.checkpoint import Loaded
from gptlab.cli.asked_for import load_asked_for
from gptlab.cli.chat import Terminal
from gptlab.cli.compose import run_command
from gptlab.errors import UserError
from gptlab.generation.continuation import continue_texts
from gptlab.generation.preparation import make_ready
from gptlab.settings import GenerationSettings
from gptlab.training.devices import check_weights_precision, device_type


def main(arguments: list[str]) -> int:
    """The exit status of one generation command."""
    return run_command(generate, config_name="generate", arguments=arguments)


def generate(cfg: DictConfig) -> int:
    """Continue each prompt `num_samples` times: one text streams as it comes, several are written when whole."""
    settings = build.generation_settings(build.resolve(cfg))
    device = device_type(settings.accelerator, key="accelerator")
    check_weights_precision(settings.precision, device)
    loaded = load_asked_for(settings.checkpoint)
    if settings.interactive:
        return _converse(loaded, settings, device)
    texts = [prompt for prompt in settings.prompts for _ in range(settings.num_samples)]
    ids = {prompt: _encode(loaded, prompt) for prompt in settings.prompts}
    _make_ready(loaded, settings, device, n_rows=len(texts))

    streams = len(texts) == 1
    if streams:
        print(texts[0], end="", flush=True)
    for row, new_text in continue_texts(
        loaded.model,
        loaded.needed_tokenizer(),
        [ids[text] for text in texts],
        max_new_tokens=settings.max_new_tokens,
        sampler=settings.sampler(torch.Generator(device).manual_seed(settings.seed)),
        stops=settings.stops,
    ):
        texts[row] += new_text
        if streams:
            print(new_text, end="", flush=True)
    if streams:
        print()
    else:
        for number, text in enumerate(texts, start=1):
            print(f"--- {number} of {len(texts)} ---\n{text}\n")
    return 0


def _converse(loaded: Loaded, settings: GenerationSettings, device: str) -> int:
    loaded.needed_tokenizer()
    _make_ready(loaded, settings, device, n_rows=1)
    print("Ctrl-C stops an answer, Ctrl-D leaves, /help tells more", file=sys.stderr)
    return Terminal(loaded, settings).run()


def _make_ready(loaded: Loaded, settings: GenerationSettings, device: str, *, n_rows: int) -> None:
    if settings.checkpoint is None:
        print(f"the newest run: {loaded.path}", file=sys.stderr)
    if settings.compile:
        print("compiling: that takes half a minute or more", file=sys.stderr, flush=True)
    try:
        make_ready(
            loaded.model, device=device, precision=str(settings.precision), n_rows=n_rows, compile=settings.compile
        )
    except ValueError as error:
        raise UserError(str(error)) from None


def _encode(loaded: Loaded, prompt: str) -> list[int]:
    tokenizer = loaded.needed_tokenizer()
    try:
        ids = tokenizer.encode(prompt)
    except ValueError as error:
        raise UserError(f"prompt={prompt!r}: {error}") from None
    if not ids and tokenizer.eot is not None:
        ids = [tokenizer.eot]  # nothing said yet: a document begins
    if not ids:
        raise UserError("the prompt is empty, and this tokenizer has no token to begin a text with: prompt=<text>")
    if len(ids) > loaded.model.context_length:
        print(
            f"the prompt has {len(ids):,} tokens: the model sees the last {loaded.model.context_length:,} of them",
            file=sys.stderr,
        )
    return ids
