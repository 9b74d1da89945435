"""`gptlab export`: write a model in the format that other programs open."""

import shlex
from dataclasses import dataclass
from functools import partial

from omegaconf import DictConfig

from gptlab import build
from gptlab.checkpoint import hub
from gptlab.checkpoint.export import check_free, export
from gptlab.cli.compose import run_command
from gptlab.cli.explain import command_line
from gptlab.cli.load import load_or_newest
from gptlab.cli.report import shortened
from gptlab.signals import END_OF_PROCESS, leave, signal_handler


@dataclass(frozen=True)
class ExportSettings:
    checkpoint: str | None
    trust: str | list[str] | None
    to: str
    push_to: str | None


def run_export(cfg: DictConfig) -> int:
    """Write the directory, upload it if the settings ask for that, and print what to do next."""
    settings = build.settings_of(ExportSettings, build.resolve(cfg))
    directory = check_free(settings.to)
    if settings.push_to is not None:
        hub.check_can_push(settings.push_to)
    loaded = load_or_newest(settings.checkpoint, trust=settings.trust)
    with signal_handler(*END_OF_PROCESS, handler=leave):
        complaints = export(loaded, settings.to, address=settings.push_to or directory.name)
    place = shortened(directory)
    print("\n".join([f"wrote {place}: {', '.join(sorted(path.name for path in directory.iterdir()))}", *complaints]))
    if settings.push_to is not None:
        print(f"uploaded: {hub.push(directory, settings.push_to)}")
    else:
        print(f"upload it with: hf upload {shlex.quote(f'<user>/{directory.name}')} {shlex.quote(place)}")
    print(f"\nnext:\n  add a license to {place}/README.md")
    if prompt := loaded.example_prompt() if not complaints else "":
        print(f"  {command_line('generate', checkpoint=settings.push_to or place, prompt=prompt)}")
    return 0


main = partial(run_command, run_export, config_name="export")
