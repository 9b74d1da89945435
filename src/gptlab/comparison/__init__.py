"""Runs side by side: `runs` finds them, `labels` says in what they differ, `lines` takes means over seeds.

`picture` draws the curves, `table` writes the same for a terminal. Knows directories, and neither models nor Hydra.
"""
