"""Look inside a model: `analyze` measures, `tokens` makes token texts readable, `drawing` draws attention maps.

`page` writes a directory with one HTML file and what TensorBoard reads.
"""
