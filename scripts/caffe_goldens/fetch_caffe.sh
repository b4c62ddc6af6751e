#!/bin/bash
# Unpacks Debian 11's python3-caffe (CPU build, 1.0.0+git20180821) and all that it needs into a folder, to be run by
# chroot. The system's packages and apt state stay as they are: apt works on lists, cache and a dpkg status of its own.
#
# Usage: fetch_caffe.sh [ROOT]          default ROOT: .cache/caffe-root in the repository
# CAFFE_MIRROR=URL names the Debian mirror; without it, the one that /etc/apt uses is taken.
set -euo pipefail

repository=$(cd "$(dirname "$0")/../.." && pwd)
root=$(realpath -m "${1:-$repository/.cache/caffe-root}")
state="$root.apt"
suite=bullseye
keyring=/usr/share/keyrings/debian-archive-keyring.gpg

fail() { echo "fetch_caffe: $*" >&2; exit 1; }

mirror_of_this_machine() {
    # The first URI that serves a Debian archive (not its security archive), in deb822 or in one-line form.
    { cat /etc/apt/sources.list.d/*.sources /etc/apt/sources.list /etc/apt/sources.list.d/*.list 2>/dev/null || true; } |
        grep -v '^ *#' | grep -oE '[a-z]+://[^] ]+/debian/?( |$)' | head -n 1 | tr -d ' ' || true
}

prepare_apt() {
    mkdir -p "$state/lists/partial" "$state/archives/partial" "$state/etc"
    : > "$state/status" # nothing counts as installed, so that every dependency is downloaded
    # The machine's way to the network (proxies, checks) is kept; its hooks are not.
    apt-config dump | grep -E '^Acquire::' > "$state/etc/acquire" || true
    echo "deb [signed-by=$keyring] $mirror $suite main" > "$state/sources.list"
    cat > "$state/apt.conf" <<CONF
Dir::Etc::parts "$state/etc";
Dir::Etc::sourcelist "$state/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
Dir::State "$state";
Dir::State::lists "$state/lists";
Dir::State::status "$state/status";
Dir::Cache "$state";
Dir::Cache::archives "$state/archives";
APT::Architecture "amd64";
APT::Architectures { "amd64"; };
APT::Install-Recommends "false";
APT::Sandbox::User "root";
Acquire::Check-Valid-Until "false";
Acquire::Retries "3";
CONF
    export APT_CONFIG="$state/apt.conf"
}

mirror=${CAFFE_MIRROR:-$(mirror_of_this_machine)}
[ -n "$mirror" ] || fail "no Debian mirror found in /etc/apt; name one that serves $suite with CAFFE_MIRROR=URL"
[ -e "$keyring" ] || fail "$keyring is missing; install debian-archive-keyring"

if [ -e "$root/.complete" ]; then
    echo "fetch_caffe: $root is complete already"
    exit 0
fi
prepare_apt
apt-get update -q --error-on=any ||
    fail "$mirror serves no '$suite' any more; name a mirror that does with CAFFE_MIRROR=URL (an archive of old releases)"
apt-get install -q -y --download-only python3-caffe libopenblas0-pthread coreutils ||
    fail "python3-caffe could not be downloaded from $mirror $suite"

mkdir -p "$root"
for package in "$state"/archives/*.deb; do
    dpkg-deb -x "$package" "$root"
done
mkdir -p "$root/tmp" "$root/exchange"
chroot "$root" /usr/bin/env LD_LIBRARY_PATH=/usr/lib/x86_64-linux-gnu/openblas-pthread \
    /usr/bin/python3.9 -c 'import caffe; print("fetch_caffe: caffe", caffe.__version__, "in place")' ||
    fail "$root was unpacked, but caffe cannot be imported in it"
touch "$root/.complete"
rm -rf "$state"
