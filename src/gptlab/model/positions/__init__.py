"""Positions, one file a variant: a module made from `d_model` and `context_length`.

`forward(positions)`, of (T,) or (B, T), is what is added to token vectors (B, T, C).
`shorten(context_length)` cuts off what it holds for later positions.
`is_endless = True` says that there are positions beyond those of training.
`attach(attention)`, if there is one, gives each attention what it needs to use positions itself.
"""
