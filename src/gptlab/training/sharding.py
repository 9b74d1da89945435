"""Sharded training: each rank keeps a part of all weights, gradients and optimizer states (torch's FSDP2).

Zhao et al. 2023 (arXiv:2304.11277). A checkpoint is one file, with the names and the optimizer's numbers of any other
run, so a run can go on with one rank, with DDP, or sharded.
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_model_state_dict,
)
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from gptlab.model import LanguageModel
from gptlab.model.blocks import blocks_of

WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)
FROM_RANK_0 = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)


class ShardedStrategy(ModelParallelStrategy):
    """Lightning's strategy for FSDP2, with checkpoints as other strategies write them.

    The gradients of each micro-batch are reduced at once: to wait for the last one would keep all of them whole.
    """

    def __init__(self, n_ranks: int) -> None:
        super().__init__(data_parallel_size=n_ranks, tensor_parallel_size=1, save_distributed_checkpoint=False)

    def shard(self, model: LanguageModel) -> None:
        """Shard each block, and what is around the blocks, in place. All ranks get the weights of rank 0.

        Those of the others may be on the meta device. Does nothing to a model that is sharded already.
        """
        if isinstance(model, FSDPModule):
            return
        whole = model.state_dict() if self.is_global_zero else {}
        mesh = self.device_mesh["data_parallel"]
        for part in (*blocks_of(model), model):  # the last takes what is left: a head may share an embedding's weights
            fully_shard(part, mesh=mesh)
        for parameter in filter(lambda p: p.is_meta, model.parameters()):
            empty = nn.Parameter(torch.empty_like(parameter, device=self.root_device), parameter.requires_grad)
            torch.utils.swap_tensors(parameter, empty)  # the same object, which the head may share
        set_model_state_dict(model, dict(whole), options=FROM_RANK_0)
        for module in model.modules():
            for name, buffer in list(module.named_buffers(recurse=False)):
                there = torch.empty_like(buffer, device=self.root_device) if buffer.is_meta else buffer
                dist.broadcast(there, src=0)
                setattr(module, name, there)

    @property
    def lightning_restore_optimizer(self) -> bool:
        return True

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """The file of any strategy, memory-mapped: all ranks of a machine share its pages."""
        return torch.load(checkpoint_path, map_location="cpu", mmap=True, weights_only=True)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        own = self._module.state_dict()
        parts = {name: _sharded_like(value, own.get(name)) for name, value in checkpoint["state_dict"].items()}
        self._module.load_state_dict(parts, strict=strict)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        for optimizer, whole in zip(map(_unwrapped, self.optimizers), checkpoint["optimizer_states"], strict=True):
            weights = [weight for group in optimizer.param_groups for weight in group["params"]]
            parts = {
                number: {name: _sharded_like(value, weights[number]) for name, value in values.items()}
                for number, values in whole["state"].items()
            }
            optimizer.load_state_dict({**whole, "state": parts})

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """Whole, on rank 0. Parameters are numbered in the order of the groups, as torch's own optimizers do."""
        optimizer = _unwrapped(optimizer)
        state: dict[str, Any] = get_optimizer_state_dict(self._module, optimizer, options=WHOLE)
        if not self.is_global_zero:
            return {}
        names = [name for group in state["param_groups"] for name in group["params"]]
        numbers = {name: number for number, name in enumerate(names)}
        groups = [{**group, "params": [numbers[name] for name in group["params"]]} for group in state["param_groups"]]
        return {"state": {numbers[name]: values for name, values in state["state"].items()}, "param_groups": groups}

    @property
    def _module(self) -> nn.Module:
        assert self.model is not None
        return self.model


def _unwrapped(optimizer: Any) -> torch.optim.Optimizer:
    return optimizer.optimizer if isinstance(optimizer, LightningOptimizer) else optimizer


def _sharded_like(whole: Any, like: Tensor | None) -> Any:
    """This rank's part of a tensor that is sharded as another one of its shape is; anything else as it is."""
    if not isinstance(like, DTensor) or isinstance(whole, DTensor) or getattr(whole, "shape", None) != like.shape:
        return whole
    there = whole.to(like.device)
    return distribute_tensor(there, like.device_mesh, like.placements, src_data_rank=None)
