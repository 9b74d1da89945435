"""A model out of gptlab: a directory that transformers, and all that speaks its format, opens."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from gptlab.checkpoint.card import model_card
from gptlab.checkpoint.hugging_face import CHECKSUMS, CONFIG, TOKENIZER, TOKENIZER_CONFIG, WEIGHTS, checksum
from gptlab.checkpoint.loaded import Loaded
from gptlab.directories import absolute, made_whole
from gptlab.errors import UserError
from gptlab.model import gpt2

GENERATION_CONFIG, CARD, CURVES = "generation_config.json", "README.md", "curves.png"


def check_free(to: str) -> Path:
    """The directory to make. Raises UserError where something is there already."""
    directory = absolute(to)
    if directory.is_symlink() or directory.is_file() or (directory.is_dir() and any(directory.iterdir())):
        raise UserError(f"to={to} is there already: name a directory that is not")
    return directory


def export(loaded: Loaded, to: str, *, address: str) -> list[str]:
    """Write a model as a Hugging Face directory in GPT-2's layout.

    Everything is written beside the final name and synced; the name comes last. Memory: one copy of the weights that
    the layout transposes.

    Args:
        loaded: the model and what belongs to it.
        to: the directory to make.
        address: what a reader of the model card will load it by.

    Returns:
        What could not be handed on, in sentences for a person; empty where all was.

    Raises:
        UserError: where GPT-2's layout has no place for the model; where the directory exists or cannot be written.
    """
    directory = check_free(to)
    try:
        tensors = gpt2.write_weights(loaded.model)
    except ValueError as error:
        raise UserError(f"{loaded.name} cannot be exported: {error}") from None
    tokenizer, complaints = _tokenizer_files(loaded)
    eot = loaded.tokenizer.eot if loaded.tokenizer is not None else None
    with made_whole(directory, to, clear=Path.rmdir) as partial:  # only an empty one is cleared
        _save_weights(partial / WEIGHTS, tensors)
        _write_json(partial / CONFIG, gpt2.config(loaded.model, eot=eot))
        _write_json(partial / GENERATION_CONFIG, {"bos_token_id": eot, "eos_token_id": eot, "pad_token_id": eot})
        for name, text in tokenizer.items():
            (partial / name).write_text(text, encoding="utf-8")
        curves = loaded.path.parent.parent / CURVES
        if loaded.path.parent.name == "checkpoints" and os.access(curves, os.R_OK):
            shutil.copyfile(curves, partial / CURVES)
        shutil.copymode(partial / CONFIG, partial / WEIGHTS)  # safetensors makes files that only their owner reads
        card = model_card(
            loaded,
            title=directory.name,
            address=address,
            has_tokenizer=bool(tokenizer),
            has_curves=(partial / CURVES).is_file(),
        )
        (partial / CARD).write_text(card, encoding="utf-8", errors="replace")
    return complaints


def _tokenizer_files(loaded: Loaded) -> tuple[dict[str, str], list[str]]:
    """Contents of tokenizer files by name, and what to tell the user where there are none."""
    if loaded.tokenizer is None:
        return {}, [f"{loaded.name} has no tokenizer, so the export has none"]
    backend = loaded.tokenizer.to_tokenizers()
    if backend is None:
        kind = type(loaded.tokenizer).__name__
        return {}, [f"the vocabulary of this {kind} cannot be expressed as a tokenizer.json, so the export has none"]
    eot = loaded.tokenizer.eot
    end = backend.id_to_token(eot) if eot is not None else None
    unk = getattr(loaded.tokenizer, "unk", None)
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": loaded.model.context_length,
        "clean_up_tokenization_spaces": False,
        "split_special_tokens": True,  # text that spells a special token is text, as it is here
        **({"bos_token": end, "eos_token": end, "pad_token": end} if end is not None else {}),
        **({"unk_token": backend.id_to_token(unk)} if unk is not None else {}),
    }
    return {TOKENIZER: backend.to_str(), TOKENIZER_CONFIG: json.dumps(settings, indent=2) + "\n"}, []


def _save_weights(path: Path, tensors: dict[str, Tensor]) -> None:
    checksums = json.dumps({name: checksum(tensor) for name, tensor in tensors.items()})
    try:
        save_file(tensors, path, metadata={"format": "pt", CHECKSUMS: checksums})
    except SafetensorError as error:  # what a full disk is called there
        raise OSError(str(error)) from None
    _order_metadata(path)


def _order_metadata(path: Path) -> None:
    """Safetensors writes its metadata in an order of chance, and the same model shall be the same file."""
    with path.open("r+b") as file:
        n_bytes = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(n_bytes))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        file.seek(8)
        file.write(json.dumps(header, separators=(",", ":")).ljust(n_bytes).encode())


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
