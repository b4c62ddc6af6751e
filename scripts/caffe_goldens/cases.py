"""Write all golden cases as JSON, to be read beside real Caffe: `python cases.py > cases.json`."""

from __future__ import annotations

import json
import sys
from collections import Counter
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "openpose"))

from backward_cases import backward_cases
from gradient_cases import gradient_cases
from layer_cases import layer_cases
from net_cases import net_cases
from random_cases import random_cases
from refused_cases import refused_cases
from run_cases import refused_solvers, run_cases
from shaping_cases import shaping_cases
from training_cases import solver_cases, training_cases


def main() -> None:
    cases, training = layer_cases() + shaping_cases() + net_cases(), training_cases()
    training += gradient_cases() + backward_cases()
    repeated = [
        key for key, count in Counter((case.group, case.name) for case in cases + training).items() if count > 1
    ]
    if repeated:
        raise SystemExit(f"cases.py: names must be unique in their group: {repeated}")
    document = {
        "cases": [asdict(case) for case in cases],
        "refused": [asdict(case) for case in refused_cases()],
        "training": [asdict(case) for case in training],
        "solvers": [asdict(case) for case in solver_cases()],
        "runs": [asdict(case) for case in run_cases()],
        "random": [asdict(case) for case in random_cases()],
        "refused_solvers": [asdict(case) for case in refused_solvers()],
    }
    json.dump(document, sys.stdout, indent=1)


if __name__ == "__main__":
    main()
