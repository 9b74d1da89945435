"""`gptlab generate`, end to end."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import Result
from gptlab.checkpoint import Loaded
from gptlab.cli import generate
from gptlab.tokenizer.char import CharTokenizer
from tiny_gpt import Averaging, tiny_gpt

Command = Callable[..., Result]

OLD = Path(__file__).parent / "checkpoint" / "run-0.1.0"


@pytest.fixture
def trained(gptlab: Command, tiny_run: Path, workplace: Path) -> Command:
    shutil.copytree(tiny_run, workplace / "outputs/default/run")
    return gptlab


def make_run(name: str, status: str | None, *, time: int) -> None:
    run = Path("outputs/default", name)
    (run / "checkpoints").mkdir(parents=True)
    shutil.copy(OLD / "checkpoints" / "last.ckpt", run / "checkpoints")
    os.utime(run / "checkpoints" / "last.ckpt", (time, time))
    if status is not None:
        (run / "summary.json").write_text(json.dumps({"status": status}))


@pytest.mark.parametrize(
    ("runs", "said"),
    [
        ({"a": "finished", "b": "interrupted", "c": None}, "the newest finished run: outputs/default/a\n"),
        ({"a": "failed", "b": "interrupted"}, "no run has finished; the newest (interrupted): outputs/default/b\n"),
    ],
)
def test_the_newest_finished_run_is_taken_and_named(
    gptlab: Callable[..., Result], workplace: Path, runs: dict[str, str | None], said: str
) -> None:
    for time, (name, status) in enumerate(runs.items(), start=1_000_000):
        make_run(name, status, time=time)
    result = gptlab("generate", "prompt=The", "max_new_tokens=1")
    assert (result.status, result.err) == (0, said)
    assert result.out.startswith("The")


def test_zero_temperature_is_greedy_and_a_seed_decides_the_rest(trained: Command) -> None:
    def text(*changes: str) -> str:
        return trained("generate", "prompt=The", "max_new_tokens=30", *changes).out

    best = "checkpoint=outputs/default/run/checkpoints/best.ckpt"
    assert text("temperature=0") == text("greedy=true", "seed=5", best)
    assert text("seed=1", "temperature=2") == text("seed=1", "temperature=2") != text("seed=2", "temperature=2")


def test_several_samples_and_several_prompts(trained: Command) -> None:
    several = ("prompt=The", "prompt=silent haunches", "num_samples=2", "max_new_tokens=5")
    result = trained("generate", *several)
    assert result.status == 0, result.err
    assert result.out.count("\nThe") == 2
    assert result.out.count("\nsilent haunches") == 2
    assert "--- 4 of 4 ---" in result.out
    said = "all samples of a prompt are the same"
    assert said not in result.err
    assert said in trained("generate", *several, "temperature=0").err


@pytest.mark.parametrize("model", [{"attention": Averaging}, {"n_layers": 0}], ids=["not causal", "no cache"])
def test_models_without_a_cache_generate_and_that_is_said(
    gptlab: Command, monkeypatch: pytest.MonkeyPatch, model: dict
) -> None:
    tokenizer = CharTokenizer.train(["The fog"])
    loaded = Loaded(tiny_gpt(vocab_size=tokenizer.vocab_size, **model).eval(), tokenizer, {}, Path(), "mine", {})
    monkeypatch.setattr(generate, "load_or_newest", lambda *_, **__: loaded)
    result = gptlab("generate", "checkpoint=mine", "prompt=The", "prompt=fog", "max_new_tokens=30")
    assert result.status == 0, result.err
    assert "recomputes the whole text" in result.err
    assert ("its text is poor" in result.err) == (not loaded.model.causal)
    result = gptlab("generate", "checkpoint=mine", "prompt=The", "compile=true")
    assert result.status == 2
    assert "compile=true: this model has no KV cache" in result.err


@pytest.mark.parametrize(
    ("prompt", "words"), [("Q\u00dc", "the character 'Q' is not in the vocabulary"), ("", "the prompt is empty")]
)
def test_a_prompt_that_cannot_be_read_is_one_sentence(trained: Command, prompt: str, words: str) -> None:
    result = trained("generate", "checkpoint=outputs/default/run", f"prompt={prompt}")
    assert (result.status, result.err.count("\n")) == (2, 1)
    assert words in result.err


def test_a_stop_string_ends_the_text(trained: Command) -> None:
    whole = trained("generate", "prompt=The", "max_new_tokens=60", "temperature=2").out.rstrip("\n")
    stop = whole[20:22]
    stopped = trained("generate", "prompt=The", "max_new_tokens=60", "temperature=2", f"stop={stop}").out
    assert stopped == whole[: whole.index(stop, 3)] + "\n"


def test_a_long_prompt_keeps_its_end_and_says_so_once(trained: Command) -> None:
    prompt = "little cat feet " * 10
    result = trained("generate", f"prompt={prompt}", "max_new_tokens=40")
    assert result.status == 0
    assert result.err.count("the model sees the last 64") == 1
    assert result.out.startswith(prompt)


SEVERAL = ["The fog", "on", "and then moves"]


def test_half_the_precision_writes_nearly_the_same(trained: Command) -> None:
    command = ["generate", *(f"prompt={prompt}" for prompt in SEVERAL), "greedy=true", "max_new_tokens=30"]
    whole, half = trained(*command), trained(*command, "precision=bf16")
    assert half.status == 0, half.err
    same = sum(a == b for a, b in zip(whole.out, half.out, strict=False))
    assert same > len(whole.out) / 2  # a tiny model is close to even; after the first other letter texts part


@pytest.mark.slow
@pytest.mark.parametrize("prompts", [["The fog"], SEVERAL], ids=["one", "several"])
def test_the_compiler_changes_no_text(trained: Command, prompts: list[str]) -> None:
    command = ["generate", *(f"prompt={prompt}" for prompt in prompts), "greedy=true", "max_new_tokens=70"]
    compiled = trained(*command, "compile=true")
    assert compiled.status == 0, compiled.err
    assert compiled.out == trained(*command).out
