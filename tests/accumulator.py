"""A tensor at a destination that each call changes in place, with random numbers drawn there: lost, doubled or swapped
calls show in every result that follows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np

from avec.host.calls import Call
from avec.host.journal import Effect
from avec.host.session import Session
from avec.protocol.torch import (
    FIRST_STORAGE,
    FIRST_TEMPLATE,
    FORMAT,
    OFFSET_BITS,
    ORIGIN,
    Batch,
    Described,
    FloatArg,
    GeneratorArg,
    IntArg,
    Open,
    Read,
    Restore,
    Save,
    Template,
    TensorArg,
    TensorMeta,
)
from avec.tensor import Array

STATE, GIVEN, DRAWN = ((FIRST_STORAGE + place << OFFSET_BITS) + ORIGIN for place in (1, 2, 3))
NEW_GENERATOR, SEEDING, RECEIVE, UPLOAD, SCALE, ADD, DRAW, UPLOAD_FILE = range(FIRST_TEMPLATE, FIRST_TEMPLATE + 8)
GENERATOR = 256  # the first number that is free
SEED = 7
encode = msgspec.msgpack.encode


class Accumulator:
    """state ← 0.75 · state + given + random; each call gives the state that it has made."""

    def __init__(self, session: Session, count: int) -> None:
        self._session = session
        self._meta = TensorMeta("float32", (count,), (1,))
        self.handle = session.new_handle()
        session.load(self.handle, FORMAT, encode(Open("2.11.0"))).wait()
        zeros = np.zeros(count, np.float32)
        numbers = [NEW_GENERATOR, GENERATOR, SEEDING, GENERATOR, SEED]
        for address in (STATE, GIVEN, DRAWN):
            numbers += [RECEIVE, address]
        self._run(numbers, [], self._templates(), [zeros] * 3).wait()

    def add(self, given: Array, into: Array | None = None) -> Call:
        """Make a call, without waiting for it; `given` must not change until the call was sent."""
        numbers = [UPLOAD, GIVEN, DRAW, DRAWN, GENERATOR]
        numbers += [SCALE, STATE, ADD, STATE, GIVEN, ADD, STATE, DRAWN]
        return self._run(numbers, [0.75], (), [given], Read(STATE, self._meta), into)

    def fill(self, digest: str) -> Call:
        """Put the bytes of a model that the destination has where `given` comes too, without waiting; gives them."""
        return self._run([UPLOAD_FILE, GIVEN, 0], [], (), [], Read(GIVEN, self._meta), None, {"0": digest})

    def save(self) -> Call:
        """Have a snapshot brought to this host, without waiting for it."""
        described = Described(tuple(enumerate(self._templates(), FIRST_TEMPLATE)), ())
        encoded = np.frombuffer(encode(described), np.uint8)

        def restoring(answer: bytes, parts: Sequence[Array]) -> tuple[bytes, Sequence[Array]]:
            return encode(Restore(0)), (*parts, encoded)

        effect = Effect(anything=True, refused=bool, restoring=restoring)
        return self._session.run(self.handle, "torch.save", encode(Save(0, 1 << 30)), effect=effect)

    def _run(
        self,
        numbers: Sequence[int],
        floats: Sequence[float],
        templates: Sequence[Template],
        payloads: Sequence[Array],
        read: Read | None = None,
        into: Array | None = None,
        files: Mapping[str, str] | None = None,
    ) -> Call:
        parts = [
            np.array(numbers, np.uint64),
            np.array(floats, np.float64),
            np.frombuffer(encode(templates) if templates else b"", np.uint8),
            *(payload.view(np.uint8) for payload in payloads),
        ]
        return self._session.run(self.handle, "torch.run", encode(Batch(0, read)), parts, files, [into])

    def _templates(self) -> tuple[Template, ...]:
        meta = self._meta
        one = TensorArg(0, meta)
        return (
            Template("avec::new_generator", (IntArg(0), 0), {}, 1, 0),
            Template("avec::seed", (GeneratorArg(0), IntArg(1)), {}, 2, 0),
            Template("avec::receive", (), {}, 0, 0, (meta,)),
            Template("avec::upload", (one,), {}, 1, 0, (meta,)),
            Template("aten::mul_.Scalar", (one, FloatArg(0)), {}, 1, 1),
            Template("aten::add_.Tensor", (one, TensorArg(1, meta)), {}, 2, 0),
            Template("aten::uniform_", (one, -1.0, 1.0), {"generator": GeneratorArg(1)}, 2, 0),
            Template("avec::upload_file", (one, IntArg(1)), {}, 2, 0, (meta,)),
        )
