"""Runs that draw random numbers and change values at the destination; prints what it saw.

`onnx_state.py ROUNDS`
"""

from __future__ import annotations

import hashlib
import sys

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper

SHAPE = [4, 8]


def step_model() -> bytes:
    """next = 0.75 · state + x + noise, with noise from a seed."""
    nodes = [
        helper.make_node("RandomNormalLike", ["x"], ["noise"], seed=7.0),
        helper.make_node("Mul", ["state", "decay"], ["less"]),
        helper.make_node("Add", ["less", "x"], ["moved"]),
        helper.make_node("Add", ["moved", "noise"], ["next"]),
    ]
    return _model(nodes, ["state", "x"])


def plain_model() -> bytes:
    """next = 0.75 · state + x."""
    nodes = [helper.make_node("Mul", ["state", "decay"], ["less"]), helper.make_node("Add", ["less", "x"], ["next"])]
    return _model(nodes, ["state", "x"])


def _model(nodes: list[onnx.NodeProto], inputs: list[str]) -> bytes:
    given = [helper.make_tensor_value_info(name, TensorProto.FLOAT, SHAPE) for name in inputs]
    made = [helper.make_tensor_value_info("next", TensorProto.FLOAT, SHAPE)]
    decay = onnx.numpy_helper.from_array(np.float32(0.75).reshape(()), "decay")
    graph = helper.make_graph(nodes, "g", given, made, [decay])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString()


def main(rounds: int) -> None:
    """Run, and print a digest of all that was seen."""
    providers = ["CUDAExecutionProvider"]
    noisy = ort.InferenceSession(step_model(), providers=providers)
    plain = ort.InferenceSession(plain_model(), providers=providers)
    stream = np.random.RandomState(0)
    seen = hashlib.sha256()

    def draw() -> np.ndarray:
        return stream.normal(size=SHAPE).astype(np.float32)

    state = draw()
    kept = ort.OrtValue.ortvalue_from_numpy(draw(), "cuda", 0)
    fed = ort.OrtValue.ortvalue_from_numpy(draw(), "cuda", 0)
    binding = plain.io_binding()
    steady = plain.io_binding()  # only ever bound to arrays and to the device
    steady.bind_cpu_input("state", draw())
    steady.bind_output("next", "cuda")
    for number in range(rounds):
        if number % 10 == 0:
            print("at", number, flush=True)
        (state,) = noisy.run(None, {"state": state, "x": draw()})  # the random numbers stay there
        (kept,) = plain.run_with_ort_values(["next"], {"state": kept, "x": fed})  # the state stays there
        fed.update_inplace(draw())
        if number % 5 == 0:
            seen.update(kept.numpy().tobytes())
            binding.bind_ortvalue_input("state", kept)
            binding.bind_cpu_input("x", draw())
            binding.bind_output("next", "cuda")
            plain.run_with_iobinding(binding)
            seen.update(binding.copy_outputs_to_cpu()[0].tobytes())
        steady.bind_cpu_input("x", draw())
        plain.run_with_iobinding(steady)
        if number % 4 == 0:
            seen.update(steady.copy_outputs_to_cpu()[0].tobytes())
        if number % 9 == 0:
            held = steady.get_outputs()[0]
        seen.update(state.tobytes())
        (computed,) = plain.run(None, {"state": draw(), "x": draw()})  # nothing stays
        seen.update(computed.tobytes())
    seen.update(held.numpy().tobytes())
    print(seen.hexdigest())


main(int(sys.argv[1]))
