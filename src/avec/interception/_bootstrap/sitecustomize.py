"""What `avec run` puts first on PYTHONPATH: the first AVEC code in every Python process that it reaches.

It waits for the import of an intercepted library and only then imports AVEC. It runs in interpreters that AVEC does
not know, so it imports nothing but sys and os and keeps to what Python 2.7 reads too, where real Caffe may live: a
bootstrap that cannot be read would let the program compute on the host. It is alone in its folder, because anything
beside it would shadow the application's own imports.
"""

import os
import sys

INTERCEPTED = (
    "caffe",
    "cv2",
    "onnxruntime",
    "torch",
)  # the modules of avec.interception.FRONT_ENDS, which a test holds equal
CANNOT_INTERCEPT = 78  # EX_CONFIG of sysexits.h


def stop(reason):
    # type: (str) -> None
    """End the process: Python would only report an exception from here and run on without interception."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    os.write(2, ("avec: " + reason + "\n").encode("utf-8", "backslashreplace"))
    os._exit(CANNOT_INTERCEPT)


class Finder:
    """Stands on sys.meta_path until the first import of an intercepted library, then makes way for AVEC's own."""

    avec_bootstrap = True  # by this avec.interception knows it

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        # type: (str, object, object) -> object
        """Find an intercepted module; None for all others. Source: importlib.abc.MetaPathFinder."""
        if name not in INTERCEPTED:
            return None
        try:
            from avec.interception import take_over
        except Exception as exc:
            stop(
                "cannot intercept '" + name + "' in " + str(sys.executable) + ": " + str(exc)
                + "; install avec for this interpreter, or set AVEC_DISABLE=1 for this process"
            )  # fmt: skip
        return take_over(cls).find_spec(name, path, target)  # type: ignore[arg-type]  # as importlib passed them

    find_module = find_spec  # PEP 302, before Python 3.4: there it never gets as far as to find one


if os.environ.get("AVEC_DISABLE", "").strip().lower() not in ("1", "true", "yes", "on"):
    try:
        sys.meta_path.insert(0, Finder)  # type: ignore[arg-type]  # `object` stands for types of typing
    except Exception as exc:
        stop("cannot set up interception in " + str(sys.executable) + ": " + repr(exc))

# Python imports one sitecustomize only, and this one came first: make way for the one that it hides. What that one
# raises, its absence included, is left to `site`, which treats it as it would have done without AVEC.
folder = os.path.dirname(os.path.abspath(__file__))
sys.path[:] = [each for each in sys.path if os.path.abspath(each) != folder]
hidden = sys.modules.pop("sitecustomize")  # held, because Python 2 empties a module that nobody holds
import sitecustomize  # type: ignore[import-not-found]  # noqa: E402, F401
