"""``python -m otel_connect``."""

from otel_connect.cli import main

main()
