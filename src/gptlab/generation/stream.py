"""Text from tokens as they come, without incomplete characters or parts of stop strings."""

from collections.abc import Iterator, Sequence

from gptlab.generation.decoding import generate
from gptlab.generation.sampling import Sampler
from gptlab.model import LanguageModel
from gptlab.tokenizer import Tokenizer

REPLACEMENT = "\ufffd"  # what decoding writes for bytes that are no character (yet)


class TextStream:
    """Takes ids one by one and returns the text that has become certain; the pieces add up to the decoded whole.

    The stream continues the ids `after`, which decide on a space before its first word. It ends before the first string
    of `stop` that appears.
    """

    def __init__(self, tokenizer: Tokenizer, *, after: Sequence[int] = (), stop: Sequence[str] = ()) -> None:
        self._tokenizer = tokenizer
        self._stop = [text for text in stop if text]
        self._before = list(after)  # ids whose text is out already
        self._pending: list[int] = []  # ids whose text is not certain yet
        self._held = ""  # certain text that may be the start of a stop string
        self.stopped = False

    def feed(self, token: int) -> str:
        """The text that this token makes certain; empty in the middle of a character."""
        if self.stopped:
            return ""
        self._pending.append(token)
        text = self._new_text()
        if text.endswith(REPLACEMENT):  # perhaps an incomplete character: wait for its other bytes
            return ""
        self._before, self._pending = self._pending, []
        return self._release(text)

    def finish(self) -> str:
        """What was held back; call it after the last token."""
        if self.stopped:
            return ""
        text = self._release(self._new_text() if self._pending else "")
        held, self._held, self._pending = self._held, "", []
        return text if self.stopped else text + held

    def _new_text(self) -> str:
        before = self._tokenizer.decode(self._before)
        return self._tokenizer.decode(self._before + self._pending)[len(before) :]

    def _release(self, text: str) -> str:
        """Cut at a stop string; hold back an end that may be the start of one."""
        text = self._held + text
        found = [position for stop in self._stop if (position := text.find(stop)) >= 0]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)]
        starts = {stop[:n] for stop in self._stop for n in range(1, len(stop))}
        held = max((len(start) for start in starts if text.endswith(start)), default=0)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]


def continue_texts(
    model: LanguageModel,
    tokenizer: Tokenizer,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    sampler: Sampler,
    stops: Sequence[str],
) -> Iterator[tuple[int, str]]:
    """Continue each prompt until its end-of-text token, before the first stop string, or up to `max_new_tokens`.

    Yields (row, new text) as it becomes certain, often empty; the pieces of a row add up to its continuation. The other
    arguments are those of `generate`.
    """
    streams = [TextStream(tokenizer, after=prompt, stop=stops) for prompt in prompts]
    unfinished = set(range(len(prompts)))
    for tokens in generate(model, prompts, max_new_tokens=max_new_tokens, sampler=sampler):
        for row in sorted(unfinished):
            at_end = tokens[row] == tokenizer.eot
            yield row, streams[row].finish() if at_end else streams[row].feed(tokens[row])
            if at_end or streams[row].stopped:
                unfinished.discard(row)
        if not unfinished:
            return
    for row in sorted(unfinished):
        yield row, streams[row].finish()
