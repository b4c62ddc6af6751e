"""A program that says everything about how it was started, and ends or has children in every way a program can.

It knows nothing of AVEC, but for `interception`, which looks whether a process would be intercepted.
"""

import gc
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading


def description() -> dict[str, object]:
    """All that a program can see of its own start."""
    main = sys.modules["__main__"]
    return {
        "argv": sys.argv,
        "orig_argv": sys.orig_argv,
        "path": sys.path,
        "file": getattr(main, "__file__", None),
        "name": __name__,
        "spec": getattr(getattr(main, "__spec__", None), "name", None),
        "package": getattr(main, "__package__", None),
        "main": sorted(vars(main)),
        "modules": sorted(sys.modules),
        "path_hooks": len(sys.path_hooks),
        "cwd": os.getcwd(),
        "flags": str(sys.flags),
        "executable": sys.executable,
        "prefixes": [sys.prefix, sys.base_prefix],
        "terminals": [os.isatty(number) for number in (0, 1, 2)],
        "encodings": [sys.stdin.encoding, sys.stdout.encoding, sys.stderr.errors],
        "hooks": [sys.excepthook is sys.__excepthook__, sys.displayhook is sys.__displayhook__],
        "signals": {each.name: str(signal.getsignal(each)) for each in signal.valid_signals() if hasattr(each, "name")},
        "threads": [thread.name for thread in threading.enumerate()],
        "descriptors": sorted(int(each) for each in os.listdir("/proc/self/fd")),
        "umask": _umask(),
        "session": [os.getsid(0) == os.getsid(os.getppid()), os.getpgrp() == os.getpgid(os.getppid())],
        "gc": [gc.isenabled(), gc.get_threshold()],
        "trace": [sys.gettrace() is None, sys.getprofile() is None],
        "recursion": sys.getrecursionlimit(),
        "environ": {
            name: text for name, text in os.environ.items() if not name.startswith("AVEC_") and name != "PYTHONPATH"
        },
    }


def _umask() -> int:
    value = os.umask(0)
    os.umask(value)
    return value


def interception() -> bool:
    """Whether this process would be intercepted."""
    return any(
        getattr(each, "avec_bootstrap", False) or type(each).__module__ == "avec.interception.patching"
        for each in sys.meta_path
    )


def say(name: str) -> None:
    print(name, interception(), flush=True)


def children() -> None:
    """Start a process in each way there is; each says whether it is intercepted."""
    say("main")
    me = [sys.executable, os.path.abspath(__file__), "say"]
    subprocess.run([*me, "subprocess"], check=True)
    subprocess.run(["/bin/sh", "-c", '"$@"', "sh", *me, "shell"], check=True)
    subprocess.run([sys.executable, "-s", *me[1:], "no-user-site"], check=True)
    pid = os.fork()
    if not pid:
        say("fork")
        os._exit(0)
    os.waitpid(pid, 0)
    for method in ("fork", "spawn", "forkserver"):
        process = multiprocessing.get_context(method).Process(target=say, args=(f"multiprocessing-{method}",))
        process.start()
        process.join()


def raise_deeply(depth: int = 3) -> None:
    if depth:
        raise_deeply(depth - 1)
    raise ValueError("nothing catches this")


def wait_for_a_signal() -> None:
    print("ready", flush=True)
    signal.pause()


def wait_for_children() -> None:
    """What os.wait() sees: nobody that the program has not started."""
    try:
        print("a child", os.wait())
    except ChildProcessError:
        print("no children")


ACTIONS = {
    "describe": lambda: print(json.dumps(description(), indent=1)),
    "say": lambda: say(sys.argv[2]),
    "children": children,
    "exit": lambda: sys.exit(3),
    "exit-with-text": lambda: sys.exit("a last word"),
    "exit-at-once": lambda: os._exit(7),
    "raise": raise_deeply,
    "terminate": lambda: os.kill(os.getpid(), signal.SIGTERM),
    "crash": lambda: os.kill(os.getpid(), signal.SIGSEGV),
    "abort": os.abort,
    "pause": wait_for_a_signal,
    "echo": lambda: print(sys.stdin.read()),
    "wait": wait_for_children,
}

if __name__ == "__main__":
    ACTIONS[sys.argv[1] if len(sys.argv) > 1 else "describe"]()
