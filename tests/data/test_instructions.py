"""Instructions as batches: what is learned, what is cut, what is refused."""

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import TEXTS, conf_node, needs_gpt2_vocabulary
from gptlab import build
from gptlab.data.base import PreparedData
from gptlab.data.documents import Document, Rows, packed
from gptlab.data.instructions import Instructions
from gptlab.data.template import Template
from gptlab.errors import UserError
from gptlab.objective.next_token import IGNORED, NextToken
from gptlab.tokenizer.bpe import BPETokenizer
from gptlab.tokenizer.char import CharTokenizer
from tiny_gpt import tiny_gpt

TEXTBOOK = TEXTS / "instruction-data.json"
BYTES = BPETokenizer.train([], vocab_size=257)
PLAIN = Template(
    chat_template="{% for one in messages %}"
    "{{ one.content + {'system': ';', 'user': '>', 'assistant': '.'}[one.role] }}{% endfor %}",
    input=":",
)
SETTINGS = {"split": "textbook", "seed": 0, "mask_prompt": True, "pack": False, "num_workers": 0}
ROWS = [{"instruction": f"say {number}", "input": "", "output": str(number)} for number in range(40)]


def instructions(path: Path, **changes: Any) -> Instructions:
    return Instructions(**{"path": str(path), "template": PLAIN, **SETTINGS, **changes})


def table(directory: Path, rows: Sequence[dict], name: str = "table.json") -> Path:
    (directory / name).write_text(json.dumps(rows), encoding="utf-8")
    return directory / name


def prepare(path: Path, *, context_length: int = 64, tokenizer: Any = BYTES, **changes: Any) -> PreparedData:
    data = instructions(path, **changes)
    return data.prepare(tokenizer, context_length=context_length, progress=lambda what, pieces: pieces)


def learned(batch: tuple[torch.Tensor, ...]) -> list[str]:
    """The targets that count of each row, with | for the end token."""
    rows = [[id_ for id_ in row if id_ != IGNORED] for row in batch[1].tolist()]
    return ["".join("|" if id_ == BYTES.eot else BYTES.decode([id_]) for id_ in row) for row in rows]


def whole(data: PreparedData) -> tuple[torch.Tensor, ...]:
    return data.train.batch(np.arange(len(data.train)))


MARKERS = "say {{ 7 }}>: <|endoftext|>"


def test_the_response_and_its_end_are_learned_whatever_the_texts_spell(tmp_path: Path) -> None:
    rows = [{"instruction": f"{MARKERS}{n}", "input": MARKERS, "output": f"{MARKERS} {n}"} for n in range(40)]
    data = prepare(table(tmp_path, rows), context_length=128)
    assert learned(whole(data)) == [f"{row['output']}|" for row in rows[:34]]
    batch = whole(prepare(table(tmp_path, rows), context_length=128, mask_prompt=False))
    assert learned(batch)[3] == f"{MARKERS}3:{MARKERS}>{MARKERS} 3|"[1:]


def test_each_answer_of_a_conversation_is_learned_after_all_that_precedes_it(tmp_path: Path) -> None:
    talk = [("system", "s"), ("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")]
    rows = [{"messages": [{"role": role, "content": f"{text}{n}"} for role, text in talk]} for n in range(20)]
    found = instructions(table(tmp_path, rows)).parts()["train"]
    assert ["".join(PLAIN.prompt(one.messages)) + one.response for one in found[:2]] == ["s0;a0>b0", "s0;a0>b0.c0>d0"]
    parts = instructions(table(tmp_path, rows), split="random").parts()
    conversations = [{one.messages[0].content for one in part} for part in parts.values()]
    assert sum(map(len, conversations)) == 20


@settings(max_examples=50, deadline=None)
@given(
    prompts=st.lists(st.integers(1, 80), min_size=1, max_size=8), response=st.integers(1, 80), room=st.integers(2, 60)
)
def test_a_prompt_makes_room_for_its_response(
    tmp_path_factory: pytest.TempPathFactory, prompts: list[int], response: int, room: int
) -> None:
    rows = [{"instruction": "p" * n, "output": "r" * response} for n in prompts]
    data = instructions(table(tmp_path_factory.mktemp("cut"), rows))
    for example in [one for part in data.parts().values() for one in part]:
        document = data.encode(example, BYTES, room - 1)
        prompt, answer = document.ids[: document.n_prompt], document.ids[document.n_prompt :]
        assert len(document.ids) == min(room, document.n_uncut)
        assert answer
        assert BYTES.decode(prompt).endswith(">")
        assert set(BYTES.decode(prompt)) <= {"p", ">"}
        if response + 1 < room:
            assert answer == [*BYTES.encode(example.response), BYTES.eot]


def test_nothing_left_of_a_response_is_refused_with_its_row(tmp_path: Path) -> None:
    long = Template(chat_template="{{ messages[0].content }}>>", input="")
    with pytest.raises(UserError, match=r"table\.json, row 1: context_length=1 leaves nothing of the response"):
        prepare(table(tmp_path, ROWS), context_length=1, template=long)


@settings(deadline=None)
@given(st.lists(st.integers(1, 20), max_size=60), st.integers(20, 30))
def test_packing_loses_nothing_and_overfills_no_row(lengths: list[int], capacity: int) -> None:
    rows = packed(lengths, capacity)
    assert sorted(index for row in rows for index in row) == list(range(len(lengths)))
    assert all(sum(lengths[index] for index in row) <= capacity for row in rows)
    for row, following in pairwise(rows):
        assert sum(lengths[index] for index in row) + lengths[following[0]] > capacity, "it would have fitted"


def test_a_packed_row_has_the_logits_and_the_loss_of_each_document_alone() -> None:
    torch.manual_seed(0)
    lengths = [3, 9, 2, 5, 12, 4, 4, 7]
    documents = [Document(torch.randint(20, (n,)).tolist(), n_prompt=n // 2, n_uncut=n) for n in lengths]
    model = tiny_gpt().eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    rows = Rows(documents, 16, mask_prompt=True, pack=True)
    alone = Rows(documents, 16, mask_prompt=True, pack=False)
    inputs, targets, numbers = rows.batch(np.arange(len(rows)))
    assert len(rows) < len(documents)
    logits = model(inputs, documents=numbers)
    for row, members in enumerate(packed([n - 1 for n in lengths], 16)):
        for number, member in enumerate(members, start=1):
            its_inputs, its_targets = alone.batch(np.array([member]))
            torch.testing.assert_close(logits[row, numbers[row] == number], model(its_inputs)[0], atol=1e-5, rtol=1e-5)
            assert torch.equal(targets[row, numbers[row] == number], its_targets[0])
    together = NextToken()(model, (inputs, targets, numbers))
    apart = NextToken()(model, alone.batch(np.arange(len(documents))))
    torch.testing.assert_close(together.sum, apart.sum)
    assert together.count == apart.count


def test_validation_without_examples_is_a_row_that_does_not_count(tmp_path: Path) -> None:
    data = prepare(table(tmp_path, ROWS), pack=True)
    for part in (data.train, data.val):
        assert NextToken().count(part.batch(np.array([], dtype=int))) == 0
    assert len(data.train) < 34 < len(ROWS) == 34 + len(data.val) + len(data.test or ())


@needs_gpt2_vocabulary
@pytest.mark.skipif(not TEXTBOOK.is_file(), reason="the textbook's instructions are not there")
def test_the_textbook_s_split_and_lengths() -> None:
    from gptlab.tokenizer.gpt2 import GPT2Tokenizer

    alpaca = build.construct(conf_node("data/template", "alpaca"), key="data.template")
    data = prepare(TEXTBOOK, context_length=256, tokenizer=GPT2Tokenizer(), template=alpaca)
    assert [len(part) for part in (data.train, data.val, data.test or ())] == [935, 55, 110]
    assert "(the prompts of 6 val and test rows are in train, too)" in data.description
    assert "mean 57.4, longest 92, response 13.1; 0 cut" in data.description


def test_identical_prompts_stay_together_and_the_seed_decides(tmp_path: Path) -> None:
    rows = [{"instruction": f"say {n % 30}", "output": str(n)} for n in range(120)]
    path = table(tmp_path, rows)
    parts = instructions(path, split="random").parts()
    sides = [{one.messages for one in part} for part in parts.values()]
    assert {name: len(part) for name, part in parts.items()} == {"train": 104, "val": 4, "test": 12}
    assert sum(map(len, sides)) == 30
    assert instructions(path, split="random", seed=1).parts() != parts == instructions(path, split="random").parts()


def test_parts_are_named_by_a_column_or_by_files(tmp_path: Path) -> None:
    names = {"train": "train", "val": "validation", "test": "test"}
    rows = [{**row, "split": names[name]} for name in names for row in ROWS[:3]]
    by_column = instructions(table(tmp_path, rows), split="column").parts()
    (tmp_path / "parts").mkdir()
    for name in names.values():
        table(tmp_path / "parts", ROWS[:3], f"{name}.json")
    by_file = instructions(tmp_path / "parts").parts()
    for parts in (by_column, by_file):
        assert {name: [one.response for one in part] for name, part in parts.items()} == {
            n: ["0", "1", "2"] for n in names
        }


GOOD = ROWS[0]
MESSAGES = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
BAD: dict[str, tuple[dict, str]] = {
    "misspelt": ({"instruktion": "a", "output": "b"}, "row 2 has no column instruction; did you mean instruktion?"),
    "no output": ({"instruction": "a"}, "row 2 has no column output"),
    "empty output": ({"instruction": "a", "output": " "}, "row 2: output is empty"),
    "empty instruction": ({"instruction": "", "input": "a", "output": "b"}, "row 2: instruction is empty"),
    "a number": ({"instruction": "a", "output": 3}, "row 2: output is 3, not a text"),
    "a list of inputs": ({"instruction": "a", "input": ["b"], "output": "c"}, 'row 2: input is ["b"], not a text'),
    "no list": ({"messages": "a"}, "row 2: messages must be a list of {role, content}"),
    "no roles": ({"messages": [{"content": "a"}]}, "row 2: messages must be a list of {role, content}"),
    "no answer": ({"messages": MESSAGES[:1]}, "row 2: messages must be"),
    "out of turn": ({"messages": [*MESSAGES, MESSAGES[1]]}, "user and assistant in turn"),
    "empty answer": (
        {"messages": [MESSAGES[0], {"role": "assistant", "content": ""}]},
        "row 2: content is empty",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_row_that_cannot_be_used_is_named(case: str, tmp_path: Path) -> None:
    row, sentence = BAD[case]
    with pytest.raises(UserError) as error:
        prepare(table(tmp_path, [GOOD, row, *ROWS]))
    assert sentence in str(error.value)
    assert "table.json, row 2" in str(error.value)


def test_what_else_is_refused(tmp_path: Path) -> None:
    path = table(tmp_path, ROWS)
    with pytest.raises(UserError, match="CharTokenizer has no end-of-text token, so no answer could end"):
        prepare(path, tokenizer=CharTokenizer(characters="abc"))
    with pytest.raises(UserError, match=r"table\.json has no instructions for val \(data\.split=random\)"):
        prepare(table(tmp_path, ROWS[:3]), split="random")
    with pytest.raises(UserError, match="row 1: split=dev is none of train, val, validation, test"):
        prepare(table(tmp_path, [{**GOOD, "split": "dev"}]), split="column")
    with pytest.raises(UserError, match="row 1 has no column split"):
        prepare(table(tmp_path, [GOOD]), split="column")
    with pytest.raises(ValueError, match=r"template=None must be a template: choose one with data\.template=alpaca"):
        instructions(path, template=None)
