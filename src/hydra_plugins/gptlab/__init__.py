"""gptlab's sweeper and launcher: Hydra takes plugins from `hydra_plugins` alone, and imports them at every start."""
