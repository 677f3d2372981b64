"""The kernel side: load the probes, drain the ring, decode, decide the outcome."""
