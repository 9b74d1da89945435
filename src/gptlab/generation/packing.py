"""Linear layers for decoding on a CPU: each token reads all weights once, so memory bandwidth is the limit.

A step of decoding multiplies every matrix with one vector a sequence. BLAS libraries are made for large products: on
two x86 cores, `F.linear` reads the weights of such a step at a third of the memory's bandwidth. The two layers below
hold the same weights in another order, which is read faster:

    StreamedLinear  for one sequence
    PackedLinear    for several
"""

import math
import mmap
from contextlib import suppress

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptlab.model import LanguageModel
from gptlab.private import mkldnn_has_bfloat16, mkldnn_linear, mkldnn_packed

SUM = 0  # torch.embedding_bag's number for mode="sum"
PAGE = 2 << 20  # bytes
BLOCK = 128  # outputs that StreamedLinear sums at a time: 64 to 256 are equally fast


def pack(model: LanguageModel, *, n_rows: int) -> None:
    """Replace the linear layers of gptlab's own modules by layers for decoding, if they help; dropout goes.

    The modules of others stay as they are: they may read the weights of their linear layers themselves. One module is
    changed after the other, so memory holds no second copy of the weights (except of a tied head's). `n_rows` is how
    many sequences are decoded at once.
    """
    if not can_pack(model, n_rows=n_rows):
        return
    model.requires_grad_(False)
    for module in [module for module in model.modules() if type(module).__module__.startswith("gptlab.")]:
        for name, layer in list(module.named_children()):
            if type(layer) is nn.Dropout:
                setattr(module, name, nn.Identity())
            elif type(layer) is nn.Linear:
                setattr(module, name, StreamedLinear(layer) if n_rows == 1 else PackedLinear(layer, n_rows=n_rows))


def can_pack(model: LanguageModel, *, n_rows: int) -> bool:
    """Whether the layers below help: on x86 CPUs. Libraries of GPUs and of Arm have fast products with a vector."""
    if model.device.type != "cpu" or not torch.backends.cpu.get_cpu_capability().startswith("AVX"):
        return False
    if n_rows == 1:
        return True
    return torch.backends.mkldnn.is_available() and (model.dtype != torch.bfloat16 or mkldnn_has_bfloat16())


def _zeros(*shape: int, dtype: torch.dtype) -> Tensor:
    """Zeros in pages of 2 MB if the system has them: weights in 4 kB pages are read a fifth slower."""
    if not hasattr(mmap, "MADV_HUGEPAGE"):  # not Linux
        return torch.zeros(*shape, dtype=dtype)
    n_bytes = -(-math.prod(shape) * dtype.itemsize // PAGE) * PAGE  # whole pages
    room = mmap.mmap(-1, n_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(OSError):  # the kernel may have been built without them
        room.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(room, dtype=dtype, count=math.prod(shape)).view(shape)


class StreamedLinear(nn.Module):
    """y = W x + b for one x, as the sum of W's columns, each weighted with an element of x.

    That is what an embedding bag does with rows, and its kernel, made for tables that fit into no cache, asks memory
    for the next rows ahead. So W^T is kept as a table: N blocks of 128 outputs, in each a row for every input, and one
    more for the bias, whose input is always 1.

        y[n, :] = sum over i of x[i] * table[n, i, :]
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        n_blocks, n_rows = -(-self.out_features // BLOCK), self.in_features + 1
        self.table = _zeros(n_blocks, n_rows, BLOCK, dtype=linear.weight.dtype)  # (N, in + 1, BLOCK)
        for block, weight in zip(self.table, linear.weight.detach().split(BLOCK), strict=True):
            block[:-1, : len(weight)] = weight.T  # surplus outputs of the last block stay zero
        if linear.bias is not None:
            self.table[:, -1] = F.pad(linear.bias.detach(), (0, -self.out_features % BLOCK)).view(-1, BLOCK)
        self._rows = torch.arange(n_blocks * n_rows, dtype=torch.int32)
        self._starts = torch.arange(n_blocks + 1, dtype=torch.int32) * n_rows  # of blocks, and the end of the last
        self._inputs = self.table.new_ones(n_blocks, n_rows)  # x for each block, then the bias's 1

    def forward(self, x: Tensor) -> Tensor:
        y = self._of_one(x) if x.numel() == self.in_features else self._of_many(x)
        y = y.view(*x.shape[:-1], len(self.table) * BLOCK)
        return y if y.shape[-1] == self.out_features else y[..., : self.out_features]

    def _of_one(self, x: Tensor) -> Tensor:
        """(..., in), one of them -> (N, BLOCK)"""
        self._inputs.narrow(1, 0, self.in_features).copy_(x.reshape(-1))  # one operation; a step has hundreds
        return torch.embedding_bag(
            self.table.view(-1, BLOCK),
            self._rows,
            self._starts,
            mode=SUM,
            per_sample_weights=self._inputs.view(-1),
            include_last_offset=True,
        )[0]

    def _of_many(self, x: Tensor) -> Tensor:
        """(..., in), T of them -> (T, N, BLOCK)"""
        weight, bias = self.table[:, :-1], self.table[:, -1:]  # (N, in, BLOCK), (N, 1, BLOCK)
        vectors = x.reshape(-1, self.in_features).expand(len(self.table), -1, -1)  # (N, T, in)
        return torch.baddbmm(bias, vectors, weight).transpose(0, 1).contiguous()


class PackedLinear(nn.Module):
    """`nn.Linear` with its weights in the order that oneDNN reads, sorted once instead of at each product."""

    def __init__(self, linear: nn.Linear, *, n_rows: int) -> None:
        super().__init__()
        self.bias = None if linear.bias is None else linear.bias.detach()
        self.weight = mkldnn_packed(linear.weight.detach(), n_rows)

    def forward(self, x: Tensor) -> Tensor:
        return mkldnn_linear(x, self.weight, self.bias)
