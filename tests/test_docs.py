"""docs/extend.md and docs/python.md do what they say: their files are written, their commands and their code run."""

import csv
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from conftest import ROOT

DOCS = ROOT / "docs"
GPTLAB = Path(sys.executable).with_name("gptlab")


class Block(NamedTuple):
    """A fenced block of a page, and the file that it is the content of, if the line before it names one."""

    file: str | None
    language: str
    content: str


def blocks(page: str) -> list[Block]:
    text = (DOCS / page).read_text(encoding="utf-8")
    found = re.findall(r"(?:^`([^`\n]+)`:\n\n)?^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [Block(file or None, language, content) for file, language, content in found]


def run(*command: str, cwd: Path) -> str:
    process = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert process.returncode == 0, f"{shlex.join(command)}\n{process.stdout}\n{process.stderr}"
    return process.stdout


def write_files(page: str, place: Path) -> None:
    for block in blocks(page):
        if block.file is not None:
            (place / block.file).parent.mkdir(parents=True, exist_ok=True)
            (place / block.file).write_text(block.content, encoding="utf-8")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_package_of_one_s_own_trains_resumes_generates_and_is_swept(workplace: Path) -> None:
    write_files("extend.md", workplace)
    (commands,) = [block.content for block in blocks("extend.md") if block.language == "bash"]
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
    with (workplace / "sweep" / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["status"] for row in rows] == ["finished", "finished"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_code_for_python_runs(workplace: Path) -> None:
    sizes = ["model.n_layers=1", "model.d_model=32", "max_steps=2", "callbacks.samples=null", "trainer=cpu"]
    run(str(GPTLAB), "train", *sizes, "run_dir=run", cwd=workplace)
    for number, block in enumerate(block for block in blocks("python.md") if block.language == "python"):
        script = workplace / f"block_{number}.py"
        script.write_text(block.content, encoding="utf-8")
        out = run(sys.executable, str(script), cwd=workplace)
        if number == 1:
            assert len(re.findall(r"val/loss': ([0-9.]+)", out)) == 2


def test_an_extension_takes_thirty_lines() -> None:
    lines = [line for block in blocks("extend.md") if block.file for line in block.content.splitlines() if line.strip()]
    assert 20 < len(lines) <= 32
