#!/usr/bin/env bash
# Prints the path of a ready Helm, building it on first use (about three minutes); progress goes to stderr.
# OTEL_CONNECT_HELM names a binary to use instead.
set -euo pipefail

recipe=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

if [[ -n ${OTEL_CONNECT_HELM:-} ]]; then
    [[ -f $OTEL_CONNECT_HELM && -x $OTEL_CONNECT_HELM ]] || {
        printf '%s\n' "build.sh: OTEL_CONNECT_HELM names no executable: $OTEL_CONNECT_HELM" >&2
        exit 1
    }
    printf '%s\n' "$OTEL_CONNECT_HELM"
    exit
fi
exec "$recipe/../go_program.sh" "$recipe" helm helm.sh/helm/v3/cmd/helm
