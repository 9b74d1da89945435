"""Causal self-attention, one file a variant. `plain` spells the arithmetic out, `fused` does the same in one kernel."""
