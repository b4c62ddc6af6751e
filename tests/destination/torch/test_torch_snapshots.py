"""A stream's state goes to a fresh stream, to the bit; what does not fit is refused."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import numpy as np
import pytest
import torch

from avec.destination.executors.torch.model import TorchModel
from avec.errors import ExecutionError, InvalidArgument
from avec.protocol.torch import (
    Described,
    Restore,
    Save,
    Saved,
    SavedStorage,
    Skipped,
    TensorMeta,
    TooLarge,
)
from avec.tensor import Array
from destination.torch.stream import Generator, Integer, Ref, Stream, address, decoded, encode, open_model

X = torch.tensor([1.0, -2.0, 3.0])
LIMIT = 1 << 30
OWN = 300


def save(stream: Stream) -> list[Array]:
    """What a host gets, with what it describes itself."""
    parts = list(stream.ask(Save(stream.epoch, LIMIT)).arrays)
    templates = tuple((number, msgspec.msgpack.decode(data)) for data, number in stream.known.items())
    return [*parts, np.frombuffer(encode((templates, ())), np.uint8)]


def restore(parts: list[Array]) -> TorchModel:
    model, _ = open_model()
    model.run(encode(Restore(0)), parts, {})
    return model


def moved(stream: Stream) -> Stream:
    """The same stream at another model."""
    other = Stream(restore(save(stream)), known=dict(stream.known), storages=stream.storages)
    other.epoch = stream.epoch
    return other


def test_storages_views_and_generators_are_as_they_were() -> None:
    stream = Stream(open_model()[0])
    x = stream.put(X)
    matrix = stream.put(torch.arange(6, dtype=torch.int64).reshape(2, 3).t())  # not in C order
    stream.call("avec::new_generator", Integer(OWN), 0)
    stream.call("avec::seed", Generator(OWN), Integer(7))
    stream.call("aten::uniform_", x, 0.0, 1.0, generator=Generator(OWN))
    stream.send()
    other = moved(stream)
    for each in (stream, other):
        each.call("aten::add_.Scalar", x.seen(2, stride=(1,), offset=4), 1.0)
        each.call("aten::normal_", x.seen(1, stride=(1,)), 0.0, 1.0, generator=Generator(OWN))
    torch.testing.assert_close(other.read(x), stream.read(x), rtol=0, atol=0)
    torch.testing.assert_close(other.read(matrix), stream.read(matrix), rtol=0, atol=0)


def test_settings_and_events_are_there() -> None:
    stream = Stream(open_model()[0])
    stream.call("avec::flag", "default_dtype", "float64")
    stream.call("avec::record_event", Integer(1), 0)
    stream.send()
    saved = msgspec.msgpack.decode(save(stream)[0].tobytes(), type=Saved)
    assert saved.settings == (("default_dtype", "float64"),)
    assert saved.events == ((1, 0),)
    moved(stream)


def test_what_is_freed_is_not_there() -> None:
    stream = Stream(open_model()[0])
    x = stream.put(X)
    stream.free(x)
    stream.send()
    with pytest.raises(InvalidArgument, match="names no live storage"):
        moved(stream).read(x)


def test_too_large_a_state_is_told_and_nothing_has_failed() -> None:
    stream = Stream(open_model()[0])
    x = stream.put(X)
    stream.send()
    assert decoded(stream.ask(Save(0, 11))) == TooLarge(12)
    assert stream.read(x).tolist() == X.tolist()


def test_after_a_failure_nothing_is_saved_until_the_host_knows() -> None:
    stream = Stream(open_model()[0])
    stream.put(X)
    stream.call("aten::add_.Scalar", Ref(address(99), TensorMeta("float32", (1,), (1,))), 1.0)
    with pytest.raises(ExecutionError):
        stream.send()
    assert decoded(stream.ask(Save(0, LIMIT))) == Skipped()
    stream.epoch = 1
    assert stream.ask(Save(1, LIMIT)).arrays


def test_results_without_addresses_are_not_lost() -> None:
    stream = Stream(open_model()[0])
    x = stream.put(X)
    stream.call("aten::nonzero", x, outputs=None)
    stream.send()
    assert decoded(stream.ask(Save(0, LIMIT))) == Skipped()
    stream.bind(0, TensorMeta("int64", (3, 1), (1, 3)))
    stream.send()
    assert stream.ask(Save(0, LIMIT)).arrays


def _storage(**changes: object) -> Callable[[list[Array]], list[Array]]:
    def change(parts: list[Array]) -> list[Array]:
        saved = msgspec.msgpack.decode(parts[0].tobytes(), type=Saved)
        (storage,) = saved.storages
        changed = msgspec.structs.replace(saved, storages=(msgspec.structs.replace(storage, **changes),))
        return [np.frombuffer(encode(changed), np.uint8), *parts[1:]]

    return change


HOSTILE: dict[str, Callable[[list[Array]], list[Array]]] = {
    "too few parts": lambda parts: parts[:2],
    "other types": lambda parts: [parts[0], parts[1][:8].view(np.float32), parts[2]],
    "no description": lambda parts: [parts[1], *parts[1:]],
    "bytes that lack": lambda parts: [parts[0], parts[1][:-1], parts[2]],
    "an address amid a storage": _storage(address=address(1) + 1),
    "an address of nobody": _storage(address=16),
    "a negative size": _storage(nbytes=-1),
    "a tensor larger than its storage": _storage(meta=TensorMeta("float32", (4,), (1,))),
    "a device that is not there": _storage(meta=TensorMeta("float32", (3,), (1,), 9)),
    "no dtype": _storage(meta=TensorMeta("Tensor", (3,), (1,))),
    "a template that is none": lambda parts: [*parts[:2], np.frombuffer(encode((((16, 5),), ())), np.uint8)],
    "a trace of half a number": lambda parts: [
        *parts[:2],
        np.frombuffer(encode(Described((), ((1, b"abc", b""),))), np.uint8),
    ],
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_state_that_does_not_fit_is_refused(name: str) -> None:
    stream = Stream(open_model()[0])
    stream.put(X)
    stream.send()
    with pytest.raises(InvalidArgument):
        restore(HOSTILE[name](save(stream)))


def test_an_address_twice_is_refused() -> None:
    stream = Stream(open_model()[0])
    stream.put(X)
    stream.send()
    parts = save(stream)
    saved = msgspec.msgpack.decode(parts[0].tobytes(), type=Saved)
    twice: tuple[SavedStorage, ...] = saved.storages * 2
    parts[0] = np.frombuffer(encode(msgspec.structs.replace(saved, storages=twice)), np.uint8)
    parts[1] = np.concatenate([parts[1], parts[1]])
    with pytest.raises(InvalidArgument, match="in use"):
        restore(parts)


def test_a_stream_in_use_is_not_restored() -> None:
    stream = Stream(open_model()[0])
    stream.put(X)
    stream.send()
    with pytest.raises(InvalidArgument, match="a fresh stream"):
        stream.model.run(encode(Restore(0)), save(stream), {})
