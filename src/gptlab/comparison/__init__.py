"""Compare runs: `runs` finds, groups and labels them, `curves` averages over seeds, draws and prints.

It knows run directories, and neither models nor Hydra.
"""
