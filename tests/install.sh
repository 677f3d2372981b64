#!/usr/bin/env bash
# Installs the packages of what is missing: install.sh LABEL PROGRAM[=PACKAGE] … A file is named by its path.
# Says what it does, as LABEL, on standard error.
set -euo pipefail

label=${1:?usage: install.sh LABEL PROGRAM[=PACKAGE] …}
shift

say() { printf '%s: %s\n' "$label" "$*" >&2; }

fail() {
    say "$*"
    exit 1
}

missing=()
for wanted in "$@"; do
    what=${wanted%%=*}
    command -v "$what" >/dev/null || [[ $what == /* && -e $what ]] || missing+=("${wanted#*=}")
done
[[ ${#missing[@]} -gt 0 ]] || exit 0
command -v apt-get >/dev/null || fail "not a Debian or Ubuntu: install ${missing[*]} by hand"
say "installing ${missing[*]}"
said=$({ apt-get update -qq &&
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"; } 2>&1) ||
    fail "they cannot be installed: $said"
