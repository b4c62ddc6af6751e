"""Write the data files and the cases of Caffe's data layers: `data_files.py FOLDER`.

Everything is drawn from seeds. FOLDER gets the files that layers read, and `cases.json`: for each case a prototxt whose
paths are relative to FOLDER. `data_values.py` runs them with real Caffe.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import cv2
import h5py
import lmdb
import numpy as np
import numpy.typing as npt

from avec.formats.caffe.caffemodel import blob
from avec.formats.caffe.message import message_class

Pixels = npt.NDArray[np.uint8]

Datum = message_class("Datum")


def picture(seed: int, height: int, width: int, channels: int = 3) -> Pixels:
    """A smooth picture with some noise, as photographs have: JPEG and resizing act on it as they do on those."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (3, 3, channels)).astype(np.float32)
    smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC).reshape(height, width, channels)
    return np.clip(smooth + random.normal(0, 6, smooth.shape), 0, 255).astype(np.uint8)


def write_lmdb(path: Path, data: list[Any]) -> None:
    with lmdb.open(str(path), map_size=1 << 20) as environment, environment.begin(write=True) as transaction:
        for number, datum in enumerate(data):
            transaction.put(b"%08d" % number, datum.SerializeToString())
    (path / "lock.mdb").unlink()


def pixel_datum(pixels_HWC: Pixels, label: int) -> Any:
    height, width, channels = pixels_HWC.shape
    data = pixels_HWC.transpose(2, 0, 1).tobytes()
    return Datum(channels=channels, height=height, width=width, data=data, label=label)


def float_datum(seed: int, label: int) -> Any:
    values = np.random.default_rng(seed).normal(0, 3, 2 * 6 * 5).astype(np.float32)
    return Datum(channels=2, height=6, width=5, float_data=values.tolist(), label=label)


def encoded_datum(pixels: Pixels, kind: str, label: int) -> Any:
    _, data = cv2.imencode(f".{kind}", pixels)
    return Datum(data=data.tobytes(), encoded=True, label=label)


def write_databases(folder: Path) -> None:
    write_lmdb(folder / "pixels.lmdb", [pixel_datum(picture(n, 10, 12), 3 * n - 2) for n in range(7)])
    write_lmdb(folder / "floats.lmdb", [float_datum(n, n) for n in range(5)])
    write_lmdb(folder / "sizes.lmdb", [pixel_datum(picture(20 + n, 6 + n, 9 - n), n) for n in range(4)])
    kinds = ["png", "jpg", "png", "bmp"]
    write_lmdb(folder / "colour.lmdb", [encoded_datum(picture(30 + n, 11, 13), kinds[n], n) for n in range(4)])
    grey = [encoded_datum(picture(40 + n, 11, 13, 1), kinds[n], 9 - n) for n in range(2)]
    write_lmdb(folder / "grey.lmdb", grey)
    mixed = [encoded_datum(picture(50, 11, 13), "jpg", 1), *grey, encoded_datum(picture(51, 11, 13, 4), "png", 2)]
    write_lmdb(folder / "mixed.lmdb", mixed)
    mean = picture(60, 10, 12).transpose(2, 0, 1).astype(np.float32)[np.newaxis] / 2
    stored = message_class("BlobProto")()
    stored.update_from_plain(blob(mean))
    (folder / "mean.binaryproto").write_bytes(stored.SerializeToString())
    legacy = message_class("BlobProto")(num=1, channels=3, height=20, width=20)
    legacy.data.extend(np.random.default_rng(61).uniform(0, 200, 1200).astype(np.float32))
    (folder / "legacy_mean.binaryproto").write_bytes(legacy.SerializeToString())


def write_images(folder: Path) -> None:
    (folder / "images").mkdir()
    made = {
        "one.png": picture(70, 18, 24),
        "two.jpg": picture(71, 18, 24),
        "three of them.png": picture(72, 18, 24, 1),
        "four.jpg": picture(73, 31, 17, 1),
        "five.png": picture(74, 25, 40, 4),
        "six.jpg": picture(75, 36, 48),
    }
    for name, pixels in made.items():
        cv2.imwrite(str(folder / "images" / name), pixels)
    wide = picture(76, 18, 24).astype(np.uint16) * 257 + 100
    cv2.imwrite(str(folder / "images" / "seven.png"), wide)
    (folder / "same.txt").write_text("one.png 4\ntwo.jpg 17\nthree of them.png -3\n")
    (folder / "all.txt").write_text("".join(f"images/{name} {n}\n" for n, name in enumerate([*made, "seven.png"])))
    (folder / "labels.txt").write_text("images/one.png 12abc\nimages/two.jpg cat")
    (folder / "windows.txt").write_text(
        "# 0\nimages/one.png\n3\n18\n24\n1\n5 0.9 3 2 15 12\n"
        "# 1\nimages/six.jpg\n3\n36\n48\n2\n4 0.2 20 9 40 35\n3 0.55 1 1 5 5\n"
    )
    (folder / "edge_windows.txt").write_text("# 0\nimages/six.jpg\n3\n36\n48\n2\n2 1 0 0 30 20\n1 0 33 5 47 35\n")


def write_hdf5(folder: Path) -> None:
    random = np.random.default_rng(80)
    for number, rows in enumerate((5, 3)):
        with h5py.File(folder / f"rows{number}.h5", "w") as file:
            file["data"] = random.normal(0, 1, (rows, 2, 3, 4)).astype(np.float32)
            file["wide"] = random.normal(0, 1, (rows, 7))
            file["label"] = random.integers(-5, 50, rows)
            file["bytes"] = random.integers(0, 256, (rows, 2)).astype(np.uint8)
    (folder / "rows.txt").write_text("rows0.h5\nrows1.h5\n")
    (folder / "row.txt").write_text("  rows0.h5")


def data(source: str, settings: str = "", transform: str = "", tops: str = 'top: "data" top: "label"') -> str:
    return (
        f'layer {{ name: "source" type: "Data" {tops} data_param {{ source: "{source}" backend: LMDB {settings} }} '
        f"transform_param {{ {transform} }} }}"
    )


def image_data(source: str, settings: str = "", transform: str = "") -> str:
    return (
        'layer { name: "source" type: "ImageData" top: "data" top: "label" '
        f'image_data_param {{ source: "{source}" {settings} }} transform_param {{ {transform} }} }}'
    )


def hdf5_data(source: str, tops: list[str], batch: int) -> str:
    names = " ".join(f'top: "{top}"' for top in tops)
    settings = f'source: "{source}" batch_size: {batch}'
    return f'layer {{ name: "source" type: "HDF5Data" {names} hdf5_data_param {{ {settings} }} }}'


def window_data(source: str, settings: str, transform: str) -> str:
    return (
        'layer { name: "source" type: "WindowData" top: "data" top: "label" window_data_param { batch_size: 4 '
        f'source: "{source}" fg_threshold: 0.6 bg_threshold: 0.3 {settings} }} transform_param {{ {transform} }} }}'
    )


SAME = 'root_folder: "images/" batch_size: 2'

# name, prototxt of the layer, batches to read
CASES = [
    ("pixels", data("pixels.lmdb", "batch_size: 3"), 4),
    ("pixels_without_label", data("pixels.lmdb", "batch_size: 2", tops='top: "data"'), 2),
    ("pixels_batch_above_epoch", data("pixels.lmdb", "batch_size: 9"), 2),
    ("pixels_scaled", data("pixels.lmdb", "batch_size: 3", "scale: 0.00390625"), 1),
    ("pixels_odd_scale", data("pixels.lmdb", "batch_size: 3", "scale: 0.017 mean_value: 103.939"), 1),
    ("pixels_crop", data("pixels.lmdb", "batch_size: 3", "crop_size: 7"), 1),
    ("pixels_crop_even", data("pixels.lmdb", "batch_size: 3", "crop_size: 8 scale: 0.5"), 1),
    ("pixels_mean_file", data("pixels.lmdb", "batch_size: 3", 'mean_file: "mean.binaryproto" scale: 0.1'), 1),
    ("pixels_mean_file_crop", data("pixels.lmdb", "batch_size: 3", 'mean_file: "mean.binaryproto" crop_size: 5'), 1),
    ("pixels_mean_values", data("pixels.lmdb", "batch_size: 3", "mean_value: 104 mean_value: 117 mean_value: 123"), 1),
    ("pixels_one_mean_value", data("pixels.lmdb", "batch_size: 3", "mean_value: 99.5 crop_size: 9"), 1),
    ("floats", data("floats.lmdb", "batch_size: 4", "scale: 2 mean_value: 0.3"), 2),
    ("sizes", data("sizes.lmdb", "batch_size: 1 prefetch: 2"), 6),
    ("sizes_cropped", data("sizes.lmdb", "batch_size: 4", "crop_size: 5"), 1),
    ("colour", data("colour.lmdb", "batch_size: 4", "mean_value: 10"), 1),
    ("colour_as_grey", data("colour.lmdb", "batch_size: 4", "force_gray: true"), 1),
    ("grey", data("grey.lmdb", "batch_size: 2"), 1),
    ("mixed_colour", data("mixed.lmdb", "batch_size: 4", "force_color: true"), 1),
    ("mixed_grey", data("mixed.lmdb", "batch_size: 3", "force_gray: true crop_size: 10"), 1),
    ("images", image_data("same.txt", SAME), 3),
    ("images_grey", image_data("same.txt", f"{SAME} is_color: false", "mean_value: 7"), 2),
    ("images_one_at_a_time", image_data("all.txt", "batch_size: 1"), 8),
    ("images_resized", image_data("all.txt", "batch_size: 7 new_height: 20 new_width: 30"), 1),
    ("images_small", image_data("all.txt", "batch_size: 7 new_height: 9 new_width: 12", "crop_size: 8 scale: 0.1"), 1),
    ("images_grey_resized", image_data("all.txt", "batch_size: 6 new_height: 13 new_width: 13 is_color: false"), 1),
    ("images_labels", image_data("labels.txt"), 2),
    ("hdf5", hdf5_data("rows.txt", ["data", "label"], 3), 6),
    ("hdf5_four_tops", hdf5_data("rows.txt", ["wide", "bytes", "label", "data"], 4), 3),
    ("hdf5_one_file", hdf5_data("row.txt", ["wide"], 2), 5),
    ("windows", window_data("windows.txt", "fg_fraction: 0.5", "crop_size: 9"), 2),
    (
        "windows_padded",
        window_data("windows.txt", "fg_fraction: 0.5 context_pad: 2", "crop_size: 11 mean_value: 50"),
        1,
    ),
    ("windows_square", window_data("windows.txt", 'crop_mode: "square" scale: 0.5', "crop_size: 10"), 1),
    ("windows_edge", window_data("edge_windows.txt", "fg_fraction: 0.7 context_pad: 3", "crop_size: 16"), 1),
    (
        "windows_edge_square",
        window_data(
            "edge_windows.txt",
            'context_pad: 1 crop_mode: "square" scale: 0.25',
            'crop_size: 13 mean_file: "legacy_mean.binaryproto"',
        ),
        1,
    ),
]

# The same, of layers that choose at random in either phase: which items can come, not in which order.
RANDOM_CASES = [
    (
        "windows_mirrored",
        window_data("edge_windows.txt", "fg_fraction: 0.5 context_pad: 3", "crop_size: 16 mirror: true"),
        6,
    ),
    (
        "pixels_mirrored",
        data("pixels.lmdb", "batch_size: 7", 'crop_size: 9 mirror: true mean_file: "mean.binaryproto"'),
        6,
    ),
]


def main() -> None:
    folder = Path(sys.argv[1])
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    write_databases(folder)
    write_images(folder)
    write_hdf5(folder)
    cases = [
        {"name": name, "prototxt": prototxt, "batches": batches, "random": random}
        for random, table in ((False, CASES), (True, RANDOM_CASES))
        for name, prototxt, batches in table
    ]
    (folder / "cases.json").write_text(json.dumps(cases, indent=1) + "\n")


if __name__ == "__main__":
    main()
