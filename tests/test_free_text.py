"""Texts and paths on the command line mean themselves, whatever Hydra's grammar makes of their characters."""

import pytest
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import example, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from gptlab.cli.free_text import plain_words, quote_free_text

PARSER = OverridesParser.create()
AWKWARD = st.text(
    st.one_of(st.sampled_from("\\${}'\"[](),=: \n\tab1"), st.characters(exclude_categories=["Cs"])),
    max_size=15,
)


def as_hydra_reads(*arguments: str) -> object:
    (quoted,) = quote_free_text(list(arguments))
    override = PARSER.parse_override(quoted)
    assert not override.is_sweep_override()
    config = OmegaConf.create({"value": override.value()})
    return OmegaConf.to_container(config, resolve=True)["value"]


@settings(max_examples=200, deadline=None)
@given(st.lists(AWKWARD, min_size=1, max_size=3))
@example(["Hello, I am"])
@example(["What's up? def f(x): a = b"])
@example(["123", "true", "null", ""])
@example(["${oc.env:HOME}", "\\", "\\\n"])
def test_any_text_means_itself_and_a_repeated_prompt_is_a_batch(texts: list[str]) -> None:
    words = [f"prompt={text}" for text in texts]
    assert as_hydra_reads(*words) == (texts if len(texts) > 1 else texts[0])
    assert plain_words(quote_free_text(words)) == words


@pytest.mark.parametrize("key", ["data.path", "run_dir", "checkpoint", "resume", "stop", "task", "runs", "+data.path"])
def test_paths_are_free_text_too(key: str) -> None:
    assert as_hydra_reads(f"{key}=runs/lr=1e-3, first [try]") == "runs/lr=1e-3, first [try]"


def test_null_is_null_where_there_may_be_nothing() -> None:
    assert as_hydra_reads("run_dir=null") is None
    assert as_hydra_reads("runs=null", "runs=other") == ["null", "other"]


KEYS = ["data.path", "+data.path", "data.cache_dir", "run_dir", "init_from", "callbacks.samples.prompt"]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(KEYS), AWKWARD | st.just("null")), unique_by=lambda pair: pair[0]))
@example([("data.path", " \\"), ("run_dir", 'a\\"b\\\\'), ("init_from", "\\\\${x}\\${")])
@example([("run_dir", "null"), ("init_from", "")])
def test_what_was_quoted_can_be_typed_again_also_after_a_sweeper(pairs: list[tuple[str, str]]) -> None:
    words = [f"{key}={text}" for key, text in pairs]
    quoted = quote_free_text(words)
    assert plain_words(quoted) == words
    overrides = PARSER.parse_overrides([*quoted, "seed=1,2"])
    for number, job in enumerate(BasicSweeper.split_arguments(overrides, max_batch_size=None)[0]):
        assert plain_words(job) == [*words, f"seed={number + 1}"]


def test_everything_else_is_left_to_hydra() -> None:
    arguments = ["-m", "optimizer.lr=1e-3,1e-4", "model=gpt2", "seed=range(3)", "~logger", "+trainer.foo={a:1}"]
    assert quote_free_text(arguments) == arguments == plain_words(arguments)
