"""A Hugging Face directory in GPT-2's layout, to a model ready to use."""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from gptlab import build
from gptlab.checkpoint.compatibility import upgraded
from gptlab.checkpoint.loaded import Loaded, restored
from gptlab.errors import UserError
from gptlab.model import GPT, gpt2
from gptlab.tokenizer import Tokenizer
from gptlab.tokenizer.byte_level import EOT
from gptlab.tokenizer.gpt2 import GPT2Tokenizer, is_gpt2s, merge_lines
from gptlab.tokenizer.hugging_face import HuggingFaceTokenizer

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
TOKENIZER, TOKENIZER_CONFIG, MERGES = "tokenizer.json", "tokenizer_config.json", "merges.txt"
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
FILES = (
    *(CONFIG, WEIGHTS, INDEX, "model-*-of-*.safetensors", ADAPTER_CONFIG, ADAPTER_WEIGHTS),
    *(TOKENIZER, TOKENIZER_CONFIG, MERGES),
)
"""Patterns of all files that are read."""
GPT2_VOCABULARY_SIZE = 50257
TEMPLATE_INPUT = "chat_template_input"
"""Our own entry in tokenizer_config.json: what stands between an instruction and its input."""


def load_directory(directory: Path, name: str) -> Loaded:
    """The model of a directory with config.json, safetensors and perhaps a tokenizer; `name` is what the user wrote.

    Raises UserError, naming the file and what is wrong with it.
    """
    try:
        theirs = read_json(directory / CONFIG)
        sizes = gpt2.sizes(theirs)
        vocab_size = sizes.pop("vocab_size")
        model_node = {
            "_target_": "gptlab.model.GPT",
            **sizes,
            "attention": {"_target_": "gptlab.model.attention.fused.FusedAttention", "_partial_": True},
            "init": {"_target_": "gptlab.model.init.gpt2", "_partial_": True},
        }
        config = upgraded({"context_length": sizes["context_length"], "model": model_node})
        if (labels := gpt2.labels(theirs)) is not None:
            kind = {"_target_": "gptlab.model.classifier.GPTClassifier", "pool": "last", "labels": labels}
            config["model"] |= kind
        tensors = _read_tensors(directory)
        meta = build.meta_model(config, vocab_size)
        assert isinstance(meta, GPT)
        weights = gpt2.read_weights(meta, tensors)
        model = restored(config, vocab_size, weights)
        settings = read_json(directory / TOKENIZER_CONFIG) if (directory / TOKENIZER_CONFIG).is_file() else {}
        tokenizer = _read_tokenizer(directory, theirs, settings, vocab_size)
        if isinstance(settings.get("chat_template"), str):
            form = {"chat_template": settings["chat_template"], "input": settings.get(TEMPLATE_INPUT, "\n")}
            config["data"] = {"template": {"_target_": "gptlab.data.template.Template", **form}}
        template = build.construct(config.get("data", {}).get("template"), key="data.template")
    except (ValueError, RuntimeError, OSError, UserError) as error:
        raise UserError(f"{name} cannot be read: {' '.join(str(error).split())}") from None
    if tokenizer is not None:
        config["tokenizer"] = {"_target_": f"{type(tokenizer).__module__}.{type(tokenizer).__qualname__}"}
    return Loaded(model, tokenizer, config, directory, name, training={}, template=template)


def read_json(path: Path) -> dict[str, Any]:
    """The object in a file. Raises ValueError if there is none, OSError if it cannot be read."""
    try:
        content = json.loads(path.read_bytes())
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise ValueError(f"{path.name} is no JSON object")
    return content


def _read_tensors(directory: Path) -> dict[str, Tensor]:
    """All tensors, mapped from their files. Nothing but safetensors is read: a pickle can run any program."""
    files = {WEIGHTS}
    if (directory / INDEX).is_file() and not (directory / WEIGHTS).is_file():
        files = set(read_json(directory / INDEX).get("weight_map", {}).values())
    tensors: dict[str, Tensor] = {}
    for file in sorted(files):
        try:
            tensors.update(load_file(directory / file))
        except FileNotFoundError:
            raise ValueError(f"it has no {file}, and only safetensors are read") from None
        except (OSError, SafetensorError) as error:
            raise ValueError(f"{directory / file} is not a whole safetensors file ({error})") from None
    return tensors


def _read_tokenizer(
    directory: Path, theirs: dict[str, Any], settings: dict[str, Any], vocab_size: int
) -> Tokenizer | None:
    """GPT-2's own class if it is that one, or if there is no file and the vocabulary has its size; None if unknown."""
    if (directory / TOKENIZER).is_file():
        tokenizer = _from_json((directory / TOKENIZER).read_text(encoding="utf-8"), settings, theirs)
        if tokenizer.vocab_size != vocab_size:
            raise ValueError(f"its tokenizer has {tokenizer.vocab_size:,} tokens, its model {vocab_size:,}")
        return tokenizer
    if vocab_size != GPT2_VOCABULARY_SIZE or not str(settings.get("tokenizer_class", "GPT2")).startswith("GPT2"):
        return None
    if (directory / MERGES).is_file():
        merges = (directory / MERGES).read_text(encoding="utf-8")
        return GPT2Tokenizer(merges=merges) if is_gpt2s(merge_lines(merges)) else None
    return GPT2Tokenizer()


def _from_json(text: str, settings: dict[str, Any], theirs: dict[str, Any]) -> Tokenizer:
    """The tokenizer that a tokenizer.json describes."""
    if (merges := _gpt2s_merges(text)) is not None:
        return GPT2Tokenizer(merges="\n".join(merges))
    tokenizer = HuggingFaceTokenizer(json=text, eot=None)
    named = settings.get("eos_token")
    spelt = (named.get("content") if isinstance(named, dict) else named, EOT)
    ids = [*(tokenizer.id_of(token) for token in spelt if isinstance(token, str)), theirs.get("eos_token_id")]
    tokenizer.eot = next((id_ for id_ in ids if isinstance(id_, int) and id_ < tokenizer.vocab_size), None)
    return tokenizer


def _gpt2s_merges(text: str) -> list[str] | None:
    """The merges of a tokenizer.json that is GPT-2's; None of any other."""
    try:
        content = json.loads(text)
        model, before = content["model"], content["pre_tokenizer"]
        merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
        tokens = {*model["vocab"], *(token["content"] for token in content["added_tokens"])}
        plain = before["type"] == "ByteLevel" and not before["add_prefix_space"] and content["normalizer"] is None
    except (KeyError, TypeError, ValueError):  # of another form: the library says what it is
        return None
    return merges if plain and EOT in tokens and len(tokens) == GPT2_VOCABULARY_SIZE and is_gpt2s(merges) else None
