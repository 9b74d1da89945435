"""`gptlab generate interactive=true`: prompt after prompt in the terminal."""

import shlex
import signal
import sys
from dataclasses import asdict

import torch
import yaml

from gptlab import build
from gptlab.arguments import nearest
from gptlab.checkpoint import Loaded
from gptlab.errors import UserError
from gptlab.generation.chat import Chat
from gptlab.generation.sampling import Sampler, make_sampler
from gptlab.settings import GenerationSettings
from gptlab.signals import answering

CHANGEABLE = ("temperature", "top_k", "top_p", "greedy", "max_new_tokens", "seed", "stop")
HELP = """  /set temperature=0.7 top_k=50   change settings; /set alone shows them
  /reset                          forget the conversation
  /quit                           leave (also Ctrl-D)
  an empty line lets the model go on; Ctrl-C stops an answer"""


class Terminal:
    """Reads lines, answers them, obeys commands.

    Args:
        loaded: the model, ready to generate, and its tokenizer.
        settings: of the first answer; `/set` changes them.
    """

    def __init__(self, loaded: Loaded, settings: GenerationSettings) -> None:
        self.chat = Chat(loaded.model, loaded.needed_tokenizer())
        self.settings = settings
        self._device = loaded.model.device
        self._generator = torch.Generator(self._device).manual_seed(settings.seed)
        self._stopped = False

    def run(self) -> int:
        """Until the input ends."""
        if self.settings.prompt:
            self.obey(str(self.settings.prompt))
        while True:
            try:
                line = input("> " if sys.stdin.isatty() else "")
            except EOFError:
                return 0
            except KeyboardInterrupt:
                print("\n(/quit or Ctrl-D leaves)")
                continue
            if line.strip() in ("/quit", "/exit"):
                return 0
            self.obey(line)

    def obey(self, line: str) -> None:
        """A command or a prompt; what is wrong with it is said, and the conversation goes on."""
        command, *arguments = line.split(maxsplit=1) or [""]
        try:
            if not command.startswith("/"):
                self._answer(line)
            elif command == "/set":
                self._set(arguments[0] if arguments else "")
            elif command == "/reset":
                self.chat.reset()
                print("(a new conversation)")
            elif command == "/help":
                print(HELP)
            else:
                raise UserError(f"{command} is not a command; there are /set, /reset, /help and /quit")
        except (UserError, ValueError) as error:
            print(f"error: {error}", file=sys.stderr)

    def _answer(self, prompt: str) -> None:
        self._stopped = False
        pieces = self.chat.reply(
            prompt,
            max_new_tokens=self.settings.max_new_tokens,
            sampler=self._sampler(),
            stops=self.settings.stops,
        )
        with answering(signal.SIGINT, by=self._stop):
            for piece in pieces:
                print(piece, end="", flush=True)
                if self._stopped:
                    pieces.close()  # type: ignore[attr-defined]
        print()

    def _stop(self, number: int, frame: object) -> None:
        if self._stopped:  # asked twice
            raise KeyboardInterrupt
        self._stopped = True

    def _sampler(self) -> Sampler:
        return make_sampler(
            temperature=0.0 if self.settings.greedy else self.settings.temperature,
            top_k=self.settings.top_k,
            top_p=self.settings.top_p,
            generator=self._generator,
        )

    def _set(self, text: str) -> None:
        changes = dict(_parsed(word) for word in _words(text))
        self.settings = build.generation_settings({**asdict(self.settings), **changes})
        if "seed" in changes:
            self._generator.manual_seed(self.settings.seed)
        shown = {name: getattr(self.settings, name) for name in CHANGEABLE}
        print("  ".join(f"{name}={'null' if value is None else value}" for name, value in shown.items()))


def _words(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise UserError(f"/set {text}: {str(error).lower()}") from None


def _parsed(word: str) -> tuple[str, object]:
    """`top_k=50` -> ("top_k", 50), as yaml reads the value; a stop string is text."""
    name, equals, text = word.partition("=")
    if not equals:
        raise UserError(f"{word!r} cannot be read as name=value: /set temperature=0.7")
    if name not in CHANGEABLE:
        raise UserError(f"{name} cannot be set here{nearest(name, CHANGEABLE)} ({', '.join(CHANGEABLE)})")
    if name == "stop" and text != "null":
        return name, text
    try:
        return name, yaml.safe_load(text)
    except yaml.YAMLError:
        raise UserError(f"{name}={text} cannot be read as a value") from None
