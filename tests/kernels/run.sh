#!/usr/bin/env bash
# Boots Debian's kernels in emulated machines and lets the agent of this checkout show there what it can (checks.py).
# Prints a line for each check, and ends with 0 if all went well; what the probes show of each kind of attempt goes to
# docs/conformance/kernels.
#   run.sh [KERNEL/SYSTEM …]      the Debian suites of the kernel and of Python, bcc and LLVM; all pairs by default
# What is fetched stays in the cache folder of the user: remove it there to have newer kernels. DEBIAN_MIRROR names
# another mirror than Debian's own. A machine is memory only: no disk, no network, nothing of this one but two files.
set -euo pipefail
shopt -s inherit_errexit

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
project=$(cd "$here/../.." && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/otel-connect/kernels
columns=$project/docs/conformance/kernels
# Debian 11 has a Python too old for the agent; its kernel is met by the image, which is a trixie.
pairs=("$@")
[[ $# -gt 0 ]] || pairs=(bullseye/trixie bookworm/bookworm trixie/trixie trixie-backports/trixie)
# What the networks of the tests are made of. Neither needs another module.
modules=(tun veth)
longest_s=3600

say() { printf 'kernels: %s\n' "$*" >&2; }

fail() {
    say "$*"
    exit 1
}

# Packs the folder given into an archive as the kernel unpacks it at its start; several of them may follow each other.
pack() { (cd "$1" && find . -mindepth 1 | cpio --quiet --owner=+0:+0 -o -H newc); }

# Fetches the kernel of a suite: vmlinuz, and an archive with the modules. Unpacked, not installed.
make_kernel() {
    local suite=$1 target=$2 root=$scratch/root made=$scratch/made release module
    local mirror=${DEBIAN_MIRROR:-http://deb.debian.org/debian} base=${suite%-backports}
    local sources=("deb $mirror $suite main")
    [[ $base == "$suite" ]] || sources+=("deb $mirror $base main")
    say "fetching the kernel of $suite"
    # A mirror may be a snapshot, whose signatures have expired.
    mmdebstrap --quiet --variant=extract --keyring=/usr/share/keyrings/debian-archive-keyring.gpg \
        --aptopt='Acquire::Languages "none"' --aptopt='Acquire::Check-Valid-Until "false"' \
        --aptopt="APT::Default-Release \"$suite\"" --include=linux-image-amd64 \
        "$base" "$root" "${sources[@]}" >&2
    mkdir "$made"
    # The image was in /boot, and is among the modules since Linux 7.2.
    cp "$(find "$root" -type f -name 'vmlinuz*')" "$made/vmlinuz"
    (
        cd "$root"/usr/lib/modules/* 2>/dev/null || cd "$root"/lib/modules/*
        release=${PWD##*/}
        for module in "${modules[@]}"; do
            find kernel -name "$module.ko*" -exec install -D -m 644 {} "$made/tree/usr/lib/modules/$release/{}" \;
        done
        install -m 644 modules.builtin modules.builtin.modinfo modules.order "$made/tree/usr/lib/modules/$release"
    )
    pack "$made/tree" >"$made/modules.cpio"
    rm -r "$made/tree" "$root"
    mv "$made" "$target"
}

# Makes what the agent needs of a suite: Python with bcc, and in its site packages what the lock file names.
make_system() {
    local suite=$1 target=$2 root=$scratch/root python
    say "making the system of $suite; this takes minutes, once"
    mkdir "$root"
    "$here/../image/base.sh" "$suite" iproute2,kmod,python3-bpfcc | tar -x -C "$root" --exclude='./dev/*'
    rm -rf "$root"/var/cache/apt "$root"/var/lib/apt/lists
    python=$(basename "$root"/usr/bin/python3.*[0-9])
    "$project/.venv/bin/pip" install --quiet --disable-pip-version-check --require-hashes --only-binary=:all: \
        --implementation cp --python-version "${python#python}" \
        --platform manylinux2014_x86_64 --platform manylinux_2_28_x86_64 \
        --target "$root/usr/local/lib/$python/dist-packages" -r "$project/requirements/run.txt" >&2
    pack "$root" >"$scratch/system.cpio"
    rm -r "$root"
    mv "$scratch/system.cpio" "$target"
}

# Packs the agent as it is in this checkout, with the programs of the tests.
pack_checkout() {
    local tree=$scratch/checkout client
    "$project/.venv/bin/pip" install --quiet --disable-pip-version-check --no-deps --no-build-isolation --no-compile \
        --target "$tree/usr/lib/python3/dist-packages" "$project" >&2
    mkdir -p "$tree/tests/bin"
    cp -r "$project/tests/support" "$here" "$tree/tests"
    find "$tree" -name __pycache__ -prune -exec rm -r {} +
    for client in once ring dial shared_socket; do
        gcc -O1 -static -pthread -o "$tree/tests/bin/$client" "$project/tests/support/clients/$client.c"
    done
    gcc -O2 -static -o "$tree/tests/bin/flood" "$project/tests/support/flood.c"
    install -m 755 "$here/init" "$tree/init"
    printf %s "$(git -C "$project" describe --always --dirty --exclude='*')" >"$tree/tests/commit"
    pack "$tree" >"$scratch/checkout.cpio"
}

# Keeps what the checks have said for the page of conformance.
publish() {
    local name text
    mkdir -p "$columns"
    while read -r _ name text; do
        "$project/.venv/bin/python" -m json.tool --indent 1 --no-ensure-ascii <<<"$text" >"$columns/$name"
    done < <(grep '^column ' "$scratch/said")
}

# Boots a kernel with a system, prints what the checks say, and fails unless all went well.
boot() {
    local kernel=$1 system=$2
    cat "$system" "$kernel/modules.cpio" "$scratch/checkout.cpio" >"$scratch/initrd"
    # The first serial line has what the kernel says, the second one what the checks say. A busy host delivers
    # interrupts too late for the kernel's test of its timer.
    timeout "$longest_s" nice -n 19 qemu-system-x86_64 -accel tcg -cpu max -smp 2 -m 3G -no-reboot -nodefaults \
        -nographic -kernel "$kernel/vmlinuz" -initrd "$scratch/initrd" \
        -append 'console=ttyS0 panic=-1 quiet no_timer_check' \
        -serial "file:$scratch/console" -serial stdio </dev/null |
        tee "$scratch/said" | grep --line-buffered -Ev '^(end|column) ' || true
    publish
    ! grep -q '^end 0' "$scratch/said" || return 0
    say "not all went well with ${kernel##*/}; the last words of its console:"
    tail -n 20 "$scratch/console" >&2
    return 1
}

[[ $(id -u) == 0 ]] || fail "making the systems needs root"
mkdir -p "$cache"
scratch=$(mktemp -d "$cache/run.XXXXXX")
trap 'rm -rf "$scratch"' EXIT
exec 9>"$cache/lock"
flock 9

"$here/../install.sh" kernels cpio mmdebstrap qemu-system-x86_64=qemu-system-x86 \
    /usr/share/keyrings/debian-archive-keyring.gpg=debian-archive-keyring
pack_checkout
recipe=$(cat "$here/../image/base.sh" "$project/requirements/run.txt" | sha256sum | cut -c1-16)
wrong=0
for pair in "${pairs[@]}"; do
    kernel=$cache/kernel-${pair%/*} system=$cache/system-${pair#*/}-$recipe.cpio
    [[ -e $kernel ]] || make_kernel "${pair%/*}" "$kernel"
    [[ -e $system ]] || make_system "${pair#*/}" "$system"
    boot "$kernel" "$system" || wrong=1
done
exit "$wrong"
