"""Attempt → OTLP log record, metric points and span."""
