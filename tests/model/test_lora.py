"""LoRA around any model: what it leaves alone, what it trains, and that merging changes nothing."""

import math
from copy import deepcopy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from conftest import choices
from gptlab import build, compose
from gptlab.model import LanguageModel
from gptlab.model.lora import LoRA
from gptlab.objective.next_token import NextToken
from tiny_gpt import Bigram, decisive_gpt, tiny_gpt

TOKENS = torch.arange(12).view(2, 6)


def lora(**changes: object) -> LoRA:
    return LoRA(**{"rank": 4, "alpha": 8.0, "targets": ["blocks.*"], "dropout": 0.0, **changes})  # type: ignore[arg-type]


def train_far(model: LanguageModel) -> None:
    """As if an optimizer had changed all that it may: what has a gradient becomes random."""
    torch.manual_seed(3)
    NextToken()(model, (TOKENS, TOKENS.roll(1))).sum.backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == name.endswith(("lora_A", "lora_B"))
        if parameter.grad is not None:
            nn.init.normal_(parameter, std=0.2)


@pytest.mark.parametrize("words", ["model=modern", *(f"model/attention={name}" for name in choices("model/attention"))])
def test_step_0_is_the_base_bit_for_bit_and_merged_is_unmerged(words: str) -> None:
    sizes = ["model.d_model=16", "context_length=16"]
    torch.manual_seed(0)
    model = build.model(compose([words, *sizes]), 20).eval()
    names, base = model.state_dict().keys(), deepcopy(model)
    lora().apply(model)
    model.eval()
    assert torch.equal(model(TOKENS), base(TOKENS))
    train_far(model)
    trained = model(TOKENS)
    assert (trained - base(TOKENS)).abs().max() > 0.01
    assert all(torch.equal(model.state_dict()[name], weight) for name, weight in base.state_dict().items())
    lora().merge(model)
    assert model.state_dict().keys() == names
    torch.testing.assert_close(model(TOKENS), trained, rtol=0, atol=1e-5)
    assert [type(module) for module in model.modules()] == [type(module) for module in base.modules()]


def test_rank_16_on_all_projections_of_gpt2_small_has_2_359_296_parameters() -> None:
    model = build.meta_model(compose(["model=gpt2", "init_from=gpt2", "adapter=lora"]), 50257)
    lora(rank=16).apply(model)
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert sum(parameter.numel() for parameter in trainable) == 2_359_296
    assert len(trainable) == 12 * 4 * 2


def test_a_is_uniform_below_one_over_the_root_of_its_inputs_and_b_zero() -> None:
    model = tiny_gpt(d_model=64)
    lora(rank=32).apply(model)
    layer = model.trunk.blocks[0].feed_forward.down
    assert layer.lora_A.shape == (32, 256)
    assert layer.lora_B.shape == (64, 32)
    bound = 1 / math.sqrt(256)
    assert 0.98 * bound < layer.lora_A.abs().max() <= bound
    assert float(layer.lora_A.detach().std()) == pytest.approx(bound / math.sqrt(3), rel=0.05)
    assert not layer.lora_B.any()


@settings(max_examples=25, deadline=None)
@given(rank=st.integers(1, 16), alpha=st.floats(0.1, 64), qkv_bias=st.booleans(), seed=st.integers(0, 99))
def test_a_layer_equals_its_formula(rank: int, alpha: float, qkv_bias: bool, seed: int) -> None:
    model = tiny_gpt(qkv_bias=qkv_bias)
    lora(rank=rank, alpha=alpha, targets=["0.attention.qkv"]).apply(model)
    layer, x = model.trunk.blocks[0].attention.qkv, torch.randn(3, 16)
    nn.init.normal_(layer.lora_B)
    update = (alpha / rank) * layer.lora_B.double() @ layer.lora_A.double()
    bias = layer.bias.double() if qkv_bias else 0.0
    expected = x.double() @ (layer.weight.double() + update).T + bias
    torch.testing.assert_close(layer(x).double(), expected, rtol=1e-4, atol=1e-4)


def test_dropout_is_on_the_input_of_a_in_training_only() -> None:
    model = tiny_gpt()
    lora(dropout=0.5).apply(model)
    train_far(model)
    assert not torch.equal(model(TOKENS), model(TOKENS))
    model.eval()
    assert torch.equal(model(TOKENS), model(TOKENS))


def test_targets_are_ends_of_names_and_patterns() -> None:
    model = tiny_gpt(tie_head=False)
    both = [f"trunk.blocks.{layer}.attention" for layer in (0, 1)]
    for targets, expected in {
        ("qkv",): [f"{name}.qkv" for name in both],
        ("attention.out", "head"): [*(f"{name}.out" for name in both), "head"],
        ("trunk.blocks.1.attention.*",): [f"{both[1]}.qkv", f"{both[1]}.out"],
        ("1.*.up",): ["trunk.blocks.1.feed_forward.up"],
    }.items():
        assert list(lora(targets=list(targets)).places(model)) == expected
    assert len(lora(targets=["*"]).places(model)) == 9
    for target in ("kv", "blocks", "token_embedding", "norm1"):  # no layer's name ends so
        with pytest.raises(ValueError, match=rf"targets={target} matches no linear layer; there are head, trunk"):
            lora(targets=["qkv", target]).places(model)


def test_a_head_of_its_own_can_be_adapted_and_a_tied_one_cannot() -> None:
    model = decisive_gpt(vocab_size=20)
    lora(targets=["head"]).apply(model)
    train_far(model)
    trained, vectors = model(TOKENS), model.token_vectors.clone()
    lora().merge(model)
    torch.testing.assert_close(model(TOKENS), trained, rtol=1e-5, atol=1e-5)
    assert torch.equal(model.token_vectors, vectors)
    for targets in (["head"], ["*"], ["qkv", "hea?"]):
        with pytest.raises(ValueError, match="head shares its weight with trunk"):
            lora(targets=targets).apply(tiny_gpt())


def test_a_model_of_anyone_s_can_be_adapted() -> None:
    model = Bigram(vocab_size=20, context_length=8, d_model=8)
    lora(targets=["head"]).apply(model)
    train_far(model)
    copied = deepcopy(model).eval()
    assert torch.equal(copied(TOKENS), model.eval()(TOKENS))


def test_a_rank_above_the_smallest_side_is_refused() -> None:
    with pytest.raises(ValueError, match=r"rank=17 is more than trunk.blocks.0.attention.qkv \(48 x 16\) has"):
        lora(rank=17).apply(tiny_gpt())
    lora(rank=16).apply(tiny_gpt())
    for setting in (
        {"rank": 0},
        {"alpha": 0.0},
        {"alpha": math.inf},
        {"dropout": 1.0},
        {"dropout": -0.1},
        {"targets": []},
    ):
        with pytest.raises(ValueError, match=next(iter(setting))):
            lora(**setting)
