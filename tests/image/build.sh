#!/usr/bin/env bash
# Builds the image from the project's Dockerfile, without a Docker engine, and prints its id; progress goes to
# stderr. The first build takes minutes, one without changes seconds.
set -euo pipefail
shopt -s inherit_errexit

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
project=$(cd "$here/../.." && pwd)
base=docker.io/library/debian:trixie-slim
keyring=/usr/share/keyrings/debian-archive-keyring.gpg

say() { printf 'image: %s\n' "$*" >&2; }

fail() {
    say "$*"
    exit 1
}

make_base() {
    ! "$here/engine.sh" podman image exists "$base" || return 0
    say "building it; the first time takes minutes"
    ! timeout 60 "$here/engine.sh" buildah pull --quiet "$base" >&2 2>"$scratch/pull.log" || return 0
    say "its base cannot be pulled, so it is made from the package mirror: $(tail -n 1 "$scratch/pull.log")"
    "$here/base.sh" >"$scratch/base.tar"
    "$here/engine.sh" podman import --quiet \
        --change 'ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' --change 'CMD ["bash"]' \
        "$scratch/base.tar" "$base" >&2
    rm "$scratch/base.tar"
}

# Prints one setting of this machine's pip, whatever file or variable it comes from; nothing when it has none.
pip_setting() {
    "$project/.venv/bin/pip" config list | sed -nE "s/^(:env:|install|global)\.$1='(.*)'$/\2/p" | head -n 1
}

# Prints a home folder for the build, in which pip is set up to reach a package index as this machine does
# (another index, a proxy, authorities of its own). It is mounted over one that the image has already: so nothing
# of it, not even a place to mount it, ends up in a layer.
make_home() {
    local home=$scratch/home name value authorities
    mkdir -p "$home/.config/pip"
    {
        echo '[global]'
        for name in index-url extra-index-url trusted-host proxy timeout; do
            value=$(pip_setting "$name")
            [[ -z $value ]] || printf '%s = %s\n' "$name" "${value//\\n/ }"
        done
        authorities=$(pip_setting cert)
        authorities=${authorities:-${REQUESTS_CA_BUNDLE:-${SSL_CERT_FILE:-}}}
        if [[ -n $authorities ]]; then
            cat "$authorities" >"$home/authorities.pem"
            echo 'cert = /root/authorities.pem'
        fi
    } >"$home/.config/pip/pip.conf"
    printf '%s\n' "$home"
}

[[ $(id -u) == 0 ]] || fail "building needs root"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
exec 9>/run/otel-connect-image.lock
flock 9

"$here/../install.sh" image buildah crun mmdebstrap podman "$keyring=debian-archive-keyring"
make_base
home=$(make_home)
# The format of Docker, because the other one has no health check.
"$here/engine.sh" buildah build --format docker --layers --pull-never --isolation chroot --volume "$home:/root:ro" \
    --tag localhost/otel-connect:test "$project" >"$scratch/build.log" 2>&1 ||
    fail "it cannot be built: $(<"$scratch/build.log")"
tail -n 1 "$scratch/build.log"
# What earlier builds left, but not at once: it is the cache of the next build.
"$here/engine.sh" podman image prune --force --filter until=240h >/dev/null
