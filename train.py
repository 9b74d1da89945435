"""Train a model: python train.py key=value ... (the same as `gptlab train`)."""

import sys

from gptlab.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
