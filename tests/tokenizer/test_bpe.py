from collections import Counter
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from gptlab.tokenizer.bpe import EOT, BPETokenizer, learn_merges, token_bytes

TEXT = "low low low low low lower lower newest newest newest newest newest newest widest widest widest"


def recounted_merges(words: Counter[str], n_merges: int) -> list[tuple[int, int]]:
    """The textbook's way: count all pairs anew for every merge."""
    symbols = {word: list(word.encode()) for word in words}
    spelling = [bytes([byte]) for byte in range(256)]
    merges: list[tuple[int, int]] = []
    while len(merges) < n_merges:
        counts: Counter[tuple[int, int]] = Counter()
        for word, its_symbols in symbols.items():
            for pair in pairwise(its_symbols):
                counts[pair] += words[word]
        if not counts:
            break
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        if counts[best] < 2:
            break
        joined = spelling[best[0]] + spelling[best[1]]
        if joined not in spelling:
            spelling.append(joined)
            merges.append(best)
        for word, old in symbols.items():
            position, merged = 0, []
            while position < len(old):
                if tuple(old[position : position + 2]) == best:
                    merged.append(spelling.index(joined))
                    position += 2
                else:
                    merged.append(old[position])
                    position += 1
            symbols[word] = merged
    return merges


def test_first_merges_of_the_paper_s_example() -> None:
    tokens = token_bytes(learn_merges(Counter(TEXT.split()), 4))[256:]
    assert tokens == [b"es", b"est", b"lo", b"low"]  # Sennrich et al. 2016, figure 1; ties by id


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(st.text("abcd", min_size=1, max_size=8), st.integers(1, 9), max_size=12),
    st.integers(0, 30),
)
def test_incremental_counts_give_the_same_merges_as_recounting(words: dict[str, int], n_merges: int) -> None:
    assert learn_merges(Counter(words), n_merges) == recounted_merges(Counter(words), n_merges)


TOKENIZER = BPETokenizer.train([TEXT], vocab_size=270)


@settings(max_examples=100, deadline=None)
@given(st.text())
def test_every_unicode_string_round_trips(text: str) -> None:
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == text


def test_vocabulary_is_bytes_merges_and_eot() -> None:
    tokenizer = BPETokenizer.train([TEXT], vocab_size=262)
    assert tokenizer.vocab_size == 262
    assert len(tokenizer.merges) == 262 - 257
    assert tokenizer.eot == 261
    assert tokenizer.decode([tokenizer.eot]) == EOT
