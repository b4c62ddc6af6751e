"""Prototxt: round trips, what the syntax allows, and where errors point."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avec.errors import InvalidModel
from avec.formats.caffe import text
from avec.formats.caffe.schema import MESSAGES, Plain
from formats.caffe_messages import comparable, plains

NET = MESSAGES["NetParameter"]


def read(content: str) -> Plain:
    return text.decode(NET, content, "net.prototxt")


def setting(content: str, kind: str) -> Plain:
    return text.decode(MESSAGES[kind], content, "net.prototxt")


class TestRoundTrips:
    @settings(max_examples=60, deadline=None)
    @given(st.data())
    @pytest.mark.parametrize("name", ["NetParameter", "SolverParameter", "BlobProto", "LayerParameter", "Datum"])
    def test_what_is_written_reads_back(self, name: str, data: st.DataObject) -> None:
        plain = data.draw(plains(MESSAGES[name]))
        again = text.decode(MESSAGES[name], text.encode(MESSAGES[name], plain), "file")
        assert comparable(MESSAGES[name], again) == comparable(MESSAGES[name], plain)

    def test_the_layout(self) -> None:
        plain = read('layer{name:"a" type:"LRN" lrn_param{alpha:1e-4 norm_region:WITHIN_CHANNEL}} name:"n"')
        assert text.encode(NET, plain) == (
            'name: "n"\n'
            "layer {\n"
            '  name: "a"\n'
            '  type: "LRN"\n'
            "  lrn_param {\n"
            "    alpha: 0.0001\n"
            "    norm_region: WITHIN_CHANNEL\n"
            "  }\n"
            "}\n"
        )


class TestSyntax:
    @pytest.mark.parametrize(
        "content",
        [
            'layer { name: "a" }',
            'layer: { name: "a" }',
            'layer < name: "a" >',
            "layer {\n# a comment { \" \nname: 'a' }",
            'layer { name: "a"; }',
            'layer { name: "a", },',
            'layer: [{ name: "a" }]',
            r'layer { name: "\141" }',
            r'layer { name: "\x61" }',
            'layer { name: "" "a" }',
            'layer{name:"a"}',
        ],
    )
    def test_the_same_layer_in_other_words(self, content: str) -> None:
        assert read(content) == {"layer": [{"name": "a"}]}

    @pytest.mark.parametrize(
        ("content", "value"),
        [("1", 1), ("-1", -1), ("0x10", 16), ("-0x10", -16), ("010", 8), ("0", 0), ("2147483647", 2147483647)],
    )
    def test_integers(self, content: str, value: int) -> None:
        assert setting(f"axis: {content}", "ConcatParameter") == {"axis": value}

    @pytest.mark.parametrize(
        ("content", "value"),
        [("1", 1.0), ("1.", 1.0), (".5", 0.5), ("-1e2", -100.0), ("1.5f", 1.5), ("inf", float("inf"))],
    )
    def test_floats(self, content: str, value: float) -> None:
        assert setting(f"value: {content}", "FillerParameter") == {"value": value}

    def test_floats_have_the_precision_of_a_float32(self) -> None:
        assert setting("value: 0.1", "FillerParameter") == {"value": 0.10000000149011612}

    @pytest.mark.parametrize("content", ["true", "t", "True", "1"])
    def test_true(self, content: str) -> None:
        assert setting(f"bias_term: {content}", "ScaleParameter") == {"bias_term": True}

    @pytest.mark.parametrize("content", ["AVE", "1"])
    def test_enums_by_name_and_by_number(self, content: str) -> None:
        assert setting(f"pool: {content}", "PoolingParameter") == {"pool": 1}

    def test_lists(self) -> None:
        assert setting("pad: [1, 2] pad: 3", "ConvolutionParameter") == {"pad": [1, 2, 3]}

    def test_an_empty_list(self) -> None:
        assert setting("pad: []", "ConvolutionParameter") == {"pad": []}


BAD = [
    ('name "a"', 1, 6, "':' was expected"),
    ("name: a", 1, 7, "a value of type string"),
    ("name:", 1, 6, "a value of type string"),
    ('layer {\n  nam: "a"\n}', 2, 3, "did you mean 'name'"),
    ("layer {\n  blorp_param { }\n}", 2, 3, "no field 'blorp_param'"),
    ('layer {\n  name: "a"\n', 3, 1, "which began in line 1"),
    ('name: "a"\n}', 2, 1, "a field's name was expected"),
    ('name: "a" name: "b"', 1, 11, "given twice"),
    ('name: "a\n', 1, 7, "close its quote"),
    ("layer 5", 1, 7, "'{' was expected"),
    ("layer { lrn_param { local_size: -1 } }", 1, 33, "out of the range of uint32"),
    ("layer { lrn_param { local_size: 1.5 } }", 1, 33, "an integer was expected"),
    ("layer { lrn_param { local_size: 08 } }", 1, 33, "an integer was expected"),
    ("layer { concat_param { axis: 2147483648 } }", 1, 30, "out of the range of int32"),
    ("layer { lrn_param { alpha: x } }", 1, 28, "a value of type float"),
    ('layer { lrn_param { alpha: "1" } }', 1, 28, "a value of type float"),
    ("layer { pooling_param { pool: MIN } }", 1, 31, "not one of MAX, AVE, STOCHASTIC"),
    ("layer { pooling_param { pool: 9 } }", 1, 31, "not one of MAX, AVE, STOCHASTIC"),
    ("layer { scale_param { bias_term: 2 } }", 1, 34, "a value of type bool"),
    ("layer { scale_param { bias_term: yes } }", 1, 34, "a value of type bool"),
    ("layer { convolution_param { pad: [1 2] } }", 1, 37, "',' or ']'"),
    ("layer { convolution_param { pad: [1, } }", 1, 38, "a value of type uint32"),
    ("@", 1, 1, "not prototxt"),
    ("name: 12abc", 1, 7, "not prototxt"),
    ("<html>", 1, 1, "a field's name was expected"),
    (r'name: "\377"', 1, 7, "not UTF-8"),
    ("[caffe.x] { }", 1, 1, "a field's name was expected"),
    ("layer { top: { } }", 1, 14, "a value of type string"),
]


class TestErrors:
    @pytest.mark.parametrize(("content", "line", "column", "reason"), BAD)
    def test_point_at_the_place_and_say_what_to_do(self, content: str, line: int, column: int, reason: str) -> None:
        with pytest.raises(InvalidModel) as caught:
            read(content)
        message = str(caught.value)
        assert message.startswith(f"net.prototxt:{line}:{column}: at ")
        assert reason in message
        assert "\n" not in message

    @settings(max_examples=300, deadline=None)
    @given(st.lists(st.sampled_from([*'{}<>[]:,;"\\#\n 1.-e', "name", "layer ", "top", "lrn_param "]), max_size=30))
    def test_any_text_is_read_or_refused_in_one_line(self, words: list[str]) -> None:
        try:
            read("".join(words))
        except InvalidModel as refusal:
            assert "\n" not in str(refusal)
