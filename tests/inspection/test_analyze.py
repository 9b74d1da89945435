"""What is shown of a model is what the model does."""

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

import gptlab as package
from gpt2s import save_gpt2, some_tokens
from gptlab.inspection.analyze import analyze
from gptlab.model import GPT, LanguageModel
from gptlab.model.attention.fused import FusedAttention
from gptlab.model.attention.plain import PlainAttention
from tiny_gpt import PARTS

IDS = [5, 0, 17, 3, 3, 9, 28]


def make(attention: type = FusedAttention, **changes: object) -> GPT:
    sizes = {"vocab_size": 31, "context_length": 12, "n_layers": 3, "n_heads": 2, "d_model": 16, "dropout": 0.5}
    torch.manual_seed(4)
    model = GPT(
        **{**sizes, "qkv_bias": True, "tie_head": True, **PARTS, "attention": attention, "init": sharp, **changes}
    )  # type: ignore[arg-type]
    return model.eval()


def sharp(model: torch.nn.Module) -> None:
    """Weights large enough that attention and predictions are far from uniform."""
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4)


class Bigram(LanguageModel):
    """Neither attention nor layers."""

    def __init__(self, *, vocab_size: int) -> None:
        super().__init__()
        self.context_length, self.vocab_size = 12, vocab_size
        self.trunk, self.head = torch.nn.Embedding(vocab_size, 4), torch.nn.Linear(4, vocab_size)


def maps_of(model: GPT) -> Tensor:
    attention = analyze(model, IDS, top_k=1).attention
    assert attention is not None
    return attention


def test_plain_and_fused_show_the_same() -> None:
    torch.testing.assert_close(maps_of(make(PlainAttention)), maps_of(make(FusedAttention)))


def test_maps_hidden_states_and_losses_are_those_of_transformers(tmp_path: Path) -> None:
    theirs = save_gpt2(tmp_path, attn_implementation="eager")
    ours = package.load(tmp_path).model
    ids = some_tokens(61, rows=1)
    with torch.no_grad():
        expected = theirs(ids, labels=ids, output_attentions=True, output_hidden_states=True)
        lens = [theirs.transformer.ln_f(hidden) for hidden in expected.hidden_states[:-1]]
        lens = torch.stack([*lens, expected.hidden_states[-1]])[:, 0]  # (L + 1, T, C); the last is normed already
        most_likely = theirs.lm_head(lens).softmax(-1).max(-1)
    seen = analyze(ours, ids[0].tolist(), top_k=3)
    torch.testing.assert_close(seen.attention, torch.cat(expected.attentions), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(seen.losses.mean(), expected.loss)
    assert torch.equal(seen.layer_ids, most_likely.indices)
    torch.testing.assert_close(seen.layer_probabilities, most_likely.values, atol=1e-5, rtol=1e-4)


def test_predictions_losses_and_ranks_are_the_model_s_own() -> None:
    seen, targets = analyze(make(), IDS, top_k=5), torch.tensor(IDS[1:])
    with torch.no_grad():
        logits = make()(torch.tensor([IDS]))[0]
    shares = logits.softmax(-1)
    assert torch.equal(seen.layer_ids[-1], logits.argmax(-1))
    assert torch.equal(seen.next_ids[:, 0], logits.argmax(-1))
    torch.testing.assert_close(seen.layer_probabilities[-1], shares.amax(-1))
    torch.testing.assert_close(seen.next_probabilities, shares.sort(descending=True).values[:, :5])
    torch.testing.assert_close(seen.losses, F.cross_entropy(logits[:-1], targets, reduction="none"))
    assert torch.equal(seen.layer_losses[-1], seen.losses)
    for position, target in enumerate(targets.tolist()):
        assert seen.ranks[position] == 1 + sum(logits[position] > logits[position, target])


def test_looking_changes_nothing() -> None:
    model = make().train()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    modules = list(model.modules())
    analyze(model, IDS, top_k=3)
    assert list(model.modules()) == modules
    assert all(module.training and not module._forward_pre_hooks for module in modules)
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())


def test_one_token_has_maps_and_no_loss() -> None:
    seen = analyze(make(), [7], top_k=100)
    assert torch.equal(seen.attention, torch.ones(3, 2, 1, 1))
    assert seen.losses.shape == (0,)
    assert seen.next_ids.shape == (1, 31)
    assert math.isclose(float(seen.next_probabilities.sum()), 1.0, rel_tol=1e-5)


class Rotated(FusedAttention):
    """A kernel that computes something other than its weights say."""

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        return super().attend(queries, keys.roll(1, dims=2), values, mask)


def test_attention_that_cannot_be_shown_costs_the_maps_and_the_layers_alone() -> None:
    model = make(Rotated)
    seen = analyze(model, IDS, top_k=3)
    assert (seen.attention, seen.has_layers) == (None, False)
    assert "Rotated" in seen.no_attention
    assert seen.losses.shape == (len(IDS) - 1,)


def test_a_model_without_attention_or_layers_has_losses_ranks_and_next_tokens() -> None:
    seen = analyze(Bigram(vocab_size=31), IDS, top_k=3)
    assert (seen.attention, seen.has_layers) == (None, False)
    assert seen.no_attention == "Bigram shows no attention weights"
    assert seen.losses.shape == seen.ranks.shape == (len(IDS) - 1,)
    assert seen.next_ids.shape == (len(IDS), 3)
