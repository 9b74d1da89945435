"""What several ranks change in the cost of a step: the memory of each, and what it sends. R is the number of ranks."""

from torch import nn

from gptlab.model import LanguageModel
from gptlab.model.blocks import blocks_of

LIKE_WEIGHTS = ("weights", "gradients", "optimizer")


def memory_of_rank(kinds: dict[str, int], model: LanguageModel, *, n_ranks: int, is_sharded: bool) -> dict[str, int]:
    """Bytes by kind on one of several ranks, from those of one device alone (see `step_memory`).

    DDP keeps all, and a copy of the gradients that it sends. Sharded, a rank keeps 1/R of weights, gradients and
    optimizer states, and beside them whole what is being computed: weights and gradients around the blocks, weights of
    two blocks, because one is fetched while the other computes, and the gradients of one (Zhao et al. 2023, section 4,
    arXiv:2304.11277).
    """
    if n_ranks == 1:
        return kinds
    if not is_sharded:
        return {**kinds, "gradients": 2 * kinds["gradients"], "all": kinds["all"] + kinds["gradients"]}
    blocks = [_nbytes(block) for block in blocks_of(model)]
    around = _nbytes(model) - sum(blocks)
    parts = {kind: -(-size // n_ranks) if kind in LIKE_WEIGHTS else size for kind, size in kinds.items()}
    parts["gathered"] = 2 * around + 3 * max(blocks, default=0)
    return {**parts, "all": sum(size for kind, size in parts.items() if kind != "all")}


def bytes_sent(model: LanguageModel, *, n_ranks: int, is_sharded: bool, n_micro_batches: int) -> int:
    """Bytes that each rank sends in a step; it receives as many.

    A sum of N bytes over R ranks takes 2 (R - 1) / R x N from each (Patarasuk and Yuan 2009), and DDP sums the
    gradients once a step. Sharded, each micro-batch gathers the weights of all blocks in the forward and in the
    backward pass, those around them once, and scatters the gradients: (R - 1) / R x N each time.
    """
    trained = sum(weight.nbytes for weight in model.parameters() if weight.requires_grad)
    if not is_sharded:
        return 2 * trained * (n_ranks - 1) // n_ranks
    gathered = _nbytes(model) + sum(map(_nbytes, blocks_of(model)))
    return n_micro_batches * (gathered + trained) * (n_ranks - 1) // n_ranks


def _nbytes(module: nn.Module) -> int:
    return sum(weight.nbytes for weight in module.parameters())
