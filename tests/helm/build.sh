#!/usr/bin/env bash
# Prints the path of a ready Helm, building it on first use (about three minutes); progress goes to stderr.
# OTEL_CONNECT_HELM names a binary to use instead.
set -euo pipefail

recipe=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
exec "$recipe/../go_program.sh" "$recipe" helm helm.sh/helm/v3/cmd/helm OTEL_CONNECT_HELM
