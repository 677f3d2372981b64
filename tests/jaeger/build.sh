#!/usr/bin/env bash
# Prints the path of a ready Jaeger all-in-one, building it on first use; progress goes to stderr.
# OTEL_CONNECT_JAEGER names a binary to use instead.
set -euo pipefail

recipe=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
exec "$recipe/../go_program.sh" "$recipe" jaeger github.com/jaegertracing/jaeger/cmd/all-in-one OTEL_CONNECT_JAEGER
