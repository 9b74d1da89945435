"""Layers for decoding compute what `nn.Linear` does."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from gptlab.generation import packing
from gptlab.generation.packing import BLOCK, PackedLinear, StreamedLinear, can_pack, pack
from gptlab.model import GPT, init
from tiny_gpt import Bigram, tiny_gpt

LAYERS = {"streamed": StreamedLinear, "packed": lambda linear: PackedLinear(linear, n_rows=4)}
SIZES = st.one_of(st.integers(1, 40), st.sampled_from([BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 5]))

pytestmark = pytest.mark.skipif(
    not torch.backends.cpu.get_cpu_capability().startswith("AVX"), reason="this processor keeps torch's own layers"
)


def a_model(**changes: object) -> GPT:
    return tiny_gpt(**{"vocab_size": 300, "d_model": 24, "dropout": 0.1, "init": init.textbook, **changes}).eval()


@pytest.mark.parametrize("kind", LAYERS)
@settings(max_examples=30, deadline=None)
@given(
    n_in=SIZES,
    n_out=SIZES,
    shape=st.lists(st.integers(0, 5), max_size=2),
    bias=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_a_packed_layer_is_the_linear_layer(
    kind: str, n_in: int, n_out: int, shape: list[int], bias: bool, dtype: torch.dtype
) -> None:
    linear = nn.Linear(n_in, n_out, bias=bias).to(dtype)
    x = torch.randn(*shape, 1, n_in).to(dtype)
    with torch.inference_mode():
        y = LAYERS[kind](linear)(x)
        exact = linear.double()(x.double())
    assert y.dtype == dtype
    assert y.shape == (*shape, 1, n_out)
    tolerance = 2e-2 if dtype == torch.bfloat16 else 1e-5
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
    theirs = Bigram(vocab_size=300, context_length=9, d_model=8).eval()
    pack(theirs, n_rows=n_rows)
    assert type(theirs.head) is nn.Linear, "a model of others may read the weights of its layers"
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("n_rows", [1, 4])
def test_packing_is_for_processors_that_gain_by_it(monkeypatch: pytest.MonkeyPatch, n_rows: int) -> None:
    model = a_model()
    assert can_pack(model, n_rows=n_rows)
    assert not can_pack(a_model().to("meta"), n_rows=n_rows)
    monkeypatch.setattr(packing, "mkldnn_has_bfloat16", lambda: False)  # an older one
    assert can_pack(a_model().bfloat16(), n_rows=n_rows) == (n_rows == 1)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "NEON")
    assert not can_pack(model, n_rows=n_rows)
