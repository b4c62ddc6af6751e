"""Layers of the type ImageData: image files that a text file lists, each with its label.

Source: caffe/src/caffe/layers/image_data_layer.cpp.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

import numpy as np

from avec.errors import InvalidArgument, InvalidData
from avec.formats.caffe.message import Message

from . import images
from .source import Floats, Shape, described, positive
from .transformation import Transformation

_NUMBER = re.compile(r"\s*([+-]?\d+)")


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of the list."""

    number: int  # of the line, from 1 on
    name: str
    label: int


class ImageListReader:
    """Reads the files of one list in turn, around and around."""

    def __init__(self, layer: Message, transformation: Transformation, random: np.random.Generator) -> None:
        settings = layer.image_data_param
        self._batch = positive(layer, "image_data_param", "batch_size")
        self._size = _size(layer)
        self._colour = images.Colour.COLOUR if settings.is_color else images.Colour.GREY
        self._root = str(settings.root_folder)
        self._shuffle = bool(settings.shuffle)
        self._transformation = transformation
        self._random = random
        self._source = str(settings.source)
        self._entries = read_list(self._source, described(layer))
        self._reshuffle()
        self._place = _skip(layer, random, len(self._entries))
        picture, _, source = self._picture()
        self._first = self._transformation.shape(images.channels_first(picture).shape, source)

    def shapes(self) -> list[Shape]:
        return [(self._batch, *self._first), (self._batch,)]

    def read(self) -> list[Floats]:
        data = np.empty(0, np.float32)
        labels = np.empty(self._batch, np.float32)
        for place in range(self._batch):
            picture, labels[place], source = self._picture()
            item = images.channels_first(picture)
            if place == 0:  # a batch of one may have another size than the one before
                data = np.empty((self._batch, *self._transformation.shape(item.shape, source)), np.float32)
            self._transformation.apply(item, data[place], source)
            self._advance()
        return [data, labels]

    def close(self) -> None:
        """Nothing stays open between images."""

    def _picture(self) -> tuple[images.Picture, int, str]:
        entry = self._entries[self._place]
        source = f"{self._source}, line {entry.number}"
        if not entry.name:
            raise InvalidData(f"{source}: it names no file; a line is a file's name, a space and a label")
        return images.read(self._root + entry.name, self._colour, source, self._size), entry.label, source

    def _advance(self) -> None:
        self._place += 1
        if self._place == len(self._entries):
            self._place = 0
            self._reshuffle()

    def _reshuffle(self) -> None:
        if self._shuffle:
            self._entries = [self._entries[place] for place in self._random.permutation(len(self._entries))]


def read_list(path: str, layer: str) -> list[Entry]:
    """Read a list of images and labels.

    As Caffe does, the last space divides name and label, and a label counts as far as it is a number, else as 0.

    Raises:
        InvalidData: it cannot be read, or is empty.
    """
    try:
        with open(path, "rb") as file:
            content = os.fsdecode(file.read())
    except OSError as exc:
        raise InvalidData(
            f"{layer}: its source {path!r} cannot be opened: {exc.strerror} (working directory {os.getcwd()}); name a "
            "text file that lists images"
        ) from exc
    if "\0" in content:
        raise InvalidData(
            f"{path}: this is a binary file; name a text file with one image's name and label on each line"
        )
    lines = content.split("\n")
    if not lines[-1]:
        lines.pop()
    if not lines:
        raise InvalidData(f"{path}: the list is empty; write an image's name, a space and a label on each line")
    return [_entry(number, line) for number, line in enumerate(lines, 1)]


def _entry(number: int, line: str) -> Entry:
    name, space, label = line.rpartition(" ")
    found = _NUMBER.match(label)
    return Entry(number, name if space else line, int(found[1]) if found else 0)


def _size(layer: Message) -> tuple[int, int] | None:
    height, width = int(layer.image_data_param.new_height), int(layer.image_data_param.new_width)
    if bool(height) != bool(width):
        raise InvalidArgument(
            f"{described(layer)}: new_height is {height} and new_width {width}; set both of them, or none"
        )
    return (height, width) if height else None


def _skip(layer: Message, random: np.random.Generator, count: int) -> int:
    """Where to begin."""
    limit = int(layer.image_data_param.rand_skip)
    place = int(random.integers(limit)) if limit else 0
    if place >= count:
        raise InvalidData(
            f"{layer.image_data_param.source}: {described(layer)} skips {place} of {count} images; lower rand_skip "
            f"to at most {count}"
        )
    return place
