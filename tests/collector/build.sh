#!/usr/bin/env bash
# Prints the path of a ready OpenTelemetry Collector, building it on first use; progress goes to stderr.
# OTEL_CONNECT_COLLECTOR names a binary to use instead. A collector on PATH is not picked up by itself:
# which components it has would decide which tests mean what they say.
set -euo pipefail

recipe=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

if [[ -n ${OTEL_CONNECT_COLLECTOR:-} ]]; then
    [[ -f $OTEL_CONNECT_COLLECTOR && -x $OTEL_CONNECT_COLLECTOR ]] || {
        printf '%s\n' "build.sh: OTEL_CONNECT_COLLECTOR names no executable: $OTEL_CONNECT_COLLECTOR" >&2
        exit 1
    }
    printf '%s\n' "$OTEL_CONNECT_COLLECTOR"
    exit
fi
exec "$recipe/../go_program.sh" "$recipe" otelcol .
