"""compile=true and activation_checkpointing=true, from the command line."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from conftest import TINY, Result
from gptlab.cli import main
from same_run import assert_same_run, at_step, summary, weights

Command = Callable[..., Result]
SHORT = (*TINY, "model.dropout=0.2", "max_steps=4", "validate_every=3", "save_every=2", "callbacks.curves=null")


@pytest.mark.slow
def test_a_machine_without_a_compiler_is_one_sentence(workplace: Path) -> None:
    command = [sys.executable, "-m", "gptlab", "train", *SHORT, "compile=true", "run_dir=run"]
    nothing = {"PATH": "/nowhere", "CXX": "/nowhere/g++", "TORCHINDUCTOR_CACHE_DIR": str(workplace / "inductor")}
    result = subprocess.run(command, env={**os.environ, **nothing}, capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stderr.startswith("error: compile=true: torch's compiler does not work here (")
    assert result.stderr.endswith("; use compile=false\n")
    assert result.stderr.count("\n") == 1
    assert not Path("run").exists()
    assert "preparing the data" not in result.stdout


@pytest.mark.slow
def test_a_compiled_run_is_the_same_and_resumes_to_the_bit(gptlab: Command, capfd: pytest.CaptureFixture) -> None:
    compiled = (*SHORT, "compile=true", "activation_checkpointing=true")
    result = gptlab("train", *compiled, "run_dir=whole")
    assert result.status == 0, result.err
    assert "compiling the model" in result.out
    assert "compiled in " in result.out
    assert gptlab("train", *SHORT, "run_dir=plain").status == 0
    plain, whole = weights(Path("plain")), weights(Path("whole"))
    assert list(whole) == list(plain)
    assert summary(Path("whole"))["val_loss"] == pytest.approx(summary(Path("plain"))["val_loss"], rel=0.05)
    assert gptlab("generate", "checkpoint=whole", "prompt=The", "max_new_tokens=5").status == 0

    def stop() -> None:
        raise RuntimeError("a cosmic ray")

    with at_step(3, stop):
        assert gptlab("train", *compiled, "run_dir=stopped").status == 1
    torch.compiler.reset()  # a new process would compile again
    assert gptlab("train", "resume=stopped").status == 0
    assert_same_run(Path("stopped"), Path("whole"))
    assert main(["train", "resume=plain", "max_steps=6", "compile=true"]) == 0


def test_activation_checkpointing_changes_no_number(gptlab: Command) -> None:
    for run, checkpointed in (("kept", "false"), ("computed", "true")):
        assert gptlab("train", *SHORT, f"activation_checkpointing={checkpointed}", f"run_dir={run}").status == 0
    assert_same_run(Path("computed"), Path("kept"))


def test_a_model_without_blocks_cannot_checkpoint_them(gptlab: Command) -> None:
    result = gptlab("train", *SHORT, "model.n_layers=0", "activation_checkpointing=true", "run_dir=run")
    assert (result.status, result.err.count("\n")) == (2, 1)
    assert "activation_checkpointing=true: GPT has no blocks; use false" in result.err
    assert not Path("run").exists()
