"""The attention ladder and the parts: known answers, and equality with what each is built like."""

import math
from typing import Any

import pytest
import torch
from hydra.utils import get_class
from torch import nn

from conftest import choices, conf_node
from gptlab.model.attention.causal import CausalAttention
from gptlab.model.attention.fused import FusedAttention
from gptlab.model.attention.grouped import GroupedAttention
from gptlab.model.attention.linear import LinearAttention
from gptlab.model.attention.manual import ManualAttention
from gptlab.model.attention.no_weights import NoWeightsAttention
from gptlab.model.attention.plain import PlainAttention
from gptlab.model.attention.stacked import StackedAttention, to_plain
from gptlab.model.base import LanguageModel
from gptlab.model.cache import KVCache
from gptlab.model.feed_forward.gelu_scratch import gelu_exact, gelu_tanh
from gptlab.model.llama import to_llama
from gptlab.model.norm.layernorm_scratch import LayerNormScratch
from gptlab.model.norm.rmsnorm import RMSNorm
from gptlab.model.positions.rope import RotaryPositions
from gptlab.model.scratch import dropout, embed, softmax
from tiny_gpt import tiny_gpt

SIZES: dict[str, Any] = {"d_model": 24, "context_length": 12, "dropout": 0.0, "qkv_bias": True}
X = torch.randn(2, 9, 24, generator=torch.Generator().manual_seed(0))


def test_the_textbooks_six_tokens() -> None:
    """Build a Large Language Model (From Scratch), section 3.3.1, second token."""
    tokens = torch.tensor(
        [
            *([0.43, 0.15, 0.89], [0.55, 0.87, 0.66], [0.57, 0.85, 0.64]),
            *([0.22, 0.58, 0.33], [0.77, 0.25, 0.10], [0.05, 0.80, 0.55]),
        ]
    )[None]
    attention = NoWeightsAttention(d_model=3, n_heads=1, context_length=6, dropout=0.0, qkv_bias=False)
    weights = torch.tensor([0.1385, 0.2379, 0.2333, 0.1240, 0.1082, 0.1581])
    torch.testing.assert_close(attention.weights(tokens, tokens, None)[0, 1], weights, atol=5e-5, rtol=0)
    torch.testing.assert_close(attention(tokens)[0, 1], torch.tensor([0.4419, 0.6515, 0.5683]), atol=5e-5, rtol=0)


def test_bare_matrices_are_linear_layers_transposed() -> None:
    linear = LinearAttention(**{**SIZES, "qkv_bias": False}, n_heads=1)
    manual = ManualAttention(**SIZES, n_heads=1)
    with torch.no_grad():
        for name, matrix in manual.named_parameters():
            matrix.copy_(linear.get_submodule(name).weight.T)  # type: ignore[union-attr]
    torch.testing.assert_close(manual(X), linear(X))


def test_stacked_heads_are_the_plain_variant_with_an_identity_behind() -> None:
    stacked, plain = StackedAttention(**SIZES, n_heads=3), PlainAttention(**SIZES, n_heads=3)
    plain.load_state_dict(to_plain(stacked.state_dict()))
    torch.testing.assert_close(stacked(X), plain(X))
    single = CausalAttention(**SIZES, n_heads=1)
    one = StackedAttention(**SIZES, n_heads=1)
    one.heads[0].load_state_dict(single.head.state_dict())
    torch.testing.assert_close(one(X), single(X))


def test_a_key_head_for_each_query_head_is_the_fused_variant() -> None:
    fused, grouped = FusedAttention(**SIZES, n_heads=4), GroupedAttention(**SIZES, n_heads=4, n_kv_heads=4)
    state = fused.state_dict()
    for kind in ("weight", "bias"):
        parts = state.pop(f"qkv.{kind}").chunk(3)
        state |= {f"{name}.{kind}": part for name, part in zip(("query", "key", "value"), parts, strict=True)}
    grouped.load_state_dict(state)
    torch.testing.assert_close(grouped(X), fused(X))


def test_multi_head_attention_of_the_textbook_has_its_number_of_parameters() -> None:
    """Exercise 3.3."""
    attention = PlainAttention(d_model=768, n_heads=12, context_length=1024, dropout=0.0, qkv_bias=False)
    assert sum(parameter.numel() for parameter in attention.parameters()) == 2_360_064


def test_a_cache_asked_of_an_attention_without_one_is_refused() -> None:
    with pytest.raises(ValueError, match="StackedAttention has no cache"):
        StackedAttention(**SIZES, n_heads=3)(X, cache=KVCache(n_layers=1, capacity=9).layers[0])


@pytest.mark.parametrize("name", choices("model/attention"))
def test_every_attention_shows_its_weights(name: str) -> None:
    node = conf_node("model/attention", name)
    attention = get_class(node.pop("_target_"))
    node.pop("_partial_")
    is_single = name in ("no_weights", "manual", "linear", "causal")
    model = tiny_gpt(attention=lambda **sizes: attention(**sizes, **node), n_heads=1 if is_single else 2).eval()
    maps = model.capture(torch.randint(20, (1, 7))).attention
    assert maps is not None
    assert maps.shape == (2, 1 if is_single else 2, 7, 7)
    torch.testing.assert_close(maps.sum(dim=-1), torch.ones(maps.shape[:-1]))
    assert (maps.triu(1).abs().sum() == 0) == model.causal


class Function(nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        self.forward = function


def same_forward_and_backward(ours: nn.Module, reference: nn.Module) -> None:
    mine, theirs = X.clone().requires_grad_(), X.clone().requires_grad_()
    torch.testing.assert_close(ours(mine), reference(theirs))
    ours(mine).square().sum().backward()
    reference(theirs).square().sum().backward()
    torch.testing.assert_close(mine.grad, theirs.grad, atol=1e-4, rtol=1e-4)


def test_parts_from_scratch_are_torchs() -> None:
    ours, reference = LayerNormScratch(d_model=24), nn.LayerNorm(24)
    reference.load_state_dict({name: torch.randn(24) for name in ours.state_dict()})
    ours.load_state_dict(reference.state_dict())
    same_forward_and_backward(ours, reference)
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, reference.get_parameter(name).grad, atol=1e-4, rtol=1e-4)

    same_forward_and_backward(Function(gelu_tanh), nn.GELU(approximate="tanh"))
    same_forward_and_backward(Function(gelu_exact), nn.GELU())
    expected = X / (X.square().mean(dim=-1, keepdim=True) + 1e-6).sqrt()
    torch.testing.assert_close(RMSNorm(d_model=24)(X), expected)


def test_softmax_embedding_and_dropout_from_scratch() -> None:
    same_forward_and_backward(Function(softmax), nn.Softmax(dim=-1))
    table = nn.Embedding(7, 4)
    tokens = torch.randint(7, (2, 5))
    torch.testing.assert_close(embed(tokens, table.weight), table(tokens))
    gradients = [
        torch.autograd.grad(out.square().sum(), table.weight)[0] for out in (embed(tokens, table.weight), table(tokens))
    ]
    torch.testing.assert_close(*gradients)
    dropped = dropout(torch.ones(200_000), 0.25)
    assert dropped.unique().tolist() == pytest.approx([0.0, 4 / 3])
    assert dropped.mean() == pytest.approx(1.0, abs=0.01)


def test_rotary_scores_depend_on_the_distance_alone() -> None:
    rope = RotaryPositions(d_model=8, context_length=4, base=10000.0)
    query, key = torch.randn(1, 1, 1, 8), torch.randn(1, 1, 1, 8)

    def score(at: int, other: int) -> float:
        return float((rope.rotate(query, torch.tensor([at])) * rope.rotate(key, torch.tensor([other]))).sum())

    assert score(5, 2) == pytest.approx(score(103, 100), abs=1e-4)
    assert score(5, 2) != pytest.approx(score(5, 3), abs=1e-4)
    assert math.isclose(rope.rotate(query, torch.tensor([7])).norm(), query.norm(), rel_tol=1e-5)


def test_rotary_angles_are_exact_in_half_precision() -> None:
    rope, x, positions = RotaryPositions(d_model=8, context_length=4, base=10000.0), torch.ones(1, 1, 2, 8), [600, 601]
    expected = rope.rotate(x, torch.tensor(positions))
    torch.set_default_dtype(torch.bfloat16)  # as Lightning does for bf16-true
    try:
        torch.testing.assert_close(rope.rotate(x, torch.tensor(positions)), expected)
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("name", choices("model/positions"))
def test_every_kind_of_positions_works_in_bf16(name: str) -> None:
    node = conf_node("model/positions", name)
    positions = get_class(node.pop("_target_"))
    node.pop("_partial_")
    model = tiny_gpt(positions=lambda **sizes: positions(**sizes, **node)).eval()
    tokens = torch.randint(20, (1, 7))
    exact = model(tokens)
    torch.testing.assert_close(model.bfloat16()(tokens).float(), exact, atol=0.05, rtol=0.05)


MODERN = {"attention": "grouped", "norm": "rmsnorm", "feed_forward": "swiglu", "positions": "rope"}


def modern(attention: str) -> LanguageModel:
    parts = {}
    for group, name in {**MODERN, "attention": attention}.items():
        node = conf_node(f"model/{group}", name)
        target, _ = get_class(node.pop("_target_")), node.pop("_partial_")
        parts[group] = lambda target=target, node=node, **sizes: target(**sizes, **node)
    return tiny_gpt(context_length=600, d_model=32, n_heads=4, qkv_bias=False, tie_head=False, **parts)


@pytest.mark.parametrize("attention", ["grouped", "qk_norm"])
def test_a_modern_decoder_is_the_one_of_transformers(attention: str) -> None:
    """Llama; with normalised queries and keys, Qwen3."""
    import transformers

    model = modern(attention).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    config_of, model_of = {
        "grouped": (transformers.LlamaConfig, transformers.LlamaForCausalLM),
        "qk_norm": (transformers.Qwen3Config, transformers.Qwen3ForCausalLM),
    }[attention]
    hidden = model.trunk.blocks[0].feed_forward.up.out_features  # type: ignore[union-attr, index]
    sizes = {"hidden_size": 32, "intermediate_size": hidden, "num_hidden_layers": 2, "head_dim": 8}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    reference = model_of(config_of(vocab_size=20, **sizes, **heads, rms_norm_eps=1e-6, tie_word_embeddings=False))
    reference.load_state_dict(to_llama(model.state_dict()))
    tokens = torch.randint(20, (2, model.context_length))
    torch.testing.assert_close(model(tokens), reference.eval()(tokens).logits, atol=1e-5, rtol=1e-5)
