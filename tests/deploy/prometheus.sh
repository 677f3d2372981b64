#!/usr/bin/env bash
# Prints the folder with prometheus, promtool and prometheus-alertmanager; progress goes to stderr.
# They are the distribution's, unpacked into a cache and not installed: an installed package would start services, on
# this machine from now on, and pull in what only its browser pages need.
set -euo pipefail
shopt -s inherit_errexit

packages=(prometheus prometheus-alertmanager)
# shellcheck source=/dev/null
release=$(. /etc/os-release && printf '%s-%s' "$ID" "${VERSION_ID:-rolling}")
cache=${XDG_CACHE_HOME:-$HOME/.cache}/otel-connect
target=$cache/prometheus-$release

fail() { printf 'prometheus.sh: %s\n' "$*" >&2; exit 1; }

# Unpacks into a folder of its own and renames it at the end: what was interrupted does not look ready.
unpack() {
    local package
    command -v apt-get >/dev/null || fail "apt-get is needed to fetch ${packages[*]}"
    scratch=$(mktemp -d "$cache/prometheus.XXXXXX")
    trap 'rm -rf "$scratch"' EXIT # runs when this function is over, hence no local name
    cd "$scratch"
    printf 'fetching %s\n' "${packages[*]}" >&2
    # The lists of packages may be absent, or older than what the archive has.
    apt-get -qq download "${packages[@]}" 2>/dev/null ||
        { apt-get -qq update >&2 && apt-get -qq download "${packages[@]}" >&2; } ||
        fail "${packages[*]} cannot be fetched"
    for package in *.deb; do
        dpkg-deb -x "$package" unpacked
    done
    mv unpacked "$target"
}

mkdir -p "$cache"
exec 9>"$cache/prometheus.lock"
flock 9
[[ -x $target/usr/bin/promtool ]] || unpack
printf '%s\n' "$target/usr/bin"
