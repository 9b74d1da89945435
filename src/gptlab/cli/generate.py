"""`gptlab generate`: continue a text, or prompt after prompt in the terminal. Imports no Lightning."""

import shlex
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial

import torch
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig

from gptlab import build
from gptlab.arguments import nearest
from gptlab.checkpoint import Loaded
from gptlab.cli.compose import run_command
from gptlab.cli.free_text import quote_free_text
from gptlab.cli.load import load_or_newest
from gptlab.errors import UserError
from gptlab.files import as_yaml
from gptlab.generation.chat import Chat
from gptlab.generation.preparation import check_precision, prepare_for_inference
from gptlab.generation.sampling import Sampler, make_sampler
from gptlab.generation.stream import continue_texts
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
    max_new_tokens: int
    temperature: float
    top_k: int | None
    top_p: float | None
    greedy: bool
    seed: int
    num_samples: int
    stop: str | list[str] | None
    accelerator: str
    precision: int | str
    compile: bool

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "num_samples"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed={self.seed} must lie in [0, 2^63)")
        make_sampler(temperature=self.temperature, top_k=self.top_k, top_p=self.top_p, generator=None)
        check_precision(self.precision)
        if self.interactive and (self.num_samples > 1 or len(self.prompts) > 1):
            raise ValueError("interactive=true answers one prompt after the other: give one prompt, and num_samples=1")

    def sampler(self, generator: torch.Generator) -> Sampler:
        """What picks the next token."""
        temperature = 0.0 if self.is_greedy else self.temperature
        return make_sampler(temperature=temperature, top_k=self.top_k, top_p=self.top_p, generator=generator)

    @property
    def is_greedy(self) -> bool:
        return self.greedy or self.temperature == 0

    @property
    def prompts(self) -> list[str]:
        return [self.prompt] if isinstance(self.prompt, str) else self.prompt

    @property
    def stops(self) -> list[str]:
        return [self.stop] if isinstance(self.stop, str) else self.stop or []


def generate(cfg: DictConfig) -> int:
    """Continue each prompt `num_samples` times: one text is streamed, several are written when they are whole."""
    settings = build.settings_of(GenerationSettings, build.resolve(cfg))
    device = device_type(settings.accelerator, key="accelerator")
    check_weights_precision(settings.precision, device)
    loaded = load_or_newest(settings.checkpoint, trust=settings.trust)
    texts = [prompt for prompt in settings.prompts for _ in range(settings.num_samples)]
    ids = [] if settings.interactive else [loaded.prompt_ids(text) for text in texts]
    _tell(loaded, settings, longest=max(map(len, ids), default=0))
    precision, n_rows = str(settings.precision), len(texts)
    try:
        prepare_for_inference(loaded.model, device=device, precision=precision, n_rows=n_rows, compile=settings.compile)
    except ValueError as error:
        raise UserError(str(error)) from None
    if settings.interactive:
        return Terminal(loaded, settings).run()

    is_streamed = len(texts) == 1
    print(texts[0] if is_streamed else "", end="", flush=True)
    for row, new_text in continue_texts(
        loaded.model,
        loaded.needed_tokenizer(),
        ids,
        max_new_tokens=settings.max_new_tokens,
        sampler=settings.sampler(torch.Generator(device).manual_seed(settings.seed)),
        stops=settings.stops,
    ):
        texts[row] += new_text
        print(new_text if is_streamed else "", end="", flush=True)
    if is_streamed:
        print()
    else:
        for number, text in enumerate(texts, start=1):
            print(f"--- {number} of {len(texts)} ---\n{text}\n")
    return 0


main = partial(run_command, generate, config_name="generate")


def _tell(loaded: Loaded, settings: GenerationSettings, *, longest: int) -> None:
    """Say on standard error what a user should know about this model, these settings and the longest prompt."""
    context = loaded.model.context_length
    notes = {
        "this model has no KV cache: each token recomputes the whole text, which is slow": not loaded.model.new_cache(),
        "its text is poor: the model is not causal, so it was trained to see the token that it is asked for": (
            not loaded.model.causal
        ),
        "greedy: all samples of a prompt are the same": settings.num_samples > 1 and settings.is_greedy,
        "compiling: that takes half a minute or more": settings.compile,
        f"a prompt has {longest:,} tokens: the model sees the last {context:,} of them": longest > context,
    }
    for note, applies in notes.items():
        if applies:
            print(note, file=sys.stderr, flush=True)


class Terminal:
    """The prompt loop: answers lines and runs commands; `/set` changes the settings of the next answer."""

    def __init__(self, loaded: Loaded, settings: GenerationSettings) -> None:
        self.chat = Chat(loaded.model, loaded.needed_tokenizer())
        self.settings = settings
        self._generator = torch.Generator(loaded.model.device).manual_seed(settings.seed)

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
        settings, sampler = self.settings, self.settings.sampler(self._generator)
        pieces = self.chat.reply(prompt, max_new_tokens=settings.max_new_tokens, sampler=sampler, stops=settings.stops)
        stopped: list[int] = []
        with signal_handler(signal.SIGINT, handler=lambda number, _: stopped.append(number)):
            for piece in pieces:
                print(piece, end="", flush=True)
                if stopped:
                    pieces.close()  # type: ignore[attr-defined]
        print()

    def _set(self, text: str) -> None:
        changes = _parsed(text)
        self.settings = build.settings_of(GenerationSettings, {**asdict(self.settings), **changes})
        if "seed" in changes:
            self._generator.manual_seed(self.settings.seed)
        print(as_yaml({name: getattr(self.settings, name) for name in CHANGEABLE}), end="")


def _parsed(text: str) -> build.Config:
    """`top_k=50 stop="."`, read as on the command line."""
    try:
        overrides = OverridesParser.create().parse_overrides(quote_free_text(shlex.split(text)))
    except (ValueError, HydraException):
        raise UserError(f"{text!r} cannot be read as name=value: /set temperature=0.7") from None
    changes = {override.key_or_group: override.value() for override in overrides}
    for name in changes.keys() - set(CHANGEABLE):
        raise UserError(f"{name} cannot be set here{nearest(name, CHANGEABLE)} ({', '.join(CHANGEABLE)})")
    return changes
