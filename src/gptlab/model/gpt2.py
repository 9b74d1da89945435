"""GPT-2's published layout: this model's weights and sizes under the names that the rest of the world uses.

The names are those of transformers' GPT2LMHeadModel. OpenAI stored the four projections of a block as (in, out), so
they are transposed on the way; everything else is the same tensor under another name.
"""

import re
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gptlab.model.attention.fused import FusedAttention
from gptlab.model.attention.plain import PlainAttention
from gptlab.model.block import Block, FeedForward
from gptlab.model.gpt import GPT, Trunk


class Row(NamedTuple):
    """One line of the table: the same tensor's two names, and whether it is transposed between them."""

    theirs: str
    ours: str
    transposed: bool = False


OUTSIDE_THE_BLOCKS = (
    Row("wte.weight", "trunk.token_embedding.weight"),
    Row("wpe.weight", "trunk.position_embedding.weight"),
    Row("ln_f.weight", "trunk.norm.weight"),
    Row("ln_f.bias", "trunk.norm.bias"),
)
IN_EACH_BLOCK = (
    Row("ln_1.weight", "norm1.weight"),
    Row("ln_1.bias", "norm1.bias"),
    Row("attn.c_attn.weight", "attention.qkv.weight", transposed=True),  # queries, keys, values, in this order
    Row("attn.c_attn.bias", "attention.qkv.bias"),
    Row("attn.c_proj.weight", "attention.out.weight", transposed=True),
    Row("attn.c_proj.bias", "attention.out.bias"),
    Row("ln_2.weight", "norm2.weight"),
    Row("ln_2.bias", "norm2.bias"),
    Row("mlp.c_fc.weight", "feed_forward.up.weight", transposed=True),
    Row("mlp.c_fc.bias", "feed_forward.up.bias"),
    Row("mlp.c_proj.weight", "feed_forward.down.weight", transposed=True),
    Row("mlp.c_proj.bias", "feed_forward.down.bias"),
)
HEAD = Row("lm_head.weight", "head.weight")
PREFIX = "transformer."
"""In front of all names but the head's; OpenAI's own files have none."""

DERIVED = re.compile(r"h\.\d+\.attn\.(bias|masked_bias)")
"""Causal masks, which old files carry as if they were weights."""

QKV_BIAS = "attention.qkv.bias"
HOLDS = {
    *(GPT, Trunk, Block, FeedForward, PlainAttention, FusedAttention),
    *(nn.Embedding, nn.Linear, nn.LayerNorm, nn.Dropout, nn.GELU, nn.ModuleList),
}
"""What GPT-2's layout has a place for: another kind of attention may have the same names and mean something else."""

# What transformers' GPT2Config takes where config.json is silent.
SIZES = {"n_embd": 768, "n_layer": 12, "n_head": 12, "vocab_size": 50257, "n_positions": 1024}
DROPOUTS = ("embd_pdrop", "attn_pdrop", "resid_pdrop")
FIXED = {  # what GPT-2 is, and other values that mean the same
    "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
    "layer_norm_epsilon": (1e-5,),
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "add_cross_attention": (False,),
}


def table(n_layers: int, *, tie_head: bool) -> list[Row]:
    """Every tensor of a GPT-2 with so many layers, under both names."""
    rows = [Row(PREFIX + row.theirs, row.ours, row.transposed) for row in OUTSIDE_THE_BLOCKS]
    for layer in range(n_layers):
        rows += [
            Row(f"{PREFIX}h.{layer}.{row.theirs}", f"trunk.blocks.{layer}.{row.ours}", row.transposed)
            for row in IN_EACH_BLOCK
        ]
    return rows if tie_head else [*rows, HEAD]


def sizes(config: dict[str, Any]) -> dict[str, Any]:
    """The arguments of `GPT` that a config.json decides: sizes, dropout, biases and the head.

    Raises:
        ValueError: where it describes another architecture, or a GPT-2 whose arithmetic is not the published one.
    """
    classes = config.get("architectures")
    named_class = classes[0] if isinstance(classes, list) and classes else "unnamed"
    architecture = config.get("model_type") or named_class
    if not (architecture == "gpt2" or str(architecture).startswith("GPT2")):
        raise ValueError(f"its architecture is {architecture}, and only gpt2 can be read")
    for name, allowed in FIXED.items():
        if config.get(name, allowed[0]) not in allowed:
            raise ValueError(f"{name}={config[name]} is not GPT-2's arithmetic ({name}={allowed[0]})")
    found = {name: config.get(name, default) for name, default in SIZES.items()}
    for name, value in found.items():
        if not isinstance(value, int) or isinstance(value, bool):
            raise ValueError(f"{name}={value!r} must be a whole number")
    dropout = config.get("resid_pdrop", 0.1)
    if not isinstance(dropout, int | float) or isinstance(dropout, bool):
        raise ValueError(f"resid_pdrop={dropout!r} must be a number")
    if config.get("n_inner") not in (None, 4 * found["n_embd"]):
        raise ValueError(f"n_inner={config['n_inner']} must be 4 x n_embd = {4 * found['n_embd']}")
    return {
        "vocab_size": found["vocab_size"],
        "context_length": found["n_positions"],
        "n_layers": found["n_layer"],
        "n_heads": found["n_head"],
        "d_model": found["n_embd"],
        "dropout": dropout,
        "qkv_bias": config.get("qkv_bias", True) is not False,  # ours: transformers keeps it, and does not look at it
        "tie_head": config.get("tie_word_embeddings", True) is not False,
    }


def config(model: GPT, *, eot: int | None) -> dict[str, Any]:
    """The config.json of a model; `eot` is its end-of-text token."""
    first: Any = model.trunk.blocks[0]
    return {
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        "vocab_size": model.head.out_features,
        "n_positions": model.context_length,
        "n_embd": model.head.in_features,
        "n_layer": len(model.trunk.blocks),
        "n_head": first.attention.n_heads,
        "n_inner": None,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": first.norm1.eps,
        "initializer_range": 0.02,
        **dict.fromkeys(DROPOUTS, float(model.trunk.dropout.p)),
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "reorder_and_upcast_attn": False,
        "tie_word_embeddings": model.is_tied,
        "qkv_bias": first.attention.qkv.bias is not None,
        "bos_token_id": eot,
        "eos_token_id": eot,
        "dtype": "float32",
    }


def read_weights(model: GPT, names: Iterable[str], read: Callable[[str], Tensor]) -> dict[str, Tensor]:
    """Weights for a model, from tensors in GPT-2's layout, one at a time.

    Args:
        model: says which tensors of which shapes are wanted; may lie on the meta device.
        names: the tensors that there are, with or without `transformer.` in front.
        read: gives one of them, by its name as in `names`; it may be a view into a file.

    Returns:
        The model's state dict, without the head where that is tied: float32, contiguous, on the CPU.

    Raises:
        ValueError: naming the tensor that is missing, too many, of a wrong shape or no number.
    """
    tied, wanted = model.is_tied, dict(model.named_parameters())
    rows = table(len(model.trunk.blocks), tie_head=tied)
    as_written = _complete(rows, names)
    weights = {}
    for row in rows:
        tensor = read(as_written[row.theirs])
        if not tensor.is_floating_point():
            raise ValueError(f"the tensor {row.theirs} holds {tensor.dtype}, not floating-point numbers")
        if row.ours.endswith(QKV_BIAS) and row.ours not in wanted:
            if tensor.any():
                raise ValueError(f"the tensor {row.theirs} is not zero, but qkv_bias is false")
            continue
        shape = tuple(wanted[row.ours].shape)
        needed = shape[::-1] if row.transposed else shape
        if tuple(tensor.shape) != needed:
            raise ValueError(f"the tensor {row.theirs} has the shape {tuple(tensor.shape)}, not {needed}")
        weights[row.ours] = (tensor.t() if row.transposed else tensor).to(torch.float32).contiguous()
        if not weights[row.ours].sum().isfinite():
            raise ValueError(f"the tensor {row.theirs} holds nan or infinity")
    if tied and HEAD.theirs in as_written:  # some files hold the one tensor twice
        head = read(as_written[HEAD.theirs])
        if not torch.equal(head.to(torch.float32), weights["trunk.token_embedding.weight"]):
            raise ValueError(f"the tensor {HEAD.theirs} is not the token embedding: tie_word_embeddings must be false")
    return weights


def write_weights(model: GPT) -> dict[str, Tensor]:
    """The model's weights in GPT-2's layout; a projection without bias gets one of zeros, which adds nothing.

    Raises:
        ValueError: naming what GPT-2's layout has no place for.
    """
    for name, module in model.named_modules():
        if type(module) not in HOLDS:
            raise ValueError(f"GPT-2's layout has no place for {type(module).__name__} ({name or 'the model itself'})")
    weights = dict(model.named_parameters())
    tensors = {}
    for row in table(len(model.trunk.blocks), tie_head=model.is_tied):
        if row.ours.endswith(QKV_BIAS) and row.ours not in weights:
            tensor = torch.zeros(3 * model.head.in_features)
        elif row.ours in weights:
            tensor = weights.pop(row.ours).detach()
        else:
            raise ValueError(f"the model has no {row.ours}, which GPT-2's layout needs")
        tensors[row.theirs] = (tensor.t() if row.transposed else tensor).contiguous()
    if weights:
        raise ValueError(f"GPT-2's layout has no place for {min(weights)}")
    return tensors


def _full_name(name: str) -> str:
    return name if name == HEAD.theirs or name.startswith(PREFIX) else PREFIX + name


def _complete(rows: list[Row], names: Iterable[str]) -> dict[str, str]:
    """The name of each tensor in a file, by its full name. Raises ValueError where one is missing or too many."""
    as_written: dict[str, str] = {}
    for name in names:
        if DERIVED.fullmatch(name.removeprefix(PREFIX)):
            continue
        if _full_name(name) in as_written:
            raise ValueError(f"the tensor {name} is there twice, with and without {PREFIX} in front")
        as_written[_full_name(name)] = name
    missing = [row.theirs for row in rows if row.theirs not in as_written]
    if missing:
        raise ValueError(f"the tensor {missing[0]} is missing")
    extra = as_written.keys() - {row.theirs for row in rows} - {HEAD.theirs}
    if extra:
        raise ValueError(f"the tensor {as_written[min(extra)]} is none of a GPT-2 of this size")
    return as_written
