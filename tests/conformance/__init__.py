"""docs/conformance.md: what is seen of each kind of connect attempt, by each set of probes, on each kernel."""
