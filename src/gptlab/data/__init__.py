"""From text to batches: source -> corpus (tokens on disk) -> windows -> loader."""
