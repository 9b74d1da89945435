"""The feed-forward network of a block, one file a variant: a module made from `d_model`, (B, T, C) to (B, T, C)."""
