"""HTML pages are files with places to fill in."""

from pathlib import Path


def filled(template: Path, parts: dict[str, str]) -> str:
    """The template with each `{{name}}` replaced by the part of that name, which is HTML already.

    One pass: what stands in a part is never taken for a place.

    Raises:
        KeyError: where the template has a place of another name.
    """
    whole, *pieces = template.read_text(encoding="utf-8").split("{{")
    for piece in pieces:
        name, _, after = piece.partition("}}")
        whole += parts[name] + after
    return whole
