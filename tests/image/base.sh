#!/usr/bin/env bash
# Writes a root file system like that of debian:trixie-slim to standard output, as a tar archive: for machines
# that cannot pull the image, but have a package mirror. DEBIAN_MIRROR names another one than Debian's own.
#   base.sh [SUITE [PACKAGES]]
# Of another suite, or with more packages (a,b,c), for the emulated machines of tests/kernels.
set -euo pipefail

# The options are those of the published image: no documentation, manuals or translations, and no waiting for
# the disk after each unpacked file.
exec mmdebstrap --quiet --variant=minbase --keyring=/usr/share/keyrings/debian-archive-keyring.gpg \
    --aptopt='Acquire::Languages "none"' \
    --dpkgopt=force-unsafe-io \
    --dpkgopt='path-exclude=/usr/share/doc/*' \
    --dpkgopt='path-include=/usr/share/doc/*/copyright' \
    --dpkgopt='path-exclude=/usr/share/info/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' \
    --dpkgopt='path-exclude=/usr/share/man/*' \
    ${2:+--include="$2"} "${1:-trixie}" - "${DEBIAN_MIRROR:-http://deb.debian.org/debian}"
