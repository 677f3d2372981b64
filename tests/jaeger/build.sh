#!/usr/bin/env bash
# Prints the path of a ready Jaeger all-in-one, building it on first use; progress goes to stderr.
# OTEL_CONNECT_JAEGER names a binary to use instead.
set -euo pipefail

recipe=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

if [[ -n ${OTEL_CONNECT_JAEGER:-} ]]; then
    [[ -f $OTEL_CONNECT_JAEGER && -x $OTEL_CONNECT_JAEGER ]] || {
        printf '%s\n' "build.sh: OTEL_CONNECT_JAEGER names no executable: $OTEL_CONNECT_JAEGER" >&2
        exit 1
    }
    printf '%s\n' "$OTEL_CONNECT_JAEGER"
    exit
fi
exec "$recipe/../go_program.sh" "$recipe" jaeger github.com/jaegertracing/jaeger/cmd/all-in-one
