"""`gptlab generate`, end to end."""

import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import ROOT, Result
from gptlab.checkpoint import Loaded
from gptlab.cli import generate
from gptlab.tokenizer.char import CharTokenizer
from tiny_gpt import Averaging, tiny_gpt

Command = Callable[..., Result]


@pytest.fixture
def trained(gptlab: Command, tiny_run: Path, workplace: Path) -> Command:
    shutil.copytree(tiny_run, workplace / "outputs/default/run")
    return gptlab


def test_the_newest_run_continues_the_prompt(trained: Command) -> None:
    result = trained("generate", "prompt=The fog", "max_new_tokens=20")
    assert result.status == 0, result.err
    assert result.out.startswith("The fog")
    assert len(result.out) == len("The fog") + 20 + 1


def test_a_directory_and_a_file_name_a_checkpoint(trained: Command, workplace: Path) -> None:
    texts = {
        trained("generate", "prompt=The", f"checkpoint={source}", "greedy=true").out
        for source in ("outputs/default/run", workplace / "outputs/default/run/checkpoints/best.ckpt")
    }
    assert len(texts) == 1


def test_zero_temperature_is_greedy_and_a_seed_decides_the_rest(trained: Command) -> None:
    def text(*changes: str) -> str:
        return trained("generate", "prompt=The", "max_new_tokens=30", *changes).out

    assert text("temperature=0") == text("greedy=true") == text("temperature=0", "seed=5")
    assert text("seed=1", "temperature=2") == text("seed=1", "temperature=2") != text("seed=2", "temperature=2")


def test_several_samples_and_several_prompts(trained: Command) -> None:
    result = trained("generate", "prompt=The", "prompt=silent haunches", "num_samples=2", "max_new_tokens=5")
    assert result.status == 0, result.err
    assert result.out.count("\nThe") == 2
    assert result.out.count("\nsilent haunches") == 2
    assert "--- 4 of 4 ---" in result.out


def test_greedy_samples_are_the_same_and_that_is_said(trained: Command) -> None:
    said = "all samples of a prompt are the same"
    assert said in trained("generate", "prompt=The", "num_samples=2", "max_new_tokens=5", "temperature=0").err
    assert said not in trained("generate", "prompt=The", "max_new_tokens=5", "greedy=true").err


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


def test_an_unknown_character_is_one_sentence(trained: Command) -> None:
    result = trained("generate", "checkpoint=outputs/default/run", "prompt=Q\u00dc")
    assert result.status == 2
    assert result.err.count("\n") == 1
    assert "the character 'Q' is not in the vocabulary" in result.err


def test_an_empty_prompt_needs_a_token_to_begin_with(trained: Command) -> None:
    result = trained("generate", "prompt=")
    assert result.status == 2
    assert "the prompt is empty" in result.err


def test_from_a_fresh_process_without_lightning_and_soon(trained: Command, workplace: Path) -> None:
    command = [
        sys.executable,
        "-X",
        "importtime",
        str(ROOT / "generate.py"),
        "prompt=The",
        "max_new_tokens=5",
    ]
    began = time.monotonic()
    process = subprocess.run(command, cwd=workplace, capture_output=True, text=True, check=True)
    assert time.monotonic() - began < 60
    assert process.stdout.startswith("The")
    assert "lightning" not in process.stderr


SEVERAL = ["The fog", "on", "and then moves"]


@pytest.mark.parametrize("prompts", [["The fog"], SEVERAL], ids=["one", "several"])
def test_half_the_precision_writes_nearly_the_same(trained: Command, prompts: list[str]) -> None:
    command = ["generate", *(f"prompt={prompt}" for prompt in prompts), "greedy=true", "max_new_tokens=30"]
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


@pytest.mark.slow
def test_the_compiler_without_a_compiler_is_one_sentence(trained: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch._inductor.config
    from torch._inductor import cpp_builder

    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", (None, "/nowhere/c++"))
    monkeypatch.setattr(torch._inductor.config, "force_disable_caches", True)
    cpp_builder.cpp_compiler_search.cache_clear()
    torch._dynamo.reset()
    try:
        result = trained("generate", "prompt=The", "compile=true")
    finally:
        cpp_builder.cpp_compiler_search.cache_clear()
        torch._dynamo.reset()
    assert result.status == 2
    assert result.err.splitlines()[-1].startswith("error: compile=true: torch's compiler does not work here")
    assert "No working C++ compiler" in result.err
