"""Trials per hour of a sweep, beside the same runs started by hand.

    python benchmarks/sweep.py
    python benchmarks/sweep.py --jobs 4 --trials 16 --steps 300
    python benchmarks/sweep.py --tiny   # half a minute, to see that it runs

By hand: as many shell loops side by side as the sweep has jobs, each starting one run after the other, with the same
share of the CPU's threads. Both take turns; the ratio is of the medians. A sweep also looks for failures, keeps its
study and draws a report.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from gptlab.sweep.worker_environments import available_cores

TRAIN = [sys.executable, "-m", "gptlab", "train"]


def by_sweep(place: Path, words: list[str], *, trials: int, jobs: int) -> None:
    seeds = ",".join(str(seed) for seed in range(trials))
    options = [f"seed={seeds}", f"hydra.sweeper.n_jobs={jobs}", f"run_dir={place}"]
    subprocess.run([*TRAIN, "-m", *words, *options], check=True, capture_output=True)


def by_hand(place: Path, words: list[str], *, trials: int, jobs: int) -> None:
    threads = {} if jobs == 1 else {"OMP_NUM_THREADS": str(max(1, available_cores() // jobs))}

    def run(seed: int) -> None:
        command = [*TRAIN, *words, f"seed={seed}", f"run_dir={place / str(seed)}"]
        subprocess.run(command, check=True, capture_output=True, env={**os.environ, **threads})

    with ThreadPoolExecutor(jobs) as loops:
        list(loops.map(run, range(trials)))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=available_cores())
    parser.add_argument("--trials", type=int, default=6)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tiny", action="store_true", help="one round of two trials of two steps of a tiny model")
    arguments = parser.parse_args()
    if arguments.tiny:
        arguments.trials, arguments.steps, arguments.rounds = 2, 2, 1
    os.environ.pop("OMP_NUM_THREADS", None)
    words = ["trainer=cpu", f"max_steps={arguments.steps}", f"validate_every={arguments.steps}"]
    if arguments.tiny:
        words += ["schedule.warmup_steps=1", "tokenizer=char", "data=text", f"data.path={__file__}"]
        words += ["model.n_layers=1", "model.d_model=16", "context_length=32"]
    seconds: dict[str, list[float]] = {"sweep": [], "by hand": []}
    with tempfile.TemporaryDirectory() as temporary:
        os.environ["XDG_CACHE_HOME"] = temporary
        by_hand(Path(temporary, "cache"), words, trials=1, jobs=1)  # the tokens of the text
        for number in range(arguments.rounds):
            for name, way in (("sweep", by_sweep), ("by hand", by_hand)):
                began = time.perf_counter()
                way(Path(temporary, f"{name}{number}"), words, trials=arguments.trials, jobs=arguments.jobs)
                seconds[name].append(time.perf_counter() - began)
                print(f"{name:8} {seconds[name][-1]:8.1f} s", flush=True)
    per_hour = {name: 3600 * arguments.trials / statistics.median(times) for name, times in seconds.items()}
    for name, rate in per_hour.items():
        print(f"{name:8} {rate:8.1f} trials per hour")
    print(f"ratio    {per_hour['sweep'] / per_hour['by hand']:8.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
