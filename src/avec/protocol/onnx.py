"""What an ONNX Runtime front-end and the ONNX executor say to each other in `Load.body`, `Run.body` and `Result.body`.

A host loads one *space* and, beside it, one handle for each inference session. A space holds the values (OrtValues)
and bindings (IOBindings) that stay at the destination; all of the host's sessions share it. The host numbers them.
A request carries values as a tree (`Value`) whose leaves name parts of the frame; so does an answer.

What the engine raises is an answer (`Raised`), not a failed call: it belongs to one call of one thread, with the
class and the text that the application would have got from its own ONNX Runtime.
"""

from __future__ import annotations

from typing import Literal

import msgspec

MODEL = "model"  # the role of the model among Load.files
STAGED_FILES_LIMIT = 128  # side files in one Stage, so that their names and digests fit a message

Device = Literal["cpu", "cuda"]


class Tensor(msgspec.Struct, frozen=True, array_like=True, tag="tensor"):
    """A numeric array: the part itself, or, where its dtype has no name on the wire, its bytes in a uint8 part."""

    part: int
    dtype: str = ""  # "bfloat16", ">f4", "datetime64[s]": of a part of raw bytes
    shape: tuple[int, ...] = ()  # of a part of raw bytes


class Typed(msgspec.Struct, frozen=True, array_like=True, tag="typed"):
    """A tensor of a type that only ONNX names: its bytes in a uint8 part."""

    part: int
    element_type: int  # TensorProto.DataType
    shape: tuple[int, ...]


class Strings(msgspec.Struct, frozen=True, array_like=True, tag="strings"):
    """An array of strings: msgpack of the flat list in a uint8 part."""

    part: int
    shape: tuple[int, ...]
    dtype: Literal["object", "str", "bytes"] = "object"  # of the numpy array


class Plain(msgspec.Struct, frozen=True, array_like=True, tag="plain"):
    """None, a number, a string, or lists and dicts of such: msgpack, here or in a uint8 part."""

    data: bytes = b""
    part: int = -1


class Items(msgspec.Struct, frozen=True, array_like=True, tag="items"):
    """A list with arrays in it: a sequence of tensors."""

    items: tuple[Value, ...]


class Sparse(msgspec.Struct, frozen=True, array_like=True, tag="sparse"):
    """A sparse tensor: its values, then its one or two arrays of indices."""

    format: Literal["coo", "csr", "block"]
    dense_shape: tuple[int, ...]
    values: Value
    indices: tuple[Value, ...]


class Held(msgspec.Struct, frozen=True, array_like=True, tag="held"):
    """A value that the space holds."""

    value: int


Value = Tensor | Typed | Strings | Plain | Items | Sparse | Held


class Info(msgspec.Struct, frozen=True, array_like=True):
    """What a value in the space is. Where it is no tensor, the engine's own accessors say the rest (see Ask)."""

    data_type: str = ""  # "tensor(float)"; empty: not a dense tensor
    element_type: int = 0
    shape: tuple[int, ...] = ()


# Loads


class OpenSpace(msgspec.Struct, frozen=True, array_like=True, tag="space"):
    """Make the host's space. Answered by Engine."""


class Engine(msgspec.Struct, frozen=True, array_like=True, tag="engine"):
    """What computes ONNX models at this destination."""

    name: str  # "onnxruntime", "torch"
    version: str
    providers: tuple[str, ...]  # of onnxruntime there, the best first


class Initializer(msgspec.Struct, frozen=True, array_like=True):
    """An initializer that the application gives in SessionOptions."""

    name: str
    value: Value
    external: bool = False  # it stands for data outside the model (add_external_initializers)


class Options(msgspec.Struct, frozen=True, array_like=True):
    """SessionOptions: attributes that differ from their defaults, and what its methods were called with."""

    attributes: dict[str, bool | int | str] = {}  # enumerations by their names
    entries: dict[str, str] = {}  # add_session_config_entry
    dimensions_by_name: dict[str, int] = {}  # add_free_dimension_override_by_name
    dimensions_by_denotation: dict[str, int] = {}
    initializers: tuple[Initializer, ...] = ()
    memory_files: tuple[tuple[str, int], ...] = ()  # add_external_initializers_from_files_in_memory: name, part


class LoadSession(msgspec.Struct, frozen=True, array_like=True, tag="session"):
    """Make an inference session from Load.files["model"]. The answer is a SessionDescription in part 0, or Raised.

    Source: onnxruntime/python/onnxruntime_pybind_state.cc, InferenceSession and initialize_session.
    """

    source: str  # the model's path on the host, for messages; empty: it was given as bytes
    staged: int = 0  # the folder of side files (see Stage); 0: none
    options: Options = Options()
    providers: tuple[tuple[str, dict[str, str]], ...] = ()  # as the application asked for them
    disabled_optimizers: tuple[str, ...] = ()
    read_config_from_model: bool = False
    side_folder: str = ""  # the folder of the side files on the host, for messages


class Argument(msgspec.Struct, frozen=True, array_like=True):
    """One input, output or overridable initializer. Source: NodeArg."""

    name: str
    type: str
    shape: tuple[int | str | None, ...]


class Metadata(msgspec.Struct, frozen=True, array_like=True):
    """Source: ModelMetadata."""

    producer_name: str
    graph_name: str
    domain: str
    description: str
    graph_description: str
    version: int
    custom: dict[str, str]


class SessionDescription(msgspec.Struct, frozen=True, array_like=True):
    """The answer to LoadSession; it may be large, so it is msgpack in part 0 of the result. Part 1, if there is one,
    is the optimized model that the application asked for."""

    inputs: tuple[Argument, ...]
    outputs: tuple[Argument, ...]
    overridable_initializers: tuple[Argument, ...]
    metadata: Metadata
    engine: Engine
    providers: tuple[str, ...]  # what really computes
    provider_options: dict[str, dict[str, str]]
    profiling_start_ns: int = 0
    note: str = ""  # why it is computed by that engine, where that needs saying


class Raised(msgspec.Struct, frozen=True, array_like=True, tag="raised"):
    """What the engine raised: the name of a class of onnxruntime's or of a builtin exception, and its text."""

    exception: str
    text: str


# Requests. All begin with what the host's objects no longer need.


class Request(msgspec.Struct, frozen=True, array_like=True):
    """Fields that every request begins with."""

    dropped: tuple[int, ...] = ()  # values
    unbound: tuple[int, ...] = ()  # bindings


class RunSettings(msgspec.Struct, frozen=True, array_like=True):
    """RunOptions: attributes that differ from their defaults, and what its methods were called with."""

    attributes: dict[str, bool | int | str] = {}
    entries: dict[str, str] = {}
    adapters: tuple[int, ...] = ()  # values that LoadAdapter made


class Stage(Request, frozen=True, tag="stage"):
    """Put Run.files into a folder of the space, under the names that a model knows them by (role = name)."""

    folder: int = 0


class Put(Request, frozen=True, tag="put"):
    """Make a value of contents that came along."""

    value: int = 0
    contents: Value = Plain()
    device: Device = "cpu"


class Allocate(Request, frozen=True, tag="allocate"):
    """Make a tensor whose contents are not defined."""

    value: int = 0
    shape: tuple[int, ...] = ()
    element_type: int = 0
    device: Device = "cpu"


class Update(Request, frozen=True, tag="update"):
    """Copy contents into a value's own memory. Source: OrtValue.update_inplace."""

    value: int = 0
    contents: Value = Plain()


class Fetch(Request, frozen=True, tag="fetch"):
    """Send a value's contents back: Values with one.

    Without `raw` it is what OrtValue.numpy gives, or its error; with it, sparse tensors and types that numpy lacks too.
    """

    value: int = 0
    raw: bool = False


class Ask(Request, frozen=True, tag="ask"):
    """Call an accessor of a value's that has no arguments; the answer is one Plain."""

    value: int = 0
    accessor: str = ""


class LoadAdapter(Request, frozen=True, tag="adapter"):
    """Make a value of the LoRA adapter in Run.files["model"]."""

    value: int = 0


class RunSession(Request, frozen=True, tag="run"):
    """Run a session; the answer is Values. Source: InferenceSession.run."""

    outputs: tuple[str, ...] = ()
    feeds: dict[str, Value] = {}
    settings: RunSettings | None = None
    device: Device = "cpu"


class RunToValues(Request, frozen=True, tag="run_values"):
    """Run a session; its outputs become the values `results`, and the answer is Infos.

    Source: InferenceSession.run_with_ort_values.
    """

    outputs: tuple[str, ...] = ()
    feeds: dict[str, Value] = {}
    settings: RunSettings | None = None
    results: tuple[int, ...] = ()
    devices: tuple[Device, ...] = ()  # of each output; empty: all cpu


class BindInput(msgspec.Struct, frozen=True, array_like=True, tag="input"):
    """Bind an input to contents that came along or to a value."""

    name: str
    contents: Value


class BindOutput(msgspec.Struct, frozen=True, array_like=True, tag="output"):
    """Bind an output to a device, where each run makes new memory, or to the memory of a value or a new tensor."""

    name: str
    device: Device = "cpu"
    value: int = 0
    allocated: Info | None = None  # memory of this shape and type on the device


class ClearInputs(msgspec.Struct, frozen=True, array_like=True, tag="clear_inputs"):
    """Forget all inputs."""


class ClearOutputs(msgspec.Struct, frozen=True, array_like=True, tag="clear_outputs"):
    """Forget all outputs."""


Binding = BindInput | BindOutput | ClearInputs | ClearOutputs


class Bind(Request, frozen=True, tag="bind"):
    """Change a binding, made when it is first named. Source: SessionIOBinding."""

    binding: int = 0
    changes: tuple[Binding, ...] = ()


class RunBinding(Request, frozen=True, tag="run_binding"):
    """Change a binding, then run it. Source: InferenceSession.run_with_iobinding."""

    binding: int = 0
    changes: tuple[Binding, ...] = ()
    settings: RunSettings | None = None
    results: tuple[int, ...] = ()  # numbers for its outputs afterwards, where the host wants to name them
    fetched: tuple[int, ...] = ()  # places of outputs whose contents are sent back: the answer is Values


class NameOutputs(Request, frozen=True, tag="name_outputs"):
    """Change a binding; make its outputs the values `results`. Answered by Infos. Source: get_outputs."""

    binding: int = 0
    changes: tuple[Binding, ...] = ()
    results: tuple[int, ...] = ()


class CopyOutputs(Request, frozen=True, tag="copy_outputs"):
    """Change a binding; send all its outputs back as Values. Source: copy_outputs_to_cpu."""

    binding: int = 0
    changes: tuple[Binding, ...] = ()


class EndProfiling(Request, frozen=True, tag="end_profiling"):
    """End profiling: the answer is one Plain, the file's name, and part 1… its contents."""


class Configure(Request, frozen=True, tag="configure"):
    """Call a method of the session's that takes and gives plain values; the answer is one Plain."""

    method: Literal["get_tuning_results", "set_tuning_results", "set_ep_dynamic_options"] = "get_tuning_results"
    arguments: Plain = Plain()


SpaceRequest = Stage | Put | Allocate | Update | Fetch | Ask | LoadAdapter
SessionRequest = (
    RunSession | RunToValues | Bind | RunBinding | NameOutputs | CopyOutputs | EndProfiling | Configure
)  # fmt: skip


# Answers in Result.body; an empty body says that there is nothing to tell.


class Values(msgspec.Struct, frozen=True, array_like=True, tag="values"):
    """Contents, in the order in which they were asked for."""

    values: tuple[Value, ...]


class Infos(msgspec.Struct, frozen=True, array_like=True, tag="infos"):
    """What the named values are; None: a value that is no dense tensor."""

    infos: tuple[Info | None, ...]


Answered = Values | Infos | Engine | Raised
