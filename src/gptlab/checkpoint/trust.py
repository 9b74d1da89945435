"""Which classes a checkpoint may name.

A checkpoint may come from anyone, and `_target_: os.system` would be a program. gptlab's models, tokenizers and data
are always built, classes of another package only if the user names that package.
"""

import inspect
from collections.abc import Sequence
from typing import Any

from hydra.utils import get_object

from gptlab.build import Config
from gptlab.errors import UserError

OURS = ("gptlab.model.", "gptlab.tokenizer.", "gptlab.data.")


def packages_of(config: Config) -> list[str]:
    """The top-level packages, other than gptlab, whose classes a configuration names."""
    return sorted({target.partition(".")[0] for target in _targets(config)} - {"gptlab"})


def check_trusted(node: Any, trust: Sequence[str], *, where: str) -> None:
    """Check each `_target_` in a node of the configuration in the checkpoint `where`. Imports only what is trusted.

    UserError if one cannot be imported, or is no class or function of a trusted package.
    """
    for target in _targets(node):
        package = target.partition(".")[0]
        if package != "gptlab" and package not in trust:
            raise UserError(f"{where} runs code of {package} ({target}): add trust={package} if you trust it")
        allowed = OURS if package == "gptlab" else (f"{package}.",)
        try:
            found = get_object(target) if target.startswith(allowed) else None
        except Exception as error:
            raise UserError(f"{where} needs {target}: {' '.join(str(error).split())}") from None
        is_code = inspect.isclass(found) or inspect.isfunction(found)
        if not (is_code and f"{found.__module__}.".startswith(allowed)):  # `gptlab.model.gpt.torch.hub.load` is torch's
            raise UserError(f"{where} needs {target}, which is no class or function of {' or '.join(allowed)}*")


def _targets(node: Any) -> list[str]:
    """Each `_target_` in nested dicts and lists."""
    inner = node if isinstance(node, list) else node.values() if isinstance(node, dict) else ()
    own = [str(node["_target_"])] if isinstance(node, dict) and "_target_" in node else []
    return own + [target for value in inner for target in _targets(value)]
