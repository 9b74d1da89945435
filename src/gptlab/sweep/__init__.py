"""Many runs that search for good settings: what is tried, in which processes, and what came of it."""
