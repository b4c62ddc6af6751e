"""Runs checks: `run.py MODULE…` imports modules beside it and calls their `check_*`; says a line of JSON for each.

`MODULE.CHECK` is that one alone.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
import traceback

import torch

if __name__ == "__main__":
    torch.set_num_threads(1)
    for argument in sys.argv[1:]:
        name, _, only = argument.partition(".")
        module = importlib.import_module(name)
        for key, check in list(vars(module).items()):
            if not key.startswith("check_") or only not in ("", key):
                continue
            began = time.perf_counter()
            error = ""
            try:
                check()
            except Exception:
                error = traceback.format_exc()
            took_s = time.perf_counter() - began
            print(json.dumps({"check": f"{name}.{key}", "error": error, "took_s": round(took_s, 2)}), flush=True)
