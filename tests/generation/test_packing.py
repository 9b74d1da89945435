"""Layers for decoding compute what `nn.Linear` does."""

import mmap
import os
import subprocess
import sys
import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from gptlab.generation import packing
from gptlab.generation.packing import BLOCK, PackedLinear, StreamedLinear, can_pack, pack
from gptlab.model import GPT, init
from tiny_gpt import tiny_gpt

LAYERS = {
    "streamed": StreamedLinear,
    "packed": lambda linear: PackedLinear(linear, n_rows=4),
}
SIZES = st.one_of(st.integers(1, 40), st.sampled_from([BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 5]))

pytestmark = pytest.mark.skipif(
    not torch.backends.cpu.get_cpu_capability().startswith("AVX"), reason="this processor keeps torch's own layers"
)


def a_model(**changes: object) -> GPT:
    return tiny_gpt(**{"vocab_size": 300, "d_model": 24, "dropout": 0.1, "init": init.textbook, **changes}).eval()


@pytest.mark.parametrize("kind", LAYERS)
@settings(max_examples=40, deadline=None)
@given(
    n_in=SIZES,
    n_out=SIZES,
    shape=st.lists(st.integers(1, 5), max_size=2),
    bias=st.booleans(),
    bf16=st.booleans(),
)
def test_a_packed_layer_is_the_linear_layer(
    kind: str, n_in: int, n_out: int, shape: list[int], bias: bool, bf16: bool
) -> None:
    dtype = torch.bfloat16 if bf16 else torch.float32
    linear = nn.Linear(n_in, n_out, bias=bias).to(dtype)
    x = torch.randn(*shape, 1, n_in).to(dtype)
    with torch.inference_mode():
        y = LAYERS[kind](linear)(x)
        exact = linear.double()(x.double())
    assert y.dtype == dtype
    assert y.shape == (*shape, 1, n_out)
    tolerance = 2e-2 if bf16 else 1e-5
    torch.testing.assert_close(y.double(), exact, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("n_rows", [1, 3])
@pytest.mark.parametrize("tie_head", [True, False])
def test_a_packed_model_has_the_same_logits_for_prompts_and_for_single_tokens(n_rows: int, tie_head: bool) -> None:
    model = a_model(tie_head=tie_head)
    tokens = torch.randint(300, (n_rows, 9))
    with torch.inference_mode():
        whole = model(tokens)
        pack(model, n_rows=n_rows)
        cache = model.new_cache()
        parts = [model(tokens[:, a:b], cache=cache) for a, b in [(0, 5), (5, 6), (6, 7), (7, 8), (8, 9)]]
    assert not any(type(module) is nn.Linear for module in model.modules())
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("n_rows", [1, 4])
def test_packing_is_for_processors_that_gain_by_it(monkeypatch: pytest.MonkeyPatch, n_rows: int) -> None:
    model = a_model()
    assert can_pack(model, n_rows=n_rows)
    assert not can_pack(a_model().to("meta"), n_rows=n_rows)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "NEON")
    assert not can_pack(model, n_rows=n_rows)


def test_memory_holds_one_copy_of_the_weights_while_they_are_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    model = a_model(tie_head=False)
    first = weakref.ref(model.trunk.blocks[0].attention.qkv.weight)
    alive: list[bool] = []
    replacement = packing._replacement

    def watching(layer: nn.Module, *, n_rows: int) -> nn.Module:
        alive.append(first() is not None)
        return replacement(layer, n_rows=n_rows)

    monkeypatch.setattr(packing, "_replacement", watching)
    pack(model, n_rows=1)
    assert not alive[-1]
    assert sum(alive) < len(alive) / 2


def test_a_kernel_without_large_pages_gives_small_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    class Refusing(mmap.mmap):
        def madvise(self, *_: int) -> None:
            raise OSError(22, "Invalid argument")

    monkeypatch.setattr(packing.mmap, "mmap", Refusing)
    linear = nn.Linear(5, 3)
    x = torch.randn(1, 5)
    with torch.inference_mode():
        torch.testing.assert_close(LAYERS["streamed"](linear)(x), linear(x))


def test_no_rows_give_no_rows() -> None:
    linear = nn.Linear(5, 3)
    with torch.inference_mode():
        assert LAYERS["streamed"](linear)(torch.empty(0, 5)).shape == (0, 3)


def test_an_older_processor_generates_batches_in_bfloat16_too() -> None:
    code = """
import torch
from gptlab.generation.decoding import generate
from gptlab.generation.preparation import prepare_for_inference
from gptlab.generation.sampling import greedy
from tiny_gpt import tiny_gpt

model = tiny_gpt(vocab_size=50, n_layers=1, d_model=8).eval()
prepare_for_inference(model, device="cpu", precision="bf16", n_rows=2, compile=False)
print(len(list(generate(model, [[1], [2, 3]], max_new_tokens=20, sampler=greedy))))
"""
    paths = os.pathsep.join(sys.path)
    environment = {**os.environ, "PYTHONPATH": paths, "ONEDNN_MAX_CPU_ISA": "AVX2"}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert run.stdout == "20\n", run.stderr
