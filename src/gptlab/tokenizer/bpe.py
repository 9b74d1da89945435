"""Byte-level byte-pair encoding, trained here from scratch.

Sennrich et al. 2016 (arXiv:1508.07909): start from single symbols; again and again, join the most frequent adjacent
pair into a new one. Radford et al. 2019 (GPT-2): let the symbols be bytes, so that every text has an encoding, and
never join across the boundary between words.
"""

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any, Self

import regex

from gptlab.tokenizer.byte_level import EOT, SPLIT_PATTERN, ByteLevelTokenizer

N_BYTES = 256

Pair = tuple[int, int]


class BPETokenizer(ByteLevelTokenizer):
    """256 bytes, then one token a merge in the order learnt, then `<|endoftext|>`."""

    def __init__(self, *, merges: Sequence[Pair]) -> None:
        self.merges = [(int(left), int(right)) for left, right in merges]
        tokens = token_bytes(self.merges)
        super().__init__(tokens=tokens, merges=[(tokens[left], tokens[right]) for left, right in self.merges])

    @classmethod
    def train(cls, documents: Iterable[str], *, vocab_size: int) -> Self:  # type: ignore[override]
        """Learn `vocab_size - 257` merges, or fewer if no pair occurs twice any more."""
        n_merges = vocab_size - N_BYTES - 1
        if n_merges < 0:
            raise ValueError(f"vocab_size={vocab_size} is less than the 256 bytes and {EOT}: use at least 257")
        split = regex.compile(SPLIT_PATTERN)
        words: Counter[str] = Counter()
        for document in documents:
            words.update(split.findall(document))
        return cls(merges=learn_merges(words, n_merges))

    def state(self) -> dict[str, Any]:
        return {"merges": [list(pair) for pair in self.merges]}


def token_bytes(merges: Sequence[Pair]) -> list[bytes]:
    """The bytes behind each id: the 256 single ones, then the merges'."""
    tokens = [bytes([byte]) for byte in range(N_BYTES)]
    for left, right in merges:
        tokens.append(tokens[left] + tokens[right])
    return tokens


def learn_merges(words: Counter[str], n_merges: int) -> list[Pair]:
    """The `n_merges` most frequent pairs, one after the other, over distinct words weighted by their counts.

    Pair counts are updated, never recounted: a merge changes only the words that hold the pair. A heap yields the most
    frequent pair; an entry whose count has changed since is pushed again. Ties go to the pair with the lower ids.
    """
    symbols = [list(word.encode("utf-8", "replace")) for word in words]  # each word as the ids that it is made of now
    frequency = list(words.values())
    tokens = {bytes([byte]): byte for byte in range(N_BYTES)}
    spelling = list(tokens)

    counts: Counter[Pair] = Counter()
    holders: defaultdict[Pair, set[int]] = defaultdict(set)  # which words may hold a pair
    for index, word in enumerate(symbols):
        for pair in pairwise(word):
            counts[pair] += frequency[index]
            holders[pair].add(index)
    heap = [(-count, pair) for pair, count in counts.items()]
    heapq.heapify(heap)

    merges: list[Pair] = []
    while heap and len(merges) < n_merges:
        negative_count, pair = heapq.heappop(heap)
        count = counts[pair]
        if count != -negative_count:  # stale
            if count > 0:
                heapq.heappush(heap, (-count, pair))
            continue
        if count < 2:
            break
        joined = spelling[pair[0]] + spelling[pair[1]]
        if joined not in tokens:  # two different pairs can spell the same bytes: they are one token
            tokens[joined] = len(spelling)
            spelling.append(joined)
            merges.append(pair)
        changed = _merge_pair(pair, tokens[joined], symbols, frequency, counts, holders)
        for neighbour in changed:
            heapq.heappush(heap, (-counts[neighbour], neighbour))
    return merges


def _merge_pair(
    pair: Pair,
    token: int,
    symbols: list[list[int]],
    frequency: list[int],
    counts: Counter[Pair],
    holders: defaultdict[Pair, set[int]],
) -> set[Pair]:
    """Replace `pair` by `token` in every word that holds it; returns the pairs that became more frequent."""
    left, right = pair
    more_frequent: set[Pair] = set()
    for index in holders.pop(pair):
        old = symbols[index]
        new: list[int] = []
        position, last = 0, len(old) - 1
        while position <= last:
            if position < last and old[position] == left and old[position + 1] == right:
                new.append(token)
                position += 2
            else:
                new.append(old[position])
                position += 1
        if len(new) == len(old):
            continue
        weight = frequency[index]
        for before in pairwise(old):
            counts[before] -= weight
        for after in pairwise(new):
            counts[after] += weight
            if token in after:
                holders[after].add(index)
                more_frequent.add(after)
        symbols[index] = new
    del counts[pair]
    return more_frequent
