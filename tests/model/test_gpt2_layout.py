"""The table between GPT-2's names and ours: complete both ways, and refused where it is not."""

import pytest
from torch import nn

from gptlab.model import GPT, gpt2
from gptlab.model.attention.fused import FusedAttention
from tiny_gpt import tiny_gpt


def make(**changes: object) -> GPT:
    return tiny_gpt(**{"vocab_size": 31, "context_length": 12, "n_layers": 3, "d_model": 8, **changes})


def test_sizes_survive_the_config() -> None:
    model = make(tie_head=False, qkv_bias=False, dropout=0.25)
    found = gpt2.sizes(gpt2.config(model, eot=3))
    assert found == {
        **{"vocab_size": 31, "context_length": 12, "n_layers": 3, "n_heads": 2, "d_model": 8, "dropout": 0.25},
        **{"qkv_bias": False, "tie_head": False},
    }


def test_what_the_layout_cannot_hold_is_refused_by_name() -> None:
    class SlidingWindowAttention(FusedAttention):
        """The same names, another meaning."""

    with pytest.raises(ValueError, match=r"no place for SlidingWindowAttention \(trunk\.blocks\.0\.attention\)"):
        gpt2.write_weights(make(attention=SlidingWindowAttention))
    model = make()
    model.trunk.norm = nn.RMSNorm(8)  # type: ignore[assignment]
    with pytest.raises(ValueError, match=r"no place for RMSNorm \(trunk\.norm\)"):
        gpt2.write_weights(model)
