"""Every TCP connect attempt of a host, seen by eBPF, as OpenTelemetry logs, metrics and traces."""

__version__ = "0.1.0"
