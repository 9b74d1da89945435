"""Counts the bytes of tensors that are alive while a program runs on tensors without memory."""

import weakref
from typing import Any

import torch
from torch import Tensor

from gptlab.private import tensors_without_memory


class LiveMemory(tensors_without_memory()):  # type: ignore[misc]
    """Counts bytes of the tensors that are alive, without making them. Each number that is asked for is 1.

    Attributes:
        now, peak: bytes alive, and the most since `peak` was last set.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._is_inside = False
        self._known: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if torch.Tag.data_dependent_output in func.tags:
            return 1
        is_outer, self._is_inside = not self._is_inside, True
        try:
            result = super().__torch_dispatch__(func, types, args, kwargs or {})
        finally:
            self._is_inside = not is_outer
        if not is_outer:  # a part of how shapes are found out, which the real operation may not have
            return result
        for tensor in result if isinstance(result, list | tuple) else (result,):
            if isinstance(tensor, Tensor) and (storage := tensor.untyped_storage()) not in self._known:
                self._known.add(storage)
                self._add(storage.nbytes())
                weakref.finalize(storage, self._add, -storage.nbytes())
        return result

    def _add(self, n_bytes: int) -> None:
        self.now += n_bytes
        self.peak = max(self.peak, self.now)
