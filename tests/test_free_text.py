import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import example, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from gptlab.cli.free_text import quote_free_text

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


@settings(max_examples=1000, deadline=None)
@given(AWKWARD)
@example("Hello, I am")
@example("What's up? def f(x): a = b")
@example("123")
@example("${oc.env:HOME}")
@example("\\")
@example("\\\n")
@example("true")
@example("")
def test_any_text_means_itself(text: str) -> None:
    assert as_hydra_reads(f"prompt={text}") == text


@settings(max_examples=200, deadline=None)
@given(st.lists(AWKWARD, min_size=2, max_size=3))
def test_a_repeated_prompt_is_a_batch(texts: list[str]) -> None:
    assert as_hydra_reads(*[f"prompt={text}" for text in texts]) == texts


@pytest.mark.parametrize("key", ["data.path", "run_dir", "checkpoint", "resume", "stop", "task", "runs", "+data.path"])
def test_paths_are_free_text_too(key: str) -> None:
    assert as_hydra_reads(f"{key}=runs/lr=1e-3, first [try]") == "runs/lr=1e-3, first [try]"


def test_null_is_null_where_there_may_be_nothing() -> None:
    assert as_hydra_reads("run_dir=null") is None
    assert as_hydra_reads("runs=null", "runs=other") == ["null", "other"]


def test_everything_else_is_left_to_hydra() -> None:
    arguments = ["-m", "optimizer.lr=1e-3,1e-4", "model=gpt2", "seed=range(3)", "~logger"]
    assert quote_free_text(arguments) == arguments
