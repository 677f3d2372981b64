#!/usr/bin/env bash
# Install what is missing to run the agent (`setup.sh run`) or its tests (`setup.sh test`).
# Does nothing, in well under a second, when nothing is missing.
set -euo pipefail
cd "$(dirname "$0")/.."

stage=${1:?usage: tools/setup.sh run|test}
packages=(python3-bpfcc python3-venv)
lock=requirements/run.txt
if [ "$stage" = test ]; then
    packages+=(bpftool ca-certificates curl default-jdk-headless e2fsprogs gcc iproute2 jq libc6-dev nftables nodejs openssl
        perl-base python3-dev strace systemd util-linux)
    lock=requirements/dev.txt
fi

say() { printf 'setup: %s\n' "$*" >&2; }

fail() {
    say "$*"
    exit 1
}

install_packages() {
    local missing=() package
    for package in "${packages[@]}"; do
        dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed || missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    [ "$(id -u)" = 0 ] || fail "missing packages: ${missing[*]}; run this command with sudo"
    say "installing ${missing[*]}"
    quietly apt-get update
    quietly env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${missing[@]}"
}

# Runs a command whose hundreds of lines nobody reads, unless it fails.
quietly() {
    local output
    output=$("$@" 2>&1) || fail "$* failed:"$'\n'"$output"
}

# The bcc bindings are the distribution's and for its own Python, so the environment is made with that one.
make_environment() {
    local stamp python=/usr/bin/python3
    stamp=.venv/ready-$stage-$(cat pyproject.toml requirements/*.txt | sha256sum | cut -c1-16)
    [ ! -e "$stamp" ] || return 0
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        fail "$("$python" --version) is too old; Python 3.11 or later is needed (Debian 12, Ubuntu 24.04)"
    say "making the environment .venv"
    [ -x .venv/bin/pip ] || "$python" -m venv --system-site-packages .venv
    .venv/bin/pip install --quiet --disable-pip-version-check --require-hashes -r "$lock" >&2
    .venv/bin/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable . >&2
    rm -f .venv/ready-"$stage"-*
    touch "$stamp"
}

mount_tracefs() {
    # Asked of the list of mounts: only root may look inside, and formatting or unit tests need no root.
    ! grep -qE '^\S+ /sys/kernel/(debug/)?tracing tracefs ' /proc/mounts || return 0
    [ ! -e /sys/kernel/debug/tracing/events ] || return 0
    [ "$(id -u)" = 0 ] || fail "tracefs is not mounted; run this command with sudo"
    say "mounting tracefs"
    mount -t tracefs nodev /sys/kernel/tracing || fail "tracefs cannot be mounted on /sys/kernel/tracing"
}

if ! command -v apt-get >/dev/null; then
    say "not a Debian or Ubuntu: install the bcc bindings for /usr/bin/python3 and its venv module by hand"
else
    install_packages
fi
make_environment
mount_tracefs
