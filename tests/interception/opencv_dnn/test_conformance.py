"""Every form of a call, every type of input and every model class: under AVEC as without it.

Where the destination's OpenCV is of the host's version, all is equal but for EXCEPTIONS. Where it is of the other major
version, so is what both have in common; OTHER_VERSION names the rest. OpenCV 5 reads no Caffe nets: they are held to
what OpenCV 4.14 gave, see tests/goldens/opencv_dnn.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import cv2
import pytest

from interception.opencv_dnn.conftest import DESTINATION_PYTHON, PROGRAM
from interception.opencv_dnn.outcomes import Outcomes, differences
from launching import PLAIN, environ

GOLDEN = Path(__file__).parents[2] / "goldens" / "opencv_dnn" / "caffe.npz"
HERE = int(cv2.__version__.partition(".")[0])

_FRAMES = ("classify", "segment", "keypoints", "predict", "east", "db")

# Case → why it is not as without AVEC.
EXCEPTIONS = {
    "input_big_endian": "OpenCV takes the bytes in the wrong order; AVEC refuses the array",
    "caffe_unknown": "the message is that of another function of OpenCV's",
    "caffe_failure_wrong_channels": "the message is the Caffe executor's",
    "caffe_unknown_parameter": "the message is the Caffe executor's",
}
if HERE == 5:
    EXCEPTIONS |= {f"{name}_umat": "OpenCV 5.0 fails on a UMat; under AVEC it works" for name in _FRAMES}

_NO_IMPORTER = "OpenCV 5 has no importer for it"
_NEW_ENGINE = "OpenCV 5's new engine answers otherwise, or refuses"
_TWO_OUTPUTS = "OpenCV 4 has the outputs in another order"
_OTHER_TYPES = "OpenCV 4 takes it"
_GREY = "OpenCV 5 takes a grey picture for a coloured one"

# Host's version → case → why another destination's OpenCV gives something else.
OTHER_VERSION: dict[int, dict[str, str]] = {
    4: {
        **dict.fromkeys(("read_darknet", "read_darknet_any", "read_darknet_buffers", "read_torch"), _NO_IMPORTER),
        "detect_with_darknet": _NO_IMPORTER,
        "ask_layer_blobs": "a bias has another shape",
        **dict.fromkeys(("ask_flops", "ask_flops_of_shapes", "ask_memory"), "OpenCV 5 wants types beside the shapes"),
        "ask_shapes": "OpenCV 5 has no getLayersShapes",
        "change_input_shape": "OpenCV 5 wants a MatShape",
        "tracker_goturn": "OpenCV 5 has no such tracker",
        "quantized": "OpenCV 5 cannot quantize",
        "face_recognizer": "pictures are warped with other roundings",
        "tracker_nano": "OpenCV 5 gives no number for this net",
    },
    5: {
        **dict.fromkeys(
            ("forward_plain", "forward_none", "forward_own_names", "predict", "predict_float", "predict_part"),
            _TWO_OUTPUTS,
        ),
        **dict.fromkeys(("classic_forward_own_names", "model_and_net_share_their_state"), _TWO_OUTPUTS),
        **dict.fromkeys(
            (
                "forward_one_of_names",
                "forward_no_arrays",
                "forward_no_arrays_name",
                "forward_arrays_none",
                "forward_inner",
                "forward_retrieve",
                "forward_into_arrays",
                "forward_into_arrays_that_do_not_fit",
            ),
            _NEW_ENGINE,
        ),  # fmt: skip
        **{f"input_classic_{kind}": _OTHER_TYPES for kind in ("float64", "float16", "uint8", "int8", "int32")},
        **{f"input_{kind}": _OTHER_TYPES for kind in ("uint8", "int8", "uint16", "int16", "int32", "int64", "uint64")},
        **{f"input_{kind}": _NEW_ENGINE for kind in ("scaled", "scaled_by_keyword", "mean", "mean_by_keyword")},
        **{f"input_{kind}": _NEW_ENGINE for kind in ("mean_number", "numpy_numbers", "uint8_scaled", "wrong_channels")},
        **{
            f"ask_{kind}": _NEW_ENGINE for kind in ("layer_names", "layer_types", "layers_count", "layer_id", "outputs")
        },
        **{
            f"ask_{kind}": _NEW_ENGINE
            for kind in ("layer", "layer_by_name", "layer_blobs", "parameter", "parameter_by_name")
        },
        **{f"ask_{kind}": _NEW_ENGINE for kind in ("flops", "flops_of_shapes", "memory", "format", "dump")},
        **{f"change_{kind}": _NEW_ENGINE for kind in ("fusion", "input_shape", "parameter", "output")},
        **{f"{name}_grey": _GREY for name in _FRAMES},
        **{f"{name}_umat": "OpenCV 4 takes it" for name in _FRAMES},
        "face_recognizer": "pictures are warped with other roundings",
        "tracker_nano": "OpenCV 5 gives no number for this net",
    },
}


def _version_of(python: str) -> int:
    command = [python, "-c", "import cv2; print(cv2.__version__.partition('.')[0])"]
    return int(subprocess.run(command, capture_output=True, text=True, check=True, env=environ()).stdout)


THERE = _version_of(DESTINATION_PYTHON)
SAME_VERSION = HERE == THERE
if THERE == 5:
    EXCEPTIONS["caffe_with_a_layer_of_opencvs"] = "neither the Caffe executor nor OpenCV 5 has it"
UNEQUAL = EXCEPTIONS if SAME_VERSION else EXCEPTIONS | OTHER_VERSION[HERE]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test for each case of the program."""
    if "case" not in metafunc.fixturenames:
        return
    command = [*PLAIN, PROGRAM, ".", "--names"]
    names = subprocess.run(command, capture_output=True, text=True, check=True, env=environ()).stdout.split()
    metafunc.parametrize("case", names)


@pytest.fixture(scope="session")
def expected(plain_outcomes: Outcomes) -> Outcomes:
    """What has to come out."""
    return plain_outcomes


def _check(case: str, expected: Outcomes, got: Outcomes) -> None:
    golden = HERE == 5 and case.startswith("caffe_")
    measure = Outcomes.load(GOLDEN) if golden else expected
    found = differences(case, measure, got, only_kind_of_error=golden or not SAME_VERSION)
    if case not in UNEQUAL:
        assert found == []
        return
    # What is named as unequal must be so, or the table says too much; and it fails in a way that programs expect.
    assert found or golden or not SAME_VERSION
    assert got.results[case].get("error") in (None, "cv2.error", "builtins.TypeError", "builtins.AttributeError")


def test_it_is_as_without_avec(case: str, expected: Outcomes, avec_outcomes: Outcomes) -> None:
    _check(case, expected, avec_outcomes)


def test_it_is_so_when_cuda_is_asked_for(case: str, expected: Outcomes, cuda_outcomes: Outcomes) -> None:
    _check(case, expected, cuda_outcomes)


@pytest.mark.skipif(HERE != 4, reason="the golden values are OpenCV 4's own")
def test_the_golden_values_are_what_opencv_gives(expected: Outcomes) -> None:
    golden = Outcomes.load(GOLDEN)
    found = {case: differences(case, golden, expected, only_kind_of_error=True) for case in golden.results}
    assert {case: each for case, each in found.items() if each} == {}
