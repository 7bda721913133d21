# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash
#
# Debian packages for building QEMU: what is missing, and how to get it.  To be
# sourced.  Another suite than the machine's own (a newer meson, QEMU's source)
# is read through an apt configuration of our own under the cache; the machine's
# is not touched.  The archive's address comes from the machine's configuration,
# the signatures are checked by apt against Debian's keyring.

rmig_cache="${RMIG_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/qemu-rdma-migration}"
rmig_keyring=/usr/share/keyrings/debian-archive-keyring.gpg

rmig_note() {
    echo "$*" >&2
}

rmig_die() {
    echo "error: $*" >&2
    exit 1
}

# The address of the Debian archive that this machine uses.
rmig_archive() {
    local address
    address=$(apt-get indextargets --format "\$(REPO_URI)" \
        'Created-By: Packages' 'Label: Debian' 'Component: main' | sed -n 1p)
    if [ -z "$address" ] && [ "$(id -u)" -eq 0 ]; then
        rmig_note "Reading Debian's package lists (apt-get update)"
        apt-get -qq update >&2
        address=$(apt-get indextargets --format "\$(REPO_URI)" \
            'Created-By: Packages' 'Label: Debian' 'Component: main' |
            sed -n 1p)
    fi
    [ -n "$address" ] || rmig_die "apt knows no Debian archive" \
        "(has this machine run 'apt-get update'?)"
    echo "$address"
}

# rmig_apt_setup NAME LINE...: an apt configuration of our own, with the lists
# read.  In a LINE, @ stands for the archive: "deb @ bookworm-backports main".
rmig_apt_setup() {
    local home="$rmig_cache/apt/$1" archive line
    shift
    [ -r "$rmig_keyring" ] || rmig_die "$rmig_keyring is missing" \
        "(package debian-archive-keyring)"
    archive=$(rmig_archive)
    mkdir -p "$home/lists/partial" "$home/cache/archives/partial"
    for line in "$@"; do
        echo "${line/ @ / [signed-by=$rmig_keyring] $archive }"
    done >"$home/sources.list"
    rmig_apt_options=(
        -o "Dir::Etc::sourcelist=$home/sources.list"
        -o Dir::Etc::sourceparts=-
        -o "Dir::State::lists=$home/lists"
        -o "Dir::Cache=$home/cache"
        -o APT::Get::List-Cleanup=0
    )
    # apt's own download user cannot read a cache in somebody's home.
    rmig_apt_options+=(-o "APT::Sandbox::User=$(id -un)")
    apt-get "${rmig_apt_options[@]}" -qq update >&2 ||
        rmig_die "the package lists for $home could not be read"
}

# Which of these packages are not installed.
rmig_missing_packages() {
    local package
    for package in "$@"; do
        dpkg-query -W -f '${db:Status-Status}\n' "$package" 2>/dev/null |
            grep -qx installed || echo "$package"
    done
}

# rmig_install APT-GET-ARGUMENTS: quietly, unless it fails.
rmig_install() {
    local log="$rmig_cache/apt/install.log"
    mkdir -p "$rmig_cache/apt"
    DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends \
        "$@" >"$log" 2>&1 && return
    cat "$log" >&2
    rmig_die "apt-get $* failed; its messages are above"
}

# Install what is missing of these, as root; else say the command.
rmig_require_packages() {
    local missing
    mapfile -t missing < <(rmig_missing_packages "$@")
    [ "${#missing[@]}" -gt 0 ] || return 0
    if [ "$(id -u)" -ne 0 ]; then
        rmig_die "these packages are missing; as root:" \
            "apt-get install ${missing[*]}"
    fi
    rmig_note "Installing what the build needs: ${missing[*]}"
    # Old lists would name packages that the archive no longer has.
    apt-get -qq update >&2 || rmig_die "apt-get update failed"
    rmig_install install "${missing[@]}"
}

# The meson that Debian's python3 has, as a number: 1.7.0 is 10700.
rmig_meson_version() {
    /usr/bin/python3 -c '
from mesonbuild.coredata import version
print("%d%02d%02d" % tuple(int(n) for n in version.split(".")[:3]))
' 2>/dev/null || echo 0
}

# QEMU wants meson 1.5; Debian 12 has it among its backports.
rmig_require_meson() {
    local codename backport=meson/bookworm-backports
    [ "$(rmig_meson_version)" -lt 10500 ] || return 0
    # shellcheck source=/dev/null
    codename=$(. /etc/os-release && echo "$VERSION_CODENAME")
    if [ "$codename" != bookworm ]; then
        rmig_require_packages meson
        [ "$(rmig_meson_version)" -ge 10500 ] ||
            rmig_die "QEMU needs meson 1.5 or later for /usr/bin/python3"
        return 0
    fi
    if [ "$(id -u)" -ne 0 ]; then
        rmig_die "QEMU needs meson 1.5; as root, with bookworm-backports" \
            "in apt's sources: apt-get install $backport"
    fi
    rmig_note "Installing meson 1.5 or later from bookworm-backports"
    rmig_apt_setup backports "deb @ bookworm main" \
        "deb @ bookworm-backports main"
    rmig_install "${rmig_apt_options[@]}" install "$backport"
}
