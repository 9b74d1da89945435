"""`gptlab export`: hand a model on, in the format that the rest of the ecosystem opens."""

import shlex

from omegaconf import DictConfig

from gptlab import build
from gptlab.checkpoint import hub
from gptlab.checkpoint.export import check_free, export
from gptlab.cli.asked_for import load_asked_for
from gptlab.cli.compose import run_command
from gptlab.cli.explain import command_line
from gptlab.cli.report import shortened
from gptlab.errors import UserError
from gptlab.signals import END_OF_PROCESS, answering, leave


def main(arguments: list[str]) -> int:
    """The exit status of one export command."""
    return run_command(run_export, config_name="export", arguments=arguments)


def run_export(cfg: DictConfig) -> int:
    """Write the directory, say what is in it, and upload it where that is asked for."""
    settings = build.export_settings(build.resolve(cfg))
    directory = check_free(settings.to)
    if settings.push_to is not None:
        hub.check_can_push(settings.push_to)
    loaded = load_asked_for(settings.checkpoint)
    print(f"exporting {settings.checkpoint or shortened(loaded.path)}", flush=True)
    address = settings.push_to if settings.push_to is not None else directory.name
    with answering(*END_OF_PROCESS, by=leave):
        complaints = export(loaded, settings.to, address=address)
    place = shortened(directory)
    for path in sorted(directory.iterdir()):
        print(f"  {place}/{path.name}  {path.stat().st_size:,} bytes")
    for complaint in complaints:
        print(complaint)

    upload = f"hf upload {shlex.quote(settings.push_to or f'<user>/{directory.name}')} {shlex.quote(place)}"
    if settings.push_to is not None:
        print(f"uploading to {settings.push_to}", flush=True)
        try:
            print(f"uploaded: {hub.push(directory, settings.push_to)}")
        except UserError as error:
            raise UserError(f"{error}; {place} is whole, once more: {upload}") from None
    print("\nnext:")
    prompt = loaded.example_prompt() if not complaints else ""
    if prompt:
        print(f"  {command_line('generate', checkpoint=settings.push_to or place, prompt=prompt)}")
    print(f"  look at {place}/README.md: it states no license yet")
    if settings.push_to is None:
        print(f"  {upload}")
    return 0
