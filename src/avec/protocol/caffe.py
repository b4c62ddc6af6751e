"""What a Caffe front-end and the Caffe executor say to each other in `Load.body`, `Run.body` and `Result.body`.

A net's blobs and parameters live at the destination. Requests name them by place, never by pointer. Writes ride with
the request that needs them: the frame's parts are, in order, the new contents of `writes`. Answers' parts are, in
order, the contents of what was `wanted` or read.

Layers that only a host can run (HOST_LAYERS) are in the destination's net as well, where they only have shapes. The
host runs them between requests: it reads their bottoms, and writes their tops with the next request; in a backward
pass it reads their tops' diffs and writes their bottoms'. Their learnable parameters live at the destination.
"""

from __future__ import annotations

from typing import Literal

import msgspec

NETWORK = "network"  # the role of the prototxt among Load's parts: part 0, uint8 text
WEIGHTS = "weights"  # the role of a caffemodel among Load.files and Run.files

# Layer types that read or write the host's files, or are the application's own code.
HOST_LAYERS = frozenset({"Data", "HDF5Data", "HDF5Output", "ImageData", "MemoryData", "Python", "WindowData"})


class BlobRef(msgspec.Struct, frozen=True, array_like=True):
    """One array of a net: blob `index` of the net when layer is −1, else parameter `index` of that layer."""

    index: int
    layer: int = -1
    diff: bool = False


class Reshaped(msgspec.Struct, frozen=True, array_like=True):
    """A net blob whose shape the application changed; `shape` is its new one."""

    index: int
    shape: tuple[int, ...]


class LoadNet(msgspec.Struct, frozen=True, array_like=True, tag="net"):
    """Build a net. Source: caffe/python/caffe/_caffe.cpp, Net_Init.

    The answer's part 0 is a NetDescription. Where that awaits a layer of the host's, SetUpLayer has to follow.
    """

    source: str  # the prototxt's name on the host, for messages
    weights_source: str = ""  # the caffemodel's name on the host, for messages
    phase: Literal["TRAIN", "TEST"] = "TEST"
    level: int = 0
    stages: tuple[str, ...] = ()
    seed: int = -1  # of fillers and random layers; −1: the same fixed seed for every net
    files: tuple[str, ...] = ()  # the host's files that layers name (InfogainLoss's source); contents are parts 1…


class LoadSolver(msgspec.Struct, frozen=True, array_like=True, tag="solver"):
    """Build a solver with its nets. The answer's part 0 is a SolverDescription. Source: Solver::Init.

    Part 0 is the solver's prototxt; parts 1… are the contents of `nets`, the files which it names; after them, if
    need be, those of files that layers of its nets name.
    """

    source: str
    nets: tuple[str, ...] = ()  # the paths in `net`, `train_net` and `test_net` as they stand there, each once
    solver_type: str = ""  # "Nesterov" where the application made a NesterovSolver; empty: as the prototxt says
    seed: int = -1  # where the prototxt has no random_seed


class ParameterDescription(msgspec.Struct, frozen=True, array_like=True):
    """One learnable array of a layer."""

    shape: tuple[int, ...]
    owner: tuple[int, int] = (-1, -1)  # layer and index of the parameter of the same name whose memory it shares


class LayerDescription(msgspec.Struct, frozen=True, array_like=True):
    """One layer: bottoms and tops are places in NetDescription.blobs."""

    name: str
    type: str
    bottoms: tuple[int, ...]
    tops: tuple[int, ...]
    parameters: tuple[ParameterDescription, ...] = ()
    external: bool = False  # the host runs it
    shares_memory: bool = False  # its tops are its first bottom's memory
    loss_weights: tuple[float, ...] = ()  # of each top; empty: all 0
    needs_backward: bool = False  # Net::layer_need_backward
    propagates: tuple[bool, ...] = ()  # for each bottom whether it gets a diff: Net::bottom_need_backward
    writes_parameters: bool = False  # its forward pass changes its parameters (BatchNorm in the phase TRAIN)
    remembers: bool = False  # its forward pass depends on earlier ones: random numbers, states of recurrent layers


class BlobDescription(msgspec.Struct, frozen=True, array_like=True):
    """One blob of the net, automatic split copies included."""

    name: str
    shape: tuple[int, ...]


class NetDescription(msgspec.Struct, frozen=True, array_like=True):
    """The answer to LoadNet; it may be large, so it is msgpack in part 0 (uint8) of the result."""

    name: str
    layers: tuple[LayerDescription, ...]
    blobs: tuple[BlobDescription, ...]
    inputs: tuple[int, ...]  # blobs that no layer produces (Input layers' tops)
    outputs: tuple[int, ...]  # blobs that no layer consumes
    # The host's layer that is to be set up next: `layers` ends with it, its tops have no shapes yet, and inputs,
    # outputs and the backward flags are not known. −1: the net is complete.
    awaiting: int = -1


class SolverDescription(msgspec.Struct, frozen=True, array_like=True):
    """The answer to LoadSolver, msgpack in part 0 of the result."""

    type: str
    nets: tuple[NetDescription, ...]  # the train net, then the test nets


class Synchronise(msgspec.Struct, frozen=True, array_like=True):
    """Fields that every request on a net begins with: what the application changed since the last one."""

    writes: tuple[BlobRef, ...] = ()
    reshaped: tuple[Reshaped, ...] = ()


class Forward(Synchronise, frozen=True, tag="forward"):
    """Run layers start…end (inclusive, places in NetDescription.layers); then send `wanted` back."""

    start: int = 0
    end: int = -1
    wanted: tuple[BlobRef, ...] = ()


class Reshape(Synchronise, frozen=True, tag="reshape"):
    """Propagate changed shapes through layers start…end. Source: Net::Reshape."""

    start: int = 0
    end: int = -1


class Read(Synchronise, frozen=True, tag="read"):
    """Send arrays back."""

    wanted: tuple[BlobRef, ...] = ()


class CopyFrom(Synchronise, frozen=True, tag="copy_from"):
    """Copy parameters from Run.files["weights"] into layers of the same name. Source: Net::CopyTrainedLayersFrom."""

    source: str = ""  # the caffemodel's name on the host, for messages


class Backward(Synchronise, frozen=True, tag="backward"):
    """Run layers start…end (inclusive, start ≥ end) backwards. Source: Net::BackwardFromTo.

    Layers whose needs_backward is false are passed over. Diffs of parameters are added to, those of blobs replaced.
    """

    start: int = -1  # −1: the last layer
    end: int = 0
    wanted: tuple[BlobRef, ...] = ()


class ClearDiffs(Synchronise, frozen=True, tag="clear_diffs"):
    """Set the diffs of all parameters to 0. Source: Net::ClearParamDiffs."""


class ShareWith(Synchronise, frozen=True, tag="share_with"):
    """Use the parameters of another net's layers of the same names. Source: Net::ShareTrainedLayersWith.

    Run.handles names the other net, or a solver that has it.
    """

    net: int = 0  # in a solver: its place in SolverDescription.nets


class SetUpLayer(Synchronise, frozen=True, tag="set_up_layer"):
    """Go on building a net, with what the host's layer that it awaits turned out to be.

    The answer's part 0 is the NetDescription as far as it is known now. Contents of the parameters are written by a
    later request; they are zeros until then.
    """

    tops: tuple[tuple[int, ...], ...] = ()
    parameters: tuple[tuple[int, ...], ...] = ()
    loss_weights: tuple[float, ...] = ()  # of each top where they are not those of the prototxt


class Reseed(Synchronise, frozen=True, tag="reseed"):
    """Begin the net's random numbers anew (Dropout and other random layers)."""

    seed: int = 0


NetRequest = Forward | Reshape | Read | CopyFrom | Backward | ClearDiffs | ShareWith | SetUpLayer | Reseed


class Within(msgspec.Struct, frozen=True, array_like=True, tag="within"):
    """A request on one of a solver's nets, answered as it would be on a net of its own."""

    net: int  # place in SolverDescription.nets
    request: NetRequest


# Requests on a solver. Their Synchronise fields and `wanted` are about its train net; they are answered by Progress.


class Step(Synchronise, frozen=True, tag="step"):
    """Run whole iterations. Source: Solver::Step.

    It ends before its time where the host has something to do: see Progress.due. Layers of the host's that have no
    bottoms keep what was written into their tops; a net with others cannot be stepped: the host drives it with
    ClearDiffs, Forward, Backward, Observe and ApplyUpdate.
    """

    iterations: int = 1
    wanted: tuple[BlobRef, ...] = ()
    first: bool = True  # a new run begins: the smoothed loss starts anew
    tested: bool = False  # the tests due at the current iteration have been made by the host


class Observe(Synchronise, frozen=True, tag="observe"):
    """Take the loss of the forward passes since ClearDiffs into the smoothed loss; say what is to be displayed.

    To be sent before ApplyUpdate.
    """

    external_loss: float = 0.0  # of the host's layers, summed up over iter_size passes
    first: bool = True


class ApplyUpdate(Synchronise, frozen=True, tag="apply_update"):
    """Change the parameters by their diffs and count the iteration. Source: SGDSolver::ApplyUpdate."""

    wanted: tuple[BlobRef, ...] = ()


class Test(Synchronise, frozen=True, tag="test"):
    """Run a test net, which shares the train net's parameters. Source: Solver::Test.

    `writes`, `reshaped` and `shapes` are about the test net. A host that feeds or drives the net sends one request
    for each iteration.
    """

    __test__ = False  # it is no test of pytest's

    net: int = 1  # place in SolverDescription.nets
    iterations: int = -1  # −1: as the solver's prototxt says
    first: bool = True  # scores begin anew
    last: bool = True  # scores are told
    forwarded: bool = False  # the host has run the forward pass: only take its outputs
    external_loss: float = 0.0


class Finish(Synchronise, frozen=True, tag="finish"):
    """What Solver::Solve does after the last step, its tests left out: the loss of one more forward pass is displayed.

    Progress.due says whether the test nets are to be run now.
    """

    forwarded: bool = False
    external_loss: float = 0.0


class ReadState(Synchronise, frozen=True, tag="read_state"):
    """Send the solver's history back, for a snapshot: parts are SolverState.history in Caffe's order, then `wanted`."""

    wanted: tuple[BlobRef, ...] = ()


class WriteState(Synchronise, frozen=True, tag="write_state"):
    """Go on from a snapshot: parts after those of `writes` are its history. Source: RestoreSolverState…."""

    iteration: int = 0
    current_step: int = 0


class Adjust(Synchronise, frozen=True, tag="adjust"):
    """Change a setting of the solver's that pycaffe lets programs change."""

    base_lr: float = 0.0


SolverRequest = Step | Observe | ApplyUpdate | Test | Finish | ReadState | WriteState | Adjust
Request = NetRequest | Within | SolverRequest


class Shapes(msgspec.Struct, frozen=True, array_like=True):
    """Result.body of every request: the shapes of all net blobs where any changed since last told, else empty."""

    shapes: tuple[tuple[int, ...], ...] = ()


class Progress(msgspec.Struct, frozen=True, array_like=True):
    """Result.body of every request on a solver."""

    iteration: int  # Solver::iter
    current_step: int
    rate: float  # the learning rate of the iteration to come
    losses: tuple[float, ...] = ()  # of each iteration, not smoothed
    lines: tuple[str, ...] = ()  # what real Caffe would log, without glog's heads
    # Why a Step ended: "test": tests are due that need the host; "snapshot": one is to be made now; "": all done.
    due: Literal["", "test", "snapshot"] = ""
    scores: tuple[float, ...] = ()  # Test's last: the mean of each value of the outputs
    shapes: tuple[tuple[int, ...], ...] = ()  # as Shapes, of the net that `writes` are about
