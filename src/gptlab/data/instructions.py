"""Instructions and their answers: a model learns to answer, and to end its answer."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from gptlab.arguments import NonNegative
from gptlab.data.base import Data, PreparedData, Progress, TokenizerFactory
from gptlab.data.documents import Document, Rows
from gptlab.data.splits import split
from gptlab.data.table import FORMATS, Row, read_table
from gptlab.data.template import Message, Template
from gptlab.errors import UserError
from gptlab.tokenizer import Tokenizer

SHARES = {"train": 0.85, "val": 0.05, "test": 0.1}
PARTS = {"train": "train", "val": "val", "validation": "val", "test": "test"}
"""What files and columns call a part, and its name here."""
FORM = "messages must be a list of {role, content}: user and assistant in turn, after at most one of system"


@dataclass(frozen=True)
class Instruction:
    """What is asked, and the answer to learn."""

    row: Row
    messages: tuple[Message, ...]  # the last is the user's
    response: str
    rejected: str = ""  # the answer that was not chosen, if there were two

    @property
    def key(self) -> tuple[Message, ...]:
        """The conversation up to its first question. Instructions with the same one are in the same part."""
        return self.messages[: 1 + [role for role, _ in self.messages].index("user")]


Parts = dict[str, list[Instruction]]


class Instructions(Data):
    """A table of instructions (columns instruction, input, output) or of conversations (messages).

    Every answer of a conversation is an example, and its prompt is all that precedes it.

    Args:
        path: a table, or a directory of tables named train, val and test.
        template: how a prompt is written.
        split: what divides a single table: chance, its order ("textbook": train, test, val), or its column `split`.
        seed: of the random split.
        mask_prompt: whether the loss is taken over the answers alone.
        pack: whether examples share training rows.
        num_workers: processes that gather training batches; 0 for none.
    """

    answer = "output"  # the column of the answer
    note = ""  # what the log should say, too

    def __init__(
        self,
        *,
        path: str,
        template: Template,
        split: Literal["random", "textbook", "column"],
        seed: NonNegative,
        mask_prompt: bool,
        pack: bool,
        num_workers: NonNegative,
    ) -> None:
        if not isinstance(template, Template):
            raise ValueError(f"template={template} must be a template: choose one with data.template=alpaca")
        self.name = self.path = path
        self.template, self.split, self.seed = template, split, seed
        self.mask_prompt, self.pack, self.num_workers = mask_prompt, pack, num_workers

    def parts(self) -> Parts:
        """The examples of train, val and test. Raises UserError, naming file and row, if the source cannot be used."""
        place, parts = Path(self.path).expanduser(), Parts()
        if place.is_dir():
            for file in sorted(file for file in place.iterdir() if file.stem in PARTS and file.suffix in FORMATS):
                parts.setdefault(PARTS[file.stem], []).extend(self._read(str(file)))
            return {name: parts[name] for name in SHARES if name in parts}
        found = self._read(self.path)
        if self.split == "textbook":
            n_train, n_test = int(SHARES["train"] * len(found)), int(SHARES["test"] * len(found))
            ends = n_train + n_test
            return {"train": found[:n_train], "val": found[ends:], "test": found[n_train:ends]}
        if self.split == "random":
            indices = split([example.key for example in found], [*SHARES.values()], seed=self.seed)
            return {name: [found[i] for i in its] for name, its in zip(SHARES, indices, strict=True)}
        for example in found:
            if (name := example.row.text("split")) not in PARTS:
                raise UserError(f"{example.row.where}: split={name} is none of {', '.join(PARTS)}")
            parts.setdefault(PARTS[name], []).append(example)
        return parts

    def prepare(
        self, tokenizer: Tokenizer | TokenizerFactory, *, context_length: int, progress: Progress
    ) -> PreparedData:
        parts = self.parts()
        for name in ("train", "val"):
            if not parts.get(name):
                raise UserError(f"{self.name} has no instructions for {name} (data.split={self.split})")
        if isinstance(tokenizer, partial):
            every = (example for examples in parts.values() for example in examples)
            texts = ("".join([*self.template.prompt(one.messages), one.response, one.rejected]) for one in every)
            tokenizer = tokenizer(texts)
        rows = {
            name: self._rows(examples, tokenizer, context_length, pack=self.pack and name == "train")
            for name, examples in parts.items()
        }
        contents = {name: [[*one.messages, one.response, one.rejected] for one in its] for name, its in parts.items()}
        return PreparedData(
            name=self.name,
            tokenizer=tokenizer,
            fingerprint=hashlib.sha256(json.dumps(contents).encode()).hexdigest(),
            description=f"{self.name}: {_described(parts, rows, context_length)}{self.note}",
            train=rows["train"],
            val=rows["val"],
            test=rows.get("test") or None,
            val_bytes_per_token=None,
            prompt=parts["val"][0].messages[-1].content,
            template=self.template,
        )

    def encode(self, example: Instruction, tokenizer: Tokenizer, context_length: int) -> Document:
        """An example as at most `context_length` + 1 tokens.

        A prompt that is too long loses the end of its last message. An answer is cut only if it does not fit even
        without a prompt, which then has up to half of the room.

        Raises:
            UserError: if the tokenizer cannot end an answer or lacks a part of the text, or if nothing is left of it.
        """
        if tokenizer.eot is None:
            kind = type(tokenizer).__name__
            raise UserError(f"{kind} has no end-of-text token, so no answer could end: use tokenizer=bpe or gpt2")
        before, after = self.template.prompt(example.messages)
        try:
            prompt, response = tokenizer.encode(before + after), [*tokenizer.encode(example.response), tokenizer.eot]
            n_uncut = len(prompt) + len(response)
            if n_uncut <= context_length + 1:
                return Document(prompt + response, len(prompt), n_uncut)
            message, tail = tokenizer.encode(before), tokenizer.encode(after)
        except ValueError as error:
            raise UserError(f"{example.row.where}: {error}") from None
        room = context_length + 1 - len(tail)
        if room < 1:
            nothing = f"context_length={context_length} leaves nothing of the response"
            raise UserError(f"{example.row.where}: {nothing}, use more")
        n_message = room - len(response) if len(response) <= room else min(len(message), room // 2)
        prompt = message[:n_message] + tail
        return Document((prompt + response)[: context_length + 1], len(prompt), n_uncut)

    def _rows(self, examples: list[Instruction], tokenizer: Tokenizer, context_length: int, *, pack: bool) -> Any:
        documents = [self.encode(example, tokenizer, context_length) for example in examples]
        return Rows(documents, context_length, mask_prompt=self.mask_prompt, pack=pack)

    def _read(self, path: str) -> list[Instruction]:
        return [example for row in read_table(path) for example in self._examples(row)]

    def _examples(self, row: Row) -> Iterator[Instruction]:
        messages = _conversation(row) if "messages" in row.columns else self._exchange(row)
        for index, (role, _) in enumerate(messages):
            if role == "assistant":
                yield Instruction(row, tuple(messages[:index]), messages[index].content)

    def _exchange(self, row: Row) -> list[Message]:
        """An instruction and its answer as two messages."""
        given = row.text("input") if str(row.columns.get("input") or "").strip() else ""
        asked = self.template.message(row.text("instruction"), given)
        return [Message("user", asked), Message("assistant", row.text(self.answer))]


def _conversation(row: Row) -> list[Message]:
    """The column `messages`. Raises UserError if it has another form."""
    try:
        messages = [Message(one["role"], Row(row.where, one).text("content")) for one in row.columns["messages"]]
    except (TypeError, KeyError):
        raise UserError(f"{row.where}: {FORM}") from None
    roles = [role for role, _ in messages]
    roles = roles[1:] if roles[:1] == ["system"] else roles
    if len(roles) < 2 or roles != [("user", "assistant")[i % 2] for i in range(len(roles))]:
        raise UserError(f"{row.where}: {FORM}")
    return messages


def _described(parts: Parts, rows: dict[str, Any], context_length: int) -> str:
    """How many examples each part has, how many were seen in training, and how long they are in tokens."""
    documents = [document for part in rows.values() for document in part.documents]
    lengths, learnt = [one.n_uncut for one in documents], {example.key for example in parts["train"]}
    n_known = sum(example.key in learnt for name in ("val", "test") for example in parts.get(name, []))
    return "".join(
        [
            f"{', '.join(f'{len(examples):,} {name}' for name, examples in parts.items())} instructions",
            f" (the prompts of {n_known:,} val and test rows are in train, too)" if n_known else "",
            f"; tokens: mean {np.mean(lengths):.1f}, longest {max(lengths):,}",
            f", response {np.mean([len(one.ids) - one.n_prompt for one in documents]):.1f}",
            f"; {sum(length > context_length + 1 for length in lengths):,} cut to context_length={context_length:,}",
            f"; packed into {len(rows['train']):,} rows" if rows["train"].is_packed else "",
        ]
    )
