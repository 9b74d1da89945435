"""Every model and attention of conf trains, resumes to the bit, generates and is told apart, end to end."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import gptlab as gptlab_package
from conftest import CONF, TEXTS, Result, choices
from gptlab.errors import UserError
from same_run import summary, weights

Command = Callable[..., Result]
SHAKESPEARE = TEXTS / "tinyshakespeare.txt"

TINY = (
    *("data.path=poem.txt", "tokenizer=char", "context_length=16", "batch_size=4", "model.dropout=0.2", "max_steps=4"),
    *("validate_every=2", "save_every=2", "trainer=cpu", "callbacks.samples.max_new_tokens=3", "callbacks.curves=null"),
)
MODELS = [f"model={name}" for name in ("stage1", "stage2", "stage3", "stage4", "stage5", "modern", "ngram")]
PARTS = [
    f"model/{group}={name}"
    for group in ("attention", "norm", "feed_forward", "positions")
    for name in choices(f"model/{group}")
    if name not in ("fused", "layernorm", "gelu", "learned")
]


@pytest.mark.slow
@pytest.mark.parametrize("choice", [*MODELS, *PARTS, "optimizer=muon", "schedule=wsd"])
def test_it_trains_resumes_to_the_bit_and_generates(gptlab: Command, workplace: Path, choice: str) -> None:
    has_dropout = choice not in ("model=stage1", "model=stage2")
    settings = [word for word in TINY if has_dropout or not word.startswith("model.dropout")]
    settings += ["model.d_model=32"] if not choice.startswith("model=") else []
    assert gptlab("train", *settings, choice, "run_dir=whole").status == 0
    assert gptlab("train", *settings, choice, "run_dir=halves", "max_steps=2", "schedule.total_steps=4").status == 0
    assert gptlab("train", "resume=halves", "max_steps=4").status == 0
    whole, halves = weights(Path("whole")), weights(Path("halves"))
    assert all(torch.equal(whole[name], halves[name]) for name in whole)
    loaded = gptlab_package.load("whole")
    assert summary(Path("whole"))["causal"] == loaded.model.causal
    written = gptlab("generate", "checkpoint=whole", "prompt=The fog", "max_new_tokens=5", "temperature=0.7")
    assert written.status == 0, written.err
    assert len(written.out) == len("The fog") + 5 + len("\n")
    assert ("recomputes the whole text" in written.err) == (loaded.model.new_cache() is None)


def test_a_model_that_sees_the_future_says_so(gptlab: Command, workplace: Path) -> None:
    result = gptlab("train", *TINY, "model.d_model=32", "model/attention=linear", "run_dir=run")
    assert result.status == 0, result.err
    assert "this model is not causal" in result.err
    assert summary(Path("run"))["causal"] is False
    assert "its text is poor" in gptlab("generate", "checkpoint=run", "prompt=The fog", "max_new_tokens=2").err


def entropy(counts: np.ndarray) -> float:
    shares = counts / counts.sum()
    return float(-(shares * np.log(shares)).sum())


@pytest.mark.slow
@pytest.mark.skipif(not SHAKESPEARE.is_file(), reason="the text is not beside the checkout")
def test_a_lookup_ends_above_the_entropy_of_pairs_of_characters(gptlab: Command, workplace: Path) -> None:
    """No function of the current character comes below what is left to know of the next one."""
    text = SHAKESPEARE.read_text()
    tail = np.unique(list(text[int(0.9 * len(text)) :]), return_inverse=True)[1]
    pairs = np.unique(tail[:-1] * 100 + tail[1:], return_counts=True)[1]
    bound = entropy(pairs) - entropy(np.bincount(tail[:-1]))
    assert bound == pytest.approx(2.373, abs=1e-3)
    only = "hydra.sweeper.cases=[{name: stage1, overrides: ['model=stage1']}]"
    assert gptlab("train", "sweep=five_models", only, "seed=1", f"data.path={SHAKESPEARE}", "run_dir=one").status == 0
    assert bound < summary(Path("one/0"))["val_loss"] < 2.60


@pytest.mark.slow
@pytest.mark.skipif(not SHAKESPEARE.is_file(), reason="the text is not beside the checkout")
def test_the_speedrun_reaches_its_loss_within_its_limits(gptlab: Command, workplace: Path) -> None:
    command = ("train", "experiment=speedrun_char", "seed=7", f"data.path={SHAKESPEARE}", "run_dir=run")
    assert gptlab(*command).status == 0
    result = summary(Path("run"))
    assert result["val_loss"] <= 1.898
    assert result["parameters"] <= 810_000
    assert gptlab_package.load("run").model.context_length == 64


REFUSED = {
    "model/attention=causal model.n_heads=4": "CausalAttention has a single head, and n_heads=4: leave n_heads out",
    "model/attention=grouped model.attention.n_kv_heads=3": "n_kv_heads=3 must divide n_heads=4",
    "model/positions=rope model.d_model=60 model.n_heads=4": "rotary positions need an even head_dim",
    "model/positions=rope model/attention=manual": "ManualAttention needs model/positions=learned",
    "model/positions=rope model=stage3": "rotary positions need the attention of a GPT, such as model=stage4",
    "model=ngram model.n_earlier=0": "n_earlier=0 must be at least 1",
    "model/feed_forward=swiglu model.feed_forward.multiple_of=0": "multiple_of=0 must be at least 1",
}


@pytest.mark.parametrize("words", REFUSED)
def test_parts_that_do_not_fit_together_are_refused(words: str) -> None:
    with pytest.raises(UserError, match=REFUSED[words]):
        gptlab_package.compose(words.split())


def test_a_context_without_a_table_of_positions_can_be_extended(gptlab: Command, workplace: Path) -> None:
    assert gptlab("train", *TINY, "model=modern", "model.d_model=32", "run_dir=run").status == 0
    asked = ("generate", "checkpoint=run", "prompt=The fog comes on little", "greedy=true", "max_new_tokens=9")
    longer = gptlab(*asked, "context_length=64")
    assert longer.status == 0, longer.err
    assert "this model was trained on 16 tokens at once" in longer.err
    assert len(longer.out) == len("The fog comes on little") + 9 + len("\n")
    assert gptlab("train", *TINY, "model.d_model=32", "run_dir=table").status == 0
    refused = gptlab("generate", "checkpoint=table", "prompt=The", "context_length=64")
    assert (refused.status, refused.err) == (2, "error: context_length=64: the positions of GPT end at 16\n")


def test_an_attention_with_one_head_sets_n_heads_in_every_model() -> None:
    for name in (path.stem for path in (CONF / "model").glob("*.yaml") if "attention:" in path.read_text()):
        config = gptlab_package.compose([f"model={name}", "model/attention=causal", "model/positions=learned"])
        assert config["model"]["n_heads"] == 1
