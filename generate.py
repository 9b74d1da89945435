"""Continue a text: python generate.py prompt="..." (the same as `gptlab generate`)."""

import sys

from gptlab.cli import main

if __name__ == "__main__":
    sys.exit(main(["generate", *sys.argv[1:]]))
