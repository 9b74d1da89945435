"""What every optimizer of conf/optimizer promises."""

import copy

import pytest
import torch

from conftest import choices
from gptlab import build, compose
from gptlab.model import LanguageModel
from gptlab.model.lora import LoRA
from gptlab.training.muon import orthogonal
from tiny_gpt import Bigram, tiny_classifier, tiny_gpt


def factory(name: str):
    return build.optimizer(compose([f"optimizer={name}"]))


@pytest.mark.parametrize("name", choices("optimizer"))
def test_every_parameter_is_in_exactly_one_group(name: str) -> None:
    net = tiny_gpt()
    grouped = [id(p) for group in factory(name)(net).param_groups for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in net.parameters())


def test_adamw_decays_matrices_only() -> None:
    net = tiny_gpt()
    decayed, kept = factory("adamw")(net).param_groups
    assert decayed["weight_decay"] > 0 == kept["weight_decay"]
    assert all(p.dim() >= 2 for p in decayed["params"])
    assert all(p.dim() == 1 for p in kept["params"])


def model_with_gradients(net: LanguageModel, seed: int) -> LanguageModel:
    torch.manual_seed(seed)
    for parameter in net.parameters():
        parameter.grad = torch.randn_like(parameter) if parameter.requires_grad else None
    return net


@pytest.mark.parametrize("name", choices("optimizer"))
def test_a_loaded_state_continues_to_the_bit(name: str) -> None:
    one = tiny_gpt()
    optimizer = factory(name)(one)
    for step in range(3):
        model_with_gradients(one, step)
        optimizer.step()
    other = copy.deepcopy(one)
    resumed = factory(name)(other)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for net, its in ((one, optimizer), (other, resumed)):
        for step in range(3, 6):
            model_with_gradients(net, step)
            its.step()
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_muon_takes_the_matrices_of_the_blocks() -> None:
    net = tiny_gpt()
    muon, *_ = factory("muon")(net).param_groups
    names = {name for name, p in net.named_parameters() if any(p is matrix for matrix in muon["params"])}
    kinds = ("attention.qkv", "attention.out", "feed_forward.up", "feed_forward.down")
    assert names == {f"trunk.blocks.{n}.{kind}.weight" for n in range(2) for kind in kinds}


def test_muon_of_an_adapter_and_of_a_classifier() -> None:
    net = tiny_gpt()
    LoRA(rank=2, alpha=4.0, targets=["qkv"], dropout=0.0).apply(net)
    muon, *others = factory("muon")(net).param_groups
    assert {tuple(p.shape) for p in muon["params"]} == {(2, 16), (48, 2)}
    assert not any(group["params"] for group in others)
    classifier = tiny_classifier()
    assert not any(p is classifier.head.weight for p in factory("muon")(classifier).param_groups[0]["params"])


def test_muon_is_torchs_if_a_matrix_stands_alone() -> None:
    """Torch's rounds to bfloat16 on the way."""
    ours, theirs = tiny_gpt(), tiny_gpt()
    node = {**compose(["optimizer=muon"])["optimizer"], "lr": 0.1}
    optimizer = build.optimizer({"optimizer": node})(ours)
    matrices = [p for name, p in theirs.named_parameters() if name.startswith("trunk.blocks") and p.dim() == 2]
    reference = torch.optim.Muon(matrices, lr=0.1, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    start = [p.detach().clone() for p in matrices]
    for step in range(2):
        for net, its in ((ours, optimizer), (theirs, reference)):
            model_with_gradients(net, step)
            its.step()
    for begin, mine, its in zip(start, optimizer.param_groups[0]["params"], matrices, strict=True):
        one, other = (mine - begin).detach(), (its - begin).detach()
        assert (one - other).norm() < 0.02 * other.norm()


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 4, 20), (2, 20, 4)])
def test_orthogonal_matrices_keep_their_directions_and_lose_their_sizes(shape: tuple[int, ...]) -> None:
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    result = orthogonal(matrices, iterations=5)
    assert torch.linalg.svdvals(result).sub(1).abs().max() < 0.4
    u, _, v = torch.linalg.svd(matrices, full_matrices=False)
    assert torch.nn.functional.cosine_similarity(result.flatten(), (u @ v).flatten(), dim=0) > 0.95
    torch.testing.assert_close(orthogonal(matrices[:1], iterations=5), result[:1])
    assert orthogonal(torch.zeros(shape), iterations=5).abs().max() == 0


@pytest.mark.parametrize("net", [Bigram(vocab_size=9, context_length=4, d_model=8), tiny_gpt(n_layers=0)])
def test_muon_without_matrices_is_adamw_and_says_so(net: LanguageModel, caplog: pytest.LogCaptureFixture) -> None:
    optimizer = factory("muon")(net)
    assert isinstance(optimizer, torch.optim.AdamW)
    assert f"{type(net).__name__} has no matrices below its head: AdamW trains all of it" in caplog.text


def test_a_matrix_without_a_gradient_stays() -> None:
    net = model_with_gradients(tiny_gpt(), 0)
    optimizer = factory("muon")(net)
    still = net.trunk.blocks[0].attention.qkv.weight
    still.grad, before = None, still.detach().clone()
    optimizer.step()
    assert torch.equal(still, before)
    assert still not in optimizer.state
