"""What PyTorch's operators cost the host under AVEC, with a destination on this machine. Writes one record.

Where this machine has a GPU the same loop also runs natively: what an eager launch costs there stands beside it.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

from processes import HERE, destination, run, run_avec
from record import summary, write

from avec.interception.torch import building


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bursts", type=int, default=40)
    parser.add_argument("--native", action="store_true", help="measure AVEC's kernels in C++, too; compiles them")
    parser.add_argument("--note", default="", help="what else was going on, for the record")
    parser.add_argument("--results", type=Path, help="the record's folder; default benchmarks/results")
    arguments = parser.parse_args()
    import torch

    gpu = torch.cuda.is_available()
    loop = [str(HERE / "torch_cost_loop.py"), "--bursts", str(arguments.bursts)]
    results: dict[str, object] = {"note": arguments.note}
    if gpu:
        results["native"] = summarised(run(loop))
    with tempfile.TemporaryDirectory() as folder:
        os.environ.update(AVEC_CACHE_DIR=folder, AVEC_TORCH_NATIVE="off", OMP_WAIT_POLICY="passive")
        with destination() as url:
            results["avec"] = avec = summarised(run_avec(url, loop))
            if arguments.native:
                building.build(Path(folder))
                os.environ["AVEC_TORCH_NATIVE"] = "required"
                results["avec_with_kernels_in_cpp"] = avec = summarised(run_avec(url, loop))
    name = torch.cuda.get_device_name() if gpu else "CPU of this machine"
    path = write(f"torch-cost-{'cuda' if gpu else 'cpu'}", name, "loopback, no added delay", results, arguments.results)
    for each, figures in avec.items():
        print(
            f"{each:24s} {figures['cpu_us']['p50']:9.2f} us of the thread, {figures['wall_us']['p50']:9.2f} us in all"
        )
    print(f"record: {path}")


def summarised(found: dict) -> dict[str, dict[str, dict[str, float]]]:
    """Each operator's figures, microseconds of a call, over the bursts."""
    return {name: {kind: summary(values) for kind, values in kinds.items()} for name, kinds in found.items()}


if __name__ == "__main__":
    main()
