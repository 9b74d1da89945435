"""What is shown of a model is what the model does."""

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import gptlab as package
from gpt2s import save_gpt2, some_tokens
from gptlab.inspection.look import Inspection, attention_maps, look
from gptlab.model import GPT
from gptlab.model.attention.fused import FusedAttention
from gptlab.model.attention.plain import PlainAttention
from gptlab.model.recording import recording_twin

IDS = [5, 0, 17, 3, 3, 9, 28]


def make(attention: type = FusedAttention, **changes: object) -> GPT:
    sizes = {"vocab_size": 31, "context_length": 12, "n_layers": 3, "n_heads": 2, "d_model": 16, "dropout": 0.5}
    torch.manual_seed(4)
    model = GPT(**{**sizes, "qkv_bias": True, "tie_head": True, "attention": attention, "init": sharp, **changes})  # type: ignore[arg-type]
    return model.eval()


def sharp(model: torch.nn.Module) -> None:
    """Weights large enough that attention and predictions are far from uniform."""
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4)


@pytest.fixture(scope="module")
def seen() -> Inspection:
    return look(make(), IDS, top_k=5)


def test_maps_are_the_softmax_that_a_loop_computes() -> None:
    model = make()
    maps = attention_maps(model, IDS)
    x = model.trunk.token_embedding(torch.tensor([IDS])) + model.trunk.position_embedding(torch.arange(len(IDS)))
    for layer, block in enumerate(model.trunk.blocks):
        q, k, _ = block.attention.qkv(block.norm1(x))[0].view(len(IDS), 3, 2, 8).unbind(1)  # (T, H, D) each
        for head in range(2):
            for t in range(len(IDS)):
                scores = torch.stack([q[t, head] @ k[past, head] / 8**0.5 for past in range(t + 1)])
                torch.testing.assert_close(maps[layer, head, t, : t + 1], scores.softmax(0))
        x = block(x)


def test_rows_sum_to_one_and_nothing_looks_ahead(seen: Inspection) -> None:
    assert seen.attention.shape == (3, 2, len(IDS), len(IDS))
    torch.testing.assert_close(seen.attention.sum(dim=-1), torch.ones(3, 2, len(IDS)))
    assert seen.attention.triu(1).abs().sum() == 0


def test_plain_and_fused_show_the_same() -> None:
    plain, fused = make(PlainAttention), make(FusedAttention)
    torch.testing.assert_close(attention_maps(plain, IDS), attention_maps(fused, IDS))


def test_maps_hidden_states_and_losses_are_those_of_transformers(tmp_path: Path) -> None:
    theirs = save_gpt2(tmp_path, attn_implementation="eager")
    ours = package.load(tmp_path).model
    ids = some_tokens(61, rows=1)
    with torch.no_grad():
        expected = theirs(ids, labels=ids, output_attentions=True, output_hidden_states=True)
        lens = [theirs.transformer.ln_f(hidden) for hidden in expected.hidden_states[:-1]]
        lens = torch.stack([*lens, expected.hidden_states[-1]])[:, 0]  # (L + 1, T, C); the last is normed already
        most_likely = theirs.lm_head(lens).softmax(-1).max(-1)
    seen = look(ours, ids[0].tolist(), top_k=3)
    torch.testing.assert_close(seen.attention, torch.cat(expected.attentions), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(seen.losses.mean(), expected.loss)
    assert torch.equal(seen.layer_ids, most_likely.indices)
    torch.testing.assert_close(seen.layer_probabilities, most_likely.values, atol=1e-5, rtol=1e-4)


def test_the_last_layer_s_prediction_is_the_model_s_own(seen: Inspection) -> None:
    logits = _logits()
    shares = logits.softmax(-1)
    assert torch.equal(seen.layer_ids[-1], logits.argmax(-1))
    assert torch.equal(seen.next_ids[:, 0], logits.argmax(-1))
    torch.testing.assert_close(seen.layer_probabilities[-1], shares.amax(-1))
    torch.testing.assert_close(seen.next_probabilities, shares.sort(descending=True).values[:, :5])
    assert torch.equal(seen.layer_losses[-1], seen.losses)


def test_losses_are_cross_entropies_and_ranks_count_what_was_likelier(seen: Inspection) -> None:
    logits, targets = _logits()[:-1], torch.tensor(IDS[1:])
    torch.testing.assert_close(seen.losses, F.cross_entropy(logits, targets, reduction="none"))
    for position, target in enumerate(targets.tolist()):
        assert seen.ranks[position] == 1 + sum(logits[position] > logits[position, target])


def test_the_embedding_alone_predicts_what_the_lens_says(seen: Inspection) -> None:
    model = make()
    x = model.trunk.token_embedding(torch.tensor(IDS)) + model.trunk.position_embedding(torch.arange(len(IDS)))
    assert torch.equal(seen.layer_ids[0], model.head(model.trunk.norm(x)).argmax(-1))


@torch.no_grad()
def _logits() -> Tensor:
    return make()(torch.tensor([IDS]))[0]


def test_looking_changes_nothing() -> None:
    model = make().train()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    modules, random = list(model.modules()), torch.random.get_rng_state()
    look(model, IDS, top_k=3)
    assert list(model.modules()) == modules
    assert all(module.training and not module._forward_pre_hooks for module in modules)
    assert torch.equal(torch.random.get_rng_state(), random)
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())


def test_a_twin_has_the_very_parameters() -> None:
    model = make()
    ours = {id(parameter) for parameter in model.parameters()}
    assert {id(parameter) for parameter in recording_twin(model).parameters()} == ours


def test_one_token_has_maps_and_no_loss() -> None:
    seen = look(make(), [7], top_k=100)
    assert torch.equal(seen.attention, torch.ones(3, 2, 1, 1))
    assert seen.losses.shape == (0,)
    assert seen.next_ids.shape == (1, 31)
    assert math.isclose(float(seen.next_probabilities.sum()), 1.0, rel_tol=1e-5)


class Rotated(FusedAttention):
    """Names as in the plain variant, and another arithmetic."""

    def forward(self, x: Tensor, **more: object) -> Tensor:
        return super().forward(x.roll(1, dims=-1), **more)  # type: ignore[arg-type]


class Averaging(torch.nn.Module):
    """No weights at all."""

    def __init__(self, **sizes: object) -> None:
        super().__init__()

    def forward(self, x: Tensor, **more: object) -> Tensor:
        return x.cumsum(1) / torch.arange(1, x.shape[1] + 1)[:, None]


@pytest.mark.parametrize("attention", [Rotated, Averaging])
def test_another_arithmetic_is_refused_by_name(attention: type) -> None:
    with pytest.raises(ValueError, match=attention.__name__):
        attention_maps(make(attention), IDS)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_precisions_can_be_looked_into(dtype: torch.dtype) -> None:
    maps = attention_maps(make().to(dtype), IDS)
    torch.testing.assert_close(maps, attention_maps(make(), IDS), atol=0.1, rtol=0.1)
