#!/usr/bin/env bash
# Prints the path of a ready OpenTelemetry Collector, building it on first use; progress goes to stderr.
# OTEL_CONNECT_COLLECTOR names a binary to use instead. A collector on PATH is not picked up by itself:
# which components it has would decide which tests mean what they say.
set -euo pipefail

recipe=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
exec "$recipe/../go_program.sh" "$recipe" otelcol . OTEL_CONNECT_COLLECTOR
