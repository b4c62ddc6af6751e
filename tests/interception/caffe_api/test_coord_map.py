"""Coordinates between layers: the answers of real Caffe, and its refusals."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from goldens import net_specs

GOLDEN = json.loads((Path(net_specs.__file__).parent / "caffe_api" / "coordinates.json").read_text())


@pytest.fixture
def coord_map(caffe: ModuleType) -> Any:
    import caffe.coord_map

    return caffe.coord_map


def test_maps_are_those_of_real_caffe(caffe: ModuleType) -> None:
    assert net_specs.coordinate_maps(caffe) == GOLDEN["maps"]


def test_crops_are_those_of_real_caffe(caffe: ModuleType) -> None:
    assert net_specs.crops(caffe) == GOLDEN["crops"]


def test_a_crop_becomes_a_layer(caffe: ModuleType, coord_map: Any, messages: str) -> None:
    L = caffe.layers
    n = caffe.NetSpec()
    n.data = L.Input(shape={"dim": [1, 1, 9, 9]})
    n.conv = L.Convolution(n.data, num_output=1, kernel_size=[1, 3], pad=[2, 4])
    n.crop = coord_map.crop(n.conv, n.data)
    layer = n.to_proto().layer[2]
    assert (layer.type, list(layer.bottom)) == ("Crop", ["conv", "data"])
    assert (layer.crop_param.axis, list(layer.crop_param.offset)) == (2, [2, 3])


def test_pointwise_layers_keep_coordinates(caffe: ModuleType, coord_map: Any) -> None:
    data = caffe.layers.Input()
    assert coord_map.coord_map_from_to(caffe.layers.Dropout(caffe.layers.ReLU(data)), data) == (None, 1, 0)


def test_a_crop_shifts_by_its_offset_and_is_followed_through_its_first_bottom(
    caffe: ModuleType, coord_map: Any
) -> None:
    one, other = caffe.layers.Input(), caffe.layers.Input()
    cropped = caffe.layers.Crop(one, other, axis=3, offset=5)
    axis, scale, shift = coord_map.coord_map_from_to(cropped, one)
    assert (axis, scale, list(shift)) == (2, 1, [5])
    with pytest.raises(RuntimeError, match="Could not compute map between tops"):
        coord_map.coord_map_from_to(cropped, other)


def test_the_common_blob_may_lie_below_both(caffe: ModuleType, coord_map: Any) -> None:
    L = caffe.layers
    data = L.Input()
    half, quarter = L.Pooling(data, kernel_size=2, stride=2), L.Pooling(data, kernel_size=4, stride=4)
    _, scale, shift = coord_map.coord_map_from_to(half, quarter)
    np.testing.assert_allclose([scale, shift], [[0.5], [-0.25]])


def test_layers_that_mix_coordinates_connect_nothing(caffe: ModuleType, coord_map: Any) -> None:
    data = caffe.layers.Input()
    with pytest.raises(RuntimeError, match="are they connected by spatial layers"):
        coord_map.coord_map_from_to(caffe.layers.InnerProduct(data, num_output=2), data)
    with pytest.raises(coord_map.UndefinedMapException):
        coord_map.coord_map(caffe.layers.InnerProduct(data, num_output=2).fn)


def test_maps_from_different_axes_do_not_compose(coord_map: Any) -> None:
    with pytest.raises(coord_map.AxisMismatchException):
        coord_map.compose((1, 1, 0), (2, 1, 0))


def test_an_inverse_undoes_its_map(coord_map: Any) -> None:
    _, scale, shift = coord_map.compose(coord_map.inverse((1, 0.5, -3)), (1, 0.5, -3))
    assert (scale, shift) == (1, 0)


def test_legacy_parameters_are_refused(caffe: ModuleType, coord_map: Any) -> None:
    data = caffe.layers.Input()
    with pytest.raises(AssertionError, match="legacy _h/_w params: kernel_h, kernel_w"):
        coord_map.coord_map_from_to(caffe.layers.Pooling(data, kernel_size=2, kernel_h=1, kernel_w=3), data)
