"""What every attention of conf/model/attention promises."""

import pytest
import torch
from hydra.utils import get_class
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from torch import nn

from conftest import CONF, choices, conf_node
from gptlab.model.cache import KVCache

SIZES = {"d_model": 24, "context_length": 12, "dropout": 0.0, "qkv_bias": True}


def make(name: str) -> nn.Module:
    node = conf_node("model/attention", name)
    assert node.pop("_partial_") is True, "without it every layer could share one module"
    torch.manual_seed(0)
    n_heads = OmegaConf.load(CONF / f"model/attention/{name}.yaml").get("n_heads", 4)
    return get_class(node.pop("_target_"))(**SIZES, n_heads=n_heads, **node)


@pytest.fixture(params=choices("model/attention"))
def attention(request: pytest.FixtureRequest) -> nn.Module:
    return make(request.param)


def test_the_future_does_not_leak(attention: nn.Module) -> None:
    if not attention.causal:
        pytest.skip("looks both ways by design")
    x = torch.randn(2, 12, 24)
    for position in range(12):
        changed = x.clone()
        changed[:, position:] = torch.randn(2, 12 - position, 24)
        difference = (attention(x) - attention(changed)).abs().amax(dim=(0, 2))
        assert difference[:position].sum() == 0
        assert difference[position] > 0


@pytest.mark.parametrize("name", [name for name in choices("model/attention") if make(name).uses_cache])
@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=5))
def test_cached_equals_uncached_in_chunks_of_any_length(name: str, chunks: list[int]) -> None:
    attention = make(name)
    while sum(chunks) > 12:
        chunks.pop()
    torch.manual_seed(1)
    x = torch.randn(2, sum(chunks), 24)
    cache = KVCache(n_layers=1, capacity=12)
    outputs = []
    for chunk in x.split(chunks, dim=1):
        outputs.append(attention(chunk, cache=cache.layers[0]))
        cache.length += chunk.shape[1]
    torch.testing.assert_close(torch.cat(outputs, dim=1), attention(x))


def test_padding_on_the_left_changes_nothing(attention: nn.Module) -> None:
    x = torch.randn(1, 7, 24)
    padded = torch.cat([torch.randn(1, 3, 24), x], dim=1)
    mask = torch.arange(10)[None] >= 3
    torch.testing.assert_close(attention(padded, mask=mask)[:, 3:], attention(x))
    assert attention(padded, mask=mask).isfinite().all()


def test_gradients_reach_every_parameter(attention: nn.Module) -> None:
    attention(torch.randn(2, 12, 24, requires_grad=True)).square().sum().backward()
    for name, parameter in attention.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
