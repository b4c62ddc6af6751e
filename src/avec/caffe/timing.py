"""The command `time`: how long each layer of a net takes at the destination, and whole passes from here.

Source: time() in caffe/tools/caffe.cpp.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from avec.caffe.showing import progress_bar
from avec.interception import session
from avec.protocol.caffe import HOST_LAYERS

if TYPE_CHECKING:
    from avec.interception import caffe
else:
    import caffe


def measure_net(model: str, phase: str, level: int, stages: Sequence[str], iterations: int) -> None:
    """Log the average times of a net's layers and passes.

    Raises:
        RuntimeError: the prototxt cannot be opened.
        AvecError: the net cannot be built or run.
    """
    net = caffe.Net(model, getattr(caffe, phase), level=level, stages=list(stages))
    places = range(len(net.layers))
    here = [layer.type in HOST_LAYERS for layer in net.layers]
    last = places[-1]
    caffe.log("Performing Forward")
    caffe.log(f"Initial loss: {net._forward(0, last):g}")
    caffe.log("Performing Backward")
    net._backward(last, 0)
    caffe.log("*** Benchmark begins ***")
    caffe.log(f"Testing for {iterations} iterations.")
    forward_ms, backward_ms = [0.0] * len(places), [0.0] * len(places)
    passes_ms = [0.0, 0.0]
    total = caffe.Timer()
    total.start()
    with progress_bar("time", iterations) as bar:
        for iteration in range(iterations):
            for place in places:
                forward_ms[place] += _layer_ms(lambda at: net._forward(at, at), place, here[place])
            for place in reversed(places):
                backward_ms[place] += _layer_ms(lambda at: net._backward(at, at), place, here[place])
            forward, backward = _ms(lambda: net._forward(0, last)), _ms(lambda: net._backward(last, 0))
            passes_ms[0] += forward
            passes_ms[1] += backward
            caffe.log(f"Iteration: {iteration + 1} forward-backward time: {forward + backward:g} ms.")
            bar.advance()
    total.stop()
    for line in _lines(net._layer_names, forward_ms, backward_ms, passes_ms, iterations):
        caffe.log(line)
    caffe.log(f"Total Time: {total.ms:g} ms.")
    caffe.log("*** Benchmark ends ***")


def _lines(
    names: Sequence[str], forward_ms: Sequence[float], backward_ms: Sequence[float], passes_ms: Sequence[float], n: int
) -> Iterator[str]:
    yield "Average time per layer (run alone; the destination's own time, the link's left out): "
    for name, forward, backward in zip(names, forward_ms, backward_ms, strict=True):
        yield f"{name:>10}\tforward: {forward / n:g} ms."
        yield f"{name:>10}\tbackward: {backward / n:g} ms."
    yield f"Average Forward pass: {passes_ms[0] / n:g} ms."
    yield f"Average Backward pass: {passes_ms[1] / n:g} ms."
    yield f"Average Forward-Backward: {sum(passes_ms) / n:g} ms."


def _ms(run: Callable[[], object]) -> float:
    """How long a pass takes, as a program on this host sees it."""
    timer = caffe.Timer()
    timer.start()
    run()
    return timer.ms


def _layer_ms(run: Callable[[int], object], place: int, here: bool) -> float:
    """How long the destination computes for one layer; for a layer of the host's, how long it takes here."""
    recorder = session().recorder
    before_ns = recorder.compute_ns
    took_ms = _ms(lambda: run(place))
    return took_ms if here else (recorder.compute_ns - before_ns) / 1e6
