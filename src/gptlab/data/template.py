"""How a conversation is written as text; conf/data/template holds one file a template."""

from collections.abc import Sequence
from typing import NamedTuple

PLACE = "\x00place\x00"


class Message(NamedTuple):
    """One turn of a conversation."""

    role: str  # system (the first alone), user or assistant
    content: str


class Template:
    """A chat template in Jinja, as transformers uses it: it writes `messages`, each with a role and a content.

    It ends a question with the words that begin an answer, and adds nothing to the last answer: the tokenizer's
    end-of-text token ends that. Text that spells a part of the template is text. The template runs in Jinja's sandbox,
    because it may come with a checkpoint. ValueError if it cannot be read.

    `input` stands between an instruction and its input.
    """

    def __init__(self, *, chat_template: str, input: str) -> None:
        import jinja2.sandbox  # nothing but templates needs it

        self.chat_template, self.input, self._errors = chat_template, input, jinja2.TemplateError
        environment = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        try:
            self._template = environment.from_string(chat_template)
        except jinja2.TemplateError as error:
            raise ValueError(f"chat_template: {error}") from None

    def message(self, instruction: str, input: str) -> str:
        """An instruction and its input, which may be empty, as the content of one message."""
        return f"{instruction}{self.input}{input}" if input else instruction

    def prompt(self, messages: Sequence[Message]) -> tuple[str, str]:
        """The text in front of an answer in two parts: through the last message's content, and what follows that."""
        *earlier, last = messages
        before, after = self._write([*earlier, last._replace(content=PLACE)]).rsplit(PLACE, 1)
        return before + last.content, after

    def turn(self, content: str, is_first: bool) -> str:
        """The text that a message of the user's adds to a conversation, up to where the answer begins."""
        said = [] if is_first else [Message("user", ""), Message("assistant", "")]
        before = "" if is_first else self._write(said[:1])
        return self._write([*said, Message("user", content)])[len(before) :]

    def _write(self, messages: Sequence[Message]) -> str:
        try:
            return self._template.render(messages=[one._asdict() for one in messages], add_generation_prompt=True)
        except self._errors as error:
            raise ValueError(f"the template cannot write this conversation: {error}") from None
