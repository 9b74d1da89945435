"""Linear layers for decoding on a CPU, where a token costs one pass over all weights and memory sets the pace.

A step of decoding multiplies every matrix with one vector a sequence. BLAS libraries are made for large products: on
two x86 cores, `F.linear` reads the weights of such a step at a third of the speed that memory has. The two layers below
hold the same weights in another order, in which they are read faster:

    StreamedLinear  for one sequence
    PackedLinear    for several

They are for inference alone: neither has a gradient, a name in a state dict, or a way back.
"""

import math
import mmap
from contextlib import suppress

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptlab.model import GPT

SUM = 0  # torch.embedding_bag's number for mode="sum"
BLOCK = 128  # outputs that StreamedLinear sums at a time: 64 to 256 are equally fast


def pack(model: GPT, *, n_rows: int) -> None:
    """Put layers for decoding in the place of the model's linear ones, where they help; dropout and gradients go.

    One layer is exchanged after the other, so memory holds no second copy of the weights (but of a tied head's, which
    are the token embedding's too).

    Args:
        model: changed in place.
        n_rows: how many sequences are decoded at once.
    """
    if not can_pack(model, n_rows=n_rows):
        return
    model.requires_grad_(False)
    room = sum(StreamedLinear.n_bytes(layer) for layer in model.modules() if type(layer) is nn.Linear)
    memory = Memory(room if n_rows == 1 else 0)
    for module in [module for module in model.modules() if type(module) is not nn.Linear]:  # a list would keep these
        for name in [name for name, _ in module.named_children()]:
            _exchange(module, name, memory, n_rows=n_rows)


def can_pack(model: GPT, *, n_rows: int) -> bool:
    """Whether the layers below help: on an x86 CPU. The libraries of GPUs, and Arm's, know products with a vector."""
    if model.device.type != "cpu" or not torch.backends.cpu.get_cpu_capability().startswith("AVX"):
        return False
    if n_rows == 1:
        return True
    in_bfloat16 = model.trunk.token_embedding.weight.dtype == torch.bfloat16
    return torch.backends.mkldnn.is_available() and (
        not in_bfloat16 or torch.ops.mkldnn._is_mkldnn_bf16_supported()  # older processors lack the instructions
    )


def _exchange(module: nn.Module, name: str, memory: "Memory", *, n_rows: int) -> None:
    layer = getattr(module, name)
    if type(layer) is nn.Dropout:
        setattr(module, name, nn.Identity())
    elif type(layer) is nn.Linear:
        packed = StreamedLinear(layer, memory) if n_rows == 1 else PackedLinear(layer, n_rows=n_rows)
        setattr(module, name, packed)


class Memory:
    """Room for tensors in pages of 2 MB, where the system has them: weights in 4 kB pages are read a fifth slower."""

    def __init__(self, n_bytes: int) -> None:
        self._n_used = 0
        self._room: Tensor | None = None
        if n_bytes > 0 and hasattr(mmap, "MADV_HUGEPAGE"):  # Linux
            room = mmap.mmap(-1, n_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            with suppress(OSError):  # a wish: the kernel may have been built without
                room.madvise(mmap.MADV_HUGEPAGE)
            self._room = torch.frombuffer(room, dtype=torch.uint8)

    def zeros(self, *shape: int, dtype: torch.dtype) -> Tensor:
        """The next tensor, which holds zeros."""
        if self._room is None:
            return torch.zeros(*shape, dtype=dtype)
        n_bytes = math.prod(shape) * dtype.itemsize
        tensor = self._room[self._n_used : self._n_used + n_bytes].view(dtype).view(shape)
        self._n_used += _rounded(n_bytes)
        return tensor


def _rounded(n_bytes: int) -> int:
    """Up to whole cache lines."""
    return -(-n_bytes // 64) * 64


class StreamedLinear(nn.Module):
    """y = W x + b for one x, as the sum of W's columns, each weighted with an element of x.

    That is what an embedding bag does with rows, and its kernel, made for tables that fit into no cache, asks memory
    for the next rows ahead. So W^T is kept as a table: N blocks of 128 outputs, in each a row for every input, and one
    more for the bias, whose input is always 1.

        y[n, :] = sum over i of x[i] * table[n, i, :]

    Several x at once go through one matrix product a block.
    """

    def __init__(self, linear: nn.Linear, memory: Memory) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        n_blocks, n_rows = -(-self.out_features // BLOCK), self.in_features + 1
        self.table = memory.zeros(n_blocks, n_rows, BLOCK, dtype=linear.weight.dtype)  # (N, in + 1, BLOCK)
        _fill(self.table, linear.weight.detach(), linear.bias)
        self._rows = torch.arange(n_blocks * n_rows, dtype=torch.int32)
        self._starts = torch.arange(n_blocks + 1, dtype=torch.int32) * n_rows  # of blocks, and the end of the last
        self._inputs = self.table.new_ones(n_blocks, n_rows)  # x for each block, and behind it the bias's 1

    @staticmethod
    def n_bytes(linear: nn.Linear) -> int:
        """How much room the table takes."""
        n_out = -(-linear.out_features // BLOCK) * BLOCK
        return _rounded(n_out * (linear.in_features + 1) * linear.weight.element_size())

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)"""
        y = self._of_one(x) if x.numel() == self.in_features else self._of_many(x)
        y = y.view(*x.shape[:-1], len(self.table) * BLOCK)
        return y if y.shape[-1] == self.out_features else y[..., : self.out_features]

    def _of_one(self, x: Tensor) -> Tensor:
        """(..., in), one of them -> (N, BLOCK)"""
        self._inputs.narrow(1, 0, self.in_features).copy_(x.reshape(-1))  # one op, where a step has hundreds
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


def _fill(table: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    """Put (out, in) and (out,) into (N, in + 1, BLOCK); what the last block has too many stays zero."""
    n_out, n_in = weight.shape
    n_whole = n_out // BLOCK
    table[:n_whole, :-1] = weight[: n_whole * BLOCK].view(n_whole, BLOCK, n_in).transpose(1, 2)
    if n_out % BLOCK:
        table[n_whole, :-1, : n_out % BLOCK] = weight[n_whole * BLOCK :].T
    if bias is not None:
        table[:, -1] = F.pad(bias.detach(), (0, -n_out % BLOCK)).view(-1, BLOCK)


class PackedLinear(nn.Module):
    """`nn.Linear` with its weights in the order that oneDNN reads, sorted once instead of at each product.

    torch has the two operations for its own compiler, which uses them where it freezes a model.
    """

    def __init__(self, linear: nn.Linear, *, n_rows: int) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.bias = None if linear.bias is None else linear.bias.detach()
        self.weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), n_rows)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)"""
        return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")
