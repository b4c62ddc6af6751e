"""Computes a net, waits for a line on stdin, and goes on: what it says about a destination that went away meanwhile."""

from __future__ import annotations

import os
import sys

import cv2
import numpy as np


def outcome(net: cv2.dnn.Net) -> str:
    """What a forward pass comes to."""
    try:
        net.setInput(np.ones((1, 3, 16, 16), np.float32))
        return str(net.forward().shape)
    except Exception as exc:
        return f"{type(exc).__module__}.{type(exc).__name__}"


def main() -> None:
    """Compute before and after."""
    net = cv2.dnn.readNet(sys.argv[1])
    print("before:", outcome(net), flush=True)
    child = os.fork()
    if not child:
        print("child, its parent's net:", outcome(net), flush=True)
        print("child, its own net:", outcome(cv2.dnn.readNet(sys.argv[1])), flush=True)
        os._exit(0)
    os.waitpid(child, 0)
    print("ready", flush=True)
    sys.stdin.readline()
    print("after:", outcome(net), flush=True)
    print("again:", outcome(net), flush=True)
    print("read again:", outcome(cv2.dnn.readNet(sys.argv[1])), flush=True)


if __name__ == "__main__":
    main()
