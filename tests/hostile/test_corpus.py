"""What the fuzzer has found, and where it began, replayed without it: nothing raises, nothing takes long."""

from __future__ import annotations

import pytest

from hostile.fuzz import CORPUS, SHARES
from hostile.seeds import seeds
from hostile.targets import TARGETS


@pytest.mark.parametrize("name", TARGETS)
def test_the_corpus_breaks_nothing(name: str) -> None:
    found = {str(path): path.read_bytes() for path in sorted((CORPUS / name).glob("*"))}
    begun = {f"seed {place}": data for place, data in enumerate(seeds()[name])}
    assert begun
    for what, data in {**begun, **found}.items():
        try:
            TARGETS[name](data)
        except BaseException as exc:
            exc.add_note(f"the input is {what}")
            raise


def test_every_target_gets_a_share_of_the_time() -> None:
    assert SHARES.keys() == TARGETS.keys()
    assert sum(SHARES.values()) == pytest.approx(1.0)
