"""Where numbers go, one file each, all straight in the run directory."""
