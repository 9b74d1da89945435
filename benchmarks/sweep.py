"""Trials per hour of a sweep, beside the same runs started by hand.

    python benchmarks/sweep.py
    python benchmarks/sweep.py --jobs 4 --trials 16 --steps 300

By hand: as many shell loops side by side as the sweep has jobs, each starting one run after the other, with the same
share of the CPU's threads. A sweep also looks for failures, keeps its study and draws a report.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import harness
from gptlab.sweep.worker_environments import available_cores

TRAIN = (sys.executable, "-m", "gptlab", "train")


def by_sweep(place: str, words: list[str], sizes: argparse.Namespace) -> None:
    seeds = ",".join(str(seed) for seed in range(sizes.trials))
    harness.command(*TRAIN, "-m", *words, f"seed={seeds}", f"hydra.sweeper.n_jobs={sizes.jobs}", f"run_dir={place}")


def by_hand(place: str, words: list[str], sizes: argparse.Namespace) -> None:
    threads = {} if sizes.jobs == 1 else {"OMP_NUM_THREADS": str(max(1, available_cores() // sizes.jobs))}

    def run(seed: int) -> None:
        harness.command(*TRAIN, *words, f"seed={seed}", f"run_dir={place}/{seed}", env={**os.environ, **threads})

    with ThreadPoolExecutor(sizes.jobs) as loops:
        list(loops.map(run, range(sizes.trials)))


def measure(way: Callable, words: list[str], sizes: argparse.Namespace) -> harness.Numbers:
    """Do it in a directory that goes away."""
    with tempfile.TemporaryDirectory() as place:
        began = time.perf_counter()
        way(place, words, sizes)
        seconds = time.perf_counter() - began
    return {"trials/hour": 3600 * sizes.trials / seconds, "seconds": seconds}


def main() -> None:
    sizes = {"jobs": available_cores(), "trials": 6, "steps": 60, "rounds": 3}
    arguments = harness.Parser(__doc__, sizes=sizes, tiny={"trials": 2, "steps": 2}).parse_args()
    words = ["trainer=cpu", f"max_steps={arguments.steps}", f"validate_every={arguments.steps}"]
    if arguments.tiny:
        words += ["schedule.warmup_steps=1", "tokenizer=char", "data=text", f"data.path={__file__}"]
        words += ["model.n_layers=1", "model.d_model=16", "context_length=32"]
    os.environ.pop("OMP_NUM_THREADS", None)
    with tempfile.TemporaryDirectory() as cache:
        os.environ["XDG_CACHE_HOME"] = cache
        first = argparse.Namespace(trials=1, jobs=1)
        measure(by_hand, words, first)  # the tokens of the text
        ways = {"sweep": by_sweep, "by hand": by_hand}
        runs = {name: partial(measure, way, words, arguments) for name, way in ways.items()}
        table = harness.Table(arguments, {"trials/hour": ",.1f", "seconds": ",.1f"}, ratio_of=["trials/hour"])
        table.compare(f"{arguments.jobs} jobs", runs, to=["by hand"])


if __name__ == "__main__":
    main()
