"""The command line: `gptlab train|generate key=value ...`, and train.py and generate.py, which call the same."""

import importlib
import io
import sys
from pathlib import Path

from gptlab.arguments import nearest
from gptlab.memory import no_collection

COMMANDS = {
    "prepare": "turn texts into token shards: gptlab prepare path=texts to=shards",
    "train": "train a model: gptlab train experiment=shakespeare_char data.path=input.txt",
    "plan": "what a run would cost, before it starts: gptlab plan model=gpt2 batch_size=8",
    "generate": 'continue a text: gptlab generate prompt="def "',
    "evaluate": "measure a model: gptlab evaluate checkpoint=outputs/... data.path=input.txt",
    "classify": 'classify texts: gptlab classify checkpoint=outputs/... text="You have won"',
    "inspect": 'look inside a model: gptlab inspect prompt="def __init__(self, name):"',
    "compare": "draw the curves of runs in one picture: gptlab compare outputs/a outputs/b over=tokens",
    "export": "hand a model on: gptlab export checkpoint=outputs/... to=my-model",
    "fit": "fit scaling laws to the runs of a sweep: gptlab fit outputs/scaling_law/...",
    "merge": "add an adapter to its weights: gptlab merge checkpoint=outputs/... to=my-model",
    "doctor": "what this machine has, for bug reports: gptlab doctor",
}


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the process's exit status: 0 done, 1 failed, 2 the user's mistake, 130 Ctrl-C."""
    command, *overrides = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if command in ("--help", "-h"):
        print("usage: gptlab <command> [key=value ...]\n")
        for name, what in COMMANDS.items():
            print(f"  {name:10}{what}")
        print("\ngptlab <command> --help shows every setting and its value.")
        return 0
    if command not in COMMANDS:
        print(f"error: {command} is not a command{nearest(command, COMMANDS)}", file=sys.stderr)
        return 2
    sys.path.append(str(Path.cwd()))  # classes of your own beside a --config-dir, as with `python train.py`
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal may lack a character
    try:
        with no_collection():
            module = importlib.import_module(f"gptlab.cli.{command}")
        return module.main(overrides)
    except KeyboardInterrupt:  # while torch is imported
        print("interrupted", file=sys.stderr)
        return 130
