"""``python -m otel_connect``."""

from otel_connect.start import main

main()
