"""Compares what cases give under AVEC with what native CUDA gives, bit by bit, by their descriptions (`describing`).

Native CUDA computes everything twice, in two processes: a case in which these differ has no one result to compare with,
so it is left out, and counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any

from hosts import Crashed, Host

Description = dict[str, Any]  # of one check
Descriptions = dict[str, Description]  # of an operator's checks, by what they are
# In the order in which they are told; all but strides make a check differ. A crash is of an operator as a whole.
ASPECTS = ("crash", "missing", "exception", "count", "kind", "value", "strides")
ENDED = "ended"
TEXT_LENGTH = 300  # printed of each; the table has all


@dataclass
class Aspect:
    """In which respect checks of one variant of an operator differ, how many, and the first of them."""

    variant: str
    aspect: str
    first: str
    checks: int = 1


@dataclass
class Comparison:
    """What became of one operator."""

    operator: str
    checks: int = 0  # that have one result natively
    equal: int = 0  # of these, strides apart
    same_strides: int = 0  # of those that are equal
    raising: int = 0  # of those that are equal: the same kind of error
    left_out: int = 0  # since two native runs differ
    differences: list[Aspect] = field(default_factory=list)

    @property
    def passes(self) -> bool:
        """Whether nothing differs, strides included."""
        return not self.differences


def describe(host: Host, operator: str) -> Descriptions:
    """Have a process describe an operator's checks; one that lost its device is replaced by another that goes on."""
    found: Descriptions = {}
    try:
        while True:
            answer = host.ask(operator, len(found))
            found |= answer["checks"]
            if not answer["lost"]:
                return found
            host.stop()
    except Crashed as exc:
        return {ENDED: {"variant": "", "text": str(exc)}}


def compare(operator: str, native: Sequence[Descriptions], given: Descriptions) -> Comparison:
    """Compare AVEC's descriptions with those of two native runs."""
    found = Comparison(operator)
    first, second = native
    if ENDED in first or ENDED in second:
        found.left_out = len(given)
        return found
    if ENDED in given:
        found.checks = 1
        found.differences = [Aspect("", "crash", given[ENDED]["text"])]
        return found
    noted: dict[tuple[str, str], Aspect] = {}
    for what in dict.fromkeys((*first, *given)):
        one, other = first.get(what), given.get(what)
        if one is not None and _unlike(one, second.get(what)):
            found.left_out += 1
            continue
        if one is not None and other is not None and "unmade" in one and "unmade" in other:
            continue
        found.checks += 1
        unlike = _unlike(one, other)
        if set(unlike) <= {"strides"}:
            found.equal += 1
            found.same_strides += not unlike
            found.raising += one is not None and "raised" in one
        variant = (one or other or {})["variant"]
        for aspect, text in unlike.items():
            kept = noted.get((variant, aspect))
            if kept is None:
                noted[variant, aspect] = Aspect(variant, aspect, f"{what}: {text}")
            else:
                kept.checks += 1
    found.differences = sorted(noted.values(), key=lambda each: (each.variant, ASPECTS.index(each.aspect)))
    return found


def _unlike(native: Description | None, given: Description | None) -> dict[str, str]:
    """In which aspects two descriptions differ, each with the first example."""
    if native is None or given is None:
        return {"missing": "not checked natively" if native is None else "not checked under AVEC"}
    ends = [each.get("raised") or each.get("unmade") for each in (native, given)]
    if any(ends):
        texts = [each.get("text", "no error") for each in (native, given)]
        return {} if ends[0] == ends[1] else {"exception": f"natively {texts[0]}; under AVEC {texts[1]}"}
    if native.keys() != given.keys():
        return {"count": f"natively {len(native) - 1} results and gradients; under AVEC {len(given) - 1}"}
    found: dict[str, str] = {}
    for name in native:
        if name != "variant":
            for aspect, text in _unlike_leaves(native[name], given[name]):
                found.setdefault(aspect, f"{name}: {text}")
    return found


def _unlike_leaves(native: Mapping[str, Any], given: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if native["kind"] != given["kind"]:
        yield "kind", f"natively {native['kind']}; under AVEC {given['kind']}"
        return
    if native.get("digest") != given.get("digest"):
        yield "value", f"{native['kind']}: natively of sum {native['sum']}; under AVEC {given['sum']}"
    if native.get("strides") != given.get("strides"):
        yield "strides", f"{native['kind']}: natively {native['strides']}; under AVEC {given['strides']}"
    for name, part in native.items():
        if isinstance(part, dict):
            for aspect, text in _unlike_leaves(part, given[name]):
                yield aspect, f"{name}: {text}"


def summary(found: Sequence[Comparison]) -> str:
    """Figures of all checks."""
    checks, equal = sum(each.checks for each in found), sum(each.equal for each in found)
    raising, left_out = sum(each.raising for each in found), sum(each.left_out for each in found)
    passing = sum(each.passes for each in found)
    return (
        f"{equal} of {checks} checks equal native CUDA's bit by bit, strides apart"
        f" ({raising} of them raise the same kind of error);"
        f" strides are equal in {sum(each.same_strides for each in found)} of these {equal}."
        f" {left_out} checks left out, in which two native runs differ."
        f" {passing} of {len(found)} operators, modules and optimizers are equal throughout"
    )


def report(found: Sequence[Comparison], known: Mapping[str, str], sometimes: Set[str], listing: str) -> int:
    """Print what differs and is not listed, or is listed and does not differ; the exit status."""
    unexpected = [each for each in found if not each.passes and each.operator not in known]
    equal = [each.operator for each in found if each.passes and each.checks]
    mended = [name for name in equal if name in known and name not in sometimes]
    for each in unexpected:
        for difference in each.differences:
            variant = f" {difference.variant}" if difference.variant else ""
            print(f"{each.operator}{variant}: {difference.aspect}, {difference.checks} of {each.checks} checks")
            print(f"    {difference.first[:TEXT_LENGTH]}")
    counts = Counter(difference.aspect for each in unexpected for difference in each.differences)
    if counts:
        kinds = ", ".join(f"{aspect} {counts[aspect]}" for aspect in ASPECTS if counts[aspect])
        print(f"{len(unexpected)} differ that {listing} does not list: {kinds}")
    for name in mended:
        print(f"{name}: equal now; take it off {listing}")
    return 1 if unexpected or mended else 0
