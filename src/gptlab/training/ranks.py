"""Data parallelism: the one place that knows how many ranks share a batch, and which of them this process is."""

import lightning as L


def takes_part(trainer: L.Trainer) -> bool:
    """Whether this rank computes what one rank does for all: the first one does, and all ranks of a sharded model."""
    return trainer.is_global_zero or hasattr(trainer.strategy, "shard")


def data_parallel(trainer: L.Trainer | None) -> tuple[int, int]:
    """This process's index among the ranks that see different data, and their number.

    That is not the world size: the ranks of a tensor-parallel group see the same data.
    """
    sampler = getattr(trainer.strategy, "distributed_sampler_kwargs", None) if trainer is not None else None
    return (sampler["rank"], sampler["num_replicas"]) if sampler else (0, 1)
