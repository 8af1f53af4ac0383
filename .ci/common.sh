# shellcheck shell=bash
# What the scripts beside this one share; they source it.

say() { echo "$(basename "$0"): $*" >&2; }

die() {
    say "$*"
    exit 1
}

# Mirrors hiccup; a minute of patience is cheaper than a failed run.
retry() {
    local pause
    for pause in 5 20 0; do
        "$@" && return
        [ "$pause" = 0 ] || { say "failed, trying again in $pause s: $*" && sleep "$pause"; }
    done
    return 1
}

# Installs the Debian packages that bring COMMAND, where the machine lacks it.
need() { # COMMAND PACKAGE...
    command -v "$1" >/dev/null && return
    shift
    say "installing $*"
    retry apt-get update -qq
    retry env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends -o Dpkg::Use-Pty=0 "$@" >/dev/null
}

# The Debian mirror that this machine's apt uses.
mirror() {
    if [ -n "${LAYERKIT_PEERS_MIRROR:-}" ]; then
        echo "$LAYERKIT_PEERS_MIRROR"
        return
    fi
    # shellcheck disable=SC2016  # apt expands these, not the shell
    apt-get indextargets --format '$(ORIGIN) $(RELEASE) $(REPO_URI)' 'Identifier: Packages' |
        awk -v release="$(. /etc/os-release && echo "${VERSION_CODENAME:-}")" '
            $1 == "Debian" && $2 == release { print $3; exit }'
}

# Makes a minimal root of a Debian suite, anew.
debian_root() { # SUITE DIRECTORY LOG
    local from script=/usr/share/debootstrap/scripts/$1
    # An older debootstrap does not know a newer suite by name; their scripts are all one.
    [ -e "$script" ] || script=/usr/share/debootstrap/scripts/sid
    from=$(mirror)
    [ -n "$from" ] || die "apt on this machine names no Debian mirror; set LAYERKIT_PEERS_MIRROR"
    rm -rf --one-file-system "$2"
    mkdir -p "$2"
    debootstrap --variant=minbase --include=ca-certificates "$1" "$2" "$from" "$script" >"$3" || {
        tail -n 20 "$3" >&2
        return 1
    }
    # Whatever way this machine reaches its mirror, proxies too, counts in there as well.
    apt-config dump Acquire::http Acquire::https >"$2/etc/apt/apt.conf.d/90host"
}
