"""The torch executor's own operators: uploads, generators, settings, events; and requests beside the stream."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from avec.destination.executors.torch.flags import FLAGS
from avec.errors import InvalidArgument, InvalidData, UnsupportedOperation
from avec.protocol.torch import (
    DeviceArg,
    Elapsed,
    ElapsedTime,
    GeneratorState,
    Memory,
    MemoryStatistics,
    Synchronize,
    TensorMeta,
)
from destination.torch.stream import Generator, Integer, Ref, Stream, decoded, memory_of, meta_of, open_model

X = torch.arange(6.0).view(2, 3)
OWN = 256  # the first handle of a generator that the host makes


def upload(stream: Stream, target: Ref, source: torch.Tensor) -> None:
    stream.payloads.append(memory_of(source))
    stream.call("avec::upload", target, outputs=[meta_of(source)])


class TestUploads:
    def test_a_payload_is_copied_into_a_tensor(self, stream: Stream) -> None:
        x = stream.put(torch.zeros(2, 3))
        upload(stream, x, X)
        assert stream.read(x).equal(X)

    def test_it_is_converted_and_broadcast_as_copy_does(self, stream: Stream) -> None:
        x = stream.put(torch.zeros(2, 3))
        upload(stream, x.seen(3, 2, stride=(1, 3)), torch.tensor([1, 2]))
        assert stream.read(x).equal(torch.tensor([[1.0, 1.0, 1.0], [2.0, 2.0, 2.0]]))

    def test_it_may_have_strides_of_its_own(self, stream: Stream) -> None:
        x = stream.put(torch.zeros(3, 2))
        upload(stream, x, X.t())
        assert stream.read(x).equal(X.t())

    def test_it_goes_through_the_targets_lazy_bits(self, stream: Stream) -> None:
        z = torch.tensor([1 + 2j, 3 - 4j])
        ref = stream.put(torch.zeros_like(z))
        upload(stream, Ref(ref.address, ref.meta, conj=True, neg=True), z)
        assert stream.read(ref).equal(-z.conj().resolve_conj())

    def test_payloads_come_in_the_streams_order(self, stream: Stream) -> None:
        first = stream.put(X)
        upload(stream, first, X + 1)
        second = stream.put(X + 2)
        assert stream.read(first).equal(X + 1)
        assert stream.read(second).equal(X + 2)

    def test_a_tensor_is_made_from_a_copy_of_the_payload(self, stream: Stream) -> None:
        x = stream.put(X)
        payload = stream.payloads[0]
        stream.send()
        payload[:] = 0
        assert stream.read(x).equal(X)

    def test_a_payload_may_be_read_only(self, stream: Stream) -> None:
        x = stream.put(X)
        stream.payloads[0].flags.writeable = False
        assert stream.read(x).equal(X)

    def test_one_in_host_memory_serves_operators_that_want_it_there(self, stream: Stream) -> None:
        indices = stream.put(torch.tensor([2, 0]), on=-1)
        x = stream.put(X)
        picked = stream.one("aten::index.Tensor", x, [None, indices], output=torch.empty(2, 2))
        assert stream.read(picked).equal(X[:, [2, 0]])

    @pytest.mark.parametrize("nbytes", [0, 23, 25])
    def test_a_payload_of_another_size_is_refused(self, stream: Stream, nbytes: int) -> None:
        stream.put(X)
        stream.payloads = [np.zeros(nbytes, np.uint8)]
        with pytest.raises(InvalidArgument, match=f"payload of {nbytes} bytes .* takes 24"):
            stream.send()

    def test_a_missing_payload_is_refused(self, stream: Stream) -> None:
        stream.put(X)
        stream.payloads = []
        with pytest.raises(InvalidArgument, match="payload 0 of a batch that has 0"):
            stream.send()

    def test_an_upload_into_no_tensor_is_refused(self, stream: Stream) -> None:
        stream.payloads.append(memory_of(X))
        stream.call("avec::upload", 3, outputs=[meta_of(X)])
        with pytest.raises(InvalidArgument, match="a tensor is needed"):
            stream.send()


class TestFiles:
    def test_a_model_file_is_copied_into_a_tensor(self, stream: Stream, tmp_path: Path) -> None:
        path = tmp_path / "weights"
        path.write_bytes(memory_of(X).tobytes())
        x = stream.put(torch.zeros(2, 3, dtype=torch.float64))
        stream.call("avec::upload_file", x, Integer(7), outputs=[meta_of(X)])
        stream.send(files={"7": path})
        assert stream.read(x).equal(X.double())
        assert path.read_bytes() == memory_of(X).tobytes()

    def test_one_like_the_tensor_is_its_memory_and_stays_as_it_is(self, stream: Stream, tmp_path: Path) -> None:
        path = tmp_path / "weights"
        path.write_bytes(memory_of(X).tobytes())
        x = stream.put(torch.zeros(2, 3))
        row = x.seen(3, stride=(1,), offset=12)
        assert stream.read(row).tolist() == [0, 0, 0]  # a view from before
        stream.call("avec::upload_file", x, 0, outputs=[meta_of(X)])
        stream.send(files={"0": path})
        assert str(path) in Path("/proc/self/maps").read_text()
        stream.call("aten::add_.Scalar", row, 1.0)
        assert stream.read(x).tolist() == [[0, 1, 2], [4, 5, 6]]
        assert path.read_bytes() == memory_of(X).tobytes()
        stream.free(x)
        stream.send()
        assert str(path) not in Path("/proc/self/maps").read_text()

    def test_one_like_a_part_of_a_storage_is_copied(self, stream: Stream, tmp_path: Path) -> None:
        path = tmp_path / "weights"
        path.write_bytes(memory_of(X[0]).tobytes())
        x = stream.put(torch.zeros(2, 3))
        stream.call("avec::upload_file", x.seen(3, stride=(1,)), 0, outputs=[meta_of(X[0])])
        stream.send(files={"0": path})
        assert stream.read(x).tolist() == [[0, 1, 2], [0, 0, 0]]

    def test_one_like_the_tensor_takes_no_more_memory(self, stream: Stream, tmp_path: Path) -> None:
        path = tmp_path / "weights"
        path.write_bytes(memory_of(X).tobytes())
        x = stream.put(torch.zeros(2, 3))
        stream.call("avec::upload_file", x, 0, outputs=[meta_of(X)])
        stream.send(files={"0": path})
        found = msgspec.msgpack.decode(stream.ask(MemoryStatistics(0)).body, type=Memory)
        assert (found.statistics["allocated_bytes.all.current"], found.statistics["allocated_bytes.all.peak"]) == (
            24,
            24,
        )

    def test_an_empty_one_is_nothing(self, stream: Stream, tmp_path: Path) -> None:
        path = tmp_path / "weights"
        path.write_bytes(b"")
        empty = stream.put(torch.zeros(0))
        stream.call("avec::upload_file", empty, 0, outputs=[empty.meta])
        stream.send(files={"0": path})

    def test_one_of_another_size_is_refused(self, stream: Stream, tmp_path: Path) -> None:
        path = tmp_path / "weights"
        path.write_bytes(b"four")
        stream.call("avec::upload_file", stream.put(X), 0, outputs=[meta_of(X)])
        with pytest.raises(InvalidData, match="file of 4 bytes .* takes 24"):
            stream.send(files={"0": path})

    def test_one_that_did_not_come_is_refused(self, stream: Stream) -> None:
        stream.call("avec::upload_file", stream.put(X), 1, outputs=[meta_of(X)])
        with pytest.raises(InvalidArgument, match="model file 1 did not come"):
            stream.send()


class TestGenerators:
    @pytest.fixture(autouse=True)
    def random_state(self) -> Iterator[None]:
        """The CPU's default generator is this process's."""
        state = torch.get_rng_state()
        yield
        torch.set_rng_state(state)

    def draw(self, stream: Stream, *generator: Generator) -> torch.Tensor:
        named = {"generator": generator[0]} if generator else {}
        operator = "aten::randn.generator" if generator else "aten::randn"
        return stream.read(stream.one(operator, [5], output=torch.empty(5), device=DeviceArg(0), **named))

    def test_the_default_generator_is_seeded(self, stream: Stream) -> None:
        stream.call("avec::seed", Generator(0), Integer(42))
        drawn = self.draw(stream)
        torch.manual_seed(42)
        assert drawn.equal(torch.randn(5))

    def test_one_of_the_hosts_has_numbers_of_its_own(self, stream: Stream) -> None:
        stream.call("avec::new_generator", Integer(OWN), DeviceArg(0))
        stream.call("avec::seed", Generator(OWN), Integer(-3))
        drawn = self.draw(stream, Generator(OWN))
        assert drawn.equal(torch.randn(5, generator=torch.Generator().manual_seed(-3)))

    def test_a_state_goes_out_and_comes_back(self, stream: Stream) -> None:
        state = stream.ask(GeneratorState(0, 0)).arrays[0].copy()
        first = self.draw(stream)
        stream.payloads.append(state)
        stream.call("avec::set_generator", Generator(0))
        assert self.draw(stream).equal(first)

    def test_a_state_is_copied(self, stream: Stream) -> None:
        stream.call("avec::new_generator", Integer(OWN), DeviceArg(0))
        stream.call("avec::seed", Generator(0), Integer(42))
        stream.call("avec::copy_generator", Generator(OWN), Generator(0))
        first = self.draw(stream)
        assert self.draw(stream, Generator(OWN)).equal(first)

    def test_a_state_that_is_none_is_refused(self, stream: Stream) -> None:
        stream.payloads.append(np.zeros(7, np.uint8))
        stream.call("avec::set_generator", Generator(0))
        with pytest.raises(InvalidArgument, match="state of 7 bytes"):
            stream.send()

    @pytest.mark.parametrize("handle", [1, OWN, (1 << 64) - 1])
    def test_an_unknown_one_is_refused(self, stream: Stream, handle: int) -> None:
        stream.call("avec::seed", Generator(handle), 0)
        with pytest.raises(InvalidArgument, match=f"no random number generator {handle}"):
            stream.send()

    @pytest.mark.parametrize(("handle", "device"), [(0, 0), (255, 0), (-1, 0), (OWN, 1)])
    def test_a_new_one_needs_a_free_handle_and_an_accelerator(self, stream: Stream, handle: int, device: int) -> None:
        stream.call("avec::new_generator", handle, DeviceArg(device))
        with pytest.raises(InvalidArgument):
            stream.send()

    def test_each_accelerator_has_a_default_one(self) -> None:
        model, _ = open_model(cpu_accelerators=2)
        stream = Stream(model)
        stream.call("avec::seed", Generator(0), 1)
        stream.call("avec::seed", Generator(1), 1)
        drawn = [self.draw(stream, Generator(handle)) for handle in (0, 1)]
        assert drawn[0].equal(drawn[1])
        model.close()


class TestFlags:
    @pytest.fixture(autouse=True)
    def settings(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        """They are this process's."""
        monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
        cudnn = torch.backends.cudnn
        before = cudnn.deterministic, cudnn.benchmark, torch.are_deterministic_algorithms_enabled()
        yield
        cudnn.deterministic, cudnn.benchmark = before[:2]
        torch._C._set_deterministic_algorithms(before[2], warn_only=False)
        torch.backends.cuda.matmul.fp32_precision = "ieee"
        torch.backends.cudnn.conv.fp32_precision = "ieee"
        torch.backends.cudnn.rnn.fp32_precision = "ieee"
        torch.backends.cuda.enable_flash_sdp(True)

    def test_settings_are_torchs(self, stream: Stream) -> None:
        stream.call("avec::flag", "cudnn.deterministic", True)
        stream.call("avec::flag", "cuda.matmul.allow_tf32", True)
        stream.call("avec::flag", "cudnn.conv.fp32_precision", "tf32")
        stream.call("avec::flag", "cuda.flash_sdp", False)
        stream.call("avec::flag", "deterministic_algorithms", "warn")
        stream.send()
        assert torch.backends.cudnn.deterministic
        assert torch.backends.cuda.matmul.fp32_precision == "tf32"
        assert torch.backends.cudnn.conv.fp32_precision == "tf32"
        assert not torch.backends.cuda.flash_sdp_enabled()
        assert torch.is_deterministic_algorithms_warn_only_enabled()

    def test_older_and_newer_names_of_a_setting_may_meet(self, stream: Stream) -> None:
        for name, value in [("cudnn.conv.fp32_precision", "tf32"), ("cudnn.allow_tf32", False),
                            ("cuda.matmul.fp32_precision", "tf32"), ("cuda.matmul.allow_tf32", False)]:  # fmt: skip
            stream.call("avec::flag", name, value)
        stream.send()
        assert torch.backends.cuda.matmul.fp32_precision == "ieee"

    @pytest.mark.parametrize("name", ["cudnn.__class__", "os.environ", "mkldnn.enabled", "", "cudnn"])
    def test_what_is_not_on_the_list_is_refused(self, stream: Stream, name: str) -> None:
        stream.call("avec::flag", name, True)
        with pytest.raises(UnsupportedOperation, match="cannot be set from a host"):
            stream.send()

    @pytest.mark.parametrize("name", sorted(FLAGS))
    @pytest.mark.parametrize("value", ["nonsense", None])
    def test_a_value_of_another_kind_is_refused(self, stream: Stream, name: str, value: str | None) -> None:
        stream.call("avec::flag", name, value)
        with pytest.raises(InvalidArgument, match="allowed: "):
            stream.send()

    def test_a_default_dtype_is_the_streams_alone(self, stream: Stream) -> None:
        stream.call("avec::flag", "default_dtype", "float64")
        stream.one("aten::zeros", [2], output=torch.zeros(2, dtype=torch.float64))
        stream.send()
        assert torch.get_default_dtype() == torch.float32
        third = stream.one("aten::true_divide.Tensor", stream.put(torch.arange(3)), stream.put(torch.tensor(3)),
                           output=torch.zeros(3, dtype=torch.float64))  # fmt: skip
        assert stream.read(third).equal(torch.arange(3).double() / 3)
        assert torch.get_default_dtype() == torch.float32

    @pytest.mark.parametrize("name", ["int64", "float8_e5m2", "Tensor", "nonsense", 1])
    def test_a_default_dtype_is_one_of_torchs(self, stream: Stream, name: object) -> None:
        stream.call("avec::flag", "default_dtype", name)  # type: ignore[arg-type]
        with pytest.raises(InvalidArgument, match="default dtype"):
            stream.send()


class TestRequests:
    def test_an_accelerator_can_be_kept_busy(self, stream: Stream) -> None:
        stream.call("avec::record_event", Integer(1), DeviceArg(0))
        stream.call("avec::sleep", Integer(30_000_000), Integer(0))
        stream.call("avec::record_event", Integer(2), DeviceArg(0))
        stream.send()
        answer = decoded(stream.ask(ElapsedTime(0, 1, 2)))
        assert isinstance(answer, Elapsed)
        assert 10 < answer.milliseconds < 10_000

    def test_it_is_not_kept_busy_for_ever(self, stream: Stream) -> None:
        stream.call("avec::sleep", Integer(1 << 60), Integer(0))
        with pytest.raises(InvalidArgument, match="cycles; the limit is"):
            stream.send()

    def test_time_passes_between_events(self, stream: Stream) -> None:
        stream.call("avec::record_event", Integer(1), DeviceArg(0))
        stream.call("aten::sort", stream.put(torch.randn(100_000)), outputs=None)
        stream.send()
        stream.call("avec::record_event", Integer(2), DeviceArg(0))
        stream.send()
        answer = decoded(stream.ask(ElapsedTime(0, 1, 2)))
        assert isinstance(answer, Elapsed) and 0.0 < answer.milliseconds < 60_000

    def test_an_event_that_was_never_recorded_is_refused(self, stream: Stream) -> None:
        with pytest.raises(InvalidArgument, match="event 5 was never recorded"):
            stream.ask(ElapsedTime(0, 5, 6))

    def test_synchronising_answers_with_nothing(self, stream: Stream) -> None:
        assert stream.ask(Synchronize(0)).body == b""

    @pytest.mark.parametrize("device", [-1, 1])
    def test_an_accelerator_that_is_not_there_is_refused(self, stream: Stream, device: int) -> None:
        for number, request in enumerate((Synchronize(0, device), MemoryStatistics(1, device))):
            stream.epoch = number
            with pytest.raises(InvalidArgument, match=f"no accelerator {device}"):
                stream.ask(request)

    def test_memory_is_counted_with_its_peak(self, stream: Stream) -> None:
        first, second = stream.put(X), stream.put(X)
        stream.free(first)
        stream.send()
        memory = msgspec.msgpack.decode(stream.ask(MemoryStatistics(0, reset_peak=True)).body, type=Memory)
        assert 0 < memory.free <= memory.total
        counted = memory.statistics
        names = ("allocated_bytes.all", "allocation.all")
        parts = ("current", "peak", "allocated", "freed")
        assert [[counted[f"{name}.{part}"] for part in parts] for name in names] == [[24, 48, 48, 24], [1, 2, 2, 1]]
        assert stream.read(second).equal(X)
        again = msgspec.msgpack.decode(stream.ask(MemoryStatistics(0)).body, type=Memory).statistics
        assert again["allocated_bytes.all.peak"] == 24

    def test_a_read_of_an_empty_tensor_is_empty(self, stream: Stream) -> None:
        assert stream.read(Ref(0, TensorMeta("float32", (0, 3), (3, 1)))).shape == (0, 3)
