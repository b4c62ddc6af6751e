"""What the conformance program wrote down, and how it is compared: values within 1e-5 of the largest, else equal."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

TOLERANCE = 1e-5  # of the largest magnitude of an array


@dataclass(frozen=True)
class Outcomes:
    """The results of one run by case, and the arrays that they name."""

    results: dict[str, Any]
    arrays: dict[str, np.ndarray]

    @classmethod
    def load(cls, path: Path) -> Outcomes:
        """Read what the program wrote."""
        with np.load(path) as stored:
            arrays = {name: stored[name] for name in stored.files if name != "results"}
            return cls(json.loads(str(stored["results"])), arrays)

    def save(self, path: Path, prefix: str) -> None:
        """Write the cases whose names begin with a prefix."""
        results = {name: result for name, result in self.results.items() if name.startswith(prefix)}
        arrays = {name: self.arrays[name] for name in sorted(_names_of(results), key=int)}
        np.savez_compressed(path, results=np.array(json.dumps(results)), **arrays)


def _names_of(result: Any) -> set[str]:
    if isinstance(result, dict):
        own = {str(result["array"])} if "array" in result else set()
        return own.union(*(_names_of(each) for each in result.values()))
    if isinstance(result, list):
        return set().union(*(_names_of(each) for each in result))
    return set()


def differences(case: str, expected: Outcomes, got: Outcomes, only_kind_of_error: bool = False) -> list[str]:
    """What is not equal in a case."""
    wanted, found = expected.results[case], got.results[case]
    if only_kind_of_error and "error" in wanted:
        return _unlike(wanted["error"], found.get("error"), case)
    return _differences(wanted, found, expected, got, case)


def _differences(wanted: Any, found: Any, expected: Outcomes, got: Outcomes, place: str) -> list[str]:
    if isinstance(wanted, dict) and isinstance(found, dict) and "array" in wanted and "array" in found:
        return _unlike_arrays(expected.arrays[str(wanted["array"])], got.arrays[str(found["array"])], place)
    if isinstance(wanted, dict) and isinstance(found, dict) and wanted.keys() == found.keys():
        pairs = [(f"{place}.{key}", wanted[key], found[key]) for key in wanted]
    elif isinstance(wanted, list) and isinstance(found, list) and len(wanted) == len(found):
        pairs = [(f"{place}[{index}]", *each) for index, each in enumerate(zip(wanted, found, strict=True))]
    else:
        return _unlike(wanted, found, place)
    return [each for name, left, right in pairs for each in _differences(left, right, expected, got, name)]


def _unlike(wanted: object, found: object, place: str) -> list[str]:
    return [] if wanted == found else [f"{place}: {wanted!r} is expected, {found!r} was given"]


def _unlike_arrays(wanted: np.ndarray, found: np.ndarray, place: str) -> list[str]:
    if (wanted.dtype, wanted.shape) != (found.dtype, found.shape):
        return [f"{place}: {wanted.dtype} {wanted.shape} is expected, {found.dtype} {found.shape} was given"]
    if wanted.dtype.kind != "f":
        return [] if np.array_equal(wanted, found) else [f"{place}: unequal numbers"]
    if not np.array_equal(np.isfinite(wanted), np.isfinite(found)):
        return [f"{place}: other values are infinite or no numbers"]
    largest = float(np.abs(wanted[np.isfinite(wanted)]).max(initial=0.0))
    error = float(np.abs(wanted - found)[np.isfinite(wanted)].max(initial=0.0))
    return [] if error <= TOLERANCE * largest else [f"{place}: wrong by {error:.3g} where the largest is {largest:.3g}"]
