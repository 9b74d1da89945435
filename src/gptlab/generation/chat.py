"""A conversation: keys and values of all earlier turns are kept."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress

from gptlab.generation.decoding import Decoder
from gptlab.generation.sampling import Sampler
from gptlab.generation.stream import REPLACEMENT, TextStream
from gptlab.model import LanguageModel
from gptlab.tokenizer import Tokenizer


class Chat:
    """The conversation so far.

    The model sees exactly what was shown: an answer that is stopped, by a stop string or by the reader, ends there for
    the model too. Each turn starts a new line if the tokenizer has one. When the conversation has filled the context,
    the model continues from the last half of it.

    `turn(prompt, is_first)` writes a prompt in the form that the model was trained on.
    """

    def __init__(
        self, model: LanguageModel, tokenizer: Tokenizer, turn: Callable[[str, bool], str] | None = None
    ) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._turn = turn
        self._decoder: Decoder | None = None

    def reset(self) -> None:
        """Start a new conversation."""
        self._decoder = None

    def reply(self, prompt: str, *, max_new_tokens: int, sampler: Sampler, stops: Sequence[str]) -> Iterator[str]:
        """Let the model answer: yields new text at each token, often empty. Closing the iterator stops the answer.

        If the prompt is empty, the model continues its last answer. The other arguments are those of `continue_texts`.
        ValueError at the first piece, if the tokenizer lacks a part of the prompt, or if there is no text yet.
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
            piece = stream.finish().rstrip(REPLACEMENT)  # no incomplete character
            shown += piece
            yield piece
        finally:
            self._cut(decoder, before, answer, shown)

    def _listen(self, prompt: str) -> Decoder:
        """The decoder, with the prompt appended to the conversation."""
        written = self._turn(prompt, self._decoder is None) if self._turn is not None and prompt else prompt
        if self._decoder is None:
            ids = self._tokenizer.encode(written)
            if not ids and self._tokenizer.eot is not None:
                ids = [self._tokenizer.eot]  # an empty prompt begins a document
            self._decoder = Decoder(self._model, [ids])
        elif prompt:
            try:
                ids = self._tokenizer.encode("\n" + prompt if self._turn is None else written)
            except ValueError:  # a closed vocabulary may lack the line break alone
                ids = self._tokenizer.encode(prompt)
            self._decoder.extend([ids])
        return self._decoder

    def _cut(self, decoder: Decoder, before: list[int], answer: list[int], shown: str) -> None:
        """Remove tokens of the answer that were not shown: the end-of-text token, a stop string."""
        start = len(self._tokenizer.decode(before))

        def text(n: int) -> str:
            return self._tokenizer.decode(before + answer[:n])[start:]

        n_kept = len(answer)
        while n_kept > 0 and (answer[n_kept - 1] == self._tokenizer.eot or not shown.startswith(text(n_kept))):
            n_kept -= 1
        n_unshown = len(answer) - n_kept
        if n_unshown >= len(decoder.contexts[0]):  # the context holds nothing that was shown
            self.reset()
        elif n_unshown > 0:
            decoder.retract(n_unshown)
            with suppress(ValueError):  # a closed vocabulary may lack the part of a word
                decoder.extend([self._tokenizer.encode(shown[len(text(n_kept)) :])])  # before a stop string
