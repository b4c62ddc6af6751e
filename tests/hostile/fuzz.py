"""Coverage-guided fuzzing of what takes bytes from peers, with atheris (libFuzzer): `make fuzz`, `SECONDS=` for more.

    python tests/hostile/fuzz.py [--seconds 120] [--runs N] [--output RECORD.json]

Each target gets its share of the time, in a process of its own that begins with the golden frames and the corpus of
`corpus/TARGET`. What ends one is kept there as `crash-…` and fails the command; `--keep` also keeps the new inputs that
reach new code. `test_corpus.py` replays all of it without atheris.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

FOLDER = Path(__file__).parent
CORPUS = FOLDER / "corpus"
INPUT_NBYTES = 4096 + 64  # a stranger's bound and a little; longer ones are refused by their length
MEMORY_MB = 1024  # of a fuzzing process, coverage counters and corpus included
HANG_S = 60  # of the wall clock, which other processes share; `targets.SLOW_S` is the limit for an input
SHARES = {"stream": 0.3, "message": 0.4, "plain_stranger": 0.15, "encrypted_stranger": 0.15}


def fuzz_one(name: str, options: list[str]) -> None:
    """Fuzz one target in this process; libFuzzer ends it."""
    import atheris

    with atheris.instrument_imports(include=["avec.protocol", "avec.tensor", "avec.destination.stranger"]):
        import avec.destination.stranger
        import avec.protocol.connection  # noqa: F401
    from hostile.targets import TARGETS

    atheris.Setup([sys.argv[0], *options], TARGETS[name])
    atheris.Fuzz()


def run_target(name: str, seconds: int, runs: int, keep: bool) -> dict[str, object]:
    """Fuzz one target in a process of its own; what became of it."""
    from hostile.seeds import seeds  # not in the process that fuzzes: what is imported before atheris is not traced

    kept = CORPUS / name
    kept.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as found, tempfile.TemporaryDirectory() as begun:
        for place, data in enumerate(seeds()[name]):
            (Path(begun) / str(place)).write_bytes(data)
        options = [
            f"-max_total_time={seconds}", f"-max_len={INPUT_NBYTES}", f"-rss_limit_mb={MEMORY_MB}",
            f"-timeout={HANG_S}", f"-artifact_prefix={kept}/", "-print_final_stats=1", "-verbosity=0", f"-runs={runs}",
            found, str(kept), begun,
        ]  # fmt: skip
        began_s = time.monotonic()
        command = [sys.executable, __file__, "--target", name, "--", *options]
        done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
        took_s = time.monotonic() - began_s
        if done.returncode:
            sys.stderr.write(done.stderr[-6000:])
        elif keep:
            for path in Path(found).iterdir():
                shutil.copy(path, kept / path.name)
    executed = re.search(r"stat::number_of_executed_units:\s*(\d+)", done.stderr)
    peak = re.search(r"stat::peak_rss_mb:\s*(\d+)", done.stderr)
    return {
        "inputs": int(executed[1]) if executed else 0,
        "seconds": round(took_s, 1),
        "peak_memory_mb": int(peak[1]) if peak else None,
        "crashed": done.returncode != 0,
    }


def main() -> int:
    """Fuzz all targets and say how many inputs they took."""
    parser = argparse.ArgumentParser(description="Fuzz what takes bytes from peers.")
    parser.add_argument("--seconds", type=int, default=120, help="in all")
    parser.add_argument("--runs", type=int, default=-1, help="inputs of each target at most")
    parser.add_argument("--keep", action="store_true", help="keep new inputs that reach new code")
    parser.add_argument("--output", type=Path, help="write a record (JSON)")
    parser.add_argument("--target", choices=SHARES, help=argparse.SUPPRESS)
    parser.add_argument("options", nargs="*", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.target:
        fuzz_one(arguments.target, arguments.options)
        return 0
    results = {}
    for name, share in SHARES.items():
        results[name] = run_target(name, max(1, int(arguments.seconds * share)), arguments.runs, arguments.keep)
        print(f"{name}: {results[name]}", flush=True)
    inputs = sum(int(str(each["inputs"])) for each in results.values())
    print(f"{inputs} inputs in all")
    if arguments.output:
        from avec.bench import record

        versions = {name: version(name) for name in ("atheris", "msgspec")}
        record.write(arguments.output, "none", "none", {"inputs": inputs, "versions": versions, "targets": results})
    return 1 if any(each["crashed"] for each in results.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
