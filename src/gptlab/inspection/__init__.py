"""Look inside a model: `recording` keeps attention's weights, `look` measures, `tokens` writes tokens for people.

`maps` and `predictions` draw with matplotlib, `page` writes one HTML file, `board` writes for TensorBoard.
"""
