"""`gptlab plan`, end to end, and what a run says of its cost."""

import csv
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import START, TINY, Result
from gptlab.cli import costs
from same_run import summary

Command = Callable[..., Result]


def facts(result: Result) -> dict[str, str]:
    """Name and value of each line."""
    assert result.status == 0, result.err
    return {line[:18].strip(): line[18:] for line in result.out.splitlines()}


def files(place: Path) -> set[Path]:
    return {path for path in place.rglob("*") if path.is_file()}


def test_it_says_what_a_run_would_cost_and_leaves_nothing_behind(gptlab: Command, workplace: Path) -> None:
    before = files(workplace)
    found = facts(gptlab("plan", *TINY, "micro_batch_size=2"))
    assert files(workplace) == before
    assert re.fullmatch(r"[\d,]+", found["parameters"])
    assert re.fullmatch(r"[\d,]+; 6N is [\d.]+ million FLOPs a token", found["no embeddings"])
    assert found["a step"] == "64 tokens (2 x 2 x 16), 32-true"
    for kind in ("weights", "gradients", "optimizer", "activations", "loss", "other"):
        assert re.fullmatch(r" *[\d.]+ [GM]iB", found[kind])
    assert re.fullmatch(r"[\d.]+ [GM]iB of [\d.,]+ GiB on cpu", found["memory"])
    assert found["peak"].endswith("TFLOP/s, measured with matrix products on cpu"), "a CPU is in no table"
    assert found["at the peak"].endswith(" for 6 steps")
    assert "measured" not in found


def test_a_probe_times_real_steps_and_leaves_nothing_behind(gptlab: Command, workplace: Path) -> None:
    before = files(workplace)
    found = facts(gptlab("plan", *TINY, "probe=true", "max_steps=100"))
    assert files(workplace) == before
    assert re.fullmatch(r"[\d,]+ tokens/s, 0:0\d:\d\d for 100 steps, MFU \d+%", found["measured"])


def test_what_is_computed_twice_counts_once_and_is_not_kept(gptlab: Command) -> None:
    words = [f"activation_checkpointing={value}" for value in ("false", "true")]
    once, twice = (facts(gptlab("plan", *TINY, word)) for word in words)
    assert once["FLOPs a token"] == twice["FLOPs a token"]
    assert float(once["activations"].split()[0]) > float(twice["activations"].split()[0])


def test_strategies_are_compared_by_memory_network_and_the_largest_model(gptlab: Command) -> None:
    ranks = ("trainer.accelerator=cpu", "trainer.devices=4", "model.n_layers=8", "model.d_model=64")
    found = {
        name: facts(gptlab("plan", *TINY, f"trainer={name}", *ranks, "network=0.125")) for name in ("ddp", "fsdp2")
    }
    line = r"([\d.]+) MiB a rank, sends ([\d.]+) MiB a step \([\d.e-]+ s at 0.125 GB/s\), ([\d,]+) layers of this width"
    (whole, sent, layers), (part, sent_sharded, more_layers) = (
        (float(text.replace(",", "")) for text in re.match(line, found["ddp"][name]).groups())
        for name in ("ddp", "fsdp2")
    )
    assert (whole > part, sent < sent_sharded, layers < more_layers) == (True, True, True)
    for name in found:
        assert found[name][name].startswith(found[name]["memory"].partition(" of ")[0]), "its own strategy"


def test_as_many_layers_fit_as_the_plan_says(gptlab: Command) -> None:
    def layers(*words: str) -> int:
        return int(facts(gptlab("plan", *TINY, *words))["largest"].partition(" layers")[0].replace(",", ""))

    n = layers("model.n_layers=1")
    assert layers("model.n_layers=4") == pytest.approx(n, rel=0.02), "whatever the depth that is asked for"
    assert "" not in facts(gptlab("plan", *TINY, "model.n_layers=1"))


def test_weights_to_start_from_and_an_adapter_count(gptlab: Command, tiny_run: Path) -> None:
    found = facts(gptlab("plan", *START, f"init_from={tiny_run}", "adapter=lora"))
    assert "of them train" in found["parameters"]


def test_what_does_not_fit_is_said_before_the_first_step(
    gptlab: Command, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(costs, "resident_bytes", lambda: 0)
    monkeypatch.setattr(costs, "memory_bytes", lambda device: int(3e6))
    monkeypatch.setattr(costs, "LARGE", 0)
    large = (*TINY, "batch_size=64", "model.d_model=64")
    sentence = r"it will not fit: needs [\d.]+ MiB, has 2\.9 MiB; micro_batch_size=\d+ fits"
    said = facts(gptlab("plan", *large))[""]
    assert re.match(sentence, said)

    probed = gptlab("plan", *large, "probe=true")
    assert probed.status == 2
    assert f"error: probe=true: {said}\n" == probed.err

    run = gptlab("train", *large, "run_dir=run")
    assert run.status == 0, "it is a prediction: the run begins"
    assert re.search(rf"{sentence}.*step 3/6", (workplace / "run" / "train.log").read_text(), re.DOTALL)

    fitting = re.search(r"micro_batch_size=\d+", said)
    assert fitting is not None
    assert "" not in facts(gptlab("plan", *large, fitting[0]))


def test_a_device_of_no_memory_or_of_an_unknown_one(gptlab: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(costs, "memory_bytes", lambda device: 0)
    assert facts(gptlab("plan", *TINY))[""].endswith("has 0.0 MiB; no micro_batch_size does: use a smaller model")
    monkeypatch.setattr(costs, "memory_bytes", lambda device: None)
    assert facts(gptlab("plan", *TINY))["memory"].endswith("of an unknown size on cpu")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["network=fast"], "network=fast must be the GB/s that each rank can send, or null"),
        (["probe=maybe"], "probe=maybe must be true or false"),
        (["resume=last"], "resume= is for train"),
        (["prob=true"], "did you mean probe?"),
        (["model=gpt3"], "model=gpt3 is not one of the choices"),
        (["-m", "batch_size=2,4"], "-m is for train: run plan once for each value"),
    ],
)
def test_what_it_does_not_take(gptlab: Command, arguments: list[str], words: str) -> None:
    result = gptlab("plan", *TINY, *arguments)
    assert result.status == 2
    assert words in result.err
    assert result.err.count("\n") == 1


def test_a_run_logs_its_utilization_at_each_validation(gptlab: Command, workplace: Path) -> None:
    result = gptlab("train", *TINY, "run_dir=run")
    assert result.status == 0, result.err
    assert "memory" not in result.out, "a small run does not count it"
    with (workplace / "run" / "metrics.csv").open(newline="") as file:
        logged = [row["mfu"] for row in csv.DictReader(file)]
    assert [bool(value) for value in logged] == [False, False, True] * 2
    assert 0 < float(logged[-1]) == pytest.approx(summary(workplace / "run")["mfu"], rel=1e-4)


STATUS = Path("/proc/self/status")
WITH_STATUS = f"""
import runpy
try:
    runpy.run_module("gptlab", run_name="__main__", alter_sys=True)
finally:
    print(open({str(STATUS)!r}).read())
"""


def peak_memory(*words: str) -> tuple[str, float]:
    """What a command prints, and the peak of its memory in GiB: wait4's would contain the peak of this process."""
    process = subprocess.run([sys.executable, "-c", WITH_STATUS, *words], capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    match = re.search(r"^VmHWM:\s+(\d+) kB", process.stdout, re.MULTILINE)
    assert match is not None
    return process.stdout, int(match[1]) / (1 << 20)


SIZES = {
    "2 x 256": ("model.d_model=256", "batch_size=32", "context_length=256"),
    "4 x 384": ("model.n_layers=4", "model.n_heads=6", "model.d_model=384", "batch_size=16", "context_length=256"),
    "8 x 512": ("model.n_layers=8", "model.n_heads=8", "model.d_model=512", "batch_size=8", "context_length=512"),
    "12 x 768": ("model=gpt2", "model.dropout=0", "batch_size=4", "context_length=256"),
}


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(not STATUS.exists(), reason="the system does not tell a process's peak")
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("size", SIZES)
def test_predicted_memory_is_within_15_percent_of_the_run_s(workplace: Path, size: str, precision: str) -> None:
    words = (*SIZES[size], "optimizer=adamw", "trainer=cpu", f"trainer.precision={precision}")
    said, _ = peak_memory("plan", *words)
    match = re.search(r"^memory +([\d.]+) (GiB|MiB)", said, re.MULTILINE)
    assert match is not None
    predicted = float(match[1]) / (1 if match[2] == "GiB" else 1024)
    steps = ("max_steps=4", "validate_every=4", "trainer.limit_val_batches=2", "schedule=constant", "run_dir=run")
    _, measured = peak_memory("train", *words, *steps)
    print(f"{size}, {precision}: predicted {predicted:.3f} GiB, measured {measured:.3f} GiB")
    assert predicted == pytest.approx(measured, rel=0.15)
