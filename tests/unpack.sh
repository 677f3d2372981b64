#!/usr/bin/env bash
# Unpacks packages of the distribution into a cache, and prints the folder: unpack.sh NAME PACKAGE …
# With them come those they depend on that this machine lacks, with NAME=only none. Progress goes to stderr.
# They are not installed: that would start their services, on this machine from now on.
set -euo pipefail
shopt -s inherit_errexit

name=${1:?usage: unpack.sh NAME[=only] PACKAGE …}
shift
packages=("$@")
# shellcheck source=/dev/null
release=$(. /etc/os-release && printf '%s-%s' "$ID" "${VERSION_ID:-rolling}")
cache=${XDG_CACHE_HOME:-$HOME/.cache}/otel-connect
target=$cache/${name%=only}-$release

fail() { printf 'unpack.sh: %s\n' "$*" >&2; exit 1; }

download() {
    if [[ $name == *=only ]]; then
        apt-get -qq download "${packages[@]}"
    else
        # --reinstall: else nothing is fetched where the package is installed.
        apt-get -qq --yes --no-install-recommends --reinstall --download-only \
            -o Dir::Cache::archives="$PWD" -o Debug::NoLocking=1 install "${packages[@]}"
    fi
}

# Unpacks into a folder of its own and renames it at the end: what was interrupted does not look ready.
unpack() {
    local package
    command -v apt-get >/dev/null || fail "apt-get is needed to fetch ${packages[*]}"
    scratch=$(mktemp -d "$cache/${name%=only}.XXXXXX")
    trap 'rm -rf "$scratch"' EXIT # runs when this function is over, hence no local name
    cd "$scratch"
    mkdir partial # apt's own, where it downloads to
    printf 'fetching %s\n' "${packages[*]}" >&2
    # The lists of packages may be absent, or older than what the archive has.
    download >/dev/null 2>&1 || { apt-get -qq update >&2 && download >&2; } || fail "${packages[*]} cannot be fetched"
    for package in *.deb; do
        dpkg-deb -x "$package" unpacked
    done
    mv unpacked "$target"
}

mkdir -p "$cache"
exec 9>"$cache/${name%=only}.lock"
flock 9
[[ -d $target ]] || unpack
printf '%s\n' "$target"
