#!/bin/sh
# Runs a command as on a machine without a GPU: in a mount namespace that hides the driver and its devices. Needs root.
set -eu
if [ "${1:-}" != --hidden ]; then exec unshare --mount -- sh "$0" --hidden "$@"; fi
shift
mount --make-rprivate /
for device in /dev/nvidia*; do
    if [ -c "$device" ]; then mount --bind /dev/null "$device"; fi
done
for library in $(ldconfig -p | sed -n 's/.*=> \(.*libcuda\.so.*\)/\1/p') /usr/local/nvidia/lib64/libcuda.so*; do
    if [ -e "$library" ]; then mount --bind /dev/null "$(readlink -f "$library")"; fi
done
if python3 -c 'import ctypes; ctypes.CDLL("libcuda.so.1").cuInit' 2>/dev/null; then
    echo "without_gpu.sh: the driver can still be loaded" >&2
    exit 1
fi
exec "$@"
