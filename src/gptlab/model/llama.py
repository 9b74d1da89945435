"""The names of a decoder's weights in Llama's published layout (Touvron et al. 2023, arXiv:2302.13971), and ours.

`model=modern` has this arithmetic; with `model/attention=qk_norm` it is Qwen3's.
"""

import functools

from torch import Tensor

NAMES = {
    "head.": "lm_head.",
    "trunk.token_embedding.": "model.embed_tokens.",
    "trunk.norm.": "model.norm.",
    "trunk.blocks.": "model.layers.",
    "norm1.": "input_layernorm.",
    "norm2.": "post_attention_layernorm.",
    "attention.query.": "self_attn.q_proj.",
    "attention.key.": "self_attn.k_proj.",
    "attention.value.": "self_attn.v_proj.",
    "attention.query_norm.": "self_attn.q_norm.",
    "attention.key_norm.": "self_attn.k_norm.",
    "attention.out.": "self_attn.o_proj.",
    "feed_forward.gate.": "mlp.gate_proj.",
    "feed_forward.up.": "mlp.up_proj.",
    "feed_forward.down.": "mlp.down_proj.",
}
"""Parts of our names, and what stands in their place."""


def to_llama(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights of such a decoder by Llama's names."""
    return {
        functools.reduce(lambda name, pair: name.replace(*pair), NAMES.items(), name): state[name] for name in state
    }
