"""A process of the operators' suite: checks one operator after the other, as `__main__` asks on stdin.

A case of PyTorch's OpInfo database is computed twice in this process, by torch's own CPU kernels and with the same
tensors on `cuda`, and what came out is compared: values, shapes, dtypes, devices, gradients. With `--describe` it is
computed on `cuda` alone, and described for another to compare (`describing`). The program says nothing of AVEC, but for
the control run, which changes what is fetched from the destination.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

import torch
from cases import Case, Unmade, name_of, operator_cases
from comparing import Outcome, compare
from describing import describe, usable
from modules import module_cases, optimizer_cases
from torch.testing._internal.common_methods_invocations import op_db
from torch.testing._internal.common_modules import module_db
from torch.testing._internal.common_optimizers import optim_db

Cases = Callable[[str, int], Iterator[Case]]  # of a kind of device, and so many samples


def all_cases() -> dict[str, Cases]:
    """All that can be checked, by name."""
    found: dict[str, Cases] = {name_of(op): functools.partial(operator_cases, op) for op in op_db}
    found |= {f"module {info.name}": functools.partial(module_cases, info) for info in module_db}
    for info in optim_db:
        found[f"optimizer {info.optim_cls.__name__}"] = functools.partial(optimizer_cases, info)
    return found


def checked(name: str, cases: Iterator[Case]) -> Outcome:
    """Compare with the CPU what each case gives on `cuda`."""
    outcome = Outcome(name)
    for case in cases:
        try:
            expected = case.compute("cpu", True)
        except Unmade as exc:
            outcome.checks += 1
            outcome.failed(case.what, exc)
            continue
        except Exception:
            continue  # not for a CPU
        outcome.checks += 1
        try:
            given = case.compute("cuda", expected.gradients is not None)
            results = [expected.results, given.results]
            if case.first_only:
                results = [each[0] for each in results]
            compare(*results, given.device, case.loose, case.defined)
            if expected.gradients is not None:
                compare(expected.gradients, given.gradients, given.device, case.loose)
            outcome.passed += 1
        except Exception as exc:
            outcome.failed(case.what, exc)
    return outcome


def described(cases: Iterator[Case], done: int) -> dict[str, Any]:
    """Describe what each case gives on `cuda`, from one on; less than all where the device is lost to this process."""
    found: dict[str, Any] = {}
    for number, case in enumerate(cases):
        if number < done:
            continue
        found[case.what] = description = describe(case)
        if "raised" in description and not usable():
            return {"checks": found, "lost": True}
    return {"checks": found, "lost": False}


def _corrupt_reads() -> None:
    """Change all that is fetched from the destination: the control run, in which operators have to fail."""
    from avec.interception.torch.recording import Recording

    read = Recording.read

    def corrupted(self: Recording, asked: Any, into: Any) -> None:
        read(self, asked, into)
        values = torch.from_numpy(into).view(getattr(torch, asked.meta.dtype))
        if values.dtype == torch.bool:
            values.logical_not_()
        elif values.dtype.itemsize == 1 or not (values.is_floating_point() or values.is_complex()):
            torch.from_numpy(into).bitwise_xor_(1)
        else:
            values.copy_(torch.where(values.isfinite(), values * 2 + 1, torch.zeros_like(values)))

    Recording.read = corrupted  # type: ignore[method-assign]


def main() -> None:
    """Check what is named on stdin; answer each with a line of JSON on the given descriptor."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--answers", type=int, required=True, help="descriptor to write to")
    parser.add_argument("--samples", type=int, required=True)
    parser.add_argument("--describe", action="store_true")
    parser.add_argument("--corrupt", action="store_true")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    if torch.cuda.get_device_capability()[0] == 0:
        # CPUs have a flash kernel of their own, which CUDA's way to attention does not lead to.
        torch.backends.cuda.enable_flash_sdp(False)
    if options.corrupt:
        _corrupt_reads()
    found = all_cases()
    with os.fdopen(options.answers, "w", buffering=1) as answers:
        print(json.dumps(list(found)), file=answers)
        for line in sys.stdin:
            done, _, name = line.strip().partition(" ")
            if options.describe:
                print(json.dumps(described(found[name]("cuda", options.samples), int(done))), file=answers)
            else:
                print(json.dumps(asdict(checked(name, found[name]("cpu", options.samples)))), file=answers)


if __name__ == "__main__":
    main()
