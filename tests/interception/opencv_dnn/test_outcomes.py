"""The comparison of the conformance test finds what it has to find."""

from __future__ import annotations

import copy

import numpy as np
import pytest

from interception.opencv_dnn.outcomes import TOLERANCE, Outcomes, differences


def outcomes() -> Outcomes:
    result = {"tuple": [{"array": 0, "dtype": "float32", "shape": [2]}, {"int": 3}, {"array": 1}]}
    failure = {"error": "cv2.error", "text": "no", "code": -5}
    return Outcomes({"a": result, "b": failure}, {"0": np.float32([1, 100]), "1": np.int32([1, 2])})


def test_equal_outcomes_have_no_differences() -> None:
    assert differences("a", outcomes(), outcomes()) == []
    assert differences("b", outcomes(), outcomes()) == []


@pytest.mark.parametrize("place", [0, 1])
def test_a_corrupted_value_is_found(place: int) -> None:
    corrupt = outcomes()
    corrupt.arrays["0"][place] += 100 * TOLERANCE * 1.5
    assert len(differences("a", outcomes(), corrupt)) == 1
    allowed = outcomes()
    allowed.arrays["0"][place] += 100 * TOLERANCE * 0.5
    assert differences("a", outcomes(), allowed) == []


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("1", np.int32([1, 3])), ("1", np.int64([1, 2])),
        ("0", np.float32([1, 100, 1])), ("0", np.float32([1, np.nan])), ("0", np.float64([1, 100])),
    ],
)  # fmt: skip
def test_other_numbers_types_and_shapes_are_found(name: str, values: np.ndarray) -> None:
    other = outcomes()
    other.arrays[name] = values
    assert len(differences("a", outcomes(), other)) == 1


def test_another_structure_is_found() -> None:
    for change in ({"list": []}, {"tuple": []}, {"error": "cv2.error"}):
        other = outcomes()
        other.results["a"] = change
        assert differences("a", outcomes(), other)


def test_another_error_is_found_and_another_text_unless_only_the_kind_counts() -> None:
    other = copy.deepcopy(outcomes())
    other.results["b"]["text"] = "other"
    assert len(differences("b", outcomes(), other)) == 1
    assert differences("b", outcomes(), other, only_kind_of_error=True) == []
    other.results["b"]["error"] = "builtins.ValueError"
    assert len(differences("b", outcomes(), other, only_kind_of_error=True)) == 1
