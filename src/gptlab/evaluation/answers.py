"""Answers of a model beside the references that people wrote."""

import string
from collections import Counter
from collections.abc import Iterator, Sequence

from gptlab.generation.sampling import greedy
from gptlab.generation.stream import continue_texts
from gptlab.model import LanguageModel
from gptlab.tokenizer import Tokenizer

WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)


def answers(
    model: LanguageModel,
    tokenizer: Tokenizer,
    prompts: Sequence[Sequence[int]],
    *,
    batch_size: int,
    max_new_tokens: int,
) -> Iterator[str]:
    """The most likely continuation of each prompt, up to its end-of-text token; `batch_size` are computed at once."""
    for start in range(0, len(prompts), batch_size):
        some = prompts[start : start + batch_size]
        texts = [""] * len(some)
        for row, new in continue_texts(model, tokenizer, some, max_new_tokens=max_new_tokens, sampler=greedy, stops=()):
            texts[row] += new
        yield from texts


def scores(answer: str, reference: str) -> dict[str, float]:
    """`exact_match`, white space around the texts aside, and `token_f1`."""
    return {"exact_match": float(answer.strip() == reference.strip()), "token_f1": token_f1(answer, reference)}


def token_f1(answer: str, reference: str) -> float:
    """Harmonic mean of the shares of words that an answer has in common with its reference, each word as often as it
    occurs, in lower case and without punctuation (Rajpurkar et al. 2016, arXiv:1606.05250, which also drops articles).

    >>> token_f1("The cat sat.", "the cat sleeps")
    0.6666666666666666
    """
    theirs, ours = (Counter(text.lower().translate(WITHOUT_PUNCTUATION).split()) for text in (reference, answer))
    n_common, n_words = (theirs & ours).total(), theirs.total() + ours.total()
    return 2 * n_common / n_words if n_words else 1.0
