"""What nobody would type, thousands of times: documented errors and nothing else."""

from collections.abc import Callable

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import get_class
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conftest import CONF, HARD, choices, conf_node, has_gpt2_vocabulary
from gptlab import build
from gptlab.cli.explain import explain
from gptlab.cli.free_text import quote_free_text
from gptlab.cli.settings import check as check_config


def inputs(short: int, long: int) -> pytest.MarkDecorator:
    """The number of inputs: in a plain run, and in the campaign."""
    in_campaign = pytest.param(long, id="campaign", marks=(pytest.mark.campaign, pytest.mark.timeout(7200)))
    return pytest.mark.parametrize("n_inputs", [short, in_campaign])


def fuzz(n_inputs: int, *strategies: st.SearchStrategy, check: Callable[..., None]) -> None:
    """The campaign looks for what is not known yet; a plain run asks the same each time, for it is no lottery."""
    quiet = settings(
        max_examples=n_inputs,
        derandomize=n_inputs < 1000,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    quiet(given(*strategies)(check))()


ANY_TEXT = st.lists(st.one_of(st.text(st.characters(), max_size=20), st.sampled_from(HARD)), max_size=5).map("".join)
"""Also half characters (surrogates) and control characters."""


@pytest.mark.parametrize("name", choices("tokenizer"))
@inputs(30, 14_000)
def test_tokenizers_take_any_text_or_raise_value_error(name: str, n_inputs: int) -> None:
    if name == "gpt2" and not has_gpt2_vocabulary():
        pytest.skip("GPT-2's vocabulary is not cached")
    node = conf_node("tokenizer", name)
    cls = get_class(node.pop("_target_"))
    published = cls.train([]) if name == "gpt2" else None  # it learns nothing, and takes a second to make

    def check(training_text: list[str], text: str, data: st.DataObject) -> None:
        tokenizer = published or cls.train(training_text, **node)
        for seen in (*training_text, text):
            try:
                ids = tokenizer.encode(seen)
            except ValueError:
                assert seen not in training_text
            else:
                assert all(0 <= id_ < tokenizer.vocab_size for id_ in ids)
                assert isinstance(tokenizer.decode(ids), str)
        if tokenizer.vocab_size:
            ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size - 1), max_size=20))
            assert isinstance(tokenizer.decode(ids), str)
        if not published:
            assert cls.from_state(tokenizer.state()).vocab_size == tokenizer.vocab_size

    fuzz(n_inputs, st.lists(ANY_TEXT, max_size=3), ANY_TEXT, st.data(), check=check)


VALUES = st.one_of(
    st.sampled_from(
        ["", "null", "true", "-1", "0", "1e999", "nan", "inf", "[]", "{}", "[1,[", "{a:", "${seed}", "${x}"]
    ),
    st.sampled_from(
        ["???", "1_000", "'", '"', "\\", "a=b", "a,b", "range(1,3)", "\n", "\x00", "é", "9" * 30, "$", "int"]
    ),
    st.sampled_from(["{_target_: os.getcwd}", "[0.9,0.95]", "0.5", "2", "cpu", "${oc.env:NOPE}", "${now:%Y}"]),
    st.integers().map(str),
    st.floats().map(str),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
)


def composed_keys() -> list[str]:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        keys = [key for key, _ in build.flatten(build.OmegaConf.to_container(compose("train")))]
    groups = [str(folder.relative_to(CONF)) for folder in CONF.rglob("*") if folder.is_dir()]
    return [*keys, *groups]


@inputs(10, 3_000)
def test_overrides_compose_and_pass_or_are_explained_in_a_sentence(n_inputs: int) -> None:
    keys = composed_keys()
    chosen = [f"{group}={name}" for group in keys if (CONF / group).is_dir() for name in choices(group)]
    near = st.sampled_from(keys).map(lambda key: key.replace("_", "", 1) + "s")
    key = st.one_of(st.sampled_from(keys), st.sampled_from(keys), near, st.text(max_size=6))
    prefix = st.sampled_from(["", "", "", "", "+", "++", "~"])
    override = st.one_of(
        st.tuples(prefix, key, VALUES).map(lambda parts: f"{parts[0]}{parts[1]}={parts[2]}"),
        st.sampled_from(chosen),
        st.sampled_from(keys).map("~".__add__),
        st.text(max_size=10),
    )

    unexplained: list[tuple[list[str], Exception]] = []

    def check(overrides: list[str]) -> None:
        try:
            check_config(build.resolve(compose("train", overrides=quote_free_text(overrides))))
        except Exception as error:
            GlobalHydra.instance().clear()
            if not explain(error, "train", overrides):
                unexplained.append((overrides, error))
            initialize_config_dir(str(CONF), version_base="1.3")

    try:
        initialize_config_dir(str(CONF), version_base="1.3")
        fuzz(n_inputs, st.lists(override, min_size=1, max_size=3), check=check)
    finally:
        GlobalHydra.instance().clear()
    assert unexplained == []
