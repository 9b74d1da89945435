"""Objectives: what a model is trained to do, one file each."""

from gptlab.objective.base import Batch, Loss, Objective

__all__ = ["Batch", "Loss", "Objective"]
