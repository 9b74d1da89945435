"""`gptlab export`: write a model in the format that other programs open."""

import shlex
from dataclasses import dataclass

from omegaconf import DictConfig

from gptlab import build
from gptlab.checkpoint import hub
from gptlab.checkpoint.export import check_free, export, export_adapter
from gptlab.cli.compose import run_command
from gptlab.cli.explain import command_line
from gptlab.cli.load import load_or_newest
from gptlab.cli.report import shortened
from gptlab.errors import UserError
from gptlab.signals import END_OF_PROCESS, leave, signal_handler


@dataclass(frozen=True)
class ExportSettings:
    checkpoint: str | None
    trust: str | list[str] | None
    base: str | None
    to: str
    push_to: str | None
    adapter_only: bool


def run_export(cfg: DictConfig, *, needs_adapter: bool = False) -> int:
    """Write the directory, upload it if the settings ask for that, and print what to do next."""
    settings = build.settings_of(ExportSettings, {"adapter_only": False, **build.resolve(cfg)})
    directory = check_free(settings.to)
    if settings.push_to is not None:
        hub.check_can_push(settings.push_to)
    loaded = load_or_newest(settings.checkpoint, trust=settings.trust, base=settings.base, classifiers=True)
    if loaded.adapter is None and (needs_adapter or settings.adapter_only):
        raise UserError(f"{loaded.name} has no adapter: gptlab export writes it as it is")
    with signal_handler(*END_OF_PROCESS, handler=leave):
        if settings.adapter_only:
            complaints = export_adapter(loaded, settings.to)
        else:
            complaints = export(loaded, settings.to, address=settings.push_to or directory.name)
    place = shortened(directory)
    print("\n".join([f"wrote {place}: {', '.join(sorted(path.name for path in directory.iterdir()))}", *complaints]))
    if settings.push_to is not None:
        print(f"uploaded: {hub.push(directory, settings.push_to)}")
    else:
        print(f"upload it with: hf upload {shlex.quote(f'<user>/{directory.name}')} {shlex.quote(place)}")
    print(f"\nnext:\n  add a license to {place}/README.md")
    if prompt := loaded.example_prompt() if not complaints else "":
        command, key = ("generate", "prompt") if loaded.model.generates else ("classify", "text")
        talk = {"interactive": "true"} if loaded.template is not None else {}
        print(f"  {command_line(command, **{'checkpoint': settings.push_to or place, key: prompt}, **talk)}")
    return 0


def main(arguments: list[str]) -> int:
    """The exit status. Hydra reads `adapter=` as a choice of train's group, so the setting has another name inside."""
    words = [f"adapter_only{word[7:]}" if word.startswith("adapter=") else word for word in arguments]
    return run_command(run_export, words, config_name="export")
