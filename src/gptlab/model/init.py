"""First weights, one function a variant."""

import math

from torch import nn


def gpt2(model: nn.Module) -> None:
    """GPT-2's: normal(0, 0.02), biases zero; the last projection of each residual branch is scaled down.

    Each block has two branches that add their variance to the residual stream, so their last projections start smaller
    by sqrt(2 n_layers) (Radford et al. 2019, section 2.3).
    """
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
    last = ("attention.out.weight", "feed_forward.down.weight")
    ends_of_branches = [parameter for name, parameter in model.named_parameters() if name.endswith(last)]
    for parameter in ends_of_branches:
        nn.init.normal_(parameter, std=0.02 / math.sqrt(len(ends_of_branches)))


def textbook(model: nn.Module) -> None:
    """Torch's defaults, which Build a Large Language Model (From Scratch) trains from.

    Embeddings are normal(0, 1): a short text is memorized within dozens of steps; normal(0, 0.02) takes hundreds.
    """
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=1.0)
        if isinstance(module, nn.Linear):
            bound = 1 / math.sqrt(module.in_features)
            nn.init.uniform_(module.weight, -bound, bound)
            if module.bias is not None:
                nn.init.uniform_(module.bias, -bound, bound)
