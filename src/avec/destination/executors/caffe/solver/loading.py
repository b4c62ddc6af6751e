"""From a solver's prototxt and those that it names to a solver. Source: caffe/src/caffe/solver.cpp, Solver::Init."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from avec.destination.accelerators import Accelerator
from avec.destination.executors.caffe.build import build_net
from avec.destination.executors.caffe.network import as_text
from avec.destination.executors.caffe.solver.model import CaffeSolver
from avec.destination.executors.caffe.solver.rates import check_policy
from avec.destination.executors.caffe.solver.updates import check_settings
from avec.errors import InvalidArgument, InvalidModel
from avec.formats.caffe.message import Message, message_class
from avec.formats.caffe.upgrade import upgrade_net, upgrade_solver
from avec.protocol.caffe import LoadSolver, SolverDescription
from avec.tensor import Array

TRAIN_FIELDS = ("net", "net_param", "train_net", "train_net_param")


def load_solver(
    request: LoadSolver, arrays: Sequence[Array], accelerator: Accelerator
) -> tuple[CaffeSolver, SolverDescription]:
    """Build a solver and its nets, as far as they can be built without the host.

    Raises:
        InvalidModel: a prototxt is wrong.
        UnsupportedOperation, AcceleratorOutOfMemory: a net cannot be built.
    """
    settings = message_class("SolverParameter").from_text(as_text(arrays[0].tobytes(), request.source), request.source)
    texts = {name: array.tobytes() for name, array in zip(request.nets, arrays[1:], strict=True)}
    upgrade_solver(settings, request.source)
    if request.solver_type:
        settings.type = request.solver_type
    try:
        check_policy(settings)
        check_settings(settings)
        sources = [_train_net(settings, texts), *_test_nets(settings, texts)]
    except InvalidArgument as exc:
        raise InvalidModel(f"{request.source}: {exc}") from exc
    seed = settings.random_seed if settings.random_seed >= 0 else request.seed
    built = [build_net(net, source, accelerator, seed, texts) for source, net in sources]
    solver = CaffeSolver(settings, [model for model, _ in built], accelerator)
    return solver, SolverDescription(settings.type, tuple(description for _, description in built))


def _named(name: str, texts: Mapping[str, bytes]) -> tuple[str, Message]:
    if name not in texts:
        raise InvalidArgument(f"it names the net {name!r}, whose text did not come with it")
    return name, message_class("NetParameter").from_text(as_text(texts[name], name), name)


def _train_net(settings: Message, texts: Mapping[str, bytes]) -> tuple[str, Message]:
    given = [name for name in TRAIN_FIELDS if settings.HasField(name)]
    if len(given) != 1:
        raise InvalidArgument(f"one of {', '.join(TRAIN_FIELDS)} is needed; given are: {', '.join(given) or 'none'}")
    value = getattr(settings, given[0])
    source, net = (given[0], value) if given[0].endswith("_param") else _named(value, texts)
    return source, _in_state(source, net, "TRAIN", settings.train_state)


def _test_nets(settings: Message, texts: Mapping[str, bytes]) -> list[tuple[str, Message]]:
    """The test nets in Caffe's order: those of their own, then the train net's file once for each test_iter left."""
    own = [("test_net_param", net) for net in settings.test_net_param]
    own += [_named(name, texts) for name in settings.test_net]
    count, generic = len(settings.test_iter), settings.HasField("net") or settings.HasField("net_param")
    if count < len(own) or (count > len(own) and not generic):
        raise InvalidArgument(f"test_iter is given {count} times for {len(own)} test nets: give it once for each")
    states = list(settings.test_state)
    if states and len(states) != count:
        raise InvalidArgument(f"test_state is given {len(states)} times for {count} test nets: once for each, or never")
    if count and settings.test_interval <= 0:
        raise InvalidArgument(f"test nets need a positive test_interval, not {settings.test_interval}")
    for _ in range(count - len(own)):
        own.append(("net_param", settings.net_param) if settings.HasField("net_param") else _named(settings.net, texts))
    return [
        (source, _in_state(source, net, "TEST", states[place] if states else None))
        for place, (source, net) in enumerate(own)
    ]


def _in_state(source: str, net: Message, phase: str, above: Message | None) -> Message:
    """The net in its phase; its own state goes before that, and the solver's for it before both."""
    result = message_class("NetParameter")()
    result.CopyFrom(net)
    upgrade_net(result, source)
    state = message_class("NetState")(phase=phase)
    state.MergeFrom(result.state)
    if above is not None:
        state.MergeFrom(above)
    result.state.CopyFrom(state)
    return result
