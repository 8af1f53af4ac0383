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
