"""The file that says what the paper's experiments are run on: three tiers, sizes, and how long it may take.

Not here: what is measured (`plan`).
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

import msgspec

from avec.bench.links import LOOPBACK, LinkProfile, profile
from avec.errors import ConfigurationError

SMALL_MODEL = "pose_people"
LOCAL = "local"  # a destination that is started on this machine
APPLICATION = Path(__file__).parents[4] / "examples" / "openpose"  # in a clone


class Sizes(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How much is measured; the tables say what there was time for."""

    images: tuple[int, ...] = (64, 128, 256)
    video: int = 204  # frames
    cycle: int = 20  # frames of the network alone, one after the other
    in_turn: int = 16  # pictures, and frames, of the application without overlap
    seconds: float = 60.0  # after which a test stops
    warm: int = 3  # frames before a test, which are not timed


class SomeSizes(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Sizes of one tier, or of one link, where they are others."""

    images: tuple[int, ...] | None = None
    video: int | None = None
    cycle: int | None = None
    in_turn: int | None = None
    seconds: float | None = None
    warm: int | None = None

    def over(self, sizes: Sizes) -> Sizes:
        """Those sizes, but for what is said here."""
        said = {name: getattr(self, name) for name in self.__struct_fields__ if getattr(self, name) is not None}
        return msgspec.structs.replace(sizes, **said)


class Device(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The weak machine: it computes natively on some threads of this machine, and is the host of the other tiers."""

    threads: int
    sizes: SomeSizes = SomeSizes()


class Remote(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A tier that computes for the device: an edge node, or the cloud."""

    destination: str = LOCAL  # or a URL
    threads: int = 0  # of a local destination's CPU; with 0 it uses this machine's GPU
    links: tuple[str, ...] = (LOOPBACK,)
    sizes: SomeSizes = SomeSizes()  # over all links, and natively
    link_sizes: dict[str, SomeSizes] = {}


class Sweep(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Networks of the same input and output but of other widths: from which size on does offloading pay?"""

    widths: tuple[float, ...] = ()
    frames: int = 6
    seconds: float = 4.0


class File(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The whole file."""

    device: Device
    edge: Remote | None = None
    cloud: Remote | None = None
    sizes: Sizes = Sizes()
    sweep: Sweep = Sweep()
    model: str = "coco"
    numerics: str = "strict"
    application: str = ""
    sets: str = ""  # a folder that the application's training/render_sets.py made; empty: pictures are rendered anew
    budget_s: float = 3600.0


@dataclass(frozen=True, slots=True)
class Tier:
    """An edge or cloud tier, over one link."""

    name: str
    remote: Remote
    link: LinkProfile
    sizes: Sizes


def read(path: Path) -> File:
    """Read a file of tiers.

    Raises:
        ConfigurationError: it cannot be read, or is none.
    """
    try:
        found = msgspec.convert(tomllib.loads(path.read_text("utf-8")), File)
    except (OSError, ValueError) as exc:
        raise ConfigurationError(
            f"cannot read the tiers {path}: {exc}; docs/results.md says what stands there"
        ) from exc
    for remote in remotes(found).values():
        for name in (*remote.links, *remote.link_sizes):
            profile(name)
    application = (path.parent / found.application) if found.application else APPLICATION
    if not (application / "openpose.py").is_file():
        raise ConfigurationError(
            f"there is no OpenPose application in {application}: run this from a clone of AVEC's repository, or name"
            f" its folder examples/openpose as `application` in {path}"
        )
    sets = str(path.parent / found.sets) if found.sets else ""
    return msgspec.structs.replace(found, application=str(application), sets=sets)


def small(file: File) -> File:
    """The same tiers, with the network that a CPU computes in a fraction of a second."""
    return msgspec.structs.replace(file, model=SMALL_MODEL)


def remotes(file: File) -> dict[str, Remote]:
    """The tiers besides the device, by name."""
    return {name: tier for name, tier in (("edge", file.edge), ("cloud", file.cloud)) if tier is not None}


def over_links(name: str, remote: Remote, sizes: Sizes) -> list[Tier]:
    """A tier over each of its links."""
    own = remote.sizes.over(sizes)
    return [
        Tier(name, remote, profile(link), remote.link_sizes.get(link, SomeSizes()).over(own)) for link in remote.links
    ]
