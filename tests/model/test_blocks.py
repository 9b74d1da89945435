"""What changes how blocks compute changes no number, and no name."""

import copy

import pytest
import torch

from gptlab.model import LanguageModel
from gptlab.model.blocks import checkpoint_activations, compile_blocks
from gptlab.objective.next_token import NextToken
from tiny_gpt import Bigram, tiny_gpt

TOKENS = torch.arange(24).view(2, 12) % 20  # no two dimensions are alike: the compiler would take them for one
BATCH = TOKENS[:, :-1], TOKENS[:, 1:]


def gradients(model: LanguageModel) -> list[torch.Tensor]:
    """The loss, and what it makes of each parameter."""
    torch.manual_seed(1)
    loss = NextToken()(model, BATCH).sum
    loss.backward()
    return [loss.detach(), *(parameter.grad for parameter in model.parameters() if parameter.grad is not None)]


def count_forwards(model: LanguageModel, calls: list[int]) -> None:
    for block in model.trunk.blocks:
        block.feed_forward.register_forward_hook(lambda *_: calls.append(1))


def test_checkpointed_blocks_compute_twice_and_the_same_to_the_bit() -> None:
    plain, checkpointed, calls = tiny_gpt(dropout=0.3), tiny_gpt(dropout=0.3), []
    names = list(checkpointed.state_dict())
    checkpoint_activations(checkpointed)
    count_forwards(checkpointed, calls)
    for one, other in zip(gradients(plain), gradients(checkpointed), strict=True):
        assert torch.equal(one, other)
    assert len(calls) == 2 * len(checkpointed.trunk.blocks)
    assert list(checkpointed.state_dict()) == names


def test_a_cache_or_no_gradient_computes_once() -> None:
    model, calls = tiny_gpt(), []
    checkpoint_activations(model)
    count_forwards(model, calls)
    with torch.no_grad():
        model(TOKENS[:, :4])
    model(TOKENS[:, :4], cache=model.new_cache())
    assert len(calls) == 2 * len(model.trunk.blocks)


def test_a_copy_computes_with_its_own_parts() -> None:
    model, calls = tiny_gpt(), []
    checkpoint_activations(model)
    twin = copy.deepcopy(model)
    count_forwards(twin, calls)
    model(TOKENS[:, :4])
    assert calls == []
    twin(TOKENS[:, :4])
    assert calls
    assert model.capture(TOKENS[:1, :4]).attention is not None


def test_without_blocks_there_is_nothing_to_checkpoint() -> None:
    with pytest.raises(ValueError, match="activation_checkpointing=true: Bigram has no blocks; use false"):
        checkpoint_activations(Bigram(vocab_size=20, context_length=16, d_model=8))


@pytest.mark.slow
@pytest.mark.parametrize("checkpointed", [False, True])
def test_all_blocks_and_batches_share_what_is_compiled(checkpointed: bool) -> None:
    """One graph to train with, and one to validate with."""
    model, names = tiny_gpt(n_layers=3), list(tiny_gpt(n_layers=3).state_dict())
    expected = gradients(tiny_gpt(n_layers=3))
    if checkpointed:
        checkpoint_activations(model)
    n_compiled = 0

    def counted(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> torch.fx.GraphModule:
        nonlocal n_compiled
        n_compiled += 1
        return graph

    with pytest.MonkeyPatch.context() as patch:
        compile_in_place = torch.nn.Module.compile
        patch.setattr(torch.nn.Module, "compile", lambda self, **how: compile_in_place(self, backend=counted, **how))
        compile_blocks(model)
    for one, other in zip(expected, gradients(model), strict=True):
        torch.testing.assert_close(one, other)
    for n_rows in (4, 3):
        model(TOKENS[:1, :9].repeat(n_rows, 1)).sum().backward()
    model.eval()
    with torch.inference_mode():
        for n_rows in (4, 3):
            model(TOKENS[:1, :9].repeat(n_rows, 1))
    assert n_compiled == 2
    assert list(model.state_dict()) == names
