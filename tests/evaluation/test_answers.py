"""Scores of answers."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import TEXTS
from gptlab.evaluation.answers import answers, scores, token_f1
from gptlab.generation.decoding import generate
from gptlab.generation.sampling import greedy
from gptlab.tokenizer.words_unk import UnknownWordTokenizer
from tiny_gpt import decisive_gpt

INSTRUCTIONS = TEXTS / "instruction-data.json"


@settings(deadline=None)
@given(st.text("ab ,.\n"), st.text("ab ,.\n"))
def test_f1_is_symmetric_and_1_for_the_same_words(answer: str, reference: str) -> None:
    assert 0 <= token_f1(answer, reference) == token_f1(reference, answer) <= 1
    assert token_f1(answer, answer) == 1
    assert token_f1(answer.upper() + "!", answer + " x") == token_f1(answer, answer + " x")


def test_scores_by_hand() -> None:
    assert token_f1("The cat sat on the mat.", "the cat slept") == pytest.approx(2 * 2 / (6 + 3))
    assert token_f1("no", "yes") == token_f1("", "yes") == 0
    assert scores(" yes\n", "yes") == {"exact_match": 1, "token_f1": 1}
    assert scores("Yes", "yes") == {"exact_match": 0, "token_f1": 1}


@pytest.mark.skipif(not INSTRUCTIONS.is_file(), reason="the textbook's instructions are not there")
def test_an_echo_of_the_input_scores_half_on_the_textbook_s_test_split() -> None:
    test = json.loads(INSTRUCTIONS.read_text(encoding="utf-8"))[935:1045]
    scores = [token_f1(row["input"] or row["instruction"], row["output"]) for row in test]
    assert sum(scores) / len(scores) == pytest.approx(0.507, abs=5e-4)


def test_answers_in_batches_are_those_of_each_prompt_alone_and_end_at_the_end_token() -> None:
    tokenizer = UnknownWordTokenizer.train(["the fog comes on little cat feet over harbor and city"])
    model = decisive_gpt(vocab_size=tokenizer.vocab_size, context_length=30)
    prompts = [[1], [2, 3, 4], [5, 6], [7], [3, 3]]
    found = list(answers(model, tokenizer, prompts, batch_size=2, max_new_tokens=8))
    for prompt, answer in zip(prompts, found, strict=True):
        ids = [tokens[0] for tokens in generate(model, [prompt], max_new_tokens=8, sampler=greedy)]
        ids = ids[: ids.index(tokenizer.eot)] if tokenizer.eot in ids else ids
        assert answer == tokenizer.decode([*prompt, *ids])[len(tokenizer.decode(prompt)) :]
