"""Which code a checkpoint may name."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import gptlab as package
from gptlab.checkpoint.export import export
from gptlab.checkpoint.trust import check_trusted, packages_of
from gptlab.errors import UserError

MODEL = """
import torch
from gptlab.model import LanguageModel

class Bigram(LanguageModel):
    def __init__(self, *, vocab_size, context_length, d_model):
        super().__init__()
        self.context_length, self.vocab_size = context_length, vocab_size
        self.trunk, self.head = Trunk(vocab_size, d_model), torch.nn.Linear(d_model, vocab_size, bias=False)
        self.head.weight = self.trunk.embedding.weight

class Trunk(torch.nn.Module):
    def __init__(self, vocab_size, d_model):
        super().__init__()
        self.embedding = torch.nn.Embedding(vocab_size, d_model)
        self.register_buffer("scale", torch.tensor(2.0), persistent=False)

    def forward(self, tokens, *, cache=None):
        return self.embedding(tokens) * self.scale
"""


@pytest.fixture
def outside(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a package outside gptlab, with a model."""
    (workplace / "outside").mkdir()
    (workplace / "outside" / "__init__.py").write_text(MODEL)
    monkeypatch.syspath_prepend(workplace)
    yield "outside"
    sys.modules.pop("outside", None)


@pytest.fixture
def checkpoint(tiny_run: Path, workplace: Path, outside: str) -> Path:
    """A checkpoint of the model of the other package."""
    content = torch.load(tiny_run / "checkpoints" / "last.ckpt", weights_only=True)
    vocab_size = content["gptlab"]["vocab_size"]
    content["gptlab"]["config"]["model"] = {"_target_": "outside.Bigram", "context_length": 8, "d_model": 4}
    weight = torch.randn(vocab_size, 4)
    content["state_dict"] = {"model.head.weight": weight, "model.trunk.embedding.weight": weight}
    torch.save(content, workplace / "theirs.ckpt")
    return workplace / "theirs.ckpt"


def test_a_model_of_another_package_loads_if_the_package_is_trusted(checkpoint: Path) -> None:
    with pytest.raises(UserError, match=r"runs code of outside \(outside\.Bigram\): add trust=outside if you trust it"):
        package.load(checkpoint)
    assert "outside" not in sys.modules, "it was imported before it was trusted"
    for trust in ("outside", ["elsewhere", "outside"]):
        loaded = package.load(checkpoint, trust=trust)
        model = loaded.model
        assert model.head.weight is model.trunk.embedding.weight, "tied as the constructor ties"
        assert model.trunk.scale == 2, "a buffer that is not in the checkpoint"
        assert model(torch.zeros(1, 3, dtype=torch.long)).shape == (1, 3, model.vocab_size)
    with pytest.raises(UserError, match="cannot be exported: GPT-2's layout has no place for Bigram"):
        export(loaded, "out", address="out")


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("os.system", r"add trust=os"),
        ("gptlab.cli.main", "no class or function of gptlab.model"),
        ("gptlab.model.gpt.torch.hub.load", "no class or function of gptlab.model"),
        ("gptlab.model.nothing", "gptlab.model.nothing"),
        ("trusted.system", "no class or function of trusted"),
    ],
)
def test_nothing_else_is_built(workplace: Path, monkeypatch: pytest.MonkeyPatch, target: object, words: str) -> None:
    (workplace / "trusted.py").write_text("from os import system\nfrom shutil import rmtree")
    monkeypatch.syspath_prepend(workplace)
    for node in ({"_target_": target}, {"a": [{"b": {"_target_": target}}]}):
        with pytest.raises(UserError, match=words):
            check_trusted(node, ["trusted"], where="a.ckpt")
    sys.modules.pop("trusted", None)


def test_the_packages_of_a_configuration() -> None:
    config = {"model": {"_target_": "gptlab.model.GPT", "parts": [{"_target_": "mine.parts.Norm"}]}, "seed": 1}
    assert packages_of(config) == ["mine"]
