"""Fixtures that every test file shares."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import NamedTuple

import pytest
from omegaconf import OmegaConf

from local_hub import LocalHub, the_hub

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: threads of models this small wait for each other, mostly

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell lets what runs behind it (`&`, nohup) ignore Ctrl-C

ROOT = Path(__file__).resolve().parents[1]
CONF = ROOT / "conf"
TEXTS = ROOT.parent / "shared" / "data"
"""Larger texts and GPT-2's vocabulary, where they lie beside the checkout; tests that want them skip without."""

if (TEXTS / "tiktoken-cache").is_dir():
    os.environ.setdefault("TIKTOKEN_CACHE_DIR", str(TEXTS / "tiktoken-cache"))

the_hub()  # before any test imports huggingface_hub: no test ever asks the real one

POEM = """The fog comes
on little cat feet.

It sits looking
over harbor and city
on silent haunches
and then moves on.
"""

HARD = [
    *("<|endoftext|>", "<|unk|>", " " * 40, "\t\t\n\r\n", "\x00\x1c\x85\xa0"),
    *("\U0001f469\u200d\U0001f52c", "e\u0301", "caf\u00e9", "\ufeff", "aaaa"),
]
"""What tokenizers stumble over."""


def choices(group: str) -> list[str]:
    """The names of a group's yaml files: a new variant is tested the moment it exists."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def conf_node(group: str, name: str) -> dict:
    """The content of conf/<group>/<name>.yaml, as Hydra reads it; interpolations stay as they are written.

    A single-headed attention's file also sets n_heads beside its node.
    """
    content: dict = OmegaConf.to_container(OmegaConf.load(CONF / group / f"{name}.yaml"))  # type: ignore[assignment]
    return content if "_target_" in content else content[group.rpartition("/")[2]]


def has_gpt2_vocabulary() -> bool:
    directory = Path(os.environ.get("TIKTOKEN_CACHE_DIR", "nowhere"))
    return (directory / "6c7ea1a7e38e3a7f062df639a5b80947f075ffe6").is_file()


needs_gpt2_vocabulary = pytest.mark.skipif(not has_gpt2_vocabulary(), reason="GPT-2's vocabulary is not cached")


class Result(NamedTuple):
    """What a command did."""

    status: int
    out: str
    err: str


@pytest.fixture
def hub() -> Iterator[LocalHub]:
    """A Hub of one's own, with nothing on it; the client's cache outlives it, so names must differ between tests."""
    the_hub().forget()
    yield the_hub()
    the_hub().forget()


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty directory to stand in, with a text in it, and a token cache of one's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path.parent / f"{tmp_path.name}-cache"))
    for variable in ("GPTLAB_RUN_DIR", "HYDRA_FULL_ERROR"):
        monkeypatch.delenv(variable, raising=False)
    (tmp_path / "poem.txt").write_text(POEM * 40, encoding="utf-8")
    return tmp_path


@pytest.fixture
def gptlab(workplace: Path, capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Runs a command line in this process, standing in `workplace`."""
    from gptlab.cli import main

    def run(*arguments: str) -> Result:
        monkeypatch.setattr(sys, "argv", ["gptlab", *arguments])
        capfd.readouterr()
        status = main(list(arguments))
        captured = capfd.readouterr()
        return Result(status, captured.out, captured.err)

    return run


TINY = (
    "data=text",
    "data.path=poem.txt",
    "tokenizer=char",
    "context_length=16",
    "batch_size=4",
    "model.n_layers=1",
    "model.n_heads=2",
    "model.d_model=16",
    "model.dropout=0",
    "max_steps=6",
    "validate_every=3",
    "save_every=3",
    "optimizer=adamw",
    "schedule.warmup_steps=2",
    "trainer=cpu",
    "callbacks.samples.max_new_tokens=5",
    "callbacks.curves=null",
)
"""A run of less than a second, without a picture of its curves."""
DRAWN = TINY[:-1]
"""The same run, with it."""
START = tuple(key for key in TINY if not key.startswith(("model.n", "model.d_model", "tokenizer")))
"""The same run, but for what weights decide."""


def train_in(place: Path, *arguments: str) -> str:
    """What `gptlab train` prints in this directory, with a poem to train on: for runs that several tests read."""
    from gptlab.cli import main

    (place / "poem.txt").write_text(POEM * 40, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(StringIO()) as out:
        patch.chdir(place)
        patch.setenv("XDG_CACHE_HOME", str(place.parent / f"{place.name}-cache"))
        patch.setattr(sys, "argv", ["gptlab", "train"])
        assert main(["train", *arguments]) == 0
    return out.getvalue()


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of a second, for tests that only read it."""
    place = tmp_path_factory.mktemp("tiny")
    train_in(place, *DRAWN, "context_length=64", "run_dir=run")
    return place / "run"
