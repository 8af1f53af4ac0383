#!/bin/bash
# A real container image to test on: about 900 MB unpacked, 17,000 entries, made of
# Debian's packages by umoci. `peers.sh up` comes first; takes two minutes, and
# nothing when it is there already.
#
#   image.sh        make it, in share/inputs of LAYERKIT_PEERS_DIR (see peers.sh)
#
#   image/              an OCI image layout. Tag v1 has three layers: a base system,
#                       build tools on top, then odd changes; tag v2 has one more
#   layer-0.tar ...     each layer uncompressed, and as umoci wrote it (.gz)
#   rootfs-v1, -v2      each tag as umoci unpacks it: what its merged view must be
#
# The third layer deletes files and a directory, makes a file into a directory, and
# adds hard links, a FIFO, device nodes, user, trusted and capability xattrs, a
# sparse file, long and non-UTF-8 names, and 2,000 tiny files. The fourth makes a
# directory into a file: umoci writes the file and then whiteouts below it, which
# containerd and mkfs.erofs refuse.
#
# LAYERKIT_IMAGE_SUITES  Debian suites to try for the base system, first one first
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
. "$here/common.sh"
top=${LAYERKIT_PEERS_DIR:-/var/cache/layerkit-peers}
out=$top/share/inputs
image=/mnt/inputs/image # the same place, as the peers see it
suites=${LAYERKIT_IMAGE_SUITES:-bookworm trixie}
recipe="recipe 1"

umoci() { "$here/peers.sh" run umoci --log=warn "$@"; }

mirror() {
    # shellcheck disable=SC2016  # awk's, not the shell's
    awk '$1 == "deb" { print $2; exit }' "$top/base/etc/apt/sources.list"
}

base_system() { # SUITE DIR
    # debootstrap wants the directory empty but for what it made itself
    find "$2" -xdev -mindepth 1 -delete
    debootstrap --variant=minbase --include=ca-certificates "$1" "$2" "$(mirror)" >"$top/image.log" || {
        tail -n 20 "$top/image.log" >&2
        return 1
    }
}

build_tools() { # DIR
    mount --bind /proc "$1/proc"
    mount --bind /dev "$1/dev"
    local status=0
    retry env LC_ALL=C DEBIAN_FRONTEND=noninteractive chroot "$1" \
        apt-get install -y -qq --no-install-recommends -o Acquire::Retries=3 -o Dpkg::Use-Pty=0 \
        build-essential python3 git vim-tiny nodejs >"$top/image.log" 2>&1 || status=$?
    umount "$1/proc" "$1/dev"
    [ $status = 0 ] || tail -n 20 "$top/image.log" >&2
    return $status
}

odd_changes() { # DIR
    cd "$1"
    rm -rf usr/share/doc usr/bin/vim.tiny
    rm -f etc/issue && mkdir etc/issue && echo nested >etc/issue/nested

    mkdir -p srv/case && cd srv/case
    echo linked >one && ln one two && ln one three
    mkfifo pipe && mknod null c 1 3 && mknod loop b 7 0
    touch attrs
    setfattr -n user.comment -v "hello" attrs
    setfattr -n trusted.kept -v 0x00ff10 attrs
    cp /bin/true capable && setcap cap_net_raw+ep capable
    truncate -s 64M sparse && printf data | dd of=sparse bs=1 seek=33554432 conv=notrunc status=none
    local long
    long=$(printf 'n%.0s' $(seq 200))
    mkdir -p "$long/$long" && echo deep >"$long/$long/file"
    printf 'latin' >"$(printf 'caf\351')"
    ln -s ../../etc/passwd absolute-looking
    ln -s /etc/passwd absolute
    ln -s "$long" long-link
    local i
    for i in $(seq 2000); do printf '%s' "$i" >"small-$i"; done
    # owner first: chown clears the set-user-ID bit and capabilities
    chown 12345:54321 attrs
    chmod 4755 capable
    touch -d '1999-12-31 23:59:59.987654321' attrs
    touch -h -d '2001-02-03 04:05:06' absolute
    cd /
}

layer_digests() { # TAG
    python3 - "$out/image" "$1" <<'PY'
import json, sys

layout, tag = sys.argv[1:]


def blob(digest):
    with open(f"{layout}/blobs/" + digest.replace(":", "/")) as f:
        return json.load(f)


with open(f"{layout}/index.json") as f:
    manifests = json.load(f)["manifests"]
name = "org.opencontainers.image.ref.name"
manifest = blob(next(m["digest"] for m in manifests if m["annotations"][name] == tag))
for layer in manifest["layers"]:
    print(layer["digest"].partition(":")[2])
PY
}

exec 9>"$top/image.lock"
flock 9
[ "$(cat "$out/.complete" 2>/dev/null)" = "$recipe" ] && exit 0
mountpoint -q "$top/root/mnt" || die "run peers.sh up first"
need setfattr attr
need setcap libcap2-bin

begin=$SECONDS
rootfs=$out/bundle/rootfs
bundle=/mnt/inputs/bundle
leave() { umount "$rootfs/proc" "$rootfs/dev" 2>/dev/null || true; }
trap leave EXIT
leave # what an earlier run that was killed left mounted
rm -rf --one-file-system "$out"
mkdir -p "$out"

umoci init --layout "$image"
umoci new --image "$image:v1"
umoci unpack --image "$image:v1" "$bundle"

made=
for suite in $suites; do
    say "layer 0: Debian $suite"
    if retry base_system "$suite" "$rootfs"; then
        made=$suite
        break
    fi
done
[ -n "$made" ] || die "no suite of \"$suites\" could be had"
umoci repack --refresh-bundle --image "$image:v1" "$bundle"

say "layer 1: build tools"
build_tools "$rootfs"
umoci repack --refresh-bundle --image "$image:v1" "$bundle"

say "layer 2: odd changes"
(odd_changes "$rootfs")
umoci repack --refresh-bundle --image "$image:v1" "$bundle"

say "layer 3, tag v2: a directory becomes a file"
rm -rf "$rootfs/usr/share/man"
echo "a file now" >"$rootfs/usr/share/man"
umoci repack --image "$image:v2" "$bundle"
rm -rf "$out/bundle"

number=0
for digest in $(layer_digests v2); do
    ln "$out/image/blobs/sha256/$digest" "$out/layer-$number.tar.gz"
    gzip -dc "$out/layer-$number.tar.gz" >"$out/layer-$number.tar"
    number=$((number + 1))
done
for tag in v1 v2; do
    umoci unpack --image "$image:$tag" "$bundle-$tag"
    mv "$out/bundle-$tag/rootfs" "$out/rootfs-$tag"
    rm -rf "$out/bundle-$tag"
done
echo "$recipe" >"$out/.complete"
say "made in $((SECONDS - begin)) s: $(wc -c <"$out/layer-0.tar") + $(wc -c <"$out/layer-1.tar") + $(wc -c <"$out/layer-2.tar") bytes of layers"
