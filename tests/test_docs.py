"""Pages of docs/ do what they say: their files are written, their commands and their code run."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import ROOT, needs_gpt2_vocabulary

DOCS = ROOT / "docs"
GPTLAB = Path(sys.executable).with_name("gptlab")


def blocks(page: str) -> list[tuple[str, str, str]]:
    """The fenced blocks of a page: the file that the line before names, or nothing; the language; the content."""
    text = (DOCS / page).read_text(encoding="utf-8")
    return re.findall(r"(?:^`([^`\n]+)`:\n\n)?^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def run(*command: str, cwd: Path) -> str:
    process = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert process.returncode == 0, f"{shlex.join(command)}\n{process.stdout}\n{process.stderr}"
    return process.stdout


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_package_of_one_s_own_trains_resumes_generates_and_is_swept(workplace: Path) -> None:
    for file, _, content in blocks("extend.md"):
        if file:
            (workplace / file).parent.mkdir(parents=True, exist_ok=True)
            (workplace / file).write_text(content, encoding="utf-8")
    (commands,) = [content for _, language, content in blocks("extend.md") if language == "bash"]
    for line in commands.splitlines():
        program, *arguments = shlex.split(line)
        assert program == "gptlab"
        out = run(str(GPTLAB), *arguments, cwd=workplace)
        if arguments[0] == "generate":
            assert out.startswith("The import statement")
            assert len(out) > len("The import statement")
        if arguments[0] == "evaluate":
            assert 0 < json.loads(out)["loss"] < 10
    summary = json.loads((workplace / "run" / "summary.json").read_text())
    assert (summary["status"], summary["steps"]) == ("finished", 60)
    assert len(list((workplace / "run" / "best_two").glob("*.ckpt"))) >= 2
    assert (workplace / "sweep" / "results.csv").read_text().count(",finished,") == 2


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_code_for_python_runs(workplace: Path) -> None:
    sizes = ["model.n_layers=1", "model.d_model=32", "max_steps=2", "callbacks.samples=null", "trainer=cpu"]
    run(str(GPTLAB), "train", *sizes, "run_dir=run", cwd=workplace)
    scripts = [content for _, language, content in blocks("python.md") if language == "python"]
    for number, content in enumerate(scripts):
        script = workplace / f"block_{number}.py"
        script.write_text(content, encoding="utf-8")
        out = run(sys.executable, str(script), cwd=workplace)
        if number == 1:
            assert len(re.findall(r"val/loss': ([0-9.]+)", out)) == 2


@needs_gpt2_vocabulary
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_commands_for_large_corpora_run(workplace: Path) -> None:
    (workplace / "books").mkdir()
    (workplace / "books" / "poems.txt").write_text((workplace / "poem.txt").read_text() * 10)
    tiny = [
        "model.n_layers=1",
        "model.n_heads=2",
        "model.d_model=16",
        "context_length=16",
        "max_steps=2",
        "trainer=cpu",
    ]
    lines = [
        line
        for _, language, text in blocks("corpora-of-any-size.md")
        if language == "bash"
        for line in text.splitlines()
    ]
    for line in lines:
        _, *arguments = shlex.split(line)
        run(str(GPTLAB), *arguments, *(tiny if arguments[0] == "train" else []), cwd=workplace)
    assert len(lines) == 3


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_commands_for_comparing_ideas_run(workplace: Path) -> None:
    tiny = [
        "model.n_layers=1",
        "model.n_heads=2",
        "model.d_model=16",
        "context_length=16",
        "max_steps=2",
        "trainer=cpu",
    ]
    page = "compare-ideas-fairly.md"
    lines = [line for _, language, text in blocks(page) if language == "bash" for line in text.splitlines()]
    outs = []
    for line in lines:
        program, command, *arguments = shlex.split(line.replace("seed=1,2,3,4,5", "seed=1,2"))
        assert program == "gptlab"
        outs.append(run(str(GPTLAB), command, *arguments, *(tiny if command == "train" else []), cwd=workplace))
    tuned, paired, by_bytes, floors = (out for out, line in zip(outs, lines, strict=True) if "compare" in line)
    assert "one seed only (6 of 6 lines)" in tuned
    assert "2 seeds in common" in paired
    assert "sorted by val_bits_per_byte" in by_bytes
    assert "2 seeds in common" in by_bytes
    assert "3-gram: " in floors


def test_an_extension_takes_thirty_lines() -> None:
    files = [content for file, _, content in blocks("extend.md") if file]
    lines = [line for content in files for line in content.splitlines() if line.strip()]
    assert 20 < len(lines) <= 32


@pytest.mark.parametrize(
    ("status", "restarts", "is_requeued"), [(0, 0, False), (2, 0, False), (138, 1, True), (1, 20, False)]
)
def test_the_script_for_slurm_requeues_until_the_run_is_finished(
    workplace: Path, status: int, restarts: int, is_requeued: bool
) -> None:
    ((_, _, script),) = blocks("slurm.md")
    for name, line in {"srun": f'echo "$@"; exit {status}', "scontrol": 'echo "scontrol $@"'}.items():
        (workplace / name).write_text(f"#!/bin/bash\n{line}\n")
        (workplace / name).chmod(0o755)
    job = {"SLURM_JOB_ID": "4711", "SLURM_NTASKS_PER_NODE": "4", "SLURM_NNODES": "2", "SLURM_SUBMIT_DIR": "/shared/me"}
    job |= {"PATH": f"{workplace}:{os.environ['PATH']}", "SLURM_RESTART_COUNT": str(restarts)}
    result = subprocess.run(["bash", "-c", script], env=job, capture_output=True, text=True, check=False)
    assert result.returncode == status
    assert "run_dir=/shared/me/runs/mine trainer=ddp trainer.devices=4 trainer.num_nodes=2 " in result.stdout
    assert ("scontrol requeue 4711" in result.stdout) is is_requeued
