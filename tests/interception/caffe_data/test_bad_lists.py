"""Malformed lists of images, images, and window files, and settings of the layers that read them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from avec.errors import InvalidArgument
from avec.formats.caffe.message import Message
from interception.caffe_data.bad_data import (
    Bad,
    check,
    image_data,
    listed,
    window_data,
)

IMAGE = "# 0\nimages/one.png\n3\n18\n24\n"
WINDOWS = f"{IMAGE}2\n1 1 0 0 9 9\n1 0 3 3 9 9\n"

CASES = {
    "list_missing": Bad(
        image_data("none.txt"),
        "layer 'in' (ImageData): its source 'none.txt' cannot be opened: No such file",
        "lists images",
    ),
    "list_empty": Bad(image_data(), "list.txt: the list is empty", "write an image's name", listed("")),
    "list_binary": Bad(
        image_data("pixels.lmdb/data.mdb"), "pixels.lmdb/data.mdb: this is a binary file", "name a text file"
    ),
    "list_with_an_empty_line": Bad(
        image_data(), "list.txt, line 2: it names no file", "a space and a label", listed("images/one.png 1\n\n")
    ),
    "image_missing": Bad(
        image_data(),
        "list.txt, line 2: 'images/none.png' cannot be opened: No such file",
        "check the line and root_folder",
        listed("images/one.png 1\nimages/none.png 2\n"),
    ),
    "image_name_has_a_space": Bad(
        image_data(),
        "list.txt, line 1: 'images/three of' cannot be opened",
        "check the line",
        listed("images/three of them.png"),
    ),
    "image_is_a_folder": Bad(
        image_data(), "list.txt, line 1: 'images' cannot be opened: Is a dir", "check", listed("images 1")
    ),
    "image_damaged": Bad(
        image_data(),
        "list.txt, line 1: 'list.txt': the 10 bytes, which begin with 6c 69 73 74",
        "replace the file",
        listed("list.txt 1"),
    ),
    "image_of_another_size": Bad(
        image_data(),
        "list.txt, line 2: the item becomes (3, 36, 48), the first one of its batch (3, 18, 24)",
        "new_height",
        listed("images/one.png 1\nimages/six.jpg 2\n"),
    ),
    "image_size_half_given": Bad(
        image_data("same.txt", "new_width: 3"),
        "layer 'in' (ImageData): new_height is 0 and new_width 3",
        "set both",
        error=InvalidArgument,
    ),
    "image_skip_beyond_the_end": Bad(
        image_data(settings="rand_skip: 4000000"),
        "list.txt: layer 'in' (ImageData) skips ",
        "lower rand_skip to at most 1",
        listed("images/one.png 1\n"),
    ),
    "windows_missing": Bad(
        window_data(source="none.txt"),
        "layer 'in' (WindowData): its source 'none.txt' cannot be opened",
        "name a window file",
    ),
    "windows_empty": Bad(
        window_data(), "list.txt, line 1: the file ends where an image's '#' is missing", "index", listed("\n")
    ),
    "windows_of_another_layout": Bad(
        window_data(),
        "list.txt, line 1: 'images/one.png' stands where the next image begins",
        "layout",
        listed("images/one.png 1"),
    ),
    "windows_no_number": Bad(
        window_data(),
        "list.txt, line 7: 'nine' stands where a window's x2 is expected",
        "the layout is",
        listed(f"{IMAGE}1\n1 1 0 0 nine 9\n"),
    ),
    "windows_end_early": Bad(
        window_data(),
        "list.txt, line 7: the file ends where a window's class is missing",
        "the layout is",
        listed(f"{IMAGE}2\n1 1 0 0 9 9\n"),
    ),
    "windows_foreground_of_class_0": Bad(
        window_data(),
        "list.txt, line 7: a foreground window has the class 0",
        "begin with 1",
        listed(f"{IMAGE}1\n0 1 0 0 9 9\n"),
    ),
    "windows_image_misnumbered": Bad(
        window_data(),
        "list.txt, line 7: the window belongs to image 4 of 1",
        "number the images from 0",
        listed(WINDOWS.replace("# 0", "# 4")),
    ),
    "windows_without_background": Bad(
        window_data(), "list.txt: no window is background", "change the thresholds", listed(f"{IMAGE}1\n1 1 0 0 9 9\n")
    ),
    "windows_image_missing": Bad(
        window_data(),
        "list.txt, line 8: 'images/none.png' cannot be opened",
        "check the line",
        listed(WINDOWS.replace("one", "none")),
    ),
    "windows_outside_of_the_image": Bad(
        window_data(),
        "list.txt, line 8: the window x 3 to 99, y 3 to 9 does not lie in the image",
        "18 rows of 24 pixels",
        listed(WINDOWS.replace("3 3 9", "3 3 99")),
    ),
    "windows_turned_around": Bad(
        window_data(),
        "list.txt, line 8: the window x 9 to 3, y 3 to 9 does not lie in the image",
        "correct the line",
        listed(WINDOWS.replace("0 3 3 9 9", "0 9 3 3 9")),
    ),
    "windows_padded_away": Bad(
        window_data("context_pad: 1"),
        "list.txt, line 8: the window x 60 to 70, y 3 to 9 does not lie",
        "correct the line",
        listed(WINDOWS.replace("0 3 3 9 9", "0 60 3 70 9")),
    ),
    "windows_of_grey_images": Bad(
        window_data(),
        "list.txt, line 8: images are decoded to 3 channels; the file says 1",
        "write 3",
        listed(WINDOWS.replace("png\n3", "png\n1")),
    ),
    "windows_without_crop_size": Bad(
        window_data(transform="", source="windows.txt"),
        "layer 'in' (WindowData): crop_size is 0",
        "transform_param { crop_size",
        error=InvalidArgument,
    ),
    "windows_all_padding": Bad(
        window_data("context_pad: 4", source="windows.txt"),
        "layer 'in' (WindowData): context_pad 4 leaves nothing of crop_size 8",
        "lower it",
        error=InvalidArgument,
    ),
    "windows_mean_too_small": Bad(
        window_data(transform='crop_size: 21 mean_file: "legacy_mean.binaryproto"', source="windows.txt"),
        "legacy_mean.binaryproto: a mean of 20 x 20 is too small for layer 'in' (WindowData)'s crop_size 21",
        "larger images",
    ),
    "windows_mean_of_other_channels": Bad(
        window_data(transform="crop_size: 8 mean_value: 1 mean_value: 2", source="windows.txt"),
        "layer 'in' (WindowData): the mean has 2 channels, the images 3",
        "give one each",
        error=InvalidArgument,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_it_is_refused_in_one_line(name: str, files: Path, layer: Callable[[str], Message]) -> None:
    check(CASES[name], files, layer)
