"""Turns of a conversation: what the model has seen is what both have written."""

from collections.abc import Iterator, Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gptlab.generation.chat import Chat
from gptlab.generation.decoding import generate
from gptlab.generation.sampling import Sampler, greedy
from gptlab.model import GPT
from gptlab.tokenizer.char import CharTokenizer
from gptlab.tokenizer.words_unk import UnknownWordTokenizer
from tiny_gpt import decisive_gpt

TOKENIZER = CharTokenizer.train(["abcdefgh \n"])


@pytest.fixture(scope="module")
def model() -> GPT:
    return decisive_gpt(vocab_size=TOKENIZER.vocab_size, context_length=200)


def answer(chat: Chat, prompt: str, n: int = 12, stops: tuple[str, ...] = (), sampler: Sampler = greedy) -> str:
    return "".join(chat.reply(prompt, max_new_tokens=n, sampler=sampler, stops=stops))


def continued(model: GPT, text: str, n: int) -> str:
    steps = generate(model, [TOKENIZER.encode(text)], max_new_tokens=n, sampler=greedy)
    return TOKENIZER.decode([tokens[0] for tokens in steps])


turns = st.lists(st.tuples(st.text("abcdefgh", min_size=1, max_size=6), st.integers(1, 8)), min_size=1, max_size=4)


@settings(max_examples=20, deadline=None)
@given(turns=turns, stop=st.text("abcdefgh", min_size=1, max_size=2))
def test_each_answer_continues_all_that_was_written_before(model: GPT, turns: list[tuple[str, int]], stop: str) -> None:
    chat, written = Chat(model, TOKENIZER), ""
    for prompt, n in turns:
        written += prompt if not written else "\n" + prompt
        said = answer(chat, prompt, n, stops=(stop,))
        assert said == continued(model, written, n).partition(stop)[0]
        written += said


def test_a_reader_who_has_enough_ends_the_answer_for_the_model_too(model: GPT) -> None:
    chat = Chat(model, TOKENIZER)
    pieces = chat.reply("abc", max_new_tokens=50, sampler=greedy, stops=())
    heard = "".join(next(pieces) for _ in range(7))
    pieces.close()  # type: ignore[attr-defined]
    assert answer(chat, "de", 9) == continued(model, f"abc{heard}\nde", 9)


def test_an_empty_prompt_goes_on_and_reset_forgets(model: GPT) -> None:
    chat = Chat(model, TOKENIZER)
    assert answer(chat, "abc", 6) + answer(chat, "", 6) == continued(model, "abc", 12)
    chat.reset()
    assert answer(chat, "de") == continued(model, "de", 12)


def test_nothing_is_computed_twice_from_turn_to_turn(model: GPT) -> None:
    widths: list[int] = []
    handle = model.trunk.register_forward_pre_hook(lambda _, inputs: widths.append(inputs[0].shape[1]))
    chat = Chat(model, TOKENIZER)
    answer(chat, "abc", 3)
    answer(chat, "de", 2)
    handle.remove()
    assert widths == [3, 1, 1, 4, 1]  # the last letter of the answer, the line break and two letters at once


def test_a_conversation_longer_than_the_context_goes_on() -> None:
    model = decisive_gpt(vocab_size=TOKENIZER.vocab_size, context_length=8)
    chat = Chat(model, TOKENIZER)
    for prompt in ("abc", "defgh", "a" * 30, "b"):
        assert len(answer(chat, prompt, 20)) == 20
    assert answer(chat, "abcdefgh", 1) == continued(model, "abcdefgh", 1)  # a prompt that fills the window


def test_the_end_of_text_token_ends_an_answer_and_is_not_remembered() -> None:
    tokenizer = UnknownWordTokenizer.train(["the fog comes on little cat feet"])
    model = decisive_gpt(vocab_size=tokenizer.vocab_size, context_length=50)
    chosen = iter([*tokenizer.encode("fog"), tokenizer.eot])
    chat = Chat(model, tokenizer)
    assert answer(chat, "the", sampler=lambda _: torch.tensor([next(chosen)])) == " fog"
    seen: list[torch.Tensor] = []

    def looking(logits: torch.Tensor) -> torch.Tensor:
        seen.append(logits)
        return greedy(logits)

    answer(chat, "comes", 1, sampler=looking)
    whole = tokenizer.encode("the fog") + tokenizer.encode("\ncomes")
    with torch.inference_mode():
        torch.testing.assert_close(seen[0], model(torch.tensor([whole]))[:, -1])


class Bytes(UnknownWordTokenizer):
    """One id a byte: most characters of this text take two."""

    def __init__(self) -> None:
        super().__init__(words=["x"])

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def decode(self, ids: Sequence[int]) -> str:
        return bytes(id_ for id_ in ids if id_ < 256).decode(errors="replace")


prompts, scripts = st.text("a\u00e9\u20ac", max_size=3), st.text("abc\u00e9\u20ac\U0001f469", min_size=1, max_size=6)


@settings(max_examples=50, deadline=None)
@given(
    turns=st.lists(st.tuples(prompts, scripts, st.integers(1, 9)), min_size=1, max_size=4),
    stop=st.text("bc\u00e9", min_size=1, max_size=2),
)
def test_the_model_remembers_exactly_what_was_shown(turns: list[tuple[str, str, int]], stop: str) -> None:
    tokenizer = Bytes()
    chat = Chat(decisive_gpt(vocab_size=256, context_length=400, n_layers=1), tokenizer)
    transcript = ""
    for prompt, script, limit in turns:
        if not transcript and not prompt:
            continue
        transcript += ("\n" if transcript and prompt else "") + prompt
        written: Iterator[int] = iter(script.encode() * 10)
        transcript += answer(chat, prompt, limit, (stop,), lambda _, written=written: torch.tensor([next(written)]))
        assert chat._decoder is not None
        assert tokenizer.decode(chat._decoder.contexts[0]) == transcript
        assert "\ufffd" not in transcript
