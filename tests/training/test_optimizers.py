"""What every optimizer of conf/optimizer promises."""

import pytest

from conftest import choices, conf_node
from gptlab import build
from tiny_gpt import tiny_gpt


def factory(name: str):
    return build.optimizer({"optimizer": conf_node("optimizer", name)})


@pytest.mark.parametrize("name", choices("optimizer"))
def test_every_parameter_is_in_exactly_one_group(name: str) -> None:
    net = tiny_gpt()
    grouped = [id(p) for group in factory(name)(net).param_groups for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in net.parameters())


def test_adamw_decays_matrices_only() -> None:
    net = tiny_gpt()
    decayed, kept = factory("adamw")(net).param_groups
    assert decayed["weight_decay"] > 0 == kept["weight_decay"]
    assert all(p.dim() >= 2 for p in decayed["params"])
    assert all(p.dim() == 1 for p in kept["params"])
