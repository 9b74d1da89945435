"""The Hydra sweeper of gptlab."""

from typing import Any

from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class StudySweeper(Sweeper):
    """Runs a grid or a search that can be resumed: see gptlab.cli.sweep."""

    def __init__(self, **settings: Any) -> None:
        """Hydra passes the settings of `hydra.sweeper`; the sweep reads them from the configuration."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self._config, self._loader = config, hydra_context.config_loader
        self._make_launcher = lambda config: Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        """Raises SystemExit with the sweep's exit status."""
        from gptlab.cli.compose import forget_full_error, say
        from gptlab.cli.sweep import sweep

        forget_full_error()
        try:
            status = sweep(self._config, self._loader, arguments, self._make_launcher)
        except Exception as error:  # Hydra would print lines of its own around it
            status = say(error, "train", arguments)
        raise SystemExit(status)
