#!/bin/sh
# Runs a command in a network namespace of its own, whose loopback carries RATE (as tc has it: 100mbit), both directions together.
#     sh shaped_loopback.sh 100mbit avec bench --link loopback
# So the kernel's own queue makes the link, where the relay of avec.bench is a program. Needs root and tc's tbf; what loopback
# is then like stands in the calibration of the record. Nothing outside of this machine can be reached from in there.
set -eu
if [ "${1:-}" != --inside ]; then
    if [ $# -lt 2 ]; then echo "usage: shaped_loopback.sh RATE COMMAND…" >&2; exit 2; fi
    if ! unshare --net true 2>/dev/null; then
        echo "shaped_loopback.sh: cannot make a network namespace here; it takes root. Use a relayed link, such as 100mbit-1ms" >&2
        exit 77
    fi
    exec unshare --net -- sh "$0" --inside "$@"
fi
rate=$2
shift 2
ip link set lo up
# A burst holds the largest segment that loopback carries at once; the queue is what a router would hold for 20 ms.
if ! tc qdisc add dev lo root tbf rate "$rate" burst 128kb latency 20ms; then
    echo "shaped_loopback.sh: tc cannot shape loopback to $rate here (tbf is needed). Use a relayed link, such as 100mbit-1ms" >&2
    exit 77
fi
exec "$@"
