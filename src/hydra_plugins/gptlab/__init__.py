"""gptlab's sweeper. Hydra finds plugins in `hydra_plugins` only, and imports them at every start."""
