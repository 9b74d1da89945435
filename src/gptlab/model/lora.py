"""LoRA (Hu et al. 2021, arXiv:2106.09685): small matrices beside the weights train, and the weights stay as they are.

Adapters are applied to a model from outside: no model knows of them.

Shapes: I inputs and O outputs of a linear layer, R the rank.
"""

import math
import re
from fnmatch import fnmatchcase

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptlab.model.base import LanguageModel, tied_parameters


class LoRALinear(nn.Linear):
    """W x + b + scale B A dropout(x). W and b are those of the layer in whose place it stands, with their names.

    B begins with zeros, so the layer computes what it did before (section 4.1). A begins as uniform(-1/sqrt(I),
    1/sqrt(I)), as torch's linear layers and PEFT's adapters do.
    """

    def __init__(self, linear: nn.Linear, *, rank: int, scale: float, dropout: float) -> None:
        nn.Module.__init__(self)  # nn.Linear's own would make a second W
        self.in_features, self.out_features, self.scale = linear.in_features, linear.out_features, scale
        self.weight = linear.weight  # (O, I)
        self.register_parameter("bias", linear.bias)  # (O,), or None
        self.dropout = nn.Dropout(dropout)
        self.lora_A = nn.Parameter(self.weight.new_empty(rank, self.in_features))  # (R, I)
        self.lora_B = nn.Parameter(self.weight.new_zeros(self.out_features, rank))  # (O, R)
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        update = F.linear(F.linear(self.dropout(x), self.lora_A), self.lora_B)  # (..., I) -> (..., R) -> (..., O)
        return super().forward(x) + self.scale * update

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        linear = nn.Linear(self.in_features, self.out_features, bias=self.bias is not None, device="meta")
        linear.weight = nn.Parameter(self.weight + self.scale * self.lora_B @ self.lora_A)  # (O, I)
        linear.bias = self.bias
        return linear


class LoRA:
    """Puts a `LoRALinear` in the place of linear layers, and freezes everything else.

    Args:
        rank: R.
        alpha: the scale is alpha / rank, so that the rank can change without another learning rate.
        targets: names of linear layers, or the ends of their names; `*` stands for anything.
        dropout: probability that an input of A is zero in training.

    Raises:
        ValueError: rank or alpha not above 0, dropout not in [0, 1), no targets.
    """

    def __init__(self, *, rank: int, alpha: float, targets: list[str], dropout: float) -> None:
        for name, value in {"rank": rank, "alpha": alpha}.items():
            if not 0 < value < math.inf:
                raise ValueError(f"{name}={value} must be more than 0")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout={dropout} must lie in [0, 1)")
        if not targets:
            raise ValueError("targets=[] names no layer")
        self.rank, self.alpha, self.targets, self.dropout = rank, alpha, targets, dropout

    def places(self, model: LanguageModel) -> dict[str, nn.Linear]:
        """The linear layers of the targets by their names, in the model's order.

        Raises ValueError if a target matches none, a layer shares its weight with another, or the rank is too large.
        """
        pairs = [(a.removesuffix(".weight"), b.removesuffix(".weight")) for a, b in tied_parameters(model).items()]
        tied = dict(pairs) | {b: a for a, b in pairs}
        linears = {name: layer for name, layer in model.named_modules() if type(layer) is nn.Linear}
        for target in self.targets:
            if not any(_matches(name, target) for name in linears):
                free = sorted({re.sub(r"\.\d+\.", ".*.", name) for name in linears.keys() - tied.keys()})
                raise ValueError(f"targets={target} matches no linear layer; there are {', '.join(free) or 'none'}")
        found = {name: linears[name] for name in linears if any(_matches(name, target) for target in self.targets)}
        for name, linear in found.items():
            if name in tied:
                reason = f"shares its weight with {tied[name]}, which would not be adapted"
                raise ValueError(f"targets=[{','.join(self.targets)}]: {name} {reason}; leave it out")
            smallest = min(linear.in_features, linear.out_features)
            if self.rank > smallest:
                sides = f"{linear.out_features} x {linear.in_features}"
                raise ValueError(f"rank={self.rank} is more than {name} ({sides}) has: use at most {smallest}")
        return found

    def apply(self, model: LanguageModel) -> None:
        """Change the model in place: what it computes stays the same, and only the new matrices are trainable.

        A draws from torch's generator. The errors are those of `places`.
        """
        places = self.places(model)
        model.requires_grad_(False)
        for name, linear in places.items():
            layer = LoRALinear(linear, rank=self.rank, scale=self.alpha / self.rank, dropout=self.dropout)
            _replace(model, name, layer)

    def merge(self, model: LanguageModel) -> None:
        """Add the updates to the weights in place: the model is as it was before `apply`, with other weights."""
        for name, layer in list(model.named_modules()):
            if isinstance(layer, LoRALinear):
                _replace(model, name, layer.merged())
        model.requires_grad_(True)


def _matches(name: str, target: str) -> bool:
    """Whether a layer's name is the target, or ends with a dot and the target."""
    return fnmatchcase(f".{name}", f"*.{target}")


def _replace(model: nn.Module, name: str, layer: nn.Module) -> None:
    owner, _, attribute = name.rpartition(".")
    setattr(model.get_submodule(owner), attribute, layer)
