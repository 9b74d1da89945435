"""`gptlab generate interactive=true`, end to end."""

import io
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from conftest import Result
from gptlab.cli import generate

Command = Callable[..., Result]


@pytest.fixture
def talk(gptlab: Command, tiny_run: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Types lines; settings of the command line stand behind them."""

    def type_lines(*lines: str, settings: tuple[str, ...] = ()) -> Result:
        monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
        common = ("interactive=true", "max_new_tokens=6", "greedy=true")
        return gptlab("generate", f"checkpoint={tiny_run}", *common, *settings)

    return type_lines


def test_each_line_gets_an_answer_and_exit_leaves(talk: Command) -> None:
    result = talk("The fog", "on little", "exit", "never read")
    assert result.status == 0, result.err
    assert len(result.out) == 2 * (6 + len("\n"))
    assert "error" not in result.err


def test_a_prompt_on_the_command_line_is_the_first_turn_and_never_a_command(talk: Command) -> None:
    assert talk(settings=("prompt=The fog",)).out == talk("The fog").out
    assert "the character '/' is not in the vocabulary" in talk(settings=("prompt=/quit",)).err


@pytest.mark.parametrize("word", ["quit", "/exit", "/quit"])
def test_a_word_leaves(talk: Command, word: str) -> None:
    out = talk("/set temperature=1e-3 stop=a stop='b c'", word, "never read").out
    assert "temperature: 0.001\n" in out, "settings are read as on the command line"
    assert out.endswith("stop:\n- a\n- b c\n")


def test_set_changes_what_follows_and_reset_begins_anew(talk: Command) -> None:
    result = talk("The fog", "/reset", "/set max_new_tokens=3", "The fog", "/reset", "The fog", "/set")
    _, second, third = result.out.split("(a new conversation)\n")
    settings, said = second.split("stop: null\n")
    assert "max_new_tokens: 3\n" in settings
    assert len(said) == 3 + len("\n")
    assert third == said + settings + "stop: null\n"


WRONG = {
    "/sett greedy=true": "/sett is not a command",
    "/set temprature=1": "did you mean temperature?",
    "/set temperature=-1": "temperature=-1 must be 0",
    "/set top_k=many": "top_k=many must be a whole number",
    "/set greedy": "name=value",
    "/set stop='a": "cannot be read as name=value",
    "Q\u00dc": "the character 'Q' is not in the vocabulary",
    "": "a prompt without tokens",
}


def test_what_is_wrong_with_a_line_is_said_and_the_next_is_read(talk: Command) -> None:
    result = talk(*WRONG, "The fog")
    assert result.status == 0
    errors = [line for line in result.err.splitlines() if line.startswith("error:")]
    for error, words in zip(errors, WRONG.values(), strict=True):
        assert words in error
    assert len(result.out) == 6 + len("\n")


def test_ctrl_c_stops_the_answer_and_not_the_program(talk: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = 0

    def interrupted(**_: object) -> Callable[[torch.Tensor], torch.Tensor]:
        def sample(logits: torch.Tensor) -> torch.Tensor:
            nonlocal steps
            steps += 1
            if steps == 3:
                signal.raise_signal(signal.SIGINT)
            return logits.argmax(-1)

        return sample

    monkeypatch.setattr(generate, "make_sampler", interrupted)
    result = talk("The fog", "on little")
    assert result.status == 0
    assert steps == 3 + 6


def test_ctrl_c_at_the_prompt_says_how_to_leave(talk: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = iter([KeyboardInterrupt(), "The fog", EOFError()])

    def line(prompt: str) -> str:
        typed = next(lines)
        if isinstance(typed, BaseException):
            raise typed
        return typed

    monkeypatch.setattr("builtins.input", line)
    result = talk()
    assert result.status == 0
    assert result.out.startswith("\n(exit or Ctrl-D leaves)\n")
    assert result.out.count("\n") == 3, "and an answer"


@pytest.mark.parametrize("settings", [("prompt=The", "prompt=fog"), ("num_samples=2",)])
def test_a_conversation_is_one(talk: Command, settings: tuple[str, ...]) -> None:
    result = talk("The fog", settings=settings)
    assert result.status == 2
    assert "interactive=true answers one prompt after the other" in result.err
