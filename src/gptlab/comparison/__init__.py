"""Compare runs by their files: `runs` finds, groups and labels them, `curves` averages over seeds, draws and prints."""
