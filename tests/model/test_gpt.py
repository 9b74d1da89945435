import functools
import math

import pytest
import torch
import torch.nn.functional as F
from hydra.utils import get_object

from conftest import choices, conf_node
from gptlab import build
from gptlab.model import GPT
from gptlab.training.optimizers import adamw
from tiny_gpt import tiny_gpt

VOCABULARY = 50


def make(**changes: object) -> GPT:
    return tiny_gpt(**{"vocab_size": VOCABULARY, "d_model": 32, **changes})


def from_config(name: str, *, context_length: int, vocab_size: int) -> GPT:
    node = conf_node("model", name)
    for group, choice in (item for default in node.pop("defaults") if default != "_self_" for item in default.items()):
        node[group] = conf_node(f"model/{group}", choice)
    node["context_length"] = context_length
    with torch.device("meta"):
        return build.model({"model": node}, vocab_size)


PUBLISHED = {
    "gpt2": 124_439_808,
    "gpt2-medium": 354_823_168,
    "gpt2-large": 774_030_080,
    "gpt2-xl": 1_557_611_200,
}


@pytest.mark.parametrize("name", choices("model"))
def test_every_model_config_builds_and_gpt2s_have_the_published_sizes(name: str) -> None:
    model = from_config(name, context_length=1024, vocab_size=50257)
    if name in PUBLISHED:
        assert sum(parameter.numel() for parameter in model.parameters()) == PUBLISHED[name]
    assert model(torch.zeros(1, 2, dtype=torch.long, device="meta")).shape == (1, 2, 50257)


PARTS = [(group, name) for group in ("norm", "feed_forward", "positions") for name in choices(f"model/{group}")]


@pytest.mark.parametrize(("group", "name"), PARTS)
def test_every_part_passes_gradients_and_shares_nothing(group: str, name: str) -> None:
    node = conf_node(f"model/{group}", name)
    assert node.pop("_partial_") is True, "without it every layer could share one module"
    part = functools.partial(get_object(node.pop("_target_")), **node)
    model = make(**{group: part})
    model(torch.randint(VOCABULARY, (2, 16))).square().sum().backward()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.isfinite().all(), parameter_name
    ids = [id(module) for module in model.modules()]
    assert len(ids) == len(set(ids))


def test_loss_at_init_is_about_ln_v() -> None:
    model = make(vocab_size=1000, d_model=64)
    tokens = torch.randint(1000, (16, 17))
    loss = F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
    assert loss.item() == pytest.approx(math.log(1000), rel=0.05)


def test_one_batch_overfits() -> None:
    model = make()
    optimizer = adamw(model, lr=1e-2, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.0)
    tokens = torch.randint(VOCABULARY, (4, 17))
    for _ in range(80):
        loss = F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1


@pytest.mark.parametrize("name", choices("model/init"))
def test_every_init_fills_every_weight(name: str) -> None:
    model = make()
    for parameter_name, parameter in model.named_parameters():
        if "norm" not in parameter_name:  # torch's ones and zeros stay
            parameter.data.fill_(math.nan)
    get_object(conf_node("model/init", name)["_target_"])(model)
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    assert model.trunk.token_embedding.weight.std() > 0


def test_initialisation_is_gpt2_s() -> None:
    model = make(d_model=128, n_layers=8, vocab_size=500)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            assert not parameter.any(), name
        elif "norm" in name:
            assert (parameter == 1).all(), name
        else:
            scaled = name.endswith(("attention.out.weight", "feed_forward.down.weight"))
            expected = 0.02 / math.sqrt(16) if scaled else 0.02
            assert parameter.std().item() == pytest.approx(expected, rel=0.1), name


def test_state_dict_names_are_frozen() -> None:
    layers = ("norm1", "attention.qkv", "attention.out", "norm2", "feed_forward.up", "feed_forward.down")
    assert set(make(n_layers=1).state_dict()) == {
        *("trunk.token_embedding.weight", "trunk.position_embedding.weight", "head.weight"),
        *("trunk.norm.weight", "trunk.norm.bias"),
        *(f"trunk.blocks.0.{layer}.{kind}" for layer in layers for kind in ("weight", "bias")),
    }
    assert "trunk.blocks.0.attention.qkv.bias" not in make(qkv_bias=False).state_dict()


def test_dropout_is_off_in_evaluation_and_on_in_training() -> None:
    model = make(dropout=0.5)
    tokens = torch.randint(VOCABULARY, (2, 16))
    assert not torch.equal(model(tokens), model(tokens))
    model.eval()
    assert torch.equal(model(tokens), model(tokens))


def test_more_tokens_than_the_context_are_refused() -> None:
    with pytest.raises(ValueError, match="17 tokens do not fit into context_length=16"):
        make()(torch.zeros(1, 17, dtype=torch.long))
