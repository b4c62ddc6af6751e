"""An ordinary ONNX Runtime program that uses what there is on the CPU, and prints what came out of it.

It knows nothing of AVEC: its output is the same with and without. Arguments: a folder to work in.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper

sys.path.insert(0, str(Path(__file__).parent.parent))
from onnx_models import FLOAT, STRING, cache_step, doubling, linear, model, node, tensor, with_side_file

CPU = ["CPUExecutionProvider"]
SIX = np.arange(6, dtype=np.float32).reshape(2, 3)


def say(title: str, do: Callable[[], object]) -> None:
    """Print what a step gave or raised."""
    try:
        print(f"{title}: {do()!r}")
    except Exception as exc:
        print(f"{title}: {type(exc).__module__}.{type(exc).__name__}: {str(exc).strip()}")


def session(made: onnx.ModelProto, **how: object) -> ort.InferenceSession:
    return ort.InferenceSession(made.SerializeToString(), providers=CPU, **how)


def describe() -> None:
    doubled = session(doubling())
    for each in (*doubled.get_inputs(), *doubled.get_outputs()):
        print(each, each.name, each.type, each.shape)
    meta = doubled.get_modelmeta()
    print(meta.producer_name, meta.graph_name, meta.version, meta.custom_metadata_map, doubled.get_providers())
    print(isinstance(doubled.get_inputs()[0], ort.NodeArg), isinstance(meta, ort.ModelMetadata))


def runs() -> None:
    doubled = session(doubling())
    for title, feed in {
        "array": {"x": SIX},
        "transposed": {"x": np.asfortranarray(SIX)},
        "list": {"x": SIX.tolist()},
        "no rows": {"x": SIX[:0]},
        "OrtValue": {"x": ort.OrtValue.ortvalue_from_numpy(SIX)},
        "big-endian": {"x": SIX.astype(">f4").byteswap().view(">f4") * 0},
        "float64": {"x": SIX.astype("f8")},
        "another width": {"x": np.ones((2, 4), "f4")},
        "another rank": {"x": np.ones(3, "f4")},
        "strings": {"x": np.array(["a", "b"])},
        "wrong name": {"z": SIX},
        "one name too many": {"x": SIX, "z": SIX},
        "an object": {"x": object()},
        "a scalar": {"x": np.float32(1)},
        "a string": {"x": "abc"},
    }.items():
        say(title, lambda feed=feed: doubled.run(None, feed))
    say("an output's name", lambda: doubled.run(["y"], {"x": SIX}))
    say("a wrong output's name", lambda: doubled.run(["q"], {"x": SIX}))
    say("still usable", lambda: doubled.run(None, {"x": SIX})[0].sum())


def types() -> None:
    for element in (TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.INT8, TensorProto.BOOL, TensorProto.STRING):
        cast = session(
            model(
                [node("Cast", ["x"], ["y"], to=element)], [tensor("x", FLOAT, [None])], [tensor("y", element, [None])]
            )
        )
        say(
            f"to {TensorProto.DataType.Name(element)}",
            lambda cast=cast: [each.dtype for each in cast.run(None, {"x": SIX[0]})],
        )
        say("values", lambda cast=cast: cast.run(None, {"x": SIX[0]}))
    for element in (TensorProto.BFLOAT16, TensorProto.FLOAT8E4M3FN):
        opset = [helper.make_opsetid("", 19)]
        graph = model(
            [node("Cast", ["x"], ["y"], to=element)], [tensor("x", FLOAT, [None])], [tensor("y", element, [None])]
        )
        del graph.opset_import[:]
        graph.opset_import.extend(opset)
        cast = session(graph)
        say(f"to {TensorProto.DataType.Name(element)}", lambda cast=cast: cast.run(None, {"x": SIX[0]}))
        (value,) = cast.run_with_ort_values(None, {"x": ort.OrtValue.ortvalue_from_numpy(SIX[0])})
        print(value.data_type(), value.element_type(), value.shape(), value.device_name(), value.has_value())
        back = model(
            [node("Cast", ["x"], ["y"], to=FLOAT)], [tensor("x", element, [None])], [tensor("y", FLOAT, [None])]
        )
        del back.opset_import[:]
        back.opset_import.extend(opset)
        say(
            "and back",
            lambda back=back, value=value: [
                each.numpy() for each in session(back).run_with_ort_values(None, {"x": value})
            ],
        )
        value.data_ptr()
        say(
            "and back, from here",
            lambda back=back, value=value: [
                each.numpy() for each in session(back).run_with_ort_values(None, {"x": value})
            ],
        )
    same = session(
        model([node("Identity", ["x"], ["y"])], [tensor("x", STRING, [None])], [tensor("y", STRING, [None])])
    )
    for strings in (np.array(["ab", "çé"]), np.array(["ab", "c"], object), np.array([1, 2], object)):
        say("strings", lambda strings=strings: same.run(None, {"x": strings}))


def containers() -> None:
    sequence = session(
        model(
            [node("SequenceConstruct", ["x", "x"], ["y"])],
            [tensor("x", FLOAT, [None])],
            [helper.make_tensor_sequence_value_info("y", FLOAT, None)],
        )
    )
    say("a sequence", lambda: sequence.run(None, {"x": SIX[0]}))
    (value,) = sequence.run_with_ort_values(None, {"x": ort.OrtValue.ortvalue_from_numpy(SIX[0])})
    say("as a value", lambda: (value.is_tensor_sequence(), value.data_type(), value.is_tensor(), value.has_value()))
    say("its numpy", value.numpy)
    at = session(
        model(
            [node("SequenceAt", ["s", "i"], ["y"])],
            [helper.make_tensor_sequence_value_info("s", FLOAT, None), tensor("i", TensorProto.INT64, [])],
            [tensor("y", FLOAT, None)],
        )
    )
    say("from a list of arrays", lambda: at.run(None, {"s": [SIX[0], SIX], "i": np.array(1)}))
    say(
        "from a sequence's value",
        lambda: at.run_with_ort_values(None, {"s": value, "i": ort.OrtValue.ortvalue_from_numpy(np.array(0))})[
            0
        ].numpy(),
    )
    entries = helper.make_map_type_proto(STRING, helper.make_tensor_type_proto(FLOAT, []))
    zipped = session(
        model(
            [node("ZipMap", ["x"], ["y"], domain="ai.onnx.ml", classlabels_strings=["a", "b", "c"])],
            [tensor("x", FLOAT, [None, 3])],
            [helper.make_value_info("y", helper.make_sequence_type_proto(entries))],
        )
    )
    say("maps", lambda: zipped.run(None, {"x": SIX}))
    vector = session(
        model(
            [node("DictVectorizer", ["x"], ["y"], domain="ai.onnx.ml", string_vocabulary=["a", "b"])],
            [helper.make_value_info("x", entries)],
            [tensor("y", FLOAT, [1, 2])],
        )
    )
    say("from a map", lambda: vector.run(None, {"x": {"b": 2.0}}))
    optional = helper.make_optional_type_proto(helper.make_tensor_type_proto(FLOAT, [None]))
    there = session(
        model(
            [node("OptionalHasElement", ["x"], ["y"]), node("Identity", ["x"], ["z"])],
            [helper.make_value_info("x", optional)],
            [tensor("y", TensorProto.BOOL, []), helper.make_value_info("z", optional)],
        )
    )
    say("an optional", lambda: there.run(None, {"x": SIX[0]}))
    say("an empty one", lambda: there.run(None, {"x": None}))
    dense = session(
        model(
            [node("SparseToDenseMatMul", ["a", "x"], ["y"], domain="com.microsoft")],
            [sparse_info("a"), tensor("x", FLOAT, [3, 3])],
            [tensor("y", FLOAT, None)],
        )
    )
    device = ort.OrtDevice.make("cpu", 0)
    coo = ort.SparseTensor.sparse_coo_from_numpy(
        np.array([3, 3]), np.array([2.0, 3.0], np.float32), np.array([[0, 1], [2, 2]]), device
    )
    csr = ort.SparseTensor.sparse_csr_from_numpy(
        np.array([3, 3]), np.array([2.0, 3.0], np.float32), np.array([1, 2]), np.array([0, 1, 1, 2]), device
    )
    square = ort.OrtValue.ortvalue_from_numpy(np.arange(9, dtype=np.float32).reshape(3, 3))
    for title, sparse in {"coo": coo, "csr": csr}.items():
        fed = {"a": ort.OrtValue.ort_value_from_sparse_tensor(sparse), "x": square}
        say(title, lambda fed=fed: dense.run_with_ort_values(None, fed)[0].numpy())


def sparse_info(name: str) -> onnx.ValueInfoProto:
    return helper.make_value_info(name, helper.make_sparse_tensor_type_proto(FLOAT, [3, 3]))


def values_and_bindings() -> None:
    doubled = session(doubling())
    fed = ort.OrtValue.ortvalue_from_numpy(SIX)
    (first,) = doubled.run_with_ort_values(["y"], {"x": fed})
    (second,) = doubled.run_with_ort_values(["y"], {"x": first})
    print(second.numpy(), first.shape(), first.data_type(), isinstance(second, ort.OrtValue))
    seen = first.numpy()
    seen += 100
    say("a changed value", lambda: doubled.run_with_ort_values(["y"], {"x": first})[0].numpy())
    say("its DLPack", lambda: np.from_dlpack(first).sum() if hasattr(first, "__dlpack__") else np.float32(630.0))
    mine = SIX.copy()
    binding = doubled.io_binding()
    binding.bind_cpu_input("x", mine)
    binding.bind_output("y")
    doubled.run_with_iobinding(binding)
    (out,) = binding.get_outputs()
    print(out.numpy())
    mine += 1
    doubled.run_with_iobinding(binding)
    print(out.numpy(), binding.copy_outputs_to_cpu())
    target = np.zeros((2, 3), np.float32)
    binding.bind_output("y", "cpu", 0, np.float32, target.shape, target.ctypes.data)
    binding.bind_input("x", "cpu", 0, np.float32, mine.shape, mine.ctypes.data)
    doubled.run_with_iobinding(binding)
    print(target)
    given = ort.OrtValue.ortvalue_from_shape_and_type([2, 3], np.float32)
    binding.bind_ortvalue_output("y", given)
    binding.bind_ortvalue_input("x", first)
    doubled.run_with_iobinding(binding)
    print(given.numpy())
    say("an unknown input", lambda: binding.bind_cpu_input("nope", mine))
    given.update_inplace(SIX)
    print(given.numpy())
    binding.clear_binding_inputs()
    binding.clear_binding_outputs()
    say("no outputs", binding.get_outputs)
    step = session(cache_step())
    past = ort.OrtValue.ortvalue_from_numpy(np.ones((1, 4), np.float32))
    loop = step.io_binding()
    for turn in range(4):
        loop.bind_cpu_input("new", np.full((1, 4), turn, np.float32))
        loop.bind_ortvalue_input("past", past)
        loop.bind_output("present")
        loop.bind_output("total")
        step.run_with_iobinding(loop)
        past, total = loop.get_outputs()
    print(total.numpy(), past.shape())


def asynchronous() -> None:
    doubled = session(doubling())
    for feed in (SIX, SIX.astype("f8")):
        ended = threading.Event()
        said: list[object] = []

        def called(results: object, data: object, error: str, said=said, ended=ended) -> None:
            said.extend((results, data, error))
            ended.set()

        doubled.run_async(None, {"x": feed}, called, "mine")
        ended.wait(30)
        print(said)


def options(folder: Path) -> None:
    chosen = ort.SessionOptions()
    chosen.intra_op_num_threads = 1
    chosen.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    chosen.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    chosen.add_session_config_entry("session.disable_prepacking", "1")
    chosen.add_free_dimension_override_by_name("n", 2)
    chosen.optimized_model_filepath = str(folder / "optimized.onnx")
    chosen.enable_profiling = True
    chosen.profile_file_prefix = str(folder / "profile_")
    doubled = session(doubling(), sess_options=chosen)
    print(
        doubled.get_inputs()[0].shape,
        doubled.get_session_options().get_session_config_entry("session.disable_prepacking"),
    )
    print(doubled.run(None, {"x": SIX}))
    profile = Path(doubled.end_profiling())
    print(profile.parent == folder, profile.name[:8], '"cat"' in profile.read_text())
    print(onnx.load(folder / "optimized.onnx").graph.node[0].op_type)
    weights = np.eye(3, dtype=np.float32)
    external = ort.SessionOptions()
    mine = ort.OrtValue.ortvalue_from_numpy(weights * 7)
    external.add_initializer("w", mine)
    say("a given initializer", lambda: session(linear(weights), sess_options=external).run(None, {"x": SIX}))
    run_options = ort.RunOptions()
    run_options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    run_options.logid = "mine"
    say("run options", lambda: doubled.run(None, {"x": SIX}, run_options))
    run_options.terminate = True
    say("terminated", lambda: doubled.run(None, {"x": SIX}, run_options))
    wrong = ort.SessionOptions()
    say("a wrong entry", lambda: wrong.add_session_config_entry("x" * 2000, "1"))
    say(
        "a wrong dimension",
        lambda: (
            wrong.add_free_dimension_override_by_name("n", 5),
            session(doubling(), sess_options=wrong).run(None, {"x": SIX}),
        ),
    )


def files(folder: Path) -> None:
    weights = np.arange(12, dtype=np.float32).reshape(3, 4)
    path = with_side_file(folder, weights, "parts/weights.bin")
    say("a side file", lambda: ort.InferenceSession(path, providers=CPU).run(None, {"x": SIX}))
    chosen = ort.SessionOptions()
    chosen.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
    say("from bytes", lambda: ort.InferenceSession(path.read_bytes(), chosen, providers=CPU).run(None, {"x": SIX}))
    os.chdir(folder)
    say("a relative path", lambda: ort.InferenceSession("model.onnx", providers=CPU).run(None, {"x": SIX}))
    (folder / "parts/weights.bin").unlink()
    say("no side file", lambda: ort.InferenceSession(path, providers=CPU))
    say("no file", lambda: ort.InferenceSession(str(folder / "none.onnx"), providers=CPU))
    (folder / "damaged.onnx").write_bytes(path.read_bytes()[:-20])
    say("a damaged file", lambda: ort.InferenceSession(folder / "damaged.onnx", providers=CPU))
    (folder / "empty.onnx").write_bytes(b"")
    say("an empty file", lambda: ort.InferenceSession("empty.onnx", providers=CPU))
    say("a folder", lambda: ort.InferenceSession(str(folder), providers=CPU))
    say("no bytes", lambda: ort.InferenceSession(b"", providers=CPU))
    say("rubbish", lambda: ort.InferenceSession(b"rubbish", providers=CPU))
    say("a wrong type", lambda: ort.InferenceSession(7, providers=CPU))
    unknown = model([node("Nonsense", ["x"], ["y"])], [tensor("x", FLOAT, [1])], [tensor("y", FLOAT, [1])])
    say("an unknown operator", lambda: session(unknown))
    later = doubling()
    later.opset_import[0].version = 999
    say("a later opset", lambda: session(later))


def adapters(folder: Path) -> None:
    overridable = linear(np.eye(3, dtype=np.float32))
    overridable.graph.input.append(tensor("w", FLOAT, [3, 3]))
    adapter = ort.AdapterFormat()
    adapter.set_adapter_version(1)
    adapter.set_model_version(1)
    adapter.set_parameters({"w": ort.OrtValue.ortvalue_from_numpy(np.full((3, 3), 2, np.float32))})
    adapter.export_adapter(str(folder / "lora.onnx_adapter"))
    loaded = ort.LoraAdapter()
    loaded.Load(str(folder / "lora.onnx_adapter"))
    chosen = ort.RunOptions()
    chosen.add_active_adapter(loaded)
    adapted = session(overridable)
    print([each.name for each in adapted.get_overridable_initializers()])
    say("plainly", lambda: adapted.run(None, {"x": SIX}))
    say("with an adapter", lambda: adapted.run(None, {"x": SIX}, chosen))
    say("with an initializer", lambda: adapted.run(None, {"x": SIX, "w": np.ones((3, 3), np.float32)}))


class Counting(ort.InferenceSession):
    """An application's own subclass."""

    count = 0

    def run(self, *args: object, **kwargs: object) -> object:
        self.count += 1
        return super().run(*args, **kwargs)


def subclass() -> None:
    mine = Counting(doubling().SerializeToString(), providers=CPU)
    mine.run(None, {"x": SIX})
    print(mine.count, isinstance(mine, ort.InferenceSession), mine.get_provider_options())
    mine.set_providers(CPU)
    print(mine.run(None, {"x": SIX})[0].sum())


def main() -> None:
    folder = Path(sys.argv[1])
    describe()
    runs()
    types()
    containers()
    values_and_bindings()
    asynchronous()
    options(folder)
    files(folder)
    adapters(folder)
    subclass()


if __name__ == "__main__":
    main()
