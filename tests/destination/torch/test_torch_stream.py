"""What the torch executor does with a stream: operators, views, aliases, data-dependent results, failures, epochs."""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from avec.destination.accelerators import Accelerator
from avec.destination.executors.torch import TorchExecutor
from avec.destination.executors.torch.devices import Devices
from avec.destination.executors.torch.storages import VIEWS_LIMIT, Memory
from avec.errors import (
    AcceleratorOutOfMemory,
    ExecutionError,
    InvalidArgument,
    RemoteError,
    UnsupportedOperation,
)
from avec.protocol import torch as protocol
from avec.protocol.torch import (
    AHEAD_NBYTES,
    Batch,
    ComplexArg,
    DeviceArg,
    DTypeArg,
    Evaluated,
    EvaluatedValue,
    GeneratorState,
    LayoutArg,
    MemoryFormatArg,
    MemoryStatistics,
    Skipped,
    Synchronize,
    Template,
    TensorArg,
    TensorMeta,
)
from destination.torch.stream import (
    HostScalar,
    Integer,
    Ref,
    Stream,
    address,
    decoded,
    encode,
    memory_of,
    meta_of,
    open_model,
)

X = torch.tensor([[1.0, -2.0, 3.0], [-4.0, 5.0, -6.0]])


@contextmanager
def address_space_left(nbytes: int) -> Iterator[None]:
    """This process has no room for more than `nbytes`; on a machine with much memory too."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + nbytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def statistics(stream: Stream) -> dict[str, int]:
    answer = decoded(stream.ask(MemoryStatistics(stream.epoch)))
    assert isinstance(answer, protocol.Memory)
    return answer.statistics


class TestOperators:
    @pytest.mark.parametrize(
        "dtype",
        [torch.bool, torch.uint8, torch.int16, torch.int64, torch.uint16, torch.float16, torch.bfloat16,
         torch.float32, torch.float64, torch.complex64, torch.complex128, torch.float8_e4m3fn],
    )  # fmt: skip
    def test_what_is_put_is_read_back(self, stream: Stream, dtype: torch.dtype) -> None:
        tensor = X.abs().to(dtype)
        assert stream.read(stream.put(tensor)).view(torch.uint8).equal(tensor.view(torch.uint8))

    def test_results_are_torchs_own(self, stream: Stream) -> None:
        x = stream.put(X)
        relu = stream.one("aten::relu", x, output=X)
        product = stream.one("aten::mm", relu, stream.put(X.t().contiguous()), output=torch.empty(2, 2))
        assert stream.read(product).equal(X.relu() @ X.t())

    def test_floats_and_integers_vary_with_one_template(self, stream: Stream) -> None:
        x = stream.put(X)
        refs = [stream.one("aten::add.Scalar", x, value, 1, output=X) for value in (0.5, 2.5)]
        rolled = [stream.one("aten::roll", x, [Integer(by)], [1], output=X) for by in (1, -1)]
        assert len(stream.known) == 3
        assert stream.read(refs[0]).equal(X + 0.5)
        assert stream.read(refs[1]).equal(X + 2.5)
        assert stream.read(rolled[0]).equal(X.roll(1, 1))
        assert stream.read(rolled[1]).equal(X.roll(-1, 1))

    def test_named_arguments_of_every_kind(self, stream: Stream) -> None:
        made = stream.one(
            "aten::full", [2, 3], ComplexArg(1.0, -2.0), output=torch.empty(2, 3, dtype=torch.complex64),
            dtype=DTypeArg("complex64"), layout=LayoutArg("strided"), device=DeviceArg(0), pin_memory=None,
        )  # fmt: skip
        assert stream.read(made).equal(torch.full((2, 3), 1 - 2j, dtype=torch.complex64))

    def test_a_memory_format_is_kept(self, stream: Stream) -> None:
        image = torch.arange(24.0).view(1, 2, 3, 4)
        last = image.contiguous(memory_format=torch.channels_last)
        moved = stream.one(
            "aten::clone", stream.put(image), output=last, memory_format=MemoryFormatArg("channels_last")
        )
        assert stream.read(moved).equal(image)

    def test_an_argument_named_by_a_keyword_of_pythons(self, stream: Stream) -> None:
        x = stream.put(torch.zeros(50))
        stream.call("aten::random_.from", x, **{"from": 3, "to": 5})
        assert set(stream.read(x).tolist()) == {3.0, 4.0}

    def test_in_place_and_out_change_what_is_there(self, stream: Stream) -> None:
        x, y = stream.put(X), stream.put(torch.zeros(2, 3))
        stream.call("aten::add_.Scalar", x, 1)
        stream.call("aten::mul.out", x, x, out=y)
        assert stream.read(y).equal((X + 1) ** 2)

    def test_several_results_and_one_that_is_none(self, stream: Stream) -> None:
        x, w = torch.randn(1, 2, 5), torch.randn(3, 2, 3)
        grad = torch.randn(1, 3, 3)
        arguments = [[3], [1], [0], [1], False, [0], 1, [True, False, True]]
        outputs = [meta_of(x), None, meta_of(torch.empty(3))]
        refs = stream.call(
            "aten::convolution_backward", stream.put(grad), stream.put(x), stream.put(w), *arguments, outputs=outputs
        )
        expected = torch.ops.aten.convolution_backward(grad, x, w, *arguments)
        assert stream.read(refs[0]).equal(expected[0])
        assert stream.read(refs[1]).equal(expected[2])

    def test_lists_of_tensors_go_in_and_come_out(self, stream: Stream) -> None:
        xs = [stream.put(X), stream.put(X + 1)]
        refs = stream.call("aten::_foreach_mul.Scalar", xs, 2.0, outputs=[meta_of(X), meta_of(X)])
        assert stream.read(refs[1]).equal((X + 1) * 2)

    def test_a_fused_optimizer_changes_its_lists_in_place(self, stream: Stream) -> None:
        def lists() -> list[list[torch.Tensor]]:
            return [[X.clone(), X + 1], [X / 7, X], [X * 0, X * 0], [X * 0, X * 0], [], [torch.tensor(1.0)] * 2]

        named = {"lr": 0.1, "beta1": 0.9, "beta2": 0.99, "weight_decay": 0.01, "eps": 1e-8, "amsgrad": False}
        expected = lists()
        torch.ops.aten._fused_adamw_(*expected, **named, maximize=False, grad_scale=None, found_inf=None)
        refs = [[stream.put(tensor) for tensor in each] for each in lists()]
        stream.call("aten::_fused_adamw_", *refs, **named, maximize=False, grad_scale=None, found_inf=None)
        for place in (0, 2, 3):
            assert stream.read(refs[place][1]).equal(expected[place][1])

    def test_a_tensor_without_elements_has_no_address(self, stream: Stream) -> None:
        empty = torch.empty(0, 3)
        ref = stream.put(empty)
        both = stream.one("aten::cat", [ref, stream.put(X)], 0, output=X)
        assert ref.address == 0
        assert stream.read(both).equal(X)
        assert stream.read(stream.one("aten::relu", ref, output=empty)).shape == (0, 3)

    def test_lazy_bits_are_set_on_arguments_and_reads(self, stream: Stream) -> None:
        z = torch.tensor([1 + 2j, 3 - 4j])
        ref = stream.put(z)
        conjugate = Ref(ref.address, ref.meta, conj=True)
        assert stream.read(stream.one("aten::mul.Tensor", conjugate, ref, output=z)).equal(z.conj() * z)
        assert stream.read(conjugate).equal(z.conj().resolve_conj())
        assert stream.read(Ref(ref.address, ref.meta, neg=True)).equal(-z)


class TestNumbersAsTensors:
    @pytest.mark.parametrize(
        ("operator", "dtype"),
        [("add.Tensor", torch.float16), ("remainder.Tensor", torch.float16), ("remainder.Tensor", torch.int64),
         ("pow.Tensor_Tensor", torch.int32), ("fmod.Tensor", torch.float32), ("remainder_.Tensor", torch.float64)],
    )  # fmt: skip
    @pytest.mark.parametrize("shape", [(3,), ()])
    def test_a_number_is_promoted_as_a_number(
        self, stream: Stream, operator: str, dtype: torch.dtype, shape: tuple[int, ...]
    ) -> None:
        x = torch.full(shape, 7).to(dtype)
        name = operator.partition(".")[0]
        expected = getattr(torch.Tensor, name)(x.clone(), 2.5)
        ref = stream.put(x)
        if name.endswith("_"):
            stream.call(f"aten::{operator}", ref, 2.5)
        else:
            ref = stream.one(f"aten::{operator}", ref, 2.5, output=expected)
        assert stream.read(ref).equal(expected)

    def test_where_no_overload_takes_numbers_it_becomes_a_tensor(self, stream: Stream) -> None:
        x = X.half()
        expected = torch.atan2(x, torch.tensor(2.0))
        assert stream.read(stream.one("aten::atan2", stream.put(x), 2.0, output=expected)).equal(expected)

    @pytest.mark.parametrize("scalar", [torch.tensor(1.5, dtype=torch.float64), torch.tensor(3), torch.tensor(True)])
    def test_a_tensor_of_the_hosts_is_promoted_as_one(self, stream: Stream, scalar: torch.Tensor) -> None:
        x = X.half()
        expected = torch.maximum(x, scalar)
        ref = stream.one("aten::maximum", stream.put(x), HostScalar(scalar), output=expected)
        assert stream.read(ref).equal(expected)


class TestViews:
    def test_a_view_is_found_in_its_storage(self, stream: Stream) -> None:
        x = stream.put(X)
        column = x.seen(2, stride=(3,), offset=4)
        stream.call("aten::zero_", column)
        assert stream.read(x).equal(torch.tensor([[1.0, 0.0, 3.0], [-4.0, 0.0, -6.0]]))
        assert stream.read(x.seen(3, 2, stride=(1, 3))).equal(stream.read(x).t())

    def test_another_dtype_sees_the_same_bytes(self, stream: Stream) -> None:
        x = stream.put(X)
        assert stream.read(x.seen(6, stride=(1,), dtype="int32")).equal(X.view(torch.int32).flatten())

    def test_many_views_are_not_kept_for_ever(self, stream: Stream) -> None:
        x = stream.put(torch.zeros(3 * VIEWS_LIMIT))
        for place in range(3 * VIEWS_LIMIT):
            stream.call("aten::fill_.Scalar", x.seen(1, stride=(1,), offset=4 * place), float(place))
        assert stream.read(x).equal(torch.arange(3.0 * VIEWS_LIMIT))
        (layout,) = (each for each in stream.model._memory._layouts.values() if each.shape == (1,))
        assert len(layout.tensors) <= VIEWS_LIMIT

    def test_freeing_a_storage_frees_its_views(self, stream: Stream) -> None:
        x = stream.put(X)
        view = x.seen(3, stride=(1,))
        stream.read(view)
        stream.free(x)
        with pytest.raises(InvalidArgument, match="names no live storage"):
            stream.read(view)
        assert statistics(Stream(stream.model, epoch=1))["allocated_bytes.all.current"] == 0

    @pytest.mark.parametrize(
        ("shape", "stride", "offset", "dtype"),
        [((7,), (1,), 0, "float32"), ((2, 3), (4, 1), 0, "float32"), ((6,), (1,), 4, "float32"),
         ((1,), (1,), 1, "float32"), ((1,), (1,), -4, "float32"), ((4,), (1,), 0, "float64"),
         ((1,), (1,), 1 << 39, "float32"), ((2,), (1 << 36,), 0, "float32"), ((0,), (1,), 28, "float32")],
    )  # fmt: skip
    def test_a_view_beyond_its_storage_is_refused(
        self, stream: Stream, shape: tuple[int, ...], stride: tuple[int, ...], offset: int, dtype: str
    ) -> None:
        view = stream.put(X).seen(*shape, stride=stride, offset=offset, dtype=dtype)
        with pytest.raises(InvalidArgument, match="does not lie in its storage of 24 bytes"):
            stream.read(view)

    @pytest.mark.parametrize(
        "meta",
        [TensorMeta("float32", (-1,), (1,)), TensorMeta("float32", (2,), (-1,)), TensorMeta("float32", (2,), ()),
         TensorMeta("float32", (1 << 40,), (1,)), TensorMeta("float32", (1 << 40, 1 << 40), (0, 0)),
         TensorMeta("float33", (2,), (1,)), TensorMeta("Tensor", (2,), (1,)), TensorMeta("float32", (2,), (1,), 1),
         TensorMeta("float32", (1,) * 65, (1,) * 65), TensorMeta("float32", (1 << 63, 0), (1, 1))],
    )  # fmt: skip
    def test_a_meta_that_no_tensor_has_is_refused(self, stream: Stream, meta: TensorMeta) -> None:
        x = stream.put(X)
        with pytest.raises(InvalidArgument):
            stream.read(Ref(x.address, meta))


class TestPredictions:
    def test_another_shape_than_predicted_is_an_error(self, stream: Stream) -> None:
        x = stream.put(X)
        stream.one("aten::relu", x, output=torch.empty(3, 2))
        with pytest.raises(ExecutionError, match=r"host predicted float32 of shape \[3, 2\].*\[2, 3\].*aten::relu"):
            stream.send()

    def test_another_dtype_than_predicted_is_an_error(self, stream: Stream) -> None:
        stream.one("aten::relu", stream.put(X), output=X.double())
        with pytest.raises(ExecutionError, match="host predicted float64 .* gave float32"):
            stream.send()

    def test_another_number_of_results_is_an_error(self, stream: Stream) -> None:
        stream.call("aten::_foreach_neg", [stream.put(X)], outputs=[meta_of(X), meta_of(X)])
        with pytest.raises(ExecutionError, match="predicted 2 results, the destination's torch .* gave 1"):
            stream.send()

    def test_a_result_that_is_missing_is_an_error(self, stream: Stream) -> None:
        x, w = torch.randn(1, 2, 5), torch.randn(3, 2, 3)
        arguments = [[3], [1], [0], [1], False, [0], 1, [True, False, False]]
        refs = [stream.put(torch.randn(1, 3, 3)), stream.put(x), stream.put(w)]
        stream.call("aten::convolution_backward", *refs, *arguments, outputs=[meta_of(x), meta_of(w), None])
        with pytest.raises(ExecutionError, match="predicted float32 .* gave none"):
            stream.send()

    def test_other_strides_are_made_as_predicted(self, stream: Stream) -> None:
        x = stream.put(X)
        predicted = torch.empty_strided((2, 3), (1, 2))
        relu = stream.one("aten::relu", x, output=predicted)
        memory = relu.seen(6, stride=(1,))
        assert stream.read(relu).equal(X.relu())
        assert stream.read(memory).equal(X.relu().t().flatten())

    @pytest.mark.parametrize("operator", ["aten::contiguous", "aten::alias", "aten::conj", "aten::detach"])
    def test_a_result_that_shares_an_inputs_memory_gets_its_own(self, stream: Stream, operator: str) -> None:
        x = stream.put(X)
        result = stream.one(operator, x, output=X)
        stream.call("aten::zero_", x)
        assert stream.read(result).equal(X)

    def test_a_result_from_the_middle_of_a_storage_gets_its_own(self, stream: Stream) -> None:
        x = stream.put(X)
        row = stream.one("aten::select.int", x, 0, 1, output=X[1].clone())
        stream.call("aten::zero_", x)
        assert stream.read(row).equal(X[1])

    def test_results_that_share_memory_get_their_own(self, stream: Stream) -> None:
        x = stream.put(X)
        halves = stream.call("aten::_unsafe_view", x, [6], outputs=[meta_of(X.flatten())])
        first, second = stream.call("aten::unsafe_chunk", halves[0], 2, 0, outputs=[meta_of(X[0]), meta_of(X[0])])
        stream.call("aten::zero_", first)
        assert stream.read(second).equal(X[1])
        assert stream.read(halves[0]).equal(X.flatten())

    @pytest.mark.parametrize(("tensor", "kept"), [(torch.tensor(7), True), (torch.tensor([7]), False)])
    def test_a_scalar_may_stay_in_host_memory_beside_a_gpu(self, tensor: torch.Tensor, kept: bool) -> None:
        memory = Memory(Devices(Accelerator("strict", 64)))
        layout = memory.layout(meta_of(tensor))
        layout.ordinal = 0  # as if it were a GPU's
        if kept:
            memory.keep(layout, address(1), tensor)
            assert memory.find(layout, address(1)) is tensor
        else:
            with pytest.raises(ExecutionError, match="host predicted"):
                memory.keep(layout, address(1), tensor)

    def test_a_lazily_conjugated_result_is_made_plain(self, stream: Stream) -> None:
        z = torch.tensor([1 + 2j, 3 - 4j])
        assert stream.read(stream.one("aten::conj", stream.put(z), output=z)).equal(z.conj().resolve_conj())

    def test_an_expanded_result_keeps_its_stride_of_nought(self, stream: Stream) -> None:
        wide = X[:, :1].clone().expand(2, 4)
        x = stream.put(X[:, :1].clone())
        ref = stream.one("aten::expand", x, [2, 4], output=wide)
        assert stream.read(ref).equal(wide)

    def test_batch_norm_in_evaluation_gives_room_for_statistics_as_cuda_does(self, stream: Stream) -> None:
        x, one = torch.randn(2, 3, 4), torch.ones(3)
        channels = [stream.put(one), stream.put(one), stream.put(one), stream.put(one)]
        refs = stream.call(
            "aten::native_batch_norm", stream.put(x), *channels, False, 0.1, 1e-5,
            outputs=[meta_of(x), meta_of(one), meta_of(one)],
        )  # fmt: skip
        expected = torch.native_batch_norm(x, one, one, one, one, False, 0.1, 1e-5)[0]
        assert stream.read(refs[0]).equal(expected)
        assert stream.read(refs[1]).equal(torch.zeros(3))


class TestAddresses:
    @pytest.mark.parametrize("bad", [0, 1, address(1, 4), address(-1), (1 << 64) - 1, address(0)])
    def test_a_result_needs_a_new_storages_address(self, stream: Stream, bad: int) -> None:
        stream.storages = -1
        stream.put(X)  # at address(0)
        stream.one("aten::relu", Ref(address(0), meta_of(X)), output=X)
        stream.numbers[-1] = bad
        with pytest.raises(InvalidArgument, match="beginning of a storage"):
            stream.send()

    def test_a_freed_address_can_be_used_again(self, stream: Stream) -> None:
        x = stream.put(X)
        stream.free(x)
        stream.storages -= 1
        again = stream.put(X + 1)
        assert again.address == x.address
        assert stream.read(again).equal(X + 1)

    def test_freeing_what_never_was_does_nothing(self, stream: Stream) -> None:
        stream.free(Ref(address(7), meta_of(X)))
        assert stream.send().body == b""


class TestEvaluation:
    def test_results_are_described_then_bound(self, stream: Stream) -> None:
        x = stream.put(X)
        stream.call("aten::nonzero", stream.one("aten::relu", x, output=X), outputs=None)
        meta = TensorMeta("int64", (3, 2), (1, 3))
        assert stream.answer() == Evaluated((EvaluatedValue(meta),))
        assert stream.read(stream.bind(0, meta)).equal(X.relu().nonzero())

    def test_plain_values_are_in_the_answer(self, stream: Stream) -> None:
        stream.call("aten::equal", stream.put(X), stream.put(X), outputs=None)
        assert stream.answer() == Evaluated((EvaluatedValue(value=True),))

    def test_a_list_is_told_from_several_results(self, stream: Stream) -> None:
        stream.call("aten::_unique2", stream.put(X), True, True, True, outputs=None)
        several = stream.answer()
        stream.call("aten::split.Tensor", stream.put(X), 1, outputs=None)
        one_list = stream.answer()
        assert isinstance(several, Evaluated) and isinstance(one_list, Evaluated)
        assert (len(several.results), several.sequence) == (3, False)
        assert (len(one_list.results), one_list.sequence) == (2, True)

    def test_parts_of_one_storage_are_bound_apart(self, stream: Stream) -> None:
        x = stream.put(X)
        stream.call("aten::split.Tensor", x, 1, outputs=None)
        stream.send()
        refs = [stream.bind(place, meta_of(X[:1])) for place in (0, 1)]
        stream.call("aten::zero_", refs[0])
        assert stream.read(refs[1]).equal(X[1:])
        assert stream.read(x).equal(X)

    def test_it_has_to_be_the_last_of_its_batch(self, stream: Stream) -> None:
        x = stream.put(X)
        stream.call("aten::nonzero", x, outputs=None)
        stream.one("aten::relu", x, output=X)
        with pytest.raises(InvalidArgument, match="last entry of its batch"):
            stream.send()

    def test_what_is_not_bound_in_the_next_batch_is_dropped(self, stream: Stream) -> None:
        stream.call("aten::nonzero", stream.put(X), outputs=None)
        stream.send()
        stream.put(X)
        stream.send()
        stream.bind(0, TensorMeta("int64", (6, 2), (1, 6)))
        with pytest.raises(InvalidArgument, match="result 0 of the last evaluation"):
            stream.send()

    @pytest.mark.parametrize("places", [[1], [0, 0], [1 << 63]])
    def test_a_place_is_bound_once_and_has_to_be_there(self, stream: Stream, places: list[int]) -> None:
        stream.call("aten::nonzero", stream.put(X), outputs=None)
        stream.send()
        for place in places:
            stream.bind(place, meta_of(X))
        with pytest.raises(InvalidArgument, match=f"result {places[-1]} of the last evaluation"):
            stream.send()


class TestFailures:
    def test_the_operator_and_its_entry_are_named_with_torchs_text(self, stream: Stream) -> None:
        x = stream.put(X)
        stream.free(Ref(address(99), meta_of(X)))
        stream.one("aten::mm", x, x, output=X)
        with pytest.raises(RemoteError, match=r"RuntimeError: .*cannot be multiplied.*\(aten::mm, entry 2 of its"):
            stream.send()

    def test_nothing_takes_effect_after_a_failure_until_the_epoch_rises(self, stream: Stream) -> None:
        x = stream.put(X)
        stream.send()
        stream.one("aten::mm", x, x, output=X)
        stream.call("aten::zero_", x)
        with pytest.raises(RemoteError):
            stream.send()
        stream.call("aten::zero_", x)
        assert isinstance(stream.answer(), Skipped)
        for request in (Synchronize(0), MemoryStatistics(0), GeneratorState(0, 0)):
            assert isinstance(decoded(stream.ask(request)), Skipped)
        stream.epoch += 1
        assert stream.read(x).equal(X)

    def test_templates_of_a_skipped_batch_are_known_afterwards(self, stream: Stream) -> None:
        x = stream.put(X)
        stream.send()
        stream.one("aten::mm", x, x, output=X)
        with pytest.raises(RemoteError):
            stream.send()
        stream.one("aten::relu", x, output=X)
        stream.send()
        stream.epoch += 1
        relu = stream.one("aten::relu", x, output=X)
        neg = stream.one("aten::neg", x, output=X)
        assert stream.read(relu).equal(X.relu())
        assert stream.read(neg).equal(-X)

    def test_what_is_freed_after_a_failure_is_freed(self, stream: Stream) -> None:
        refs = [stream.put(X) for _ in range(3)]
        stream.send()
        stream.one("aten::mm", refs[0], refs[0], output=X)
        stream.free(refs[0])
        with pytest.raises(RemoteError):
            stream.send()
        stream.free(refs[1])
        stream.send()
        stream.epoch += 1
        assert statistics(stream)["allocated_bytes.all.current"] == X.nbytes

    def test_an_unknown_operator_is_named_with_both_versions(self, stream: Stream) -> None:
        stream.one("aten::invented", stream.put(X), output=X)
        with pytest.raises(
            UnsupportedOperation, match=r"torch .* has no operator aten::invented \(the host's torch is"
        ):
            stream.send()

    def test_an_unsupported_template_is_refused_each_time_and_the_next_ones_keep_their_numbers(
        self, stream: Stream
    ) -> None:
        x = stream.put(X)
        for _ in range(2):
            stream.one("aten::invented", x, output=X)
            with pytest.raises(UnsupportedOperation):
                stream.send()
            stream.epoch += 1
        y = stream.put(X)
        assert stream.read(stream.one("aten::neg", y, output=X)).equal(-X)

    @pytest.mark.skipif(sys.platform != "linux", reason="needs /proc and RLIMIT_AS")
    def test_a_lack_of_memory_has_its_own_type_and_is_counted(self, stream: Stream) -> None:
        nbytes = 1 << 39
        stream.call(
            "aten::empty_strided", [nbytes], [1], outputs=[TensorMeta("uint8", (nbytes,), (1,))],
            dtype=DTypeArg("uint8"),
        )  # fmt: skip
        with address_space_left(300 << 20), pytest.raises(AcceleratorOutOfMemory, match="aten::empty_strided"):
            stream.send()
        stream.epoch += 1
        assert statistics(stream)["num_ooms"] == 1

    def test_results_of_a_batch_that_fails_are_forgotten(self, stream: Stream) -> None:
        x = stream.put(X)
        stream.call("aten::nonzero", x, outputs=None)
        with pytest.raises(InvalidArgument):
            stream.send(Ref(address(99), meta_of(X)))
        stream.epoch += 1
        assert stream.send(x).body == b""

    def test_what_is_read_ahead_comes_after_what_is_waited_for(self, stream: Stream) -> None:
        x, y = stream.put(X), stream.put(2 * X)
        first, second, third = stream.send(y, x, y).arrays
        for array, expected in ((first, 2 * X), (second, X), (third, 2 * X)):
            assert array.tobytes() == memory_of(expected).tobytes()

    def test_what_cannot_be_read_ahead_is_no_error(self, stream: Stream) -> None:
        x = stream.put(X)
        large = stream.put(torch.zeros(AHEAD_NBYTES + 1, dtype=torch.uint8))
        nowhere, beyond = Ref(address(99), meta_of(X)), Ref(x.address, meta_of(torch.zeros(1000)))
        arrays = stream.send(x, nowhere, beyond, large).arrays
        assert [each.nbytes for each in arrays] == [X.nbytes, 0, 0, 0]

    def test_too_many_reads_are_refused(self, stream: Stream) -> None:
        x = stream.put(X)
        with pytest.raises(InvalidArgument, match="16 reads ahead after one batch; 15 are allowed"):
            stream.send(*[x] * 17)

    @pytest.mark.parametrize(
        "operator",
        ["aten::from_file", "aten::set_.source_Tensor", "aten::resize_", "aten::_pin_memory", "aten::t_", "aten::save",
         "aten::_print", "aten::_nested_view_from_buffer", "aten::_use_count", "aten::_validate_sparse_csr_tensor_args",
         "aten::_coalesced_", "aten::_test_serialization_subcmul", "aten::_lazy_clone", "aten::_spsolve",
         "aten::sparse_csr_tensor.crow_col_value_size", "aten::to_sparse", "prim::device", "c10d::send",
         "profiler::_record_function_exit",
         "avec::invented", "os::system", "aten::", "", "relu", "aten::__class__", "aten::relu.__call__"],
    )  # fmt: skip
    def test_what_no_host_may_call_is_refused(self, stream: Stream, operator: str) -> None:
        stream.call(operator, stream.put(X))
        with pytest.raises(UnsupportedOperation):
            stream.send()

    def test_results_in_host_memory_are_refused(self, stream: Stream) -> None:
        stream.one("aten::_to_copy", stream.put(X), output=X, device=DeviceArg(-1))
        with pytest.raises(UnsupportedOperation, match="host's memory"):
            stream.send()


class TestMalformed:
    @pytest.mark.parametrize(
        "numbers",
        [[0], [1], [1, 0], [2], [15], [16], [99], [1 << 63], [17, address(1)], [17, address(1), address(2), 5]],
    )
    def test_a_stream_that_makes_no_sense_is_refused_and_the_session_goes_on(
        self, stream: Stream, numbers: list[int]
    ) -> None:
        x = stream.put(X)
        stream.one("aten::relu", x, output=X)
        stream.send()
        stream.numbers = list(numbers)
        with pytest.raises(InvalidArgument):
            stream.send()
        stream.epoch += 1
        assert stream.read(x).equal(X)

    def test_too_few_floats_are_refused(self, stream: Stream) -> None:
        stream.one("aten::add.Scalar", stream.put(X), 1.0, 1, output=X)
        stream.floats = []
        with pytest.raises(InvalidArgument, match="floats"):
            stream.send()

    @pytest.mark.parametrize(
        "template",
        [Template("aten::relu", (TensorArg(1, meta_of(X)),), {}, 1, 0, (meta_of(X),)),
         Template("aten::relu", (TensorArg(-1, meta_of(X)),), {}, 1, 0, (meta_of(X),)),
         Template("aten::relu", (TensorArg(0, meta_of(X)),), {"x\n": 1}, 1, 0, (meta_of(X),)),
         Template("aten::relu", (TensorArg(0, TensorMeta("float32", (-1,), (1,))),), {}, 1, 0, (meta_of(X),)),
         Template("aten::relu", (DTypeArg("Tensor"),), {}, 1, 0, (meta_of(X),)),
         Template("aten::relu", (LayoutArg("float32"),), {}, 1, 0, (meta_of(X),)),
         Template("aten::relu", (DeviceArg(7),), {}, 1, 0, (meta_of(X),)),
         Template("avec::seed", (TensorArg(0, meta_of(X)), 1), {}, 1, 0, ()),
         Template("avec::receive", (), {}, 1, 0, ()),
         Template("avec::receive", (), {}, 1, 0, None)],
    )  # fmt: skip
    def test_a_template_that_contradicts_itself_is_refused(self, stream: Stream, template: Template) -> None:
        x = stream.put(X)
        stream.numbers += [stream.template(template), x.address, *([stream.address()] if template.outputs else [])]
        with pytest.raises(InvalidArgument):
            stream.send()
        stream.epoch += 1
        assert stream.read(x).equal(X)

    @pytest.mark.parametrize("numbers", [-1, 1 << 40])
    def test_impossible_counts_are_refused(self, stream: Stream, numbers: int) -> None:
        stream.numbers.append(stream.template(Template("aten::relu", (), {}, numbers, 0, ())))
        with pytest.raises(InvalidArgument, match="are possible"):
            stream.send()

    @pytest.mark.parametrize(
        "parts",
        [[np.zeros(1, np.int64)] * 3, [np.zeros(1, np.uint64)], [np.zeros(2, np.uint64), np.zeros(1), np.zeros(1)]],
    )
    def test_wrong_parts_are_refused(
        self, stream: Stream, parts: list[np.ndarray[tuple[int], np.dtype[np.generic]]]
    ) -> None:
        with pytest.raises(InvalidArgument):
            stream.model.run(encode(Batch(0)), parts, {})

    @pytest.mark.parametrize("body", [b"", b"\xc1", b"\x92\xa5batch", encode(["unknown", 0]), encode({})])
    def test_a_request_that_cannot_be_understood_is_refused(self, stream: Stream, body: bytes) -> None:
        with pytest.raises(InvalidArgument, match="cannot be understood"):
            stream.model.run(body, [], {})


class TestForgetting:
    def test_template_numbers_begin_anew(self, stream: Stream) -> None:
        x = stream.put(X)
        assert stream.read(stream.one("aten::relu", x, output=X)).equal(X.relu())
        stream.known = {}
        neg = stream.one("aten::neg", x, output=X)
        stream.send(forget=True)
        assert list(stream.known.values()) == [16]
        assert stream.read(neg).equal(-X)

    def test_a_closed_model_holds_nothing(self, stream: Stream) -> None:
        stream.put(X)
        stream.send()
        stream.model.close()
        assert len(stream.model._memory) == 0


def test_a_request_to_open_that_cannot_be_understood_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="cannot be understood"):
        TorchExecutor(Accelerator("strict", 64)).load(b"\xc1", (), {})


def test_what_the_destination_has_is_told() -> None:
    model, opened = open_model(cpu_accelerators=2)
    model.close()
    assert opened.version == torch.__version__
    assert [device.kind for device in opened.devices] == ["cpu", "cpu"]
    assert opened.devices[0].total_memory > 1 << 30


class TestSeveralAccelerators:
    def test_each_counts_its_own_memory(self) -> None:
        model, _ = open_model(cpu_accelerators=2)
        stream = Stream(model)
        stream.put(X, on=1)
        stream.send()
        counted = [
            msgspec.msgpack.decode(stream.ask(MemoryStatistics(0, device)).body, type=protocol.Memory).statistics
            for device in (0, 1)
        ]
        assert [each["allocated_bytes.all.current"] for each in counted] == [0, X.nbytes]
        model.close()

    def test_a_tensor_is_where_it_was_made(self) -> None:
        model, _ = open_model(cpu_accelerators=2)
        stream = Stream(model)
        x = stream.put(X, on=1)
        with pytest.raises(InvalidArgument, match="is on accelerator 1, the tensor there on 0"):
            stream.read(Ref(x.address, meta_of(X, 0)))
        stream.epoch += 1
        copied = stream.one("aten::_to_copy", x, output=X, device=DeviceArg(0))
        assert stream.read(copied).equal(X)
        model.close()

    def test_data_dependent_results_are_on_the_same_one(self) -> None:
        model, _ = open_model(cpu_accelerators=2)
        stream = Stream(model)
        stream.call("aten::nonzero", stream.put(X, on=1), outputs=None)
        answer = stream.answer()
        assert isinstance(answer, Evaluated) and answer.results[0].meta is not None
        assert answer.results[0].meta.device == 1
        model.close()
