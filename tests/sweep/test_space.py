"""Search spaces, from the configuration and from the command line."""

from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import example, given
from hypothesis import strategies as st

from gptlab.cli.search_space import search_space
from gptlab.errors import UserError
from gptlab.sweep.space import parameter


@given(
    st.lists(
        st.none() | st.booleans() | st.integers() | st.text() | st.lists(st.floats(0, 1) | st.text(max_size=5)),
        min_size=1,
        max_size=5,
    )
)
@example(["A¹", "中文"])
def test_values_of_a_file_reach_hydra_as_the_same_values(values: list[Any]) -> None:
    distinct = [value for i, value in enumerate(values) if repr(value) not in map(repr, values[:i])]
    _, (entry,) = search_space({"a.b": {"choice": distinct}}, [], sampler="tpe")
    words = [word for value in entry.values for word in entry.overrides(value)]
    parsed = [override.value() for override in OverridesParser.create().parse_overrides(words)]
    assert [repr(value) for value in parsed] == [repr(value) for value in distinct]


@pytest.mark.parametrize(
    ("override", "definition"),
    {
        "a=1,2,3": {"choice": [1, 2, 3]},
        "a=1e-3,plain,True": {"choice": [0.001, "plain", "true"]},
        "a=range(1,4)": {"choice": [1, 2, 3]},
        "a=[0.9,0.95],[0.9,0.99]": {"choice": ["[0.9,0.95]", "[0.9,0.99]"]},
        "a=interval(0.1,1)": {"uniform": [0.1, 1.0]},
        "a=tag(log,interval(1e-4,1e-2))": {"log_uniform": [1e-4, 1e-2]},
        "a=tag(log,int(interval(1,8)))": {"log_int": [1, 8]},
    }.items(),
)
def test_hydra_s_grammar_says_the_same(override: str, definition: dict[str, Any]) -> None:
    fixed, (entry,) = search_space({"a": {"choice": [0]}}, [override, "b=1"], sampler="tpe")
    assert {entry.kind: list(entry.values)} == definition
    assert fixed == ["b=1"]


@pytest.mark.parametrize("override", ["a=3", "++a=3", "~a", "a@x=3"])
def test_a_key_with_a_value_on_the_command_line_is_not_searched(override: str) -> None:
    fixed, space = search_space({"a": {"choice": [1, 2]}, "b": {"int": [1, 2]}}, [override], sampler="tpe")
    assert fixed == [override]
    assert [entry.key for entry in space] == ["b"]


@pytest.mark.parametrize(
    ("node", "what"),
    [
        ({"log_unifrom": [1, 2]}, "did you mean log_uniform?"),
        ({"uniform": [2, 1]}, "the bounds are reversed, 2 is more than 1"),
        ({"log_uniform": [0, 1]}, "starts above zero, not at 0"),
        ({"int": [1.5, 2]}, "needs whole numbers, not 1.5"),
        ({"int": [1, 10, 4]}, "steps of 4 do not lead from 1 to 10"),
        ({"uniform": [1]}, "needs [low, high], not [1]"),
        ({"uniform": ["a", 1]}, "needs numbers, not 'a'"),
        ({"choice": []}, "needs a list of values"),
        ({"choice": [1, 2, 1]}, "has 1 twice"),
        ({"choice": [1], "grid": [2]}, "must be one of"),
    ],
)
def test_what_is_no_search_space_is_said_in_one_sentence(node: Any, what: str) -> None:
    with pytest.raises(UserError) as error:
        parameter("optimizer.lr", node)
    assert "optimizer.lr" in str(error.value)
    assert what in str(error.value)
    assert "\n" not in str(error.value)
