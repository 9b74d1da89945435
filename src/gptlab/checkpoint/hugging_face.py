"""A Hugging Face directory in GPT-2's layout, to a model ready to use."""

import hashlib
import json
import re
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from gptlab import build
from gptlab.checkpoint.loaded import Loaded, filled
from gptlab.errors import UserError
from gptlab.model import gpt2
from gptlab.tokenizer import Tokenizer
from gptlab.tokenizer.byte_level import BYTE_ORDER, CHARACTER_OF, EOT, byte_level_bpe
from gptlab.tokenizer.gpt2 import GPT2Tokenizer, is_gpt2s, merge_lines
from gptlab.tokenizer.hugging_face import HuggingFaceTokenizer

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
CHECKSUMS = "crc32"
"""Where an export keeps {tensor: CRC-32} as JSON in a safetensors file's metadata: the format has no checksum."""
TOKENIZER, TOKENIZER_CONFIG = "tokenizer.json", "tokenizer_config.json"
VOCABULARY, MERGES, ADDED = "vocab.json", "merges.txt", "added_tokens.json"
OTHER_TOKENIZERS = ("spiece.model", "tokenizer.model", "sentencepiece.bpe.model", "vocab.txt")
"""Of kinds that are not read here; where one lies, GPT-2's is not meant."""

FILES = (
    *(CONFIG, WEIGHTS, INDEX, "model-*-of-*.safetensors"),
    *(TOKENIZER, TOKENIZER_CONFIG, VOCABULARY, MERGES, ADDED, *OTHER_TOKENIZERS),
)
"""All that is ever looked at, as patterns."""

LFS_POINTER = b"version https://git-lfs"
PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json", "tf_model.h5", "flax_model.msgpack")
GPT2_VOCABULARY_SIZE = 50257


def is_hugging_face(directory: Path) -> bool:
    """Whether a directory claims to be one of Hugging Face's."""
    return any((directory / name).exists() for name in (CONFIG, WEIGHTS, INDEX, *PICKLES))


def load_directory(directory: Path, name: str) -> Loaded:
    """The model of a directory with config.json, safetensors and perhaps a tokenizer.

    Args:
        directory: where it lies.
        name: what the user asked for.

    Raises:
        UserError: naming the file and what is wrong with it.
    """
    theirs = _read_json(directory / CONFIG, name)
    try:
        arguments = gpt2.sizes(theirs)
    except ValueError as error:
        raise UserError(f"{name} cannot be read: by its config.json, {error}") from None
    vocab_size = arguments.pop("vocab_size")
    config: build.Config = {"context_length": arguments["context_length"], "model": _model_node(arguments)}
    with _tensors(directory, name) as (names, read):
        if arguments["n_layers"] > len(names):  # a number from anywhere: it shall not keep this machine busy
            raise UserError(f"{name} cannot be read: it has {len(names)} tensors for {arguments['n_layers']} layers")
        try:
            model = build.meta_model(config, vocab_size)
        except UserError as error:
            raise UserError(f"{name} cannot be read: by its config.json, {error}") from None
        except (RuntimeError, TypeError, OverflowError):
            raise UserError(f"{name} cannot be read: by its config.json, its sizes are beyond any machine") from None
        try:
            weights = gpt2.read_weights(model, names, read)
        except ValueError as error:
            raise UserError(f"{name} cannot be read: {error}") from None
    tokenizer = _read_tokenizer(directory, theirs, vocab_size, name)
    if tokenizer is not None:
        config["tokenizer"] = {"_target_": f"{type(tokenizer).__module__}.{type(tokenizer).__qualname__}"}
    return Loaded(filled(model, weights).eval(), tokenizer, config, directory, name, training={})


def _model_node(arguments: dict[str, Any]) -> build.Config:
    """What conf/model would say of it."""
    return {
        "_target_": "gptlab.model.GPT",
        **arguments,
        "attention": {"_target_": "gptlab.model.attention.fused.FusedAttention", "_partial_": True},
        "init": {"_target_": "gptlab.model.init.gpt2", "_partial_": True},
    }


def _read_json(path: Path, name: str) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{name} has no {path.name}") from None
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no JSON"
        raise UserError(f"{name} cannot be read: {path.name} is damaged ({reason})") from None
    if not isinstance(content, dict):
        raise UserError(f"{name} cannot be read: {path.name} is no JSON object")
    return content


@contextmanager
def _tensors(directory: Path, name: str) -> Iterator[tuple[list[str], Any]]:
    """The names of all tensors, and a function that reads one of them; the files stay open meanwhile."""
    if (directory / INDEX).is_file() and not (directory / WEIGHTS).is_file():
        weight_map = _read_json(directory / INDEX, name).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise UserError(f"{name} cannot be read: {INDEX} has no weight_map")
        files = sorted({str(file) for file in weight_map.values()})
    else:
        files = [WEIGHTS]
    blobs = {file: (directory / file).resolve() for file in files}
    with ExitStack() as stack:
        file_of, checksums = {}, {}
        for file in files:
            opened = stack.enter_context(_open(directory, file, name))
            file_of.update(dict.fromkeys(opened.keys(), opened))
            checksums.update(_checksums(opened))

        def read(tensor: str) -> Tensor:
            found = file_of[tensor].get_tensor(tensor)
            if checksums.get(tensor) not in (None, checksum(found)):
                raise ValueError(f"the tensor {tensor} is damaged: it is not the one that was written")
            return found

        thread = stack.enter_context(ThreadPoolExecutor(1))  # 0.5 s for 0.5 GB, beside the reading, not after it
        digests = {blob: thread.submit(_sha256, blob) for blob in blobs.values() if _is_named_by_content(blob)}
        yield list(file_of), read
        for blob, digest in digests.items():
            if digest.result() != blob.name:
                raise UserError(f"{name} cannot be read: its file in the Hub's cache is damaged: delete {blob}")


def _checksums(file: Any) -> dict[str, int]:
    """What an export of ours has written of its tensors; nothing in the files of others."""
    try:
        return dict(json.loads((file.metadata() or {})[CHECKSUMS]))
    except (KeyError, TypeError, ValueError, RecursionError):
        return {}


def _is_named_by_content(path: Path) -> bool:
    """The Hub's cache calls a large file by its sha256, and links to it from where it is looked for."""
    return path.parent.name == "blobs" and re.fullmatch("[0-9a-f]{64}", path.name) is not None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def checksum(tensor: Tensor) -> int:
    """The CRC-32 of a tensor's bytes."""
    return zlib.crc32(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)


def _open(directory: Path, file: str, name: str) -> Any:
    """One safetensors file; never anything that is unpickled."""
    path = directory / file
    if path.parent != directory:  # an index can name any path
        raise UserError(f"{name} cannot be read: its index names {file}, which lies elsewhere")
    if not path.is_file():
        raise UserError(f"{name} {why_no_weights({found.name for found in directory.iterdir()}, file)}")
    try:
        with path.open("rb") as opened:
            start = opened.read(len(LFS_POINTER))
        return safe_open(path, framework="pt", device="cpu")
    except OSError as error:
        raise UserError(f"{name} cannot be read: {file}: {error.strerror or error}") from None
    except SafetensorError as error:
        what = f"truncated or damaged ({str(error).splitlines()[0]})"
        if start.startswith((b"PK", b"\x80\x02", b"\x80\x04")):
            what = "a pickle under another name"
        if start == LFS_POINTER:
            what = "only a pointer to the file: `git lfs pull` fetches it"
        raise UserError(f"{name} cannot be read: {file} is {what}") from None


def why_no_weights(files: set[str], wanted: str = WEIGHTS) -> str:
    """What to say of files among which the weights are not."""
    pickles = [pickle for pickle in PICKLES if pickle in files]
    if not pickles:
        return f"has no {wanted}"
    return (
        f"has {pickles[0]} and no {wanted}: a pickle can run any program, so only safetensors are read; whoever "
        f"trusts it can convert it with transformers' save_pretrained"
    )


def _read_tokenizer(directory: Path, theirs: dict[str, Any], vocab_size: int, name: str) -> Tokenizer | None:
    """The tokenizer of a directory: GPT-2's own where it is that one, any other through the `tokenizers` library.

    Without tokenizer files, GPT-2's where the vocabulary has its size, else None.
    """
    settings = _read_json(directory / TOKENIZER_CONFIG, name) if (directory / TOKENIZER_CONFIG).is_file() else {}
    another = any((directory / file).exists() for file in (VOCABULARY, MERGES, *OTHER_TOKENIZERS))
    another = another or not str(settings.get("tokenizer_class", "GPT2")).startswith("GPT2")
    try:
        if (directory / TOKENIZER).is_file():
            text = (directory / TOKENIZER).read_text(encoding="utf-8")
            tokenizer = _from_one_file(text, settings, theirs)
        elif (directory / VOCABULARY).is_file() and (directory / MERGES).is_file():
            tokenizer = _from_two_files(directory, settings, theirs, vocab_size, name)
        elif vocab_size == GPT2_VOCABULARY_SIZE and not another:
            tokenizer = GPT2Tokenizer()
        else:
            return None
    except (ValueError, OSError) as error:
        raise UserError(f"{name} cannot be read: its tokenizer: {' '.join(str(error).split())}") from None
    if tokenizer.vocab_size != vocab_size:
        raise UserError(
            f"{name} cannot be read: its tokenizer has {tokenizer.vocab_size:,} tokens, its model {vocab_size:,}"
        )
    return tokenizer


def _from_one_file(text: str, settings: dict[str, Any], theirs: dict[str, Any]) -> Tokenizer:
    merges = _gpt2s_merges(text)
    if merges is not None:
        return GPT2Tokenizer(merges="\n".join(merges))
    tokenizer = HuggingFaceTokenizer(json=text, eot=None)
    tokenizer.eot = _eot(tokenizer, settings, theirs)
    return tokenizer


def _gpt2s_merges(text: str) -> list[str] | None:
    """The merges of a tokenizer.json that is GPT-2's in every respect; None of any other."""
    try:
        content = json.loads(text)
        model, before = content["model"], content["pre_tokenizer"]
        merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
        added = [token["content"] for token in content["added_tokens"]]
        plain = before["type"] == "ByteLevel" and not before["add_prefix_space"] and content["normalizer"] is None
        is_it = plain and added == [EOT] and is_gpt2s(merges) and _in_gpt2s_order(model["vocab"], merges)
    except (KeyError, TypeError, ValueError, RecursionError):  # of another form: the library shall say what it is
        return None
    return merges if is_it else None


def _from_two_files(
    directory: Path, settings: dict[str, Any], theirs: dict[str, Any], vocab_size: int, name: str
) -> Tokenizer:
    vocabulary = _read_json(directory / VOCABULARY, name)
    added = _read_json(directory / ADDED, name) if (directory / ADDED).is_file() else {}
    merges = merge_lines((directory / MERGES).read_text(encoding="utf-8"))
    prefix_space = settings.get("add_prefix_space") is True
    if is_gpt2s(merges) and _in_gpt2s_order({**vocabulary, **added}, merges) and not prefix_space:
        return GPT2Tokenizer(merges="\n".join(merges))
    if EOT not in vocabulary and len(vocabulary) + len(added) < vocab_size:  # the model has room for it
        added = {EOT: len(vocabulary), **added}
    special = dict.fromkeys([*([EOT] if EOT in vocabulary else []), *sorted(added, key=added.__getitem__)])
    pairs = [(left, right) for left, _, right in (merge.partition(" ") for merge in merges)]
    try:
        text = byte_level_bpe(vocabulary, pairs, special=special, add_prefix_space=prefix_space).to_str()
    except Exception as error:  # the library raises nothing narrower
        raise ValueError(f"({VOCABULARY}, {MERGES}) does not fit together: {error}") from None
    tokenizer = HuggingFaceTokenizer(json=text, eot=None)
    if any(tokenizer.id_of(token) != id_ for token, id_ in added.items()):
        raise ValueError(f"{ADDED} does not go on where {VOCABULARY} ends")
    tokenizer.eot = _eot(tokenizer, settings, theirs)
    return tokenizer


def _in_gpt2s_order(vocabulary: dict[str, int], merges: list[str]) -> bool:
    """Bytes, merges, and at most `<|endoftext|>` behind them."""
    tokens = [*(CHARACTER_OF[byte] for byte in BYTE_ORDER), *(merge.replace(" ", "") for merge in merges), EOT]
    expected = {token: id_ for id_, token in enumerate(tokens)}
    return {**vocabulary, EOT: expected[EOT]} == expected


def _eot(tokenizer: HuggingFaceTokenizer, settings: dict[str, Any], theirs: dict[str, Any]) -> int | None:
    """The id of the end-of-text token: as tokenizer_config.json names it, `<|endoftext|>`, or as config.json does."""
    named = settings.get("eos_token")
    for token in (named.get("content") if isinstance(named, dict) else named, EOT):
        if isinstance(token, str) and (id_ := tokenizer.id_of(token)) is not None:
            return id_
    ids = theirs.get("eos_token_id")
    for id_ in ids if isinstance(ids, list) else [ids]:
        if isinstance(id_, int) and not isinstance(id_, bool) and 0 <= id_ < tokenizer.vocab_size:
            return id_
    return None
