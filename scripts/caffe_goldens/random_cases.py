"""Fillers and layers that draw at random: their values are Caffe's own affair, their statistics are not."""

from __future__ import annotations

from dataclasses import dataclass

from prototxt import dims, input_layer, layer


@dataclass(frozen=True, slots=True)
class RandomCase:
    """One array of a net, to be described by its statistics: a blob after forward, or the first weights of a layer."""

    name: str
    prototxt: str
    phase: str = "TRAIN"
    blob: str = ""  # empty: parameter 0 of the layer "tested"


def _dense(filler: str) -> str:
    settings = f"inner_product_param {{ num_output: 120 weight_filler {{ {filler} }} }}"
    return input_layer("data", (1, 150)) + layer("tested", "InnerProduct", "data", "out", settings)


def _convolution(filler: str) -> str:
    settings = f"convolution_param {{ num_output: 50 kernel_size: 3 weight_filler {{ {filler} }} }}"
    return input_layer("data", (1, 40, 5, 5)) + layer("tested", "Convolution", "data", "out", settings)


def _dummy(filler: str) -> str:
    settings = f"dummy_data_param {{ shape {{ {dims((60, 300))} }} data_filler {{ {filler} }} }}"
    return layer("tested", "DummyData", "", "data", settings)


def random_cases() -> list[RandomCase]:
    fillers = {
        "uniform": 'type: "uniform" min: -0.5 max: 2',
        "gaussian": 'type: "gaussian" mean: 1 std: 0.3',
        "gaussian_sparse": 'type: "gaussian" std: 1 sparse: 15',
        "xavier": 'type: "xavier"',
        "xavier_fan_out": 'type: "xavier" variance_norm: FAN_OUT',
        "xavier_average": 'type: "xavier" variance_norm: AVERAGE',
        "msra": 'type: "msra"',
        "msra_fan_out": 'type: "msra" variance_norm: FAN_OUT',
        "msra_average": 'type: "msra" variance_norm: AVERAGE',
        "positive_unitball": 'type: "positive_unitball"',
    }
    cases = [RandomCase(f"dense_{name}", _dense(filler)) for name, filler in fillers.items()]
    cases += [RandomCase(f"convolution_{name}", _convolution(filler)) for name, filler in fillers.items()]
    for name in ("uniform", "gaussian"):
        cases.append(RandomCase(f"dummy_data_{name}", _dummy(fillers[name]), blob="data"))
    ones = _dummy('type: "constant" value: 1')
    for ratio in (0.5, 0.3, 0.9):
        settings = f"dropout_param {{ dropout_ratio: {ratio} }}"
        net = ones + layer("dropped", "Dropout", "data", "out", settings)
        cases.append(RandomCase(f"dropout_{str(ratio).replace('.', '_')}", net, blob="out"))
        cases.append(RandomCase(f"dropout_{str(ratio).replace('.', '_')}_test", net, "TEST", blob="out"))
    in_place = ones + layer("dropped", "Dropout", "data", "data", "dropout_param { dropout_ratio: 0.25 }")
    return [*cases, RandomCase("dropout_in_place", in_place, blob="data")]
