"""Graphs as one entry of the stream: calls, results that alias, sizes that vary; and graphs that make no sense."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import numpy as np
import pytest
import torch

from avec.errors import ExecutionError, InvalidArgument, UnsupportedOperation
from avec.protocol.torch import DTypeArg, LoadGraph, TensorMeta
from avec.protocol.torch_graph import CONSTANT_NBYTES, Constant, Graph, GraphArg, Node, ValueArg, ValuesArg
from destination.torch.stream import HostScalar, Integer, Ref, Stream, encode, meta_of, open_model

X = torch.arange(6.0).view(2, 3)
META = meta_of(X)
SCALAR = TensorMeta("float32", (), (), -1)


@pytest.fixture
def stream(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stream]:
    """A stream on one CPU that compiles nothing."""
    monkeypatch.setenv("AVEC_COMPILE_GRAPHS", "0")
    model, _ = open_model()
    yield Stream(model)
    model.close()


def node(operator: str, *args: GraphArg, **kwargs: GraphArg) -> Node:
    return Node(operator, args, kwargs)


def value(number: int) -> ValueArg:
    return ValueArg(number)


def load(stream: Stream, graph: Graph | bytes, number: int = 1) -> None:
    encoded = graph if isinstance(graph, bytes) else msgspec.msgpack.encode(graph)
    answer = stream.model.run(encode(LoadGraph(stream.epoch, number)), [np.frombuffer(encoded, np.uint8)], {})
    assert not answer.body


def relu_of_a_sum() -> Graph:
    nodes = (node("aten::add.Tensor", value(0), 1), node("aten::relu", value(1)))
    return Graph((META,), (), nodes, (2,))


class TestCalls:
    def test_a_graph_is_called_with_other_tensors_each_time(self, stream: Stream) -> None:
        load(stream, relu_of_a_sum())
        for x in (X, -X):
            (result,) = stream.call("avec::call_graph", 1, stream.put(x), outputs=[META])
            assert stream.read(result).equal((x + 1).relu())

    def test_results_are_checked_against_the_prediction(self, stream: Stream) -> None:
        load(stream, relu_of_a_sum())
        stream.call("avec::call_graph", 1, stream.put(X), outputs=[meta_of(X.view(3, 2))])
        with pytest.raises(
            ExecutionError, match=r"predicted float32 of shape \[3, 2\].*gave float32 of shape \[2, 3\]"
        ):
            stream.send()

    def test_results_that_share_memory_get_storages_of_their_own(self, stream: Stream) -> None:
        nodes = (node("aten::mul.Tensor", value(0), 2), node("aten::t", value(1)), node("aten::alias", value(0)))
        load(stream, Graph((META,), (), nodes, (1, 2, 3)))
        x = stream.put(X)
        results = stream.call("avec::call_graph", 1, x, outputs=[META, meta_of(X.t()), META])
        stream.call("aten::zero_", results[0])
        stream.call("aten::zero_", results[2])
        assert stream.read(results[1]).equal(2 * X.t())
        assert stream.read(x).equal(X)

    def test_an_input_may_be_written(self, stream: Stream) -> None:
        nodes = (node("aten::add.Tensor", value(0), 1), node("aten::copy_", value(0), value(1)))
        load(stream, Graph((META,), (), nodes, ()))
        x = stream.put(X)
        stream.call("avec::call_graph", 1, x)
        stream.call("avec::call_graph", 1, x)
        assert stream.read(x).equal(X + 2)

    def test_sizes_and_numbers_may_vary(self, stream: Stream) -> None:
        nodes = (
            node("operator::mul", value(1), 2),
            node("aten::mul.Tensor", value(0), value(2)),
            node("aten::sym_size.int", value(0), 0),
            node("aten::full", ValuesArg((value(4),)), 1, dtype=DTypeArg("int64")),
        )
        load(stream, Graph((None, None), (), nodes, (3, 5)))
        for rows in (2, 3):
            x = torch.ones(rows, 2)
            outputs = [meta_of(x), TensorMeta("int64", (rows,), (1,))]
            doubled, ones = stream.call("avec::call_graph", 1, stream.put(x), Integer(-3), outputs=outputs)
            assert stream.read(doubled).equal(x * -6)
            assert stream.read(ones).equal(torch.ones(rows, dtype=torch.int64))

    def test_constants_and_the_hosts_scalars_take_part(self, stream: Stream) -> None:
        constant = Constant("float32", (3,), np.arange(3, dtype=np.float32).tobytes())
        nodes = (node("aten::add.Tensor", value(0), value(2)), node("aten::mul.Tensor", value(3), value(1)))
        load(stream, Graph((META, SCALAR), (constant,), nodes, (4,)))
        (result,) = stream.call("avec::call_graph", 1, stream.put(X), HostScalar(torch.tensor(0.5)), outputs=[META])
        assert stream.read(result).equal((X + torch.arange(3)) / 2)

    def test_one_of_several_results_is_chosen(self, stream: Stream) -> None:
        nodes = (node("aten::topk", value(0), 2), node("operator::getitem", value(1), 1))
        load(stream, Graph((META,), (), nodes, (2,)))
        (places,) = stream.call("avec::call_graph", 1, stream.put(X), outputs=[TensorMeta("int64", (2, 2), (2, 1))])
        assert stream.read(places).equal(torch.tensor([[2, 1], [2, 1]]))

    def test_what_the_cpu_does_not_save_is_filled_as_on_cuda(self, stream: Stream) -> None:
        x = torch.ones(1, 2, 3)
        statistics = torch.ones(2)
        nodes = (
            node("aten::_native_batch_norm_legit_no_training", value(0), None, None, value(1), value(1), 0.1, 1e-5),
            node("operator::getitem", value(2), 1),
        )
        load(stream, Graph((meta_of(x), meta_of(statistics)), (), nodes, (3,)))
        (saved,) = stream.call(
            "avec::call_graph", 1, stream.put(x), stream.put(statistics), outputs=[meta_of(statistics)]
        )
        assert stream.read(saved).shape == (2,)

    def test_what_stands_in_for_an_operator_has_its_named_arguments(self, stream: Stream) -> None:
        indices, offsets = torch.tensor([0, 1, 1]), torch.tensor([0, 2])
        nodes = (
            node("aten::_embedding_bag", value(0), value(1), value(2), mode=0, include_last_offset=False),
            node("operator::getitem", value(3), 0),
        )
        inputs = (X, indices, offsets)
        load(stream, Graph(tuple(meta_of(each) for each in inputs), (), nodes, (4,)))
        (summed,) = stream.call("avec::call_graph", 1, *(stream.put(each) for each in inputs), outputs=[META])
        assert stream.read(summed).equal(torch.stack([X[0] + X[1], X[1]]))

    def test_a_graph_comes_even_after_a_failure(self, stream: Stream) -> None:
        stream.call("aten::relu", Ref(1 << 60, META), outputs=[META])
        with pytest.raises(InvalidArgument):
            stream.send()
        load(stream, relu_of_a_sum())
        stream.epoch += 1
        (result,) = stream.call("avec::call_graph", 1, stream.put(X), outputs=[META])
        assert stream.read(result).equal(X + 1)

    def test_a_forgotten_graph_is_not_called(self, stream: Stream) -> None:
        load(stream, relu_of_a_sum())
        stream.call("avec::forget_graph", 1)
        stream.call("avec::call_graph", 1, stream.put(X), outputs=[META])
        with pytest.raises(InvalidArgument, match="there is no graph 1"):
            stream.send()


class TestNonsense:
    @pytest.mark.parametrize(
        ("graph", "message"),
        [
            (Graph((META,), (), (node("aten::from_file", "x"),), (1,)), "aten::from_file is not carried out"),
            (Graph((META,), (), (node("aten::no_such", value(0)),), (1,)), "has no operator aten::no_such"),
            (Graph((META,), (), (node("aten::resize_", value(0), ValuesArg((9,))),), (1,)), "not carried out"),
        ],
    )
    def test_operators_that_are_not_for_hosts(self, stream: Stream, graph: Graph, message: str) -> None:
        load(stream, graph)
        stream.call("avec::call_graph", 1, stream.put(X), outputs=[META])
        with pytest.raises(UnsupportedOperation, match=message):
            stream.send()

    @pytest.mark.parametrize(
        ("graph", "message"),
        [
            (Graph((META,), (), (node("os::system", "true"),), (1,)), "neither an operator nor a function"),
            (Graph((META,), (), (node("operator::attrgetter", "__class__"),), (1,)), "neither an operator"),
            (Graph((META,), (), (node("torch::load", "x"),), (1,)), "neither an operator"),
            (Graph((META,), (), (node("prims::add", value(0)),), (1,)), "neither an operator"),
            (Graph((META,), (), (node("aten::relu", value(1)),), (1,)), "value 1 of a graph that has 1"),
            (Graph((META,), (), (node("aten::relu", value(-1)),), (1,)), "value -1"),
            (Graph((META,), (), (), (7,)), "value 7"),
            (Graph((META,), (), (node("aten::relu", value(0), __class__=1),), (1,)), "no argument '__class__'"),
            (Graph((META,), (Constant("float32", (1 << 60,), b""),), (), (0,)), "0 bytes for a constant"),
            (Graph((META,), (Constant("float32", (-1, -1), bytes(4)),), (), (0,)), "4 bytes for a constant"),
            (Graph((META,), (Constant("uint8", (1 << 20,), bytes(1 << 20)),), (), (0,)), str(CONSTANT_NBYTES)),
            (Graph((META,), (Constant("Tensor", (), bytes(4)),), (), (0,)), "there is no dtype 'Tensor'"),
        ],
    )
    def test_graphs_that_contradict_themselves(self, stream: Stream, graph: Graph, message: str) -> None:
        load(stream, graph)
        stream.call("avec::call_graph", 1, stream.put(X), outputs=[META])
        with pytest.raises(InvalidArgument, match=message):
            stream.send()

    def test_text_of_the_peer_is_never_code(self, stream: Stream) -> None:
        text = 'mean", exec("raise SystemExit"), "'
        load(stream, Graph((META,), (), (node("aten::gelu", value(0), approximate=text),), (1,)))
        stream.call("avec::call_graph", 1, stream.put(X), outputs=[META])
        with pytest.raises(ExecutionError, match="approximate argument must be either none or tanh"):
            stream.send()

    @pytest.mark.parametrize("encoded", [b"", b"\x00", b"\xc1", encode([1, 2, 3]), encode([[], [], [[1]], []])])
    def test_bytes_that_are_no_graph(self, stream: Stream, encoded: bytes) -> None:
        with pytest.raises(InvalidArgument, match="cannot be understood"):
            load(stream, encoded)

    def test_numbers_of_graphs_grow(self, stream: Stream) -> None:
        load(stream, relu_of_a_sum(), 5)
        for number in (5, 4, 0, -1):
            with pytest.raises(InvalidArgument, match="numbers grow"):
                load(stream, relu_of_a_sum(), number)

    @pytest.mark.parametrize(
        "inputs",
        [
            [],
            [X, X],
            [X.view(3, 2)],
            [X.t().contiguous().t()],
            [X.to(torch.uint8)],
        ],
    )
    def test_inputs_have_to_be_as_the_graph_says(self, stream: Stream, inputs: list[torch.Tensor]) -> None:
        load(stream, relu_of_a_sum())
        stream.call("avec::call_graph", 1, *(stream.put(each) for each in inputs), outputs=[META])
        with pytest.raises(InvalidArgument, match="graph 1 takes"):
            stream.send()

    def test_a_number_is_no_tensor(self, stream: Stream) -> None:
        load(stream, relu_of_a_sum())
        stream.call("avec::call_graph", 1, Integer(3), outputs=[META])
        with pytest.raises(InvalidArgument, match="graph 1 takes"):
            stream.send()

    def test_a_call_names_a_graph_by_its_number(self, stream: Stream) -> None:
        for name in ("relu", 2, None):
            stream.call("avec::call_graph", name, stream.put(X), outputs=[META])
            with pytest.raises(InvalidArgument, match="there is no graph"):
                stream.send()
            stream.epoch += 1

    def test_there_have_to_be_as_many_results(self, stream: Stream) -> None:
        load(stream, relu_of_a_sum())
        stream.call("avec::call_graph", 1, stream.put(X), outputs=[META, META])
        with pytest.raises(InvalidArgument, match="graph 1 gives 1 results, not 2"):
            stream.send()
