"""Text from tokens as they come, never half a character, never half a stop string."""

from collections.abc import Sequence

from gptlab.tokenizer import Tokenizer

REPLACEMENT = "\ufffd"  # what decoding writes for bytes that are no character (yet)


class TextStream:
    """Feed ids one by one, get the text that has become certain; together the pieces are the decoded whole.

    Args:
        tokenizer: decodes.
        after: the ids that the stream continues, the prompt's: they decide on a space before its first word.
        stop: the text ends before the first of these that appears.
    """

    def __init__(self, tokenizer: Tokenizer, *, after: Sequence[int] = (), stop: Sequence[str] = ()) -> None:
        self._tokenizer = tokenizer
        self._stop = [text for text in stop if text]
        self._before = list(after)  # ids whose text is out already
        self._pending: list[int] = []  # ids whose text is not certain yet
        self._held = ""  # certain text that may turn out to begin a stop string
        self.stopped = False

    def feed(self, token: int) -> str:
        """The text that this token makes certain, often empty in the middle of a character."""
        if self.stopped:
            return ""
        self._pending.append(token)
        text = self._new_text()
        if text.endswith(REPLACEMENT):  # perhaps the first bytes of a character: wait for the rest
            return ""
        self._before, self._pending = self._pending, []
        return self._release(text)

    def finish(self) -> str:
        """What was held back, once no more tokens come."""
        if self.stopped:
            return ""
        text = self._release(self._new_text() if self._pending else "")
        held, self._held, self._pending = self._held, "", []
        return text if self.stopped else text + held

    def _new_text(self) -> str:
        before = self._tokenizer.decode(self._before)
        return self._tokenizer.decode(self._before + self._pending)[len(before) :]

    def _release(self, text: str) -> str:
        """Cut at a stop string; hold back an end that may be the beginning of one."""
        text = self._held + text
        found = [position for stop in self._stop if (position := text.find(stop)) >= 0]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)]
        held = max((_overlap(text, stop) for stop in self._stop), default=0)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that is a beginning of `stop`."""
    return next(
        (n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])),
        0,
    )
