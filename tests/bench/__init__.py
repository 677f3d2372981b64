"""What the probes cost, how fast the pipeline is, how much memory the agent takes: ``make bench``."""
