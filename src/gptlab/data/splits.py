"""Splits of a table into training, validation and test rows, by a seed."""

from collections.abc import Hashable, Sequence

import numpy as np


def split(
    keys: Sequence[Hashable], fractions: Sequence[float], *, seed: int, strata: Sequence[Hashable] | None = None
) -> list[np.ndarray]:
    """Indices of the rows of each part, in their order.

    Args:
        keys: rows with the same key are in the same part, (n,): a text that trains must not be tested.
        fractions: the share of each part; they sum to 1.
        seed: of the shuffle.
        strata: every part has each of these in the same proportion, as nearly as groups allow, (n,). A key counts for
            the stratum of its first row.
    """
    strata_of: dict[Hashable, Hashable] = {}
    groups: dict[Hashable, dict[Hashable, list[int]]] = {}  # by stratum and key
    for index, key in enumerate(keys):
        stratum = strata_of.setdefault(key, strata[index] if strata is not None else None)
        groups.setdefault(stratum, {}).setdefault(key, []).append(index)
    parts: list[list[int]] = [[] for _ in fractions]
    for members in ([*its.values()] for its in groups.values()):
        ends = np.rint(np.cumsum(fractions) * sum(map(len, members)))
        n_placed = 0
        for place in np.random.default_rng(seed).permutation(len(members)):
            part = min(int(np.searchsorted(ends, n_placed, side="right")), len(parts) - 1)
            parts[part] += members[place]
            n_placed += len(members[place])
    return [np.array(sorted(part), dtype=np.int64) for part in parts]
