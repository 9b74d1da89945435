"""Turns of a conversation: what the model has seen is what both have written."""

from collections.abc import Iterator, Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gptlab.generation.chat import Chat
from gptlab.generation.decoding import generate
from gptlab.generation.sampling import Sampler, greedy, make_sampler
from gptlab.model import GPT
from gptlab.tokenizer.char import CharTokenizer
from gptlab.tokenizer.words_unk import UnknownWordTokenizer
from tiny_gpt import tiny_gpt

LETTERS = "abcdefgh \n"


def a_model(vocab_size: int, context_length: int) -> GPT:
    model = tiny_gpt(vocab_size=vocab_size, context_length=context_length, tie_head=False).eval()
    torch.manual_seed(1)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return model


@pytest.fixture(scope="module")
def tokenizer() -> CharTokenizer:
    return CharTokenizer.train([LETTERS])


@pytest.fixture(scope="module")
def model(tokenizer: CharTokenizer) -> GPT:
    return a_model(tokenizer.vocab_size, context_length=200)


def answer(chat: Chat, prompt: str, n: int = 12, stops: tuple[str, ...] = (), sampler: Sampler = greedy) -> str:
    return "".join(chat.reply(prompt, max_new_tokens=n, sampler=sampler, stops=stops))


def continued(model: GPT, tokenizer: CharTokenizer, text: str, n: int) -> str:
    steps = generate(model, [tokenizer.encode(text)], max_new_tokens=n, sampler=greedy)
    return tokenizer.decode([tokens[0] for tokens in steps])


turns = st.lists(st.tuples(st.text(LETTERS[:-2], min_size=1, max_size=6), st.integers(1, 8)), min_size=1, max_size=5)


@settings(max_examples=40, deadline=None)
@given(turns=turns, stop=st.text("abcdefgh", min_size=1, max_size=2))
def test_each_answer_continues_all_that_was_written_before(
    model: GPT, tokenizer: CharTokenizer, turns: list[tuple[str, int]], stop: str
) -> None:
    chat, written = Chat(model, tokenizer), ""
    for prompt, n in turns:
        written += prompt if not written else "\n" + prompt
        said = answer(chat, prompt, n, stops=(stop,))
        assert said == continued(model, tokenizer, written, n).partition(stop)[0]
        written += said


def test_a_reader_who_has_enough_ends_the_answer_for_the_model_too(model: GPT, tokenizer: CharTokenizer) -> None:
    chat = Chat(model, tokenizer)
    pieces = chat.reply("abc", max_new_tokens=50, sampler=greedy, stops=())
    heard = "".join(next(pieces) for _ in range(7))
    pieces.close()  # type: ignore[attr-defined]
    assert answer(chat, "de", 9) == continued(model, tokenizer, f"abc{heard}\nde", 9)


def test_an_empty_prompt_goes_on(model: GPT, tokenizer: CharTokenizer) -> None:
    chat = Chat(model, tokenizer)
    halves = answer(chat, "abc", 6) + answer(chat, "", 6)
    assert halves == continued(model, tokenizer, "abc", 12)


def test_reset_forgets(model: GPT, tokenizer: CharTokenizer) -> None:
    chat = Chat(model, tokenizer)
    first = answer(chat, "abc")
    answer(chat, "de")
    chat.reset()
    assert answer(chat, "abc") == first


def test_nothing_is_computed_twice_from_turn_to_turn(
    model: GPT, tokenizer: CharTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    widths: list[int] = []
    forward = model.trunk.forward
    monkeypatch.setattr(
        model.trunk,
        "forward",
        lambda tokens, **more: widths.append(tokens.shape[1]) or forward(tokens, **more),
    )
    chat = Chat(model, tokenizer)
    answer(chat, "abc", 3)
    answer(chat, "de", 2)
    assert widths == [3, 1, 1, 4, 1]  # the last letter of the answer, the line break and two letters at once


def test_a_conversation_longer_than_the_context_goes_on(tokenizer: CharTokenizer) -> None:
    model = a_model(tokenizer.vocab_size, context_length=8)
    chat = Chat(model, tokenizer)
    for prompt in ("abc", "defgh", "a" * 30, "b"):
        assert len(answer(chat, prompt, 20)) == 20
    assert answer(chat, "abcdefgh", 1) == continued(model, tokenizer, "abcdefgh", 1)  # a prompt that fills the window


def test_the_end_of_text_token_ends_an_answer_and_is_not_remembered() -> None:
    tokenizer = UnknownWordTokenizer.train(["the fog comes on little cat feet"])
    model = a_model(tokenizer.vocab_size, context_length=50)
    assert tokenizer.eot is not None

    def choosing(*tokens: int) -> Sampler:
        chosen: Iterator[int] = iter(tokens)
        return lambda logits: torch.tensor([next(chosen)])

    fog, cat = tokenizer.encode("fog cat")
    chat = Chat(model, tokenizer)
    assert answer(chat, "the", sampler=choosing(fog, tokenizer.eot)) == " fog"
    seen: list[torch.Tensor] = []

    def looking(logits: torch.Tensor) -> torch.Tensor:
        seen.append(logits)
        return torch.tensor([cat])

    answer(chat, "comes", 1, sampler=looking)
    whole = tokenizer.encode("the fog") + tokenizer.encode("\ncomes")
    with torch.inference_mode():
        torch.testing.assert_close(seen[0], model(torch.tensor([whole]))[:, -1])


def test_what_the_vocabulary_lacks_is_refused_and_the_conversation_goes_on(
    model: GPT, tokenizer: CharTokenizer
) -> None:
    chat = Chat(model, tokenizer)
    said = answer(chat, "abc", 5)
    with pytest.raises(ValueError, match="'Z' is not in the vocabulary"):
        answer(chat, "Z")
    assert answer(chat, "de", 5) == continued(model, tokenizer, f"abc{said}\nde", 5)


def test_a_first_prompt_with_nothing_in_it_is_refused(model: GPT, tokenizer: CharTokenizer) -> None:
    with pytest.raises(ValueError, match="without tokens"):
        answer(Chat(model, tokenizer), "")


def test_a_seed_decides_a_conversation(model: GPT, tokenizer: CharTokenizer) -> None:
    def conversation() -> list[str]:
        generator = torch.Generator().manual_seed(3)
        sampler = make_sampler(temperature=2.0, top_k=None, top_p=None, generator=generator)
        chat = Chat(model, tokenizer)
        return [answer(chat, prompt, sampler=sampler) for prompt in ("abc", "de")]

    assert conversation() == conversation()


class Bytes(UnknownWordTokenizer):
    """One id a byte: most characters of this text take two."""

    def __init__(self) -> None:
        super().__init__(words=["x"])

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def decode(self, ids: Sequence[int]) -> str:
        return bytes(id_ for id_ in ids if id_ < 256).decode(errors="replace")


scripts = st.lists(
    st.tuples(
        st.text("a\u00e9\u20ac", max_size=3),
        st.text("abc\u00e9\u20ac\U0001f469", min_size=1, max_size=6),
        st.integers(1, 9),
    ),
    min_size=1,
    max_size=4,
)


@settings(max_examples=100, deadline=None)
@given(turns=scripts, stop=st.text("bc\u00e9", min_size=1, max_size=2))
def test_the_model_remembers_exactly_what_was_shown(turns: list[tuple[str, str, int]], stop: str) -> None:
    tokenizer = Bytes()
    chat = Chat(a_model(256, context_length=400), tokenizer)
    transcript = ""
    for prompt, script, limit in turns:
        if not transcript and not prompt:
            continue
        transcript += ("\n" if transcript and prompt else "") + prompt
        written = iter(script.encode() * 10)
        transcript += answer(chat, prompt, limit, (stop,), lambda _, written=written: torch.tensor([next(written)]))
        assert chat._decoder is not None
        assert tokenizer.decode(chat._decoder.contexts[0]) == transcript
        assert "\ufffd" not in transcript
