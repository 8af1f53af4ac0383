#!/bin/bash
# What only Windows runs, without Windows: it is compiled and linted for it, and its
# tests run under wine, with the CimFS emulator in place of the DLLs.
#
#   windows.sh check     compile and lint for x86_64-pc-windows-gnu
#   windows.sh wine      run the tests; the first time a root with wine is made
#   windows.sh down      unmount what is left mounted
#
# Nobody ships a current standard library for that target on Debian, so it is built from
# its sources: those of the very rustc on this machine (Debian's rust-src), which stays
# untouched. LAYERKIT_WINDOWS_DIR (default /var/cache/layerkit-wine) holds, outside of
# the checkout:
#   rust-VERSION/   sources of the standard library
#   target/         what was built
#   wine/           a Debian with wine
# LAYERKIT_RUST_SUITES   Debian suites to look for the sources in, first one first
# LAYERKIT_WINE_SUITES   Debian suites to make the root from: with wine 9 or newer
#
# Needs root and a Debian; debootstrap for wine.
set -euo pipefail

top=${LAYERKIT_WINDOWS_DIR:-/var/cache/layerkit-wine}
root=$top/wine
rust_suites=${LAYERKIT_RUST_SUITES:-trixie-backports forky sid trixie}
wine_suites=${LAYERKIT_WINE_SUITES:-trixie sid}
target=x86_64-pc-windows-gnu
here=$(cd "$(dirname "$0")" && pwd)
. "$here/common.sh"

# An apt that knows one other suite, with lists of its own.
apt_of() { # SUITE COMMAND...
    local suite=$1 place=$top/apt key=/usr/share/keyrings/debian-archive-keyring.gpg
    shift
    mkdir -p "$place/lists/partial" "$place/cache/archives/partial"
    echo "deb [signed-by=$key] $(mirror) $suite main" >"$place/sources.list"
    "$@" -qq -o APT::Sandbox::User=root \
        -o Dir::Etc::sourcelist="$place/sources.list" -o Dir::Etc::sourceparts=- -o Dir::Etc::preferencesparts=- \
        -o Dir::State::lists="$place/lists" -o Dir::Cache="$place/cache" -o Dir::State::status=/dev/null
}

madison() { apt_of "$1" apt-cache madison rust-src; }
update() { apt_of "$1" apt-get update; }
download() { (cd "$top/apt" && apt_of "$1" apt-get download "rust-src=$2"); }

# Sets sources to the directory of the standard library's sources.
rust_sources() {
    local version suite found
    version=$(rustc -vV | sed -n 's/^release: //p')
    sources=$(rustc --print sysroot)/lib/rustlib/src/rust/library
    [ ! -d "$sources/std" ] || return 0
    sources=$top/rust-$version/library
    [ ! -d "$sources/std" ] || return 0
    for suite in $rust_suites; do
        retry update "$suite" || continue
        found=$(madison "$suite" | awk -v v="$version" 'index($3, v "+") == 1 { print $3; exit }')
        [ -n "$found" ] || { say "$suite has no rust-src of $version" && continue; }
        say "the standard library's sources: rust-src $found of $suite"
        rm -rf "$top/rust-$version" "$top"/apt/*.deb
        retry download "$suite" "$found" || continue
        mkdir -p "$top/rust-$version.part"
        dpkg-deb --fsys-tarfile "$top"/apt/rust-src_*.deb |
            tar -x -C "$top/rust-$version.part" --strip-components=4 --wildcards './usr/src/rustc-*/library'
        mv "$top/rust-$version.part" "$top/rust-$version"
        rm -rf "$top/apt"
        return 0
    done
    die "no suite of \"$rust_suites\" has rust-src $version, that of this machine's rustc"
}

# cargo, for Windows. Building the standard library is not stable in cargo, hence the
# variables; the second says where its sources are.
cargo_for_windows() { # COMMAND ARGUMENT...
    local command=$1
    shift
    RUSTC_BOOTSTRAP=1 __CARGO_TESTS_ONLY_SRC_ROOT=$sources CARGO_TARGET_DIR=$top/target \
        CARGO_INCREMENTAL=0 CARGO_PROFILE_DEV_DEBUG=0 \
        cargo "$command" -Z build-std=std,panic_unwind,test --target "$target" --locked "$@"
}

check() {
    mkdir -p "$top"
    rust_sources
    cargo_for_windows clippy -p cim-writer-abstraction --features emulator,testing --lib -- -D warnings
    cargo_for_windows clippy -p cim-emulator --all-targets -- -D warnings
}

inside() { LC_ALL=C DEBIAN_FRONTEND=noninteractive chroot "$root" "$@"; }

install_wine() {
    # The smallest package that runs 64-bit programs without a display.
    inside apt-get install -y -qq --no-install-recommends -o Acquire::Retries=3 -o Dpkg::Use-Pty=0 wine64 \
        >"$top/install.log" 2>&1 || {
        tail -n 20 "$top/install.log" >&2
        return 1
    }
}

wine_root() {
    local suite
    [ ! -e "$top/wine.made" ] || return 0
    need debootstrap debootstrap || die "debootstrap cannot be installed"
    for suite in $wine_suites; do
        say "making a root of Debian $suite with wine in $root"
        unmount
        if retry debian_root "$suite" "$root" "$top/debootstrap.log" && retry install_wine; then
            rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/* "$root"/usr/share/{doc,man,locale}/*
            inside dpkg-query -Wf '${Package} ${Version}\n' wine64 >"$top/wine.made"
            return 0
        fi
    done
    die "no suite of \"$wine_suites\" gave a root with wine"
}

unmount() {
    ! mountpoint -q "$root/proc" || umount "$root/proc" || umount -l "$root/proc"
}

# Runs the test program $1 in a directory with the emulator under the names that follow.
run_tests() { # PROGRAM DLL...
    local program=$1 place=$root/tests name
    shift
    rm -rf "$place"
    mkdir -p "$place"
    cp "$program" "$place/tests.exe"
    for name in "$@"; do cp "$top/target/$target/debug/deps/cim_emulator.dll" "$place/$name"; done
    echo "with $*:"
    inside sh -c 'cd /tests && WINEDEBUG=-all WINEPREFIX=/prefix timeout 300 /usr/lib/wine/wine64 tests.exe' </dev/null
}

wine() {
    local program status=0
    [ "$(id -u)" = 0 ] || die "needs root"
    need x86_64-w64-mingw32-gcc gcc-mingw-w64-x86-64-win32
    mkdir -p "$top"
    exec 9>"$top/lock"
    flock 9
    rust_sources
    wine_root
    program=$(cargo_for_windows test --no-run -p cim-emulator --test exports --message-format=json |
        sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' | tail -n 1)
    [ -n "$program" ] || die "cargo built no test program"
    trap unmount EXIT
    mountpoint -q "$root/proc" || mount -t proc proc "$root/proc"
    cat "$top/wine.made"
    run_tests "$program" cimfs.dll offreg.dll || status=1
    run_tests "$program" cimfs.dll offreg.dll cimwriter.dll || status=1
    # its server lingers for a while, and would keep what is mounted
    inside sh -c 'WINEPREFIX=/prefix /usr/lib/wine/wineserver64 -k' || true
    rm -rf "$root/tests"
    return $status
}

case "${1:-}" in
check) check ;;
wine) wine ;;
down) unmount ;;
*)
    sed -n '2,/^set -/{/^#/p}' "$0" | sed 's/^# \{0,1\}//'
    exit 2
    ;;
esac
