#!/bin/bash
# Makes the golden files in tests/goldens/caffe anew from real Caffe.
#
# Usage: make.sh [ROOT]         ROOT: where fetch_caffe.sh unpacked Caffe; default .cache/caffe-root
# PYTHON names the interpreter (3.11 or later) that writes the cases; default python3.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
repository=$(cd "$here/../.." && pwd)
root=${1:-$repository/.cache/caffe-root}
exchange="$root/exchange"
goldens="$repository/tests/goldens"

"$here/fetch_caffe.sh" "$root"
rm -rf "$exchange" && mkdir -p "$exchange/out"
"${PYTHON:-python3}" "$here/cases.py" > "$exchange/cases.json"
cp "$here"/{generate,nets,behaviours,training,training_runs,training_behaviours,random_values}.py "$exchange/"
cp "$goldens"/seeded_{parameters,streams}.py "$exchange/"
# One BLAS thread and one order of sets, so that the same machine writes the same bytes again.
chroot "$root" /usr/bin/env LD_LIBRARY_PATH=/usr/lib/x86_64-linux-gnu/openblas-pthread OPENBLAS_NUM_THREADS=1 \
    PYTHONDONTWRITEBYTECODE=1 PYTHONHASHSEED=0 /usr/bin/python3.9 /exchange/generate.py /exchange/cases.json /exchange/out \
    2> "$exchange/log" || { tail -n 20 "$exchange/log" >&2; exit 1; }  # Caffe logs much
cp -r "$exchange"/out/* "$goldens/"
du -sh "$goldens/caffe" "$goldens/caffe_training"
