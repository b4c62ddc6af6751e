"""ONNX's own test cases through onnxruntime.backend: one line for each, its name and its outcome.

An ordinary program that knows nothing of AVEC. `--match` takes only cases whose names match a regular expression;
`--corrupt` does those that match another once more, with one added to every number that the backend returns, to show
that the cases would notice.
"""

from __future__ import annotations

import argparse
import re
import unittest
import warnings

import numpy as np
import onnx.backend.test
import onnxruntime.backend as backend
from onnxruntime.backend.backend_rep import OnnxRuntimeBackendRep

LOADED_FROM_THE_NET = "RealModel"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--match", default="")
    parser.add_argument("--corrupt", metavar="REGEX")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    found = cases("cuda" if backend.supports_device("CUDA") else "cpu")
    for name in sorted(found):
        if re.search(arguments.match, name):
            print(name, outcome(found[name]))
    if arguments.corrupt:
        corrupt()
        for name in sorted(found):
            if re.search(arguments.corrupt, name):
                print("corrupted", name, outcome(found[name]))


def cases(device: str) -> dict[str, unittest.TestCase]:
    """The generated cases for one device, by their names without it."""
    generated = onnx.backend.test.BackendTest(backend, __name__).test_cases
    return {
        name.removesuffix(f"_{device}"): cls(name)
        for kind, cls in generated.items()
        if LOADED_FROM_THE_NET not in kind
        for name in dir(cls)
        if re.fullmatch(rf"test_.*_{device}", name)
    }


class Noting(unittest.TestResult):
    """Takes note of what a case raised: the class, and what ONNX Runtime said."""

    said = "passed"

    def addFailure(self, test: object, err: tuple[type, BaseException, object]) -> None:
        self.said = "failed: AssertionError"

    def addError(self, test: object, err: tuple[type, BaseException, object]) -> None:
        self.said = f"failed: {err[0].__name__}: {' '.join(str(err[1]).split())}"

    def addSkip(self, test: object, reason: str) -> None:
        self.said = "skipped"


def outcome(case: unittest.TestCase) -> str:
    """Run one case."""
    result = Noting()
    case.run(result)
    return result.said


def corrupt() -> None:
    """Damage what the backend returns."""
    run = OnnxRuntimeBackendRep.run

    def damaged(self: OnnxRuntimeBackendRep, inputs: object, **kwargs: object) -> list[object]:
        results = run(self, inputs, **kwargs)
        return [
            each + 1 if isinstance(each, np.ndarray) and np.issubdtype(each.dtype, np.number) else each
            for each in results
        ]

    OnnxRuntimeBackendRep.run = damaged


if __name__ == "__main__":
    main()
