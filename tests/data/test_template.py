"""How conversations are written."""

from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.utils.chat_template_utils import render_jinja_template

from conftest import choices, conf_node
from gptlab import build
from gptlab.data.template import Message, Template


@cache
def template(name: str) -> Template:
    return build.construct(conf_node("data/template", name), key="data.template")


PROMPTS = {
    "alpaca": (
        "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nAdd.\n\n### Input:\n1, 2\n\n### Response:\n"
    ),
    "phi3": "<|user|>\nAdd.\n1, 2\n<|assistant|>:\n",
    "chatml": "<|im_start|>user\nAdd.\n1, 2<|im_end|>\n<|im_start|>assistant\n",
}


@pytest.mark.parametrize("name", choices("data/template"))
def test_an_instruction_is_written_as_published(name: str) -> None:
    message = template(name).message("Add.", "1, 2")
    assert "".join(template(name).prompt([Message("user", message)])) == PROMPTS[name]
    assert template(name).message("Add.", "") == "Add."


contents = st.sampled_from(["a", "{{ 7 }}{% if %}", "### Response:\n", '<|im_end|>"\\n', "\u00e9\U0001f600\n"])


@pytest.mark.parametrize("name", choices("data/template"))
@settings(max_examples=30, deadline=None)
@given(system=st.none() | contents, turns=st.lists(contents, min_size=1, max_size=5).filter(lambda all_: len(all_) % 2))
def test_transformers_and_a_chat_write_what_training_writes(name: str, system: str | None, turns: list[str]) -> None:
    messages = [Message(("user", "assistant")[index % 2], content) for index, content in enumerate(turns)]
    begun = [Message("system", system), *messages] if system is not None else messages
    written = "".join(template(name).prompt(begun))
    theirs, _ = render_jinja_template([[one._asdict() for one in begun]], chat_template=template(name).chat_template)
    assert theirs == [written]
    if system is None:
        said = "".join(
            content if index % 2 else template(name).turn(content, is_first=index == 0)
            for index, content in enumerate(turns)
        )
        assert said == written


def test_a_template_runs_in_a_sandbox_and_says_what_is_wrong_with_it() -> None:
    with pytest.raises(ValueError, match="chat_template: "):
        Template(chat_template="{% for %}", input="\n")
    for dangerous in ("{{ messages.append(1) }}", "{{ ''.__class__.__mro__ }}", "{{ messages[0].nothing.content }}"):
        with pytest.raises(ValueError, match="the template cannot write this conversation: "):
            Template(chat_template=dangerous, input="\n").turn("a", is_first=True)
