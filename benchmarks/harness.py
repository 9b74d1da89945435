"""What all benchmarks share: contenders take turns, medians are compared, and each ratio comes with its spread.

A contender is a callable that measures once and returns numbers by column. This file imports no torch, so that a
measurement in a process of its own pays for nothing but its own imports and memory.
"""

import argparse
import csv
import json
import multiprocessing
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stdout
from importlib.metadata import version
from pathlib import Path
from typing import Any

Numbers = dict[str, float]
ROOT = Path(__file__).resolve().parents[1]
os.environ |= {"TQDM_DISABLE": "1", "TRANSFORMERS_VERBOSITY": "error"}  # tables without bars between their lines


class Parser(argparse.ArgumentParser):
    """Options of every benchmark: --rounds, --json, a number for each size, and a flag for each preset of sizes."""

    def __init__(self, description: str, *, sizes: dict[str, int], **presets: dict[str, int]) -> None:
        super().__init__(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
        self.sizes, self.presets = {"rounds": 5, **sizes}, {**presets, "tiny": {"rounds": 1, **presets["tiny"]}}
        for name, value in self.sizes.items():
            self.add_argument(f"--{name}", type=int, help=f"{value} if not given")
        for name, preset in self.presets.items():
            shown = ", ".join(f"{size}={value}" for size, value in preset.items())
            self.add_argument(f"--{name}", action="store_true", help=shown)
        self.add_argument("--json", type=Path, metavar="FILE", help="all measurements, rewritten after each case")

    def parse_args(self, *given: Any) -> argparse.Namespace:  # type: ignore[override]
        """The arguments; a size that is not given comes from the last preset that names it."""
        arguments = super().parse_args(*given)
        sizes = dict(self.sizes)
        for name, preset in self.presets.items():
            if getattr(arguments, name):
                sizes |= preset
        for name, value in sizes.items():
            if getattr(arguments, name) is None:
                setattr(arguments, name, value)
        return arguments


class Table:
    """Measures, prints a line for each contender, and keeps everything for --json.

    Attributes:
        deadline: of `time.monotonic()`; a round that would end later does not begin, unless it is a case's first.
        content: what --json gets.
    """

    def __init__(self, arguments: argparse.Namespace, columns: dict[str, str], *, ratio_of: Sequence[str]) -> None:
        self.n_rounds, self.path, self.deadline = arguments.rounds, arguments.json, float("inf")
        benchmark = {"benchmark": Path(sys.argv[0]).stem, "arguments": vars(arguments), "machine": machine()}
        self.content: dict[str, Any] = {**benchmark, "results": []}
        self.begin(columns, ratio_of=ratio_of)

    def begin(self, columns: dict[str, str], *, ratio_of: Sequence[str]) -> None:
        """Print the head of a table: formats of numbers by name, and the columns whose ratio is shown."""
        self.columns, self.ratio_of = columns, ratio_of
        ratios = ["ratio (spread)" if len(ratio_of) == 1 else f"{name} ratio" for name in ratio_of]
        heads = [f"{name:>{_width(name)}}" for name in columns] + [f"{name:>24}" for name in ratios]
        print(f"{'':36}" + "".join(heads))

    def compare(self, case: str, contenders: dict[str, Callable[[], Numbers]], *, to: Sequence[str]) -> None:
        """Let the contenders take turns and print a line for each.

        A ratio is a contender's number over that of a reference in the same round. Several references compete: the one
        with the largest number counts, so ratios to several are for columns of which more is better.

        Args:
            case: what is common to the contenders.
            to: names of the references, which get no ratio.
        """
        found: dict[str, list[Numbers]] = {name: [] for name in contenders}
        for number in range(self.n_rounds):
            began = time.monotonic()
            for name in list(contenders)[:: -1 if number % 2 else 1]:
                found[name].append(contenders[name]())
            now = time.monotonic()
            if now + (now - began) > self.deadline:
                break
        for name, rounds in found.items():
            ratios = {} if name in to else {c: _ratio(rounds, [found[peer] for peer in to], c) for c in self.ratio_of}
            self.add(case, name, rounds, ratios)

    def add(self, case: str, name: str, rounds: list[Numbers], ratios: dict[str, list[float]]) -> None:
        """Print one line and keep it."""
        medians = {column: statistics.median(numbers[column] for numbers in rounds) for column in rounds[0]}
        cells = [f"{format(medians[column], form):>{_width(column)}}" for column, form in self.columns.items()]
        shown = [f"{middle:.2f} ({low:.2f} to {high:.2f})" for middle, low, high in ratios.values()]
        print(f"{case:16} {name:19}" + "".join(cells) + "".join(f"{cell:>24}" for cell in shown), flush=True)
        result = {"case": case, "contender": name, "medians": medians, "ratios": ratios, "rounds": rounds}
        self.content["results"].append(result)
        if self.path is not None:
            self.path.write_text(json.dumps(self.content, indent=1, default=str))

    def lowest(self, contender: str) -> float:
        """Its lowest median ratio over all cases."""
        own = [result["ratios"] for result in self.content["results"] if result["contender"] == contender]
        return min(ratios[self.ratio_of[0]][0] for ratios in own)


def _width(column: str) -> int:
    return max(10, len(column) + 2)


def _ratio(rounds: list[Numbers], references: list[list[Numbers]], column: str) -> list[float]:
    """The median of the rounds' ratios, the lowest and the highest."""
    best = [max(numbers[column] for numbers in peers) for peers in zip(*references, strict=True)]
    ratios = [numbers[column] / reference for numbers, reference in zip(rounds, best, strict=True)]
    return [statistics.median(ratios), min(ratios), max(ratios)]


def machine() -> dict[str, Any]:
    """What a reader of the numbers wants to know."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    versions = {name: version(name) for name in ("gptlab", "torch", "transformers", "lightning")}
    cores = {"cores": os.cpu_count(), "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS")}
    return {
        "cpu": names[0] if names else platform.processor(),
        **cores,
        "python": platform.python_version(),
        **versions,
    }


def in_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """What a module's function returns in a new process. What it prints is dropped; its errors are raised here."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_quietly, function, arguments).result()


def _quietly(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
        return function(*arguments)


def memory_mb(field: str = "VmHWM") -> float:
    """Memory of this process, by a field of /proc/self/status: the most so far, mapped files included."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith(field))


def command(*words: object, **settings: Any) -> tuple[str, float]:
    """Run a command: its standard output, and its peak memory in MB. Ends the benchmark if it fails."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen([str(word) for word in words], stdout=out, stderr=errors, **settings)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        errors.seek(0)
        if process.returncode != 0:
            sys.exit(f"{' '.join(map(str, words))}\n{out.read()}\n{errors.read()}")
        return out.read(), usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6


def gptlab(*words: object, checkout: Path = ROOT) -> tuple[str, float]:
    """Run `gptlab` with these words, from this checkout or another one: standard output, peak memory in MB."""
    paths = os.pathsep.join(str(place) for place in (checkout / "src", ROOT / "benchmarks"))
    return command(sys.executable, "-m", "gptlab", *words, env={**os.environ, "PYTHONPATH": paths})


def metrics(run_dir: Path) -> list[Numbers]:
    """The rows of a run's metrics.csv."""
    with (run_dir / "metrics.csv").open(newline="") as file:
        return [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]
