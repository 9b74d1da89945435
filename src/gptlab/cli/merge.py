"""`gptlab merge`: an adapter and the weights under it as one model, in a directory such as `gptlab export` writes."""

from functools import partial

from gptlab.cli.compose import run_command
from gptlab.cli.export import run_export

main = partial(run_command, partial(run_export, needs_adapter=True), config_name="merge")
