#!/bin/bash
# The programs that layerkit is judged against, in a root file system of their
# own: containerd 2.1 (overlayfs and EROFS snapshotters), runc, umoci, skopeo,
# erofs-utils 1.9, composefs, the decompressors that containerd picks up when they
# are there, and containerd's own differ as a library, built into a small program
# (benches/reference). Everything comes from Debian's packages.
#
#   peers.sh up                make it (3 minutes the first time, then at once) and mount it
#   peers.sh run CMD...        run CMD inside it
#   peers.sh containerd        start containerd, and wait until it serves
#   peers.sh stop              stop containerd
#   peers.sh versions          what is in it, one "package version" a line
#   peers.sh env               the variables that the tests read, for `eval`
#   peers.sh is-up             exit status 0 when it is mounted
#   peers.sh down              stop containerd and unmount everything
#
# LAYERKIT_PEERS_DIR (default /var/cache/layerkit-peers) holds it, outside the
# checkout, so that it outlives one; nothing else on the machine is changed.
#   root/            the directory to chroot into, once up
#   share/           appears in there as /mnt
#   containerd.log   what containerd said
# LAYERKIT_PEERS_SUITES  Debian suites to try, first one first
# LAYERKIT_PEERS_MIRROR  where to get them; default: what this machine's apt is set to
#
# Needs root and a Debian (or anything with apt-get and debootstrap).
set -euo pipefail

top=${LAYERKIT_PEERS_DIR:-/var/cache/layerkit-peers}
base=$top/base
root=$top/root # base, bound to a mount point of its own: runc wants "/" to be one
share=$top/share
socket=/run/ctrd/c.sock
suites=${LAYERKIT_PEERS_SUITES:-forky sid}
here=$(cd "$(dirname "$0")" && pwd)
. "$here/common.sh"
reference=$here/../benches/reference/main.go

packages="
    containerd runc umoci erofs-utils isal zstd attr
    golang-go golang-github-containerd-containerd-dev golang-github-containerd-continuity-dev"
# Of use when looking into something, but no test or benchmark needs them.
extras="skopeo composefs pigz jq"
# Older ones behave differently where the tests look, or lack the EROFS snapshotter.
at_least="containerd 2.1
erofs-utils 1.9
umoci 0.5"
# A root made from another recipe than this one is made anew.
recipe=$(printf '%s\n' "recipe 1" "$packages" "$extras" "$at_least" | sha256sum | cut -d' ' -f1)

mount_all() {
    mkdir -p "$root" "$share"
    # private: a mount made below it must not show up in base as well
    mountpoint -q "$root" || { mount --bind "$base" "$root" && mount --make-private "$root"; }
    mountpoint -q "$root/proc" || mount --bind /proc "$root/proc"
    local d
    for d in sys dev; do
        # rslave: unmounting in there must not reach the host
        mountpoint -q "$root/$d" || { mount --rbind "/$d" "$root/$d" && mount --make-rslave "$root/$d"; }
    done
    mountpoint -q "$root/mnt" || mount --bind "$share" "$root/mnt"
}

unmount_all() {
    awk -v p="$root" '$2 == p || index($2, p "/") == 1 { print $2 }' /proc/self/mounts | tac |
        while read -r m; do umount "$m" 2>/dev/null || umount -l "$m" 2>/dev/null || true; done
}

# What tests that were cut short left in there: their names end in the test's process.
sweep() {
    local left
    for left in "$root"/var/tmp/layerkit-*; do
        [ -d "$left" ] && [ ! -d "/proc/${left##*-}" ] || continue
        awk -v p="$left/" 'index($2, p) == 1 { print $2 }' /proc/self/mounts | tac | xargs -r -n 1 umount -l
        losetup -ln -O NAME,BACK-FILE | awk -v p="${left#"$root"}" 'index($2, p "/") { print $1 }' | xargs -r -n 1 losetup -d
        rm -rf --one-file-system "$left"
    done
}

inside() { LC_ALL=C DEBIAN_FRONTEND=noninteractive chroot "$root" "$@"; }

install() { # PACKAGE...
    inside apt-get install -y -qq --no-install-recommends -o Acquire::Retries=3 -o Dpkg::Use-Pty=0 "$@" \
        >"$top/install.log" 2>&1 || {
        tail -n 20 "$top/install.log" >&2
        return 1
    }
}

fill() { # SUITE: a root of it with the packages
    local name
    unmount_all
    retry debian_root "$1" "$base" "$top/debootstrap.log" && mount_all || return 1
    for name in $packages; do
        inside apt-cache show "$name" >/dev/null 2>&1 || { say "$1 has no $name" && return 1; }
    done
    # shellcheck disable=SC2086
    retry install $packages || return 1
    for name in $extras; do
        install "$name" 2>/dev/null || say "without $name, which $1 does not have"
    done
    recent_enough "$1"
}

recent_enough() { # SUITE
    local name wanted have
    while read -r name wanted; do
        # shellcheck disable=SC2016  # dpkg-query expands it
        have=$(inside dpkg-query -Wf '${Version}' "$name")
        dpkg --compare-versions "$have" ge "$wanted" || {
            say "$1 has $name $have, at least $wanted is needed"
            return 1
        }
    done <<<"$at_least"
}

configure_containerd() {
    mkdir -p "$base/etc/ctrd" "$base/var/lib/ctrd"
    # Its own directories and socket, so that it never meets another containerd;
    # without the CRI plug-ins, which want a network and a pause image.
    cat >"$base/etc/ctrd/config.toml" <<TOML
version = 3
root = '/var/lib/ctrd'
state = '/run/ctrd'
disabled_plugins = [
  'io.containerd.snapshotter.v1.btrfs', 'io.containerd.grpc.v1.cri',
  'io.containerd.cri.v1.images', 'io.containerd.cri.v1.runtime',
]
[grpc]
  address = '$socket'
[plugins.'io.containerd.service.v1.diff-service']
  default = ['erofs', 'walking']
TOML
}

# containerd's own differ, as benches/reference/main.go calls it.
build_reference() {
    local stamp=$base/usr/src/reference/stamp sum
    sum=$(sha256sum <"$reference")
    [ -x "$base/usr/local/bin/reference" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$sum" ] && return
    say "building the reference differ"
    mkdir -p "$base/usr/src/reference"
    cp "$reference" "$base/usr/src/reference/main.go"
    # Debian installs Go libraries as a GOPATH; nothing is downloaded.
    inside env HOME=/root GO111MODULE=off GOPATH=/usr/share/gocode GOCACHE=/var/cache/go-build \
        go build -o /usr/local/bin/reference /usr/src/reference/main.go
    echo "$sum" >"$stamp"
}

up() {
    [ "$(id -u)" = 0 ] || die "needs root"
    mkdir -p "$top"
    exec 9>"$top/lock"
    flock 9
    if [ "$(cat "$top/recipe" 2>/dev/null)" != "$recipe" ] || [ ! -d "$base/etc" ]; then
        need debootstrap debootstrap || die "debootstrap cannot be installed"
        rm -f "$top/recipe"
        local suite made=
        for suite in $suites; do
            say "making a root of Debian $suite in $top"
            if fill "$suite"; then
                made=$suite
                break
            fi
            say "cannot make it from $suite"
        done
        [ -n "$made" ] || die "no suite of \"$suites\" could be had; the peers are missing"
        rm -rf "$base"/var/cache/apt/archives/*.deb
        echo "$recipe" >"$top/recipe"
    fi
    mount_all
    sweep
    configure_containerd
    build_reference
    flock -u 9
}

containerd_pid() {
    local pid
    pid=$(cat "$top/containerd.pid" 2>/dev/null) || return
    # the number may have been given to another process since
    [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = containerd ] && echo "$pid"
}

start_containerd() {
    containerd_pid >/dev/null && return
    mountpoint -q "$root" || die "not up"
    # exec, so that $! is containerd itself
    (exec chroot "$root" containerd -c /etc/ctrd/config.toml) </dev/null >"$top/containerd.log" 2>&1 &
    echo $! >"$top/containerd.pid"
    for _ in $(seq 150); do
        inside ctr -a "$socket" version >/dev/null 2>&1 && return
        sleep 0.1
    done
    tail -n 20 "$top/containerd.log" >&2
    die "containerd did not start within 15 s"
}

stop_containerd() {
    local pid
    pid=$(containerd_pid) || return 0
    kill "$pid"
    timeout 5 tail --pid="$pid" -f /dev/null || true
    rm -f "$top/containerd.pid"
}

case "${1:-}" in
up) up ;;
run) shift && inside "$@" ;;
containerd) start_containerd ;;
stop) stop_containerd ;;
versions)
    # shellcheck disable=SC2086,SC2016
    inside dpkg-query -Wf '${Package} ${Version}\n' $packages $extras 2>/dev/null || true
    ;;
env) printf 'export LAYERKIT_PEERS=%q LAYERKIT_INPUTS=%q\n' "$root" "$share/inputs" ;;
is-up) mountpoint -q "$root/proc" ;;
down) stop_containerd && unmount_all ;;
*)
    sed -n '2,/^set -/{/^#/p}' "$0" | sed 's/^# \{0,1\}//'
    exit 2
    ;;
esac
