"""A text that a person and a model write in turns, with the model's keys and values kept from turn to turn."""

from collections.abc import Iterator, Sequence
from contextlib import suppress

from gptlab.generation.decoding import Decoder
from gptlab.generation.sampling import Sampler
from gptlab.generation.stream import REPLACEMENT, TextStream
from gptlab.model import GPT
from gptlab.tokenizer import Tokenizer


class Chat:
    """The conversation so far.

    What the model has seen is what both have written, token by token: an answer that is stopped, by a stop string or by
    a reader who has enough, ends there for the model too. A turn begins a new line where the tokenizer knows one. When
    the conversation has filled the context, the model goes on from the last half of it.
    """

    def __init__(self, model: GPT, tokenizer: Tokenizer) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._decoder: Decoder | None = None

    def reset(self) -> None:
        """Begin anew."""
        self._decoder = None

    def reply(self, prompt: str, *, max_new_tokens: int, sampler: Sampler, stops: Sequence[str]) -> Iterator[str]:
        """Let the model answer.

        Args:
            prompt: what the person writes; empty lets the model go on where it is.
            max_new_tokens: how many tokens the answer has at most.
            sampler: logits (B, V) -> ids (B,).
            stops: the answer ends before the first of these.

        Yields:
            new text at each token, often empty. Whoever stops listening stops the answer.

        Raises:
            ValueError: at the first piece, where the tokenizer does not know a part of the prompt, or where nobody has
                said anything yet.
        """
        decoder = self._listen(prompt)
        before = list(decoder.contexts[0])
        stream = TextStream(self._tokenizer, after=before, stop=stops)
        answer: list[int] = []
        shown = ""
        try:
            while len(answer) < max_new_tokens and not stream.stopped:
                token = decoder.step(sampler)[0]
                answer.append(token)
                if token == self._tokenizer.eot:
                    break
                piece = stream.feed(token)
                shown += piece
                yield piece
            piece = stream.finish().rstrip(REPLACEMENT)  # no half of a character
            shown += piece
            yield piece
        finally:
            self._cut(before, answer, shown)

    def _listen(self, prompt: str) -> Decoder:
        """The decoder, with the prompt behind what was said before."""
        if self._decoder is None:
            ids = self._tokenizer.encode(prompt)
            if not ids and self._tokenizer.eot is not None:
                ids = [self._tokenizer.eot]  # nothing said yet: a document begins
            self._decoder = Decoder(self._model, [ids])
        elif prompt:
            self._add(self._turn(prompt))
        return self._decoder

    def _turn(self, prompt: str) -> list[int]:
        try:
            return self._tokenizer.encode("\n" + prompt)
        except ValueError:  # a closed vocabulary may lack the line break alone
            return self._tokenizer.encode(prompt)

    def _cut(self, before: list[int], answer: list[int], shown: str) -> None:
        """Take back what the model has written beyond what was shown: the end-of-text token, a stop string."""
        assert self._decoder is not None
        n_kept = len(answer)
        start = len(self._tokenizer.decode(before))

        def text(n: int) -> str:
            return self._tokenizer.decode(before + answer[:n])[start:]

        while n_kept > 0 and (answer[n_kept - 1] == self._tokenizer.eot or not shown.startswith(text(n_kept))):
            n_kept -= 1
        n_unshown = len(answer) - n_kept
        if n_unshown == 0:
            return
        rest = shown[len(text(n_kept)) :]  # the part of a token that stands before a stop string
        if n_unshown >= len(self._decoder.contexts[0]):  # longer than the part of the context that was kept
            self._decoder, rest = None, shown
        else:
            self._decoder.retract(n_unshown)
        with suppress(ValueError):  # a closed vocabulary may lack the part of a word
            self._add(self._tokenizer.encode(rest))

    def _add(self, ids: list[int]) -> None:
        if not ids:
            return
        if self._decoder is None:
            self._decoder = Decoder(self._model, [ids])
        else:
            self._decoder.extend([ids])
