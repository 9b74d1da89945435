"""What every optimizer of conf/optimizer promises."""

import io

import pytest
import torch
from torch import nn

from conftest import choices, conf_node
from gptlab import build


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(7, 8), nn.LayerNorm(8), nn.Linear(8, 8), nn.Linear(8, 7, bias=False))


def step(net: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    net(torch.arange(7)).logsumexp(-1).sum().backward()
    optimizer.step()
    optimizer.zero_grad()


def factory(name: str):
    return build.optimizer({"optimizer": conf_node("optimizer", name)})


@pytest.mark.parametrize("name", choices("optimizer"))
def test_every_parameter_is_in_exactly_one_group(name: str) -> None:
    net = model()
    grouped = [id(p) for group in factory(name)(net).param_groups for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in net.parameters())


@pytest.mark.parametrize("name", choices("optimizer"))
def test_state_resumes_bit_equal(name: str) -> None:
    net = model()
    optimizer = factory(name)(net)
    for _ in range(3):
        step(net, optimizer)
    saved = io.BytesIO()
    torch.save({"net": net.state_dict(), "optimizer": optimizer.state_dict()}, saved)
    step(net, optimizer)

    saved.seek(0)
    state = torch.load(saved, weights_only=True)
    resumed = model()
    resumed.load_state_dict(state["net"])
    resumed_optimizer = factory(name)(resumed)
    resumed_optimizer.load_state_dict(state["optimizer"])
    step(resumed, resumed_optimizer)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), resumed.parameters(), strict=True))


def test_adamw_decays_matrices_only() -> None:
    net = model()
    decayed, kept = factory("adamw")(net).param_groups
    assert decayed["weight_decay"] > 0 == kept["weight_decay"]
    assert all(p.dim() >= 2 for p in decayed["params"])
    assert all(p.dim() == 1 for p in kept["params"])
