"""`gptlab generate interactive=true`: prompt after prompt in the terminal."""

import shlex
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict

import torch
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from gptlab import build
from gptlab.arguments import nearest
from gptlab.checkpoint import Loaded
from gptlab.errors import UserError
from gptlab.generation.chat import Chat
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
        self._generator = torch.Generator(loaded.model.device).manual_seed(settings.seed)
        self._stopped = False

    def run(self) -> int:
        """Until the input ends."""
        if sys.stdin.isatty():
            with suppress(ImportError):  # Windows edits lines by itself
                import readline  # noqa: F401  (input() then has a history, and arrow keys)
        if self.settings.prompt:
            self._say_what_is_wrong(self._answer, str(self.settings.prompt))
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
            self._say_what_is_wrong(self._obey if line.startswith("/") else self._answer, line)

    def _say_what_is_wrong(self, do: Callable[[str], None], line: str) -> None:
        """A mistake costs the line, an impatient second Ctrl-C the conversation, neither the program."""
        try:
            do(line)
        except (UserError, ValueError) as error:
            print(f"error: {error}", file=sys.stderr)
        except KeyboardInterrupt:
            self.chat.reset()  # it may have been in the middle of a step
            print("\n(interrupted: a new conversation)")

    def _obey(self, line: str) -> None:
        command, *arguments = line.split(maxsplit=1)
        if command == "/set":
            self._set(arguments[0] if arguments else "")
        elif command == "/reset":
            self.chat.reset()
            print("(a new conversation)")
        elif command == "/help":
            print(HELP)
        else:
            raise UserError(f"{command} is not a command; there are /set, /reset, /help and /quit")

    def _answer(self, prompt: str) -> None:
        self._stopped = False
        pieces = self.chat.reply(
            prompt,
            max_new_tokens=self.settings.max_new_tokens,
            sampler=self.settings.sampler(self._generator),
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

    def _set(self, text: str) -> None:
        changes = _parsed(text)
        self.settings = build.generation_settings({**asdict(self.settings), **changes})
        if "seed" in changes:
            self._generator.manual_seed(self.settings.seed)
        shown = OmegaConf.to_yaml(OmegaConf.create({name: getattr(self.settings, name) for name in CHANGEABLE}))
        print(shown, end="")


def _parsed(text: str) -> build.Config:
    """`top_k=50 stop="."` as on the command line: a value is yaml, a stop string text, and may come several times."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise UserError(f"/set {text}: {str(error).lower()}") from None
    changes: build.Config = {}
    stops = []
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise UserError(f"{word!r} cannot be read as name=value: /set temperature=0.7")
        if name not in CHANGEABLE:
            raise UserError(f"{name} cannot be set here{nearest(name, CHANGEABLE)} ({', '.join(CHANGEABLE)})")
        if name == "stop":
            stops += [] if value == "null" else [value]
            changes["stop"] = stops or None
            continue
        try:
            changes[name] = OmegaConf.to_container(OmegaConf.from_dotlist([word]))[name]  # type: ignore[index,call-overload]
        except (YAMLError, OmegaConfBaseException):
            raise UserError(f"{word} cannot be read as a value") from None
    return changes
