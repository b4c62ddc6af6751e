#!/bin/bash
# Makes the golden files in tests/goldens/caffe_api anew from real Caffe.
#
# Usage: make_api.sh [ROOT]     ROOT: where fetch_caffe.sh unpacked Caffe; default .cache/caffe-root
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
repository=$(cd "$here/../.." && pwd)
root=${1:-$repository/.cache/caffe-root}
exchange="$root/exchange_api"
goldens="$repository/tests/goldens"

"$here/fetch_caffe.sh" "$root"
rm -rf "$exchange" && mkdir -p "$exchange"
cp "$here/api.py" "$goldens/net_specs.py" "$exchange/"
chroot "$root" /usr/bin/env LD_LIBRARY_PATH=/usr/lib/x86_64-linux-gnu/openblas-pthread OPENBLAS_NUM_THREADS=1 \
    PYTHONDONTWRITEBYTECODE=1 PYTHONHASHSEED=0 GLOG_minloglevel=2 /usr/bin/python3.9 /exchange_api/api.py /exchange_api/out
mkdir -p "$goldens/caffe_api"
cp "$exchange"/out/* "$goldens/caffe_api/"
