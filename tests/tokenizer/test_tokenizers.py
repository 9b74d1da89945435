"""What every tokenizer of conf/tokenizer promises."""

import json

import numpy as np
import pytest
from hydra.utils import get_class
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import HARD, choices, conf_node, has_gpt2_vocabulary
from gptlab.tokenizer import Tokenizer
from gptlab.tokenizer.hugging_face import HuggingFaceTokenizer

TEXT = "One day, \u00e9t\u00e9 -- a caf\u00e9! \U0001f600 def f(x):\n    return x ** 2\n" * 3
SPECIAL = "a <|endoftext|> b <|unk|> c"


def train(name: str, text: str = TEXT) -> Tokenizer:
    if name == "gpt2" and not has_gpt2_vocabulary():
        pytest.skip("GPT-2's vocabulary is not cached")
    node = conf_node("tokenizer", name)
    return get_class(node.pop("_target_")).train([text], **node)


@pytest.fixture(params=choices("tokenizer"), scope="module")
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return train(request.param)


def test_training_text_round_trips_or_loses_only_white_space(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode(TEXT)
    assert all(isinstance(id_, int) and 0 <= id_ < tokenizer.vocab_size for id_ in ids)
    assert tokenizer.eot is None or 0 <= tokenizer.eot < tokenizer.vocab_size
    if tokenizer.byte_lengths is not None:
        assert tokenizer.decode(ids) == TEXT
    else:
        assert tokenizer.encode(tokenizer.decode(ids)) == ids
        assert "".join(tokenizer.decode(ids).split()) == "".join(TEXT.split())


def test_state_is_plain_data_that_rebuilds_it(tokenizer: Tokenizer) -> None:
    state = json.loads(json.dumps(tokenizer.state()))
    rebuilt = type(tokenizer).from_state(state)
    assert rebuilt.encode(TEXT) == tokenizer.encode(TEXT)
    assert rebuilt.vocab_size == tokenizer.vocab_size
    assert rebuilt.eot == tokenizer.eot
    assert rebuilt.state() == tokenizer.state()


def test_byte_lengths_add_up_to_the_text(tokenizer: Tokenizer) -> None:
    lengths = tokenizer.byte_lengths
    if lengths is None:
        pytest.skip("white space is lost")
    assert lengths.shape == (tokenizer.vocab_size,)
    assert lengths[np.array(tokenizer.encode(TEXT))].sum() == len(TEXT.encode())
    assert tokenizer.eot is None or lengths[tokenizer.eot] == 0


@pytest.mark.parametrize("name", choices("tokenizer"))
def test_special_token_text_is_text(name: str) -> None:
    tokenizer = train(name, SPECIAL)
    ids = tokenizer.encode(SPECIAL)
    assert tokenizer.eot not in ids
    assert getattr(tokenizer, "unk", None) not in ids
    assert "<|endoftext|>" in tokenizer.decode(ids)


def test_the_tokenizers_library_gives_the_same_ids_and_text(tokenizer: Tokenizer) -> None:
    backend = tokenizer.to_tokenizers()
    assert backend is not None
    again = HuggingFaceTokenizer(json=backend.to_str(), eot=tokenizer.eot)
    assert again.vocab_size == tokenizer.vocab_size
    takes_any_text = tokenizer.eot is not None
    alphabet = st.characters(codec="utf-8") if takes_any_text else st.sampled_from(TEXT)
    pieces = st.one_of(
        st.text(alphabet, max_size=30),
        st.sampled_from(TEXT.split()),
        *([st.sampled_from(HARD)] if takes_any_text else []),
    )

    @settings(max_examples=100, deadline=None)
    @given(st.lists(pieces, max_size=8).map("".join))
    def check(text: str) -> None:
        try:
            ids = tokenizer.encode(text)
        except ValueError:
            with pytest.raises(ValueError, match="not in the vocabulary"):
                again.encode(text)
        else:
            assert again.encode(text) == ids
            assert again.decode(ids) == tokenizer.decode(ids)

    check()
