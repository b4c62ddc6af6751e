"""What a session tells of its model: stand-ins for the native NodeArg and ModelMetadata."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from avec.protocol.onnx import Argument, Metadata

from .library import library


@dataclass(frozen=True, eq=False, repr=False)
class NodeArg:
    """One input, output or overridable initializer."""

    name: str
    type: str
    shape: list[int | str | None]

    @property  # type: ignore[misc]  # so that isinstance() takes it for the native one
    def __class__(self) -> Any:
        return library().native.NodeArg

    def __str__(self) -> str:
        return f"NodeArg(name='{self.name}', type='{self.type}', shape={self.shape})"


@dataclass(frozen=True, eq=False, repr=False)
class ModelMetadata:
    """What the model says of itself."""

    producer_name: str
    graph_name: str
    domain: str
    description: str
    graph_description: str
    version: int
    custom_metadata_map: dict[str, str] = field(default_factory=dict)

    @property  # type: ignore[misc]  # so that isinstance() takes it for the native one
    def __class__(self) -> Any:
        return library().native.ModelMetadata


def node_args(arguments: tuple[Argument, ...]) -> list[NodeArg]:
    """The stand-ins for arguments."""
    return [NodeArg(each.name, each.type, list(each.shape)) for each in arguments]


def model_metadata(metadata: Metadata) -> ModelMetadata:
    """The stand-in for a model's metadata."""
    return ModelMetadata(
        metadata.producer_name,
        metadata.graph_name,
        metadata.domain,
        metadata.description,
        metadata.graph_description,
        metadata.version,
        metadata.custom,
    )
