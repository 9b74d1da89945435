"""The table between GPT-2's names and ours: complete both ways, and refused where it is not."""

import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from conftest import choices, conf_node
from gptlab.model import GPT, gpt2
from gptlab.model.attention.fused import FusedAttention
from tiny_gpt import tiny_gpt


def make(**changes: object) -> GPT:
    return tiny_gpt(**{"vocab_size": 31, "context_length": 12, "n_layers": 3, "d_model": 8, **changes})


@pytest.mark.parametrize("tied", [True, False])
def test_the_table_names_every_tensor_of_both_sides_once(tied: bool) -> None:
    rows = gpt2.table(3, tie_head=tied)
    ours = [name for name, _ in make(tie_head=tied).named_parameters()]
    theirs = GPT2LMHeadModel(GPT2Config(n_layer=3, n_embd=8, n_head=2, vocab_size=31, tie_word_embeddings=tied))
    assert sorted(row.ours for row in rows) == sorted(ours)
    assert sorted(row.theirs for row in rows) == sorted(name for name, _ in theirs.named_parameters())


@pytest.mark.parametrize("changes", [{}, {"tie_head": False}, {"qkv_bias": False}])
def test_out_and_in_again_changes_no_bit(changes: dict) -> None:
    model = make(**changes)
    tensors = gpt2.write_weights(model)
    weights = gpt2.read_weights(model, tensors, tensors.__getitem__)
    assert weights.keys() == dict(model.named_parameters()).keys()
    assert all(torch.equal(weights[name], parameter) for name, parameter in model.named_parameters())


def test_sizes_survive_the_config() -> None:
    model = make(tie_head=False, qkv_bias=False, dropout=0.25)
    found = gpt2.sizes(gpt2.config(model, eot=3))
    assert found == {
        **{"vocab_size": 31, "context_length": 12, "n_layers": 3, "n_heads": 2, "d_model": 8, "dropout": 0.25},
        **{"qkv_bias": False, "tie_head": False},
    }


def test_a_config_that_is_silent_means_gpt2_small() -> None:
    assert gpt2.sizes({"model_type": "gpt2"}) == {
        **{"vocab_size": 50257, "context_length": 1024, "n_layers": 12, "n_heads": 12, "d_model": 768, "dropout": 0.1},
        **{"qkv_bias": True, "tie_head": True},
    }


@pytest.mark.parametrize("name", choices("model/attention"))
def test_every_attention_is_either_written_or_refused_by_name(name: str) -> None:
    from hydra.utils import get_class

    cls = get_class(conf_node("model/attention", name)["_target_"])
    model = make(attention=cls)
    if cls in gpt2.HOLDS:
        assert gpt2.write_weights(model)
    else:
        with pytest.raises(ValueError, match=cls.__name__):
            gpt2.write_weights(model)


def test_what_the_layout_cannot_hold_is_refused_by_name() -> None:
    class SlidingWindowAttention(FusedAttention):
        """The same names, another meaning."""

    with pytest.raises(ValueError, match=r"no place for SlidingWindowAttention \(trunk\.blocks\.0\.attention\)"):
        gpt2.write_weights(make(attention=SlidingWindowAttention))
    model = make()
    model.trunk.norm = nn.RMSNorm(8)  # type: ignore[assignment]
    with pytest.raises(ValueError, match=r"no place for RMSNorm \(trunk\.norm\)"):
        gpt2.write_weights(model)
