"""The command `test`: a net's outputs, averaged over batches. Source: test() in caffe/tools/caffe.cpp."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from avec.caffe.showing import progress_bar

if TYPE_CHECKING:
    from avec.interception import caffe
else:
    import caffe


def score_net(model: str, weights: Sequence[str], level: int, stages: Sequence[str], iterations: int) -> None:
    """Log every batch's outputs, and their means.

    Raises:
        RuntimeError: a file cannot be opened.
        AvecError: the net cannot be built or run.
    """
    net = caffe.Net(model, caffe.TEST, level=level, stages=list(stages))
    for each in weights:
        net.copy_from(each)
    caffe.log(f"Running for {iterations} iterations.")
    sums = {name: np.zeros(1) for name in net.outputs}
    loss = 0.0
    with progress_bar("test", iterations) as bar:
        for batch in range(iterations):
            loss += net._forward(0, len(net.layers) - 1)
            for name in net.outputs:
                values = net.blobs[name].data.astype(np.float64).ravel()
                sums[name] = values if batch == 0 else sums[name] + values
                for value in values:
                    caffe.log(f"Batch {batch}, {name} = {value:g}")
            bar.advance()
    caffe.log(f"Loss: {loss / iterations:g}")
    for name, total in sums.items():
        weight = net.blob_loss_weights[name]
        for mean in total / iterations:
            weighted = f" (* {weight:g} = {weight * mean:g} loss)" if weight else ""
            caffe.log(f"{name} = {mean:g}{weighted}")
