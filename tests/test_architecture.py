"""The house stands as drawn: who may import whom, and what no command pays for."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from conftest import ROOT

HEAVY = ("lightning", "matplotlib", "tensorboard", "transformers", "lm_eval", "optuna", "scipy")


def test_imports_run_one_way() -> None:
    command = [Path(sys.executable).with_name("lint-imports"), "--no-cache"]
    run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert run.returncode == 0, run.stdout


def test_importing_gptlab_imports_nothing_and_nobody_pays_for_lightning_before_training_starts() -> None:
    lines = (
        "import gptlab; assert not {'torch', 'hydra', 'numpy'} & set(sys.modules)",
        "import gptlab.model, gptlab.generation.decoding, gptlab.objective.next_token",
        "import gptlab.inspection.analyze, gptlab.inspection.tokens",
        "gptlab.load",
        "import gptlab.cli.generate, gptlab.cli.evaluate, gptlab.cli.inspect, gptlab.cli.doctor, gptlab.cli.compare",
        "import gptlab.cli.train",
        "import gptlab.cli.sweep, gptlab.sweep.report, gptlab.sweep.pictures, gptlab.sweep.hparams",
        "import hydra_plugins.gptlab.sweeper",
    )
    check = f"\nassert not {set(HEAVY)} & set(sys.modules), {set(HEAVY)} & set(sys.modules)\n"
    command = [sys.executable, "-c", "import sys\n" + check.join(lines) + check]
    run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert run.returncode == 0, run.stderr


SOURCES = sorted((ROOT / "src").rglob("*.py"))
PRIVATE = ROOT / "src" / "gptlab" / "private.py"
OF_PYTHON = re.compile("__.*__|_target_|_partial_|_fields|_replace|_asdict|_exit")


def private_names(path: Path) -> Iterator[str]:
    """Names with a leading underscore that a file takes from somewhere: attributes, imports, and names in getattr."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute) and node.attr.startswith("_"):
            yield node.attr
        if isinstance(node, ast.ImportFrom):
            yield from (part for part in (node.module or "").split(".") if part.startswith("_"))
            yield from (alias.name for alias in node.names if alias.name.startswith("_"))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("getattr", "hasattr", "setattr"):
            name = node.args[1]
            if isinstance(name, ast.Constant) and str(name.value).startswith("_"):
                yield str(name.value)


def test_private_names_of_other_packages_are_in_one_file_and_few() -> None:
    text = "\n".join(path.read_text(encoding="utf-8") for path in SOURCES)
    own = set(re.findall(r"(?:def |class |self\.|cls\.|^\s*)(_\w+)\b(?=\(| =|:|\[|,| \+=|\.)", text, re.MULTILINE))
    foreign = {
        path: {name for name in private_names(path) if name not in own and not OF_PYTHON.fullmatch(name)}
        for path in SOURCES
    }
    assert len(foreign.pop(PRIVATE)) <= 5
    assert {str(path): names for path, names in foreign.items() if names} == {}


def test_files_and_functions_are_short() -> None:
    for path in SOURCES:
        text = path.read_text(encoding="utf-8")
        assert len(text.splitlines()) <= 300, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno is not None
                assert node.end_lineno - node.lineno < 60, f"{path}: {node.name}"
