"""Look inside a model: `analyze` measures, `tokens` makes token texts readable, `drawing` draws attention maps.

`page` writes one HTML file, `files` a directory with that page and what TensorBoard reads.
"""
