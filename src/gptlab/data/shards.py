"""Token shards: a corpus of any size that another program has turned into tokens."""

import glob
import hashlib
import json
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from gptlab.data.base import Examples, PreparedData, Progress, TokenizerFactory, published
from gptlab.data.corpus import TokenFile, cache_directory, cache_key, recorded
from gptlab.data.shard_formats import Shard, nanogpt_characters, open_shard
from gptlab.data.text_windows import file_stamps, first_words
from gptlab.data.windowed import Windowed
from gptlab.errors import UserError
from gptlab.objective import Batch
from gptlab.objective.base import IGNORED
from gptlab.tokenizer import Tokenizer
from gptlab.tokenizer.char import CharTokenizer

log = logging.getLogger("gptlab")

SUFFIXES = (".bin", ".ds")
BLOCK = 1 << 22  # tokens that are read at once
MOST_MAPPED = 128  # windows: the system maps some hundred KiB around each
LINE_SECONDS = 10  # between two lines of progress


@dataclass(frozen=True)
class Content:
    """What the tokens of a shard are, known after all of them have been read.

    Attributes:
        checksum: SHA-256 of the tokens' bytes.
        highest: the largest token.
    """

    checksum: str
    highest: int


class Shards(Windowed):
    """Files of tokens: llm.c's, modded-nanoGPT's, nanoGPT's or datatrove's, all of one kind.

    A window lies within one shard. Shards whose names say so (`*_val_*.bin`, `val.bin`) are the validation set. Shards
    are memory-mapped; the first start reads each of them once, and later ones find the result by path, size and time.

    Args:
        path: a file, a glob pattern, or a directory.
        val_path: the validation shards, if not by name; such as `path`.
        windows: as in `Windowed`; cache_dir is where the result of the first start is kept.
    """

    def __init__(self, *, path: str, val_path: str | None, **windows: Any) -> None:
        super().__init__(**windows)
        self.name = path
        self.cache = cache_directory(self.cache_dir)
        shards = [open_shard(file) for file in _find(path, key="data.path")]
        if val_path is not None:
            self.val = [open_shard(file) for file in _find(val_path, key="data.val_path")]
            chosen = {shard.path.absolute() for shard in self.val}
            self.train = [shard for shard in shards if shard.path.absolute() not in chosen]
        else:
            self.val = [shard for shard in shards if shard.is_validation]
            self.train = [shard for shard in shards if not shard.is_validation]
        for role, found in {"training": self.train, "validation": self.val}.items():
            if not found:
                advice = (
                    "name data.val_path=<file or pattern>" if val_path is None else "data.val_path takes all of them"
                )
                raise UserError(f"data.path={path}: none of its files is for {role}; {advice}")
        self.end_token = self.train[0].end_token
        kinds = {(shard.kind, shard.dtype): shard.path for shard in (*self.train, *self.val)}
        if len(kinds) > 1:
            one, other = list(kinds.items())[:2]
            raise UserError(f"{one[1]} and {other[1]} are of different kinds: {' '.join(one[0])}, {' '.join(other[0])}")

    def prepare(
        self, tokenizer: Tokenizer | TokenizerFactory, *, context_length: int, progress: Progress
    ) -> PreparedData:
        """Raises UserError also if a token is not in the vocabulary, or all shards are too short for a window."""
        tokenizer = self._tokenizer(tokenizer)
        train_shards = _long_enough(self.train, context_length + 1)
        val_shards = _long_enough(self.val, 2)  # a short one is a short window
        shards = [*train_shards, *val_shards]
        contents = list(_contents(shards, self.cache))
        for shard, content in zip(shards, contents, strict=True):
            if content.highest >= tokenizer.vocab_size:
                raise UserError(_outside(shard, tokenizer.vocab_size))
        manifest = [
            [shard.path.name, shard.n_tokens, shard.dtype, shard.end_token, content.checksum]
            for shard, content in zip(shards, contents, strict=True)
        ]
        train, val = ([shard.tokens() for shard in part] for part in (train_shards, val_shards))
        n_train, n_val = (sum(shard.n_tokens for shard in part) for part in (train_shards, val_shards))
        return PreparedData(
            name=self.name,
            tokenizer=tokenizer,
            fingerprint=hashlib.sha256(json.dumps(manifest).encode()).hexdigest(),
            description=f"{self.name}: {len(shards):,} shards ({shards[0].kind}), {n_train + n_val:,} tokens "
            f"({n_val:,} for validation), vocabulary {tokenizer.vocab_size:,}",
            train=Joined([self.training_windows(tokens, context_length, tokenizer) for tokens in train], train),
            val=Joined([self.validation_windows(tokens, context_length, tokenizer) for tokens in val], val),
            test=None,
            val_bytes_per_token=self._bytes_per_token(tokenizer, val_shards, contents[len(train_shards) :]),
            prompt=first_words(val[0], tokenizer),
            manifest=manifest,
        )

    def _tokenizer(self, tokenizer: Tokenizer | TokenizerFactory) -> Tokenizer:
        """The one that the tokens were made with. nanoGPT's characters come with the shards."""
        if not isinstance(tokenizer, partial):
            return tokenizer
        characters = nanogpt_characters(self.train[0].path.parent) if self.train[0].kind == "nanoGPT" else None
        if characters is not None:
            return CharTokenizer(characters=characters)
        if (known := published(tokenizer)) is None:
            raise UserError("shards are no text to train a tokenizer on: use tokenizer=gpt2, or init_from=<weights>")
        return known

    def _bytes_per_token(self, tokenizer: Tokenizer, shards: list[Shard], contents: list[Content]) -> float | None:
        """UTF-8 bytes of a validation target, counted once for each vocabulary and content."""
        lengths = tokenizer.byte_lengths
        if lengths is None or not self.first_token_loss:  # of which tokens the bytes would be is not counted
            return None

        def count() -> str:
            first = sum(int(lengths[shard.tokens()[0]]) for shard in shards)  # follows nothing: no target
            return str(sum(int(lengths[block].sum()) for shard in shards for block in _blocks(shard)) - first)

        key = cache_key([content.checksum for content in contents], lengths.tolist())
        return int(recorded(self.cache / f"{key}.bytes", count)) / sum(shard.n_tokens - 1 for shard in shards)


class Joined:
    """The examples of several parts as those of one. Shorter windows than others in a batch are padded on the right.

    `files` are memory-mapped. What was read from them counts as memory of this process until it is given back.
    """

    def __init__(self, parts: Sequence[Examples], files: Sequence[TokenFile] = ()) -> None:
        self.parts, self.files = parts, files
        self._n_mapped = 0  # windows
        lengths = [len(part) for part in parts]
        self._ends = np.cumsum(lengths)
        self._starts = self._ends - lengths

    def __len__(self) -> int:
        return int(self._ends[-1])

    def batch(self, indices: np.ndarray) -> Batch:
        if len(indices) == 0:
            return self.parts[0].batch(indices)
        which = np.searchsorted(self._ends, indices, side="right")  # the part of each index
        order = np.argsort(which, kind="stable")
        batches = [self.parts[n].batch(indices[which == n] - self._starts[n]) for n in np.unique(which)]
        self._n_mapped += len(indices)
        if self._n_mapped > MOST_MAPPED:
            self._n_mapped = 0
            for file in self.files:
                file.release()
        places, n = torch.from_numpy(np.argsort(order)), max(batch[0].shape[1] for batch in batches)
        padding = (0, IGNORED, 0)  # of inputs, targets and document numbers
        parts = zip(zip(*batches, strict=True), padding, strict=False)
        return tuple(
            torch.cat([F.pad(tensor, (0, n - tensor.shape[1]), value=value) for tensor in tensors])[places]
            for tensors, value in parts
        )


def _find(path: str, *, key: str) -> list[Path]:
    """The files of a path, a directory or a pattern, in order. UserError if there is none."""
    place = Path(path).expanduser()
    if place.is_dir():
        files = [file for file in place.iterdir() if file.suffix in SUFFIXES]
    else:
        files = [place] if place.is_file() else [Path(found) for found in glob.glob(str(place), recursive=True)]
    if not files:
        raise UserError(f"{key}={path}: there is no file of tokens ({', '.join(f'*{suffix}' for suffix in SUFFIXES)})")
    return sorted(files)


def _long_enough(shards: list[Shard], least: int) -> list[Shard]:
    """Those with so many tokens, which make a window. UserError if there is none."""
    found = [shard for shard in shards if shard.n_tokens >= least]
    if not found:
        longest = max(shards, key=lambda shard: shard.n_tokens)
        raise UserError(
            f"no shard has the {least:,} tokens of one window and its target; the longest, {longest.path}, has "
            f"{longest.n_tokens:,}: use a smaller context_length"
        )
    if len(found) < len(shards):
        n = len(shards) - len(found)
        log.warning("%s of %s shards are shorter than a window, and left out", f"{n:,}", f"{len(shards):,}")
    return found


def _contents(shards: list[Shard], cache: Path) -> Iterator[Content]:
    """Each shard is read once; the result is kept under its path, size and time."""
    last_line = time.monotonic()
    for number, shard in enumerate(shards, start=1):
        if time.monotonic() - last_line > LINE_SECONDS:
            last_line = time.monotonic()
            log.info("reading shards for the first time: %d of %d", number, len(shards))
        key = cache_key("shard", *file_stamps([shard.path]), shard.dtype, shard.offset)
        yield Content(**json.loads(recorded(cache / f"{key}.shard", partial(_read, shard))))


def _read(shard: Shard) -> str:
    """Its Content, as JSON."""
    checksum, highest = hashlib.sha256(), 0
    for block in _blocks(shard):
        checksum.update(block.data)
        highest = max(highest, int(block.max()))
    return json.dumps(asdict(Content(checksum.hexdigest(), highest)))


def _blocks(shard: Shard) -> Iterator[np.ndarray]:
    """Copies of its tokens, so that memory stays flat: pages of a mapping count while it lives."""
    with shard.path.open("rb") as file:
        file.seek(shard.offset)
        while len(block := np.fromfile(file, shard.dtype, BLOCK)):
            yield block


def _outside(shard: Shard, vocab_size: int) -> str:
    position = 0
    for block in _blocks(shard):
        if (places := np.flatnonzero(block >= vocab_size)).size:
            token, position = int(block[places[0]]), position + int(places[0])
            return f"{shard.path}: token {token:,} at position {position:,} is not in the vocabulary of {vocab_size:,}"
        position += len(block)
    return f"{shard.path} has changed while it was read"
