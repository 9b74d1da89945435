"""HTML pages are files with places to fill in."""

import re
from pathlib import Path


def filled(template: Path, parts: dict[str, str]) -> str:
    """The template with each `{{name}}` replaced by the part of that name, which is HTML already."""
    return re.sub(r"\{\{(\w+)\}\}", lambda place: parts[place[1]], template.read_text(encoding="utf-8"))
