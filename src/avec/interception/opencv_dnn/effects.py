"""What calls do to an object of OpenCV's at the destination, so that later ones make earlier ones needless.

What is not listed is taken for a change of anything.
"""

from __future__ import annotations

from collections.abc import Sequence

from avec.host.journal import CHANGES, READS, Effect, Thing
from avec.protocol.opencv_dnn import Invocation

_READERS = frozenset({"dump", "empty", "match"})
# Their result depends on their arguments and on settings; that they run a net shows in nothing but that net.
_COMPUTING = frozenset(
    """
    alignCrop classify detect detectTextRectangles estimate feature predict recognize segment
    """.split()
)
# Each sets one thing, and its last call counts.
_SETTERS = frozenset(
    """
    setBinaryThreshold setConfidenceThreshold setDecodeType setInputCrop setInputMean setInputScale setInputSize
    setInputSwapRB setMaxCandidates setNMSThreshold setNmsAcrossClasses setPolygonThreshold setPreferableBackend
    setPreferableTarget setScoreThreshold setTopK setUnclipRatio setVocabulary
    """.split()
)


class Effects:
    """The effects of calls on one object."""

    def __init__(self, handle: int, uses: Sequence[int]) -> None:
        self._handle = handle
        self._uses = tuple(uses)
        self.used = False  # by another object, which runs it
        self._remembers = False  # passes depend on those before them
        self._written: set[Thing] = set()  # what calls have overwritten apart from passes

    def of(self, calls: Sequence[Invocation]) -> Effect:
        """What calls that go together do."""
        if any(call.method == "enableKVCache" for call in calls):
            self._remembers = True
        given: set[Thing] = set()
        passes: set[Thing] = set()
        for call in calls:
            if call.method in _READERS or call.method.startswith("get"):
                continue
            if call.method in _SETTERS:
                given.add((self._handle, call.method))
            elif call.method == "setInput":
                name = call.args[1] if len(call.args) > 1 else call.kwargs.get("name", "")
                given.add((self._handle, ("input", str(name))))
            elif call.method in ("forward", "forwardAndRetrieve") and not self._remembers:
                passes.add((self._handle, (call.method, repr(call.args), repr(sorted(call.kwargs.items())))))
            elif call.method in _COMPUTING:
                # Whoever holds the net that it runs may look into that.
                passes.update((used, call.method) for used in self._uses)
            else:
                return CHANGES
        if not (given or passes):
            return READS
        if self.used:
            return CHANGES
        self._written |= given
        reads = frozenset(self._written - given) if passes else frozenset()
        return Effect(frozenset(given | passes), None if passes and self._uses else reads, concerns=self._uses)
