"""What Hydra asks for the trials of a multirun."""

from typing import Any

from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class StudySweeper(Sweeper):
    """A grid or a search, that goes on where it was stopped: see gptlab.cli.sweep."""

    hydra_context: HydraContext
    config: DictConfig
    task_function: TaskFunction

    def __init__(self, **settings: Any) -> None:
        """Hydra's way of handing over what stands in `hydra.sweeper`; the sweep reads it there."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config

    def sweep(self, arguments: list[str]) -> None:
        """Raises SystemExit with the sweep's exit status."""
        from gptlab.cli.sweep import sweep

        raise SystemExit(sweep(self.config, self.hydra_context.config_loader, arguments, self._launcher))

    def _launcher(self, config: DictConfig) -> Launcher:
        """With the sweep's directory in its configuration."""
        return Plugins.instance().instantiate_launcher(
            config=config, hydra_context=self.hydra_context, task_function=self.task_function
        )
