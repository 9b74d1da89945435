"""GPT-2's published layout: the names and shapes of transformers' GPT2LMHeadModel.

OpenAI stored the four projections of a block as (in, out), so they are transposed; every other tensor only has another
name.
"""

import re
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gptlab.model.attention.fused import FusedAttention
from gptlab.model.attention.plain import PlainAttention
from gptlab.model.block import Block
from gptlab.model.classifier import GPTClassifier
from gptlab.model.feed_forward.gelu import GELUFeedForward
from gptlab.model.feed_forward.gelu_scratch import GELUFeedForwardScratch
from gptlab.model.gpt import GPT, Trunk
from gptlab.model.norm.layernorm import LayerNorm
from gptlab.model.norm.layernorm_scratch import LayerNormScratch
from gptlab.model.positions.learned import LearnedPositions


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
SCORE = Row("score.weight", "head.weight")
"""A classifier's head."""
PREFIX = "transformer."
"""In front of all names but the heads'; OpenAI's own files have none."""

DERIVED = re.compile(r"h\.\d+\.attn\.(bias|masked_bias)")
"""Causal masks, which old files carry as if they were weights."""

HOLDS = {
    *(GPT, GPTClassifier, Trunk, Block, LearnedPositions, PlainAttention, FusedAttention),
    *(LayerNorm, LayerNormScratch, GELUFeedForward, GELUFeedForwardScratch),
    *(nn.Embedding, nn.Linear, nn.Dropout, nn.GELU, nn.ModuleList),
}
"""What GPT-2's layout has a place for: another kind of attention may have the same names and mean something else."""

SIZES = {
    "vocab_size": ("vocab_size", 50257),
    "context_length": ("n_positions", 1024),
    "n_layers": ("n_layer", 12),
    "n_heads": ("n_head", 12),
    "d_model": ("n_embd", 768),
}
"""The name of each size in config.json, and transformers' default for what config.json leaves out."""

FIXED = {  # what GPT-2 is, and other values that mean the same
    "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
    "layer_norm_epsilon": (1e-5,),
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "add_cross_attention": (False,),
}


def table(n_layers: int, *, tie_head: bool) -> list[Row]:
    """Every tensor of a GPT-2 with so many layers, under both names."""
    places: list[tuple[str, str, tuple[Row, ...]]] = [("", "", OUTSIDE_THE_BLOCKS)]
    places += [(f"h.{layer}.", f"trunk.blocks.{layer}.", IN_EACH_BLOCK) for layer in range(n_layers)]
    rows = [Row(PREFIX + a + row.theirs, b + row.ours, row.transposed) for a, b, several in places for row in several]
    return rows if tie_head else [*rows, HEAD]


def table_of(model: GPT) -> list[Row]:
    """Every tensor of this model."""
    rows = table(len(model.trunk.blocks), tie_head=model.is_tied)
    return [*rows[:-1], SCORE] if isinstance(model, GPTClassifier) else rows


def labels(config: dict[str, Any]) -> list[str] | None:
    """The labels in the config.json of a GPT2ForSequenceClassification; None for a language model."""
    if config.get("architectures") != ["GPT2ForSequenceClassification"]:
        return None
    names = config.get("id2label") or {str(number): f"LABEL_{number}" for number in range(2)}  # transformers' default
    return [str(names[number]) for number in sorted(names, key=int)]


def sizes(config: dict[str, Any]) -> dict[str, Any]:
    """The arguments of `GPT` that a config.json decides. ValueError if its arithmetic is not the published GPT-2's."""
    architecture = config.get("model_type") or (config.get("architectures") or ["unnamed"])[0]
    if not str(architecture).lower().startswith("gpt2"):
        raise ValueError(f"its architecture is {architecture}, and only gpt2 can be read")
    for name, allowed in FIXED.items():
        if config.get(name, allowed[0]) not in allowed:
            raise ValueError(f"{name}={config[name]} is not GPT-2's arithmetic ({name}={allowed[0]})")
    found = {ours: config.get(theirs, default) for ours, (theirs, default) in SIZES.items()}
    if config.get("n_inner") not in (None, 4 * found["d_model"]):
        raise ValueError(f"n_inner={config['n_inner']} must be 4 x n_embd = {4 * found['d_model']}")
    return {
        **found,
        "dropout": config.get("resid_pdrop", 0.1),
        "qkv_bias": config.get("qkv_bias", True) is not False,  # gptlab's own key: transformers ignores it
        "tie_head": config.get("tie_word_embeddings", True) is not False,
    }


def config(model: GPT, *, eot: int | None) -> dict[str, Any]:
    """The config.json of a model; `eot` is its end-of-text token."""
    kind: dict[str, Any] = {"architectures": ["GPT2LMHeadModel"]}
    if isinstance(model, GPTClassifier):
        numbers = {label: number for number, label in enumerate(model.labels)}
        names = {str(number): label for label, number in numbers.items()}
        kind = {"architectures": ["GPT2ForSequenceClassification"], "id2label": names, "label2id": numbers}
        kind["pad_token_id"] = eot  # transformers reads the last token that is none of these
    return {
        "model_type": "gpt2",
        **kind,
        **{theirs: model.sizes[ours] for ours, (theirs, _) in SIZES.items()},
        "activation_function": "gelu_new",
        "layer_norm_epsilon": model.trunk.norm.eps,
        **dict.fromkeys(("embd_pdrop", "attn_pdrop", "resid_pdrop"), float(model.trunk.dropout.p)),
        "tie_word_embeddings": model.is_tied,
        "qkv_bias": any(name.endswith("qkv.bias") for name, _ in model.named_parameters()),
        "bos_token_id": eot,
        "eos_token_id": eot,
        "dtype": "float32",
    }


def read_weights(model: GPT, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights for a model, from tensors in GPT-2's layout, with or without `transformer.` in front of their names.

    The model decides names and shapes; it may be on the meta device. Its state dict is float32 and contiguous, without
    a tied head. ValueError names the tensor that is missing, unknown, of a wrong shape or not finite.
    """
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    rows = table_of(model)
    as_written = {}  # the name in the file, by the full name
    for name in tensors:
        bare = name.removeprefix(PREFIX)
        if not DERIVED.fullmatch(bare):
            as_written[bare if bare in (HEAD.theirs, SCORE.theirs) else PREFIX + bare] = name
    unknown = as_written.keys() - {row.theirs for row in rows} - {HEAD.theirs}
    if unknown:
        raise ValueError(f"the tensor {as_written[min(unknown)]} is none of a GPT-2 of this size")
    weights = {}
    for row in rows:
        if row.theirs not in as_written:
            raise ValueError(f"the tensor {row.theirs} is missing")
        if row.ours not in shapes:
            continue  # the biases of a model without qkv_bias: zeros
        tensor = tensors[as_written[row.theirs]]
        needed = shapes[row.ours][::-1] if row.transposed else shapes[row.ours]
        if tuple(tensor.shape) != needed:
            raise ValueError(f"the tensor {row.theirs} has the shape {tuple(tensor.shape)}, not {needed}")
        weights[row.ours] = (tensor.t() if row.transposed else tensor).to(torch.float32).contiguous()
        if not weights[row.ours].sum().isfinite():
            raise ValueError(f"the tensor {row.theirs} holds nan or infinity")
    return weights


def misfit(model: nn.Module) -> str | None:
    """Names the first module that GPT-2's layout has no place for; None if the model can be written in it."""
    for name, module in model.named_modules():
        if type(module) not in HOLDS:
            return f"{type(module).__name__} ({name or 'the model itself'})"
    return None


def check_layout(model: nn.Module) -> None:
    """Raise ValueError if GPT-2's layout has no place for one of the model's modules."""
    if (module := misfit(model)) is not None:
        raise ValueError(f"GPT-2's layout has no place for {module}")
    if isinstance(model, GPTClassifier) and model.pool != "last":
        raise ValueError(f"pool={model.pool}: GPT2ForSequenceClassification reads the last token")


def write_weights(model: GPT) -> dict[str, Tensor]:
    """The model's weights in GPT-2's layout; ValueError names a module that the layout has no place for."""
    check_layout(model)
    weights = dict(model.named_parameters())
    tensors = {}
    for row in table_of(model):
        tensor = weights[row.ours].detach() if row.ours in weights else torch.zeros(3 * model.head.in_features)
        tensors[row.theirs] = (tensor.t() if row.transposed else tensor).contiguous()
    return tensors
