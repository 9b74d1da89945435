import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gptlab.generation.decoding import Decoder, generate
from gptlab.generation.sampling import greedy
from gptlab.model import GPT, LanguageModel
from tiny_gpt import Averaging, Bigram, decisive_gpt, tiny_gpt

CONTEXT = 8
VOCABULARY = 13


@pytest.fixture(scope="module")
def model() -> GPT:
    return decisive_gpt(vocab_size=VOCABULARY, context_length=CONTEXT)


WITHOUT_CACHE = [
    tiny_gpt(vocab_size=VOCABULARY, context_length=CONTEXT, attention=Averaging).eval(),  # it is not causal
    Bigram(vocab_size=VOCABULARY, context_length=CONTEXT, d_model=8).eval(),  # it has no attention
]


def uncached(model: LanguageModel) -> LanguageModel:
    """The same model, unable to keep a cache."""
    twin = copy.copy(model)
    twin.new_cache = lambda *_, **__: None  # type: ignore[method-assign]
    return twin


def continued(model: LanguageModel, prompts: list[list[int]], n: int) -> list[list[int]]:
    steps = list(generate(model, prompts, max_new_tokens=n, sampler=greedy))
    return [list(row) for row in zip(*steps, strict=True)]


def naive(model: LanguageModel, prompt: list[int], n: int) -> list[int]:
    """One sequence, everything computed anew, the rule for a full window written out."""
    context, new = prompt[-CONTEXT:], []
    for _ in range(n):
        with torch.no_grad():
            new.append(int(model(torch.tensor([context]))[0, -1].argmax()))
        context = [*context, new[-1]]
        if len(context) > CONTEXT:
            context = context[-(CONTEXT // 2) :]
    return new


prompts = st.lists(st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=12), min_size=1, max_size=4)


@settings(max_examples=30, deadline=None)
@given(batch=prompts, n=st.integers(1, 20))
def test_a_batch_with_and_without_cache_equals_each_prompt_computed_naively(
    model: GPT, batch: list[list[int]], n: int
) -> None:
    for each in (model, uncached(model), *WITHOUT_CACHE):
        assert continued(each, batch, n) == [naive(each, prompt, n) for prompt in batch]


changes = st.lists(
    st.one_of(
        st.just(("step", 1)),
        st.tuples(st.just("extend"), st.integers(1, 10)),
        st.tuples(st.just("retract"), st.integers(1, 3)),
    ),
    min_size=1,
    max_size=15,
)


@settings(max_examples=40, deadline=None)
@given(batch=prompts, changes=changes, seed=st.integers(0, 99))
def test_sequences_that_are_written_and_cut_from_outside_have_the_logits_of_an_uncached_pass(
    model: GPT, batch: list[list[int]], changes: list[tuple[str, int]], seed: int
) -> None:
    random = torch.Generator().manual_seed(seed)
    cached, recomputing = Decoder(model, batch), Decoder(uncached(model), batch)
    seen: list[torch.Tensor] = []

    def looking(logits: torch.Tensor) -> torch.Tensor:
        seen.append(logits)
        return greedy(logits)

    for change, n in [*changes, ("step", 1)]:
        if change == "step":
            assert cached.step(looking) == recomputing.step(looking)
            torch.testing.assert_close(seen[-2], seen[-1], atol=1e-4, rtol=1e-4)
        elif change == "extend":
            tokens = torch.randint(VOCABULARY, (len(batch), n), generator=random).tolist()
            cached.extend(tokens)
            recomputing.extend(tokens)
        elif n < min(map(len, cached.contexts)):
            cached.retract(n)
            recomputing.retract(n)
        assert cached.contexts == recomputing.contexts


def test_inside_the_window_nothing_is_computed_twice(model: GPT) -> None:
    widths: list[int] = []
    handle = model.trunk.register_forward_pre_hook(lambda _, inputs: widths.append(inputs[0].shape[1]))
    continued(model, [[1, 2, 3]], 9)
    handle.remove()
    assert widths == [3, *[1] * 5, 4, 1, 1]  # the prompt, to the full window of 8, then the last half of it


def test_an_empty_prompt_is_refused_and_a_context_of_one_token_goes_on(model: GPT) -> None:
    with pytest.raises(ValueError, match="without tokens"):
        next(generate(model, [[1], []], max_new_tokens=1, sampler=greedy))
    small = tiny_gpt(vocab_size=5, context_length=1, n_layers=1, n_heads=1, d_model=4).eval()
    assert len(continued(small, [[1, 2]], 5)[0]) == 5
