"""Whether training gives the same losses to the last bit natively and under AVEC, and how long its steps take.

The same program trains natively on this machine's accelerator, then under AVEC with a destination on this machine.
On a GPU every workload is compared; on a CPU those without autocast and dropout: torch has other rules for autocast
there, and draws dropout's numbers in another way.
Writes one record to benchmarks/results.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from pathlib import Path

from processes import HERE, destination, run, run_avec
from record import summary, write

COMPARABLE_ON_CPU = "resnet50_sgd,gpt_adamw_fused"
WARM_STEPS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--work", default="", help="comma list; default all that can be compared here")
    parser.add_argument("--note", default="", help="what else was going on, for the record")
    parser.add_argument("--results", type=Path, help="the record's folder; default benchmarks/results")
    arguments = parser.parse_args()
    import torch

    gpu = torch.cuda.is_available()
    loop = [str(HERE / "torch_training_loop.py"), "--steps", str(arguments.steps), *([] if gpu else ["--small"])]
    if work := arguments.work or ("" if gpu else COMPARABLE_ON_CPU):
        loop += ["--work", work]
    # One thread of computing on each side: sums over several threads need not be in one order.
    os.environ.update(OMP_NUM_THREADS="1", OMP_WAIT_POLICY="passive")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["AVEC_CACHE_DIR"] = folder
        native = run(loop)
        with destination() as url:
            remote = run_avec(url, loop)
    results = {name: compared(native["work"][name], remote["work"][name]) for name in native["work"]}
    kind = "cuda" if gpu else "cpu"
    name = torch.cuda.get_device_name() if gpu else "CPU of this machine, one thread"
    path = write(
        f"torch-training-{kind}",
        name,
        "loopback, no added delay",
        {"note": arguments.note, "work": results},
        arguments.results,
    )
    for name, each in results.items():
        same = f"losses equal bit by bit over {each['steps']} steps" if each["equal"] else "losses DIFFER"
        print(f"{name:32s} {same}; step {each['ratio_p50']:.2f} of native")
    print(f"record: {path}")


def compared(native: dict, remote: dict) -> dict[str, object]:
    native_ms, remote_ms = ([1e3 * each for each in one["step_s"][WARM_STEPS:]] for one in (native, remote))
    different = [
        place for place, pair in enumerate(zip(native["losses"], remote["losses"], strict=True)) if len({*pair}) > 1
    ]
    return {
        "steps": len(native["losses"]),
        "equal": not different,
        "first_different_step": different[0] if different else None,
        "last_loss": {"native": native["losses"][-1], "avec": remote["losses"][-1]},
        "native_step_ms": summary(native_ms),
        "avec_step_ms": summary(remote_ms),
        "ratio_p50": statistics.median(remote_ms) / statistics.median(native_ms),
    }


if __name__ == "__main__":
    main()
