#!/usr/bin/env bash
# Runs podman or buildah on images of the tests' own (`engine.sh podman run …`): nothing of the user's is seen
# or changed. The images lie in the cache folder of the user, apart for each recipe of the base image.
set -euo pipefail
shopt -s inherit_errexit

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
recipe=$(sha256sum "$here/base.sh" | cut -c1-16)
images=${XDG_CACHE_HOME:-$HOME/.cache}/otel-connect/image-$recipe
# Gone after a reboot, as the mounts are that it speaks of.
state=/run/otel-connect-image-$(printf %s "$images" | sha256sum | cut -c1-16)

engine=${1:?usage: engine.sh podman|buildah …}
shift
options=(--root "$images" --runroot "$state" --storage-driver "${STORAGE_DRIVER:-overlay}")
[[ $engine != podman ]] || options+=(--tmpdir "$state/podman" --cgroup-manager cgroupfs)
export CONTAINERS_CONF=$here/containers.conf
mkdir -p "$images" "$state"

# crun refuses version 2 of control groups beside version 1: hide it, from this engine only.
hybrid=/sys/fs/cgroup/unified
if mountpoint -q "$hybrid"; then
    # shellcheck disable=SC2016 # for the inner shell
    exec unshare --mount --propagation private sh -c 'umount "$0" && exec "$@"' \
        "$hybrid" "$engine" "${options[@]}" "$@"
fi
exec "$engine" "${options[@]}" "$@"
