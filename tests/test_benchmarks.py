"""The harness of benchmarks/, and the peers that .ci/run does not have: it runs each benchmark in its tiny form."""

import json
import sys
from pathlib import Path

import pytest

from conftest import ROOT

sys.path.append(str(ROOT / "benchmarks"))

import harness
import profile_step
import train_step

SIZES = {"width": 64, "steps": 10}


def a_table(*words: str) -> harness.Table:
    arguments = harness.Parser("a benchmark", sizes=SIZES, tiny={"steps": 1}).parse_args([*words])
    return harness.Table(arguments, {"speed": ".1f"}, ratio_of=["speed"])


def test_a_size_comes_from_the_command_line_then_the_last_preset_then_the_default() -> None:
    parser = harness.Parser("", sizes=SIZES, large={"width": 256, "steps": 3}, tiny={"steps": 1})
    sizes = [parser.parse_args(words) for words in ([], ["--large"], ["--large", "--tiny"], ["--tiny", "--steps", "7"])]
    assert [(s.width, s.steps, s.rounds) for s in sizes] == [(64, 10, 5), (256, 3, 5), (256, 1, 1), (64, 7, 1)]


def test_contenders_take_turns_and_ratios_are_of_one_round(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    order: list[str] = []
    speeds = {"ours": iter([2.0, 9.0, 4.0]), "slow": iter([1.0, 2.0, 1.0]), "fast": iter([1.0, 3.0, 2.0])}

    def contender(name: str) -> harness.Numbers:
        order.append(name)
        return {"speed": next(speeds[name])}

    table = a_table("--rounds", "3", "--json", str(tmp_path / "found.json"))
    table.compare("case", {name: lambda name=name: contender(name) for name in speeds}, to=["slow", "fast"])
    assert order == ["ours", "slow", "fast", "fast", "slow", "ours", "ours", "slow", "fast"]
    content = json.loads((tmp_path / "found.json").read_text())
    ours, slow, _ = content["results"]
    assert ours["ratios"] == {"speed": [2.0, 2.0, 3.0]}  # to the fastest of the round: 2/1, 9/3, 4/2
    assert (ours["medians"], slow["ratios"], table.lowest("ours")) == ({"speed": 4.0}, {}, 2.0)
    assert content["arguments"]["rounds"] == 3
    assert content["machine"]["torch"]
    assert "2.00 (2.00 to 3.00)" in capsys.readouterr().out


def test_after_the_deadline_a_case_gets_one_round() -> None:
    table = a_table("--rounds", "4")
    table.deadline = 0.0
    table.compare("case", {"ours": lambda: {"speed": 1.0}}, to=["ours"])
    assert len(table.content["results"][0]["rounds"]) == 1


def test_a_failed_command_ends_the_benchmark_with_what_it_said() -> None:
    with pytest.raises(SystemExit, match="no such thing"):
        harness.command(sys.executable, "-c", "raise SystemExit('no such thing')")


@pytest.mark.parametrize(
    ("kind", "name", "shapes"),
    [
        ("optimizer", "aten::_fused_adamw_", [[], [], []]),
        ("embeddings", "aten::embedding_dense_backward", [[4, 8], [4]]),
        ("head and loss", "aten::mm", [[32, 97], [97, 8]]),
        ("head and loss", "aten::_log_softmax_backward_data", [[32, 97], [32, 97]]),
        ("attention", "aten::_scaled_dot_product_flash_attention_for_cpu", [[1, 2, 4, 8]]),
        ("matrix products", "aten::addmm", [[8], [32, 8], [8, 8]]),
        ("norms, GELU", "aten::native_layer_norm_backward", [[32, 8]]),
        ("copies, casts", "aten::copy_", [[32, 8], [32, 8]]),
        ("other arithmetic", "aten::add", [[32, 8], [32, 8]]),
        ("data", "[_TrainingEpochLoop].train_dataloader_next", []),
        ("Python", "[Callback]Attention.on_train_batch_end", []),
        ("Python", "autograd::engine::evaluate_function: AddmmBackward0", []),
    ],
)
def test_an_operation_has_a_kind(kind: str, name: str, shapes: list[list[int]]) -> None:
    assert profile_step.kind_of(name, shapes, vocabulary=97) == kind


MODEL = """
from dataclasses import dataclass
import torch
from torch import nn

@dataclass
class GPTConfig:
    block_size: int; vocab_size: int; n_layer: int; n_head: int; n_embd: int; dropout: float; bias: bool

class GPT(nn.Module):
    def __init__(self, config):
        super().__init__()
        print("number of parameters")
        self.head = nn.Sequential(nn.Embedding(config.vocab_size, 8), nn.Linear(8, config.vocab_size))
    def forward(self, idx, targets=None):
        logits = self.head(idx)
        return logits, nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
    def configure_optimizers(self, weight_decay, learning_rate, betas, device_type):
        return torch.optim.AdamW(self.parameters(), lr=learning_rate, betas=betas, weight_decay=weight_decay)
"""
TRAIN = """
import pathlib, pickle, sys
given = dict(word.removeprefix("--").split("=") for word in sys.argv[1:])
assert pickle.loads(pathlib.Path(given["dataset"], "meta.pkl").read_bytes())["vocab_size"] == 65
assert (given["device"], given["dtype"], given["block_size"], given["compile"]) == ("cpu", "float32", "16", "False")
for step in range(int(given["max_iters"])):
    print(f"iter {step}: loss 4.1234, time {900 if step == 0 else 20 + step / 10:.2f}ms, mfu -100.00%")
"""


@pytest.mark.slow
def test_nanogpt_is_run_as_it_is_and_its_model_in_a_bare_loop(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(MODEL)
    (tmp_path / "train.py").write_text(TRAIN)
    parser = train_step.parser("", train_step.SHAKESPEARE)
    sizes = parser.parse_args(["--tiny"])
    sizes.peer = [f"nanogpt={tmp_path}"]
    runs = train_step.contenders(sizes)
    with train_step.data(sizes):
        whole, model = runs["nanoGPT"](), runs["nanoGPT model"]()
    assert whole["ms a step"] == pytest.approx(20.35)  # the median of steps 2 to 5
    assert model["tokens/s"] > 0 < model["memory MB"]
    sizes.precision = "bf16"
    assert "nanoGPT" not in train_step.contenders(sizes)
