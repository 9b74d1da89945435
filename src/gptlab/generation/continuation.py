"""From prompts to the text that follows them, piece by piece."""

from collections.abc import Iterator, Sequence

from gptlab.generation.decoding import generate
from gptlab.generation.sampling import Sampler
from gptlab.generation.stream import TextStream
from gptlab.model import GPT
from gptlab.tokenizer import Tokenizer


def continue_texts(
    model: GPT,
    tokenizer: Tokenizer,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    sampler: Sampler,
    stops: Sequence[str],
) -> Iterator[tuple[int, str]]:
    """Continue each prompt until its end-of-text token, a stop string, or the limit.

    Args:
        model: in evaluation mode.
        tokenizer: of the prompts' ids.
        prompts: B sequences of ids, of any lengths from 1.
        max_new_tokens: how many tokens at most.
        sampler: logits (B, V) -> ids (B,).
        stops: a text ends before the first of these.

    Yields:
        (row, new text) as it becomes certain, often empty; together a row's pieces are its continuation.
    """
    streams = [TextStream(tokenizer, after=prompt, stop=stops) for prompt in prompts]
    going_on = set(range(len(prompts)))
    for tokens in generate(model, prompts, max_new_tokens=max_new_tokens, sampler=sampler):
        for row in sorted(going_on):
            at_end = tokens[row] == tokenizer.eot
            yield row, streams[row].finish() if at_end else streams[row].feed(tokens[row])
            if at_end or streams[row].stopped:
                going_on.discard(row)
        if not going_on:
            return
    for row in sorted(going_on):
        yield row, streams[row].finish()
