"""Self-attention, one file a variant: `base` has the contract, `plain` each step, `fused` the same in one kernel."""
