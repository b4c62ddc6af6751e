#!/bin/bash
# Makes the golden files of Caffe's data layers and snapshots, tests/goldens/caffe_data, anew from real Caffe.
#
# Usage: make_data.sh [ROOT]    ROOT: where fetch_caffe.sh unpacked Caffe; default .cache/caffe-root
# PYTHON names the interpreter that writes the data files: one with avec[caffe] and OpenCV; default .venv/bin/python.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
repository=$(cd "$here/../.." && pwd)
root=${1:-$repository/.cache/caffe-root}
exchange="$root/exchange-data"
goldens="$repository/tests/goldens/caffe_data"

"$here/fetch_caffe.sh" "$root"
rm -rf "$exchange" && mkdir -p "$exchange"
"${PYTHON:-$repository/.venv/bin/python}" "$here/data_files.py" "$exchange/files"
cp "$here"/{data_values,nets}.py "$repository/tests/goldens/seeded_parameters.py" "$exchange/"
chroot "$root" /usr/bin/env LD_LIBRARY_PATH=/usr/lib/x86_64-linux-gnu/openblas-pthread OPENBLAS_NUM_THREADS=1 \
    PYTHONDONTWRITEBYTECODE=1 PYTHONHASHSEED=0 \
    /usr/bin/python3.9 /exchange-data/data_values.py /exchange-data/files /exchange-data/out
rm -f "$exchange"/files/*/lock.mdb
rm -rf "$goldens" && mkdir -p "$goldens"
cp -r "$exchange/files" "$exchange"/out/* "$goldens/"
du -sh "$goldens"
