"""`gptlab generate`: continue a text, or prompt after prompt in the terminal. Imports no Lightning."""

import shlex
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from typing import Literal

import torch
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig

from gptlab import build
from gptlab.arguments import NonNegative, Positive, nearest
from gptlab.checkpoint import Loaded
from gptlab.cli.compose import run_command
from gptlab.cli.free_text import quote_free_text, texts
from gptlab.cli.load import load_or_newest
from gptlab.errors import UserError
from gptlab.files import as_yaml
from gptlab.generation.chat import Chat
from gptlab.generation.preparation import prepare_for_inference
from gptlab.generation.sampling import Sampler, make_sampler
from gptlab.generation.stream import continue_texts
from gptlab.memory import keep_freed_memory
from gptlab.model import LanguageModel
from gptlab.signals import signal_handler
from gptlab.training.devices import check_weights_precision, device_type

CHANGEABLE = ("temperature", "top_k", "top_p", "greedy", "max_new_tokens", "seed", "stop")
HELP = """  /set temperature=0.7 top_k=50   change settings; /set alone shows them
  /reset                          forget the conversation
  exit, quit                      leave (also /exit, /quit, Ctrl-D)
  an empty line lets the model continue; Ctrl-C stops an answer"""


@dataclass(frozen=True)
class GenerationSettings:
    """The settings of generate.yaml."""

    prompt: str | list[str]
    interactive: bool
    checkpoint: str | None
    trust: str | list[str] | None
    base: str | None
    max_new_tokens: Positive
    temperature: float
    top_k: int | None
    top_p: float | None
    greedy: bool
    seed: NonNegative
    num_samples: Positive
    stop: str | list[str] | None
    accelerator: str
    precision: Literal[32, "bf16"]
    compile: bool
    context_length: Positive | None

    def __post_init__(self) -> None:
        make_sampler(temperature=self.temperature, top_k=self.top_k, top_p=self.top_p, generator=None)
        if self.interactive and (self.num_samples > 1 or len(texts(self.prompt)) > 1):
            raise ValueError("interactive=true answers one prompt after the other: give one prompt, and num_samples=1")

    def sampler(self, generator: torch.Generator) -> Sampler:
        """What picks the next token."""
        temperature = 0.0 if self.greedy else self.temperature
        return make_sampler(temperature=temperature, top_k=self.top_k, top_p=self.top_p, generator=generator)


def generate(cfg: DictConfig) -> int:
    """Continue each prompt `num_samples` times: one text is streamed, several are written when they are whole."""
    settings = build.settings_of(GenerationSettings, build.resolve(cfg))
    device = device_type(settings.accelerator, key="accelerator")
    check_weights_precision(settings.precision, device)
    loaded = load_or_newest(settings.checkpoint, trust=settings.trust, base=settings.base)
    _set_context(loaded.model, settings.context_length)
    written = [prompt for prompt in texts(settings.prompt) for _ in range(settings.num_samples)]
    ids = [] if settings.interactive else [loaded.prompt_ids(text) for text in written]
    _tell(loaded, settings, longest=max(map(len, ids), default=0))
    n_rows = len(written)
    how = {"device": device, "precision": str(settings.precision), "n_rows": n_rows, "compile": settings.compile}
    build.settings_of(prepare_for_inference, {"model": loaded.model, **how})
    keep_freed_memory()  # only now: what loading has freed goes back to the system
    generator = torch.Generator(device).manual_seed(settings.seed)
    if settings.interactive:
        turn = loaded.template.turn if loaded.template is not None else None
        return Terminal(Chat(loaded.model, loaded.needed_tokenizer(), turn), settings, generator).run()

    pieces = continue_texts(
        loaded.model,
        loaded.needed_tokenizer(),
        ids,
        max_new_tokens=settings.max_new_tokens,
        sampler=settings.sampler(generator),
        stops=texts(settings.stop),
    )
    if n_rows == 1:
        print(written[0], end="", flush=True)
        for _, new_text in pieces:
            print(new_text, end="", flush=True)
        print()
        return 0
    for row, new_text in pieces:
        written[row] += new_text
    for number, text in enumerate(written, start=1):
        print(f"--- {number} of {n_rows} ---\n{text}\n")
    return 0


main = partial(run_command, generate, config_name="generate")


def _set_context(model: LanguageModel, context_length: int | None) -> None:
    """Shorten the model's context, or extend it if its positions have no end, with a note."""
    trained = model.context_length
    if context_length is None:
        return
    if context_length <= trained:
        model.shorten(context_length)
        return
    try:
        model.extend(context_length)
    except ValueError as error:
        raise UserError(f"context_length={context_length}: {error}") from None
    note = f"this model was trained on {trained:,} tokens at once; beyond them its text may be poor"
    print(note, file=sys.stderr, flush=True)


def _tell(loaded: Loaded, settings: GenerationSettings, *, longest: int) -> None:
    """Say on standard error what a user should know about this model, these settings and the longest prompt."""
    model, context = loaded.model, loaded.model.context_length
    is_greedy = settings.greedy or settings.temperature == 0
    trained = "the model is not causal, so it was trained to see the token that it is asked for"
    notes = {
        "this model has no KV cache: each token recomputes the whole text, which is slow": model.new_cache() is None,
        f"its text is poor: {trained}": not model.causal,
        "greedy: all samples of a prompt are the same": settings.num_samples > 1 and is_greedy,
        "it was trained to answer: interactive=true writes a prompt into its template": (
            loaded.template is not None and not settings.interactive
        ),
        "compiling: that takes half a minute or more": settings.compile,
        f"a prompt has {longest:,} tokens: the model sees the last {context:,} of them": longest > context,
    }
    print(*[f"{note}\n" for note, applies in notes.items() if applies], sep="", end="", file=sys.stderr, flush=True)


@dataclass
class Terminal:
    """The prompt loop: answers lines and runs commands; `/set` changes the settings of the next answer."""

    chat: Chat
    settings: GenerationSettings
    generator: torch.Generator

    def run(self) -> int:
        """Until the input ends."""
        print("Ctrl-C stops an answer, exit or Ctrl-D leaves, /help tells more", file=sys.stderr)
        if sys.stdin.isatty():
            with suppress(ImportError):  # Windows edits lines by itself
                import readline  # noqa: F401  (input() then has a history, and arrow keys)
        if self.settings.prompt:
            self._try(self._answer, str(self.settings.prompt))
        while True:
            try:
                line = input("> " if sys.stdin.isatty() else "")
            except EOFError:
                return 0
            except KeyboardInterrupt:
                print("\n(exit or Ctrl-D leaves)")
                continue
            if line.strip() in ("exit", "quit", "/exit", "/quit"):
                return 0
            self._try(self._obey if line.startswith("/") else self._answer, line)

    def _try(self, do: Callable[[str], None], line: str) -> None:
        """Report errors and keep the prompt loop alive."""
        try:
            do(line)
        except (UserError, ValueError) as error:
            print(f"error: {error}", file=sys.stderr)

    def _obey(self, line: str) -> None:
        command, _, arguments = line.partition(" ")
        if command == "/set":
            self._set(arguments)
        elif command == "/reset":
            self.chat.reset()
            print("(a new conversation)")
        elif command == "/help":
            print(HELP)
        else:
            raise UserError(f"{command} is not a command; there are /set, /reset, /help and /quit")

    def _answer(self, prompt: str) -> None:
        now, sampler = self.settings, self.settings.sampler(self.generator)
        pieces = self.chat.reply(prompt, max_new_tokens=now.max_new_tokens, sampler=sampler, stops=texts(now.stop))
        stopped: list[int] = []
        with signal_handler(signal.SIGINT, handler=lambda number, _: stopped.append(number)):
            for piece in pieces:
                print(piece, end="", flush=True)
                if stopped:
                    pieces.close()  # type: ignore[attr-defined]
        print()

    def _set(self, line: str) -> None:
        """`top_k=50 stop="."`, read as on the command line."""
        try:
            overrides = OverridesParser.create().parse_overrides(quote_free_text(shlex.split(line)))
        except (ValueError, HydraException):
            raise UserError(f"{line!r} cannot be read as name=value: /set temperature=0.7") from None
        changes = {override.key_or_group: override.value() for override in overrides}
        for name in changes.keys() - set(CHANGEABLE):
            raise UserError(f"{name} cannot be set here{nearest(name, CHANGEABLE)} ({', '.join(CHANGEABLE)})")
        self.settings = build.settings_of(GenerationSettings, {**asdict(self.settings), **changes})
        if "seed" in changes:
            self.generator.manual_seed(self.settings.seed)
        print(as_yaml({name: getattr(self.settings, name) for name in CHANGEABLE}), end="")
