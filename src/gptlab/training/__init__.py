"""Training: the LightningModule, optimizers, schedules, loggers, callbacks, and the run itself."""
