"""`gptlab generate interactive=true`, end to end."""

import io
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from conftest import ROOT, Result
from gptlab.cli import generate

Command = Callable[..., Result]


@pytest.fixture
def talk(gptlab: Command, tiny_run: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Types lines; settings of the command line stand behind them."""

    def type_lines(*lines: str, settings: tuple[str, ...] = ()) -> Result:
        monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
        return gptlab("generate", f"checkpoint={tiny_run}", "interactive=true", "max_new_tokens=6", *settings)

    return type_lines


def test_each_line_gets_an_answer(talk: Command) -> None:
    result = talk("The fog", "on little", settings=("greedy=true",))
    assert result.status == 0, result.err
    assert len(result.out) == 2 * (6 + len("\n"))
    assert "error" not in result.err


def test_a_prompt_on_the_command_line_is_the_first_turn(talk: Command) -> None:
    first = talk("The fog", settings=("greedy=true",))
    assert talk(settings=("prompt=The fog", "greedy=true")).out == first.out


def test_set_changes_what_follows_and_reset_begins_anew(talk: Command) -> None:
    result = talk("The fog", "/reset", "/set greedy=true max_new_tokens=3", "The fog", "/reset", "The fog", "/set")
    _, second, third = result.out.split("(a new conversation)\n")
    settings, said = second.split("stop: null\n")
    assert "max_new_tokens: 3\n" in settings
    assert len(said) == 3 + len("\n")
    assert third == said + settings + "stop: null\n"


def test_settings_are_read_as_on_the_command_line(talk: Command) -> None:
    out = talk("/set temperature=1e-3 top_k=null greedy=true stop=a stop='b c'").out
    assert "temperature: 0.001\n" in out
    assert "greedy: true\n" in out
    assert "stop:\n- a\n- b c\n" in out


@pytest.mark.parametrize("word", ["exit", "quit", "/exit", "/quit"])
def test_a_word_leaves(talk: Command, word: str) -> None:
    result = talk("The fog", word, "never read", settings=("greedy=true",))
    assert result.status == 0
    assert len(result.out) == 6 + len("\n")


def test_a_first_prompt_is_never_a_command(talk: Command) -> None:
    result = talk(settings=("prompt=/quit",))
    assert "the character '/' is not in the vocabulary" in result.err


@pytest.mark.parametrize(
    ("line", "words"),
    {
        "unknown command": ("/sett greedy=true", "/sett is not a command"),
        "unknown setting": ("/set temprature=1", "did you mean temperature?"),
        "bad value": ("/set temperature=-1", "temperature=-1 must be 0"),
        "wrong type": ("/set top_k=many", "top_k=many must be a whole number"),
        "no value": ("/set greedy", "name=value"),
        "open quote": ("/set stop='a", "no closing quotation"),
        "unknown character": ("Q\u00dc", "the character 'Q' is not in the vocabulary"),
        "nothing said yet": ("", "a prompt without tokens"),
    }.values(),
)
def test_what_is_wrong_with_a_line_is_said_and_the_next_is_read(talk: Command, line: str, words: str) -> None:
    result = talk(line, "The fog")
    assert result.status == 0
    assert words in result.err
    assert result.err.count("error:") == 1
    assert len(result.out) >= 7


@pytest.mark.parametrize("presses", [1, 2])
def test_ctrl_c_stops_the_answer_and_not_the_program(
    talk: Command, monkeypatch: pytest.MonkeyPatch, presses: int
) -> None:
    steps = 0

    def interrupted(**_: object) -> Callable[[torch.Tensor], torch.Tensor]:
        def sample(logits: torch.Tensor) -> torch.Tensor:
            nonlocal steps
            steps += 1
            if steps == 3:
                for _ in range(presses):
                    signal.raise_signal(signal.SIGINT)
            return logits.argmax(-1)

        return sample

    monkeypatch.setattr(generate, "make_sampler", interrupted)
    result = talk("The fog", "on little", settings=("max_new_tokens=50",))
    assert result.status == 0
    assert steps == 3 + 50
    assert ("a new conversation" in result.out) == (presses == 2)


@pytest.mark.parametrize("settings", [("prompt=The", "prompt=fog"), ("num_samples=2",)])
def test_a_conversation_is_one(talk: Command, settings: tuple[str, ...]) -> None:
    result = talk("The fog", settings=settings)
    assert result.status == 2
    assert "interactive=true answers one prompt after the other" in result.err


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_in_a_terminal(tiny_run: Path, workplace: Path) -> None:
    import pty  # not there on Windows

    here, there = pty.openpty()
    script = str(ROOT / "generate.py")
    command = [sys.executable, script, f"checkpoint={tiny_run}", "interactive=true", "max_new_tokens=1000000"]
    process = subprocess.Popen(command, cwd=workplace, stdin=there, stdout=there, stderr=there, start_new_session=True)
    os.close(there)
    shown = ""

    def read_until(text: str, *, ask: Callable[[], None] = lambda: None) -> None:
        """Ask again each second: an interrupt between two system calls shows at the next only."""
        nonlocal shown
        for _ in range(60):
            ask()
            while select.select([here], [], [], 1.0)[0]:
                shown += os.read(here, 4096).decode(errors="replace")
                if text in shown:
                    shown = shown.partition(text)[2]
                    return
        raise AssertionError(shown)

    def interrupt() -> None:
        process.send_signal(signal.SIGINT)

    read_until("> ")
    os.write(here, b"The fog\n")
    read_until("The fog\r\n")
    read_until("e")  # of an endless answer
    interrupt()
    read_until("\n> ")
    read_until("exit or Ctrl-D leaves", ask=interrupt)
    os.write(here, b"/quit\n")
    assert process.wait(timeout=30) == 0
    os.close(here)
