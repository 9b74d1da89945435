"""Files of tokens that other programs have written: llm.c's and modded-nanoGPT's shards, nanoGPT's, datatrove's.

| format | what is in a file | end-of-text token |
|---|---|---|
| llm.c, modded-nanoGPT | 256 int32 (magic, version, number of tokens), uint16 or uint32 | before each document |
| nanoGPT | uint16, without a header: train.bin, val.bin | after each document |
| datatrove | *.ds: uint16 or uint32, without a header; *.ds.index: the end of each document | after each document |
"""

import io
from dataclasses import dataclass
from pathlib import Path
from pickle import Unpickler, UnpicklingError
from typing import Any, Literal

import numpy as np

from gptlab.data.corpus import TokenFile
from gptlab.errors import UserError

HEADER = 256  # int32
LLM_C = {20240520: (1, "<u2"), 20240801: (7, "<u4")}  # magic: version, type of a token; the second is of Llama 3
NANOGPT = ("train.bin", "val.bin")


@dataclass(frozen=True)
class Shard:
    """One file of tokens, in a known format.

    Attributes:
        kind: the format.
        dtype, offset, n_tokens: type of a token, bytes before the first one, number of tokens.
        end_token: whether the end-of-text token stands before each document or after it.
    """

    path: Path
    kind: Literal["llm.c", "nanoGPT", "datatrove"]
    dtype: str
    offset: int
    n_tokens: int
    end_token: Literal["leads", "trails"]

    @property
    def is_validation(self) -> bool:
        """Whether its name says so."""
        return self.path.name == "val.bin" if self.kind == "nanoGPT" else "_val_" in self.path.name

    def tokens(self) -> TokenFile:
        """(n_tokens,), memory-mapped."""
        return TokenFile(self.path, self.dtype, self.offset, self.n_tokens)


def open_shard(path: Path) -> Shard:
    """What a file's name and header say. Raises UserError if it is no file of tokens, or not whole."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(HEADER * 4)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    header = np.frombuffer(start[: len(start) // 4 * 4], "<i4")
    if len(header) == HEADER and int(header[0]) in LLM_C:
        version, dtype = LLM_C[int(header[0])]
        if header[1] != version:
            raise UserError(f"{path} is a shard of version {header[1]}: version {version} can be read")
        _check_size(path, size - HEADER * 4, int(header[2]), dtype)
        return Shard(path, "llm.c", dtype, HEADER * 4, int(header[2]), "leads")
    if path.name in NANOGPT:
        _check_size(path, size, size // 2, "<u2")
        return Shard(path, "nanoGPT", "<u2", 0, size // 2, "trails")
    index = path.with_name(f"{path.name}.index")
    if path.suffix == ".ds" and index.is_file() and index.stat().st_size >= 8:
        n_tokens = int(np.fromfile(index, "<u8", offset=index.stat().st_size // 8 * 8 - 8)[0])
        dtype = "<u4" if size == 4 * n_tokens else "<u2"
        _check_size(path, size, n_tokens, dtype)
        return Shard(path, "datatrove", dtype, 0, n_tokens, "trails")
    magic = f"its magic number is {header[0]}" if len(header) else "it is empty"
    raise UserError(
        f"{path} is no file of tokens ({magic}): shards of llm.c begin with {' or '.join(map(str, LLM_C))}, nanoGPT's "
        f"are called {' and '.join(NANOGPT)}, datatrove's *.ds have a *.ds.index"
    )


def llm_c_header(n_tokens: int, dtype: np.dtype) -> bytes:
    """What precedes so many tokens in a shard of llm.c."""
    header = np.zeros(HEADER, "<i4")
    header[:3] = next((magic, version, n_tokens) for magic, (version, known) in LLM_C.items() if known == dtype)
    return header.tobytes()


def _check_size(path: Path, n_bytes: int, n_tokens: int, dtype: str) -> None:
    """Raises UserError if a file does not have the bytes of its tokens, or no token."""
    expected = n_tokens * np.dtype(dtype).itemsize
    if n_bytes != expected or n_tokens == 0:
        raise UserError(f"{path} is not whole: {n_tokens:,} tokens are {expected:,} bytes, it has {n_bytes:,}")


class _PlainData(Unpickler):
    """Builds dicts, lists, text and numbers only."""

    def find_class(self, module: str, name: str) -> Any:
        raise UnpicklingError(f"it names {module}.{name}")


def nanogpt_characters(directory: Path) -> str | None:
    """The vocabulary of nanoGPT's character data, in the order of the ids; None if it has no meta.pkl.

    Raises UserError if meta.pkl holds anything but a vocabulary of characters.
    """
    path = directory / "meta.pkl"
    if not path.is_file():
        return None
    try:
        meta = _PlainData(io.BytesIO(path.read_bytes())).load()
        characters = [meta["itos"][id_] for id_ in range(meta["vocab_size"])]
        if not all(isinstance(character, str) and len(character) == 1 for character in characters):
            raise ValueError("an entry is not one character")
    except Exception as error:  # a pickle may fail in any way
        raise UserError(f"{path} is no vocabulary of characters ({error})") from None
    return "".join(characters)
