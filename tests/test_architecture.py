"""The house stands as drawn: who may import whom, and what no command pays for."""

import subprocess
import sys
from pathlib import Path

from conftest import ROOT

HEAVY = ("lightning", "matplotlib", "tensorboard", "transformers", "lm_eval", "optuna", "scipy")


def modules_after(code: str, cwd: Path = ROOT) -> set[str]:
    script = f"import sys\n{code}\nprint('\\n'.join(sys.modules))"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=cwd)
    return set(run.stdout.split())


def test_imports_run_one_way() -> None:
    run = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert run.returncode == 0, run.stdout


def test_importing_gptlab_imports_nothing() -> None:
    assert not {"torch", "hydra", "numpy"} & modules_after("import gptlab")


def test_nobody_pays_for_lightning_before_training_starts() -> None:
    lines = (
        "import gptlab.model, gptlab.generation.decoding, gptlab.objective.next_token",
        "import gptlab.inspection.look, gptlab.inspection.tokens",
        "import gptlab; gptlab.load",
        "import gptlab.cli.generate",
        "import gptlab.cli.evaluate",
        "import gptlab.cli.inspect",
        "import gptlab.cli.doctor",
        "import gptlab.cli.compare",
        "import gptlab.cli.train",
        "import gptlab.cli.sweep, gptlab.sweep.results, gptlab.sweep.report.page, gptlab.sweep.board",
        "import hydra_plugins.gptlab.sweeper, hydra_plugins.gptlab.launcher",
    )
    check = f"\nassert not {set(HEAVY)} & set(sys.modules), {set(HEAVY)} & set(sys.modules)\n"
    modules_after(check.join(lines) + check)


def test_there_is_no_utils() -> None:
    names = {path.stem for path in (ROOT / "src").rglob("*")}
    assert not {"utils", "util", "helpers", "common", "misc"} & names
