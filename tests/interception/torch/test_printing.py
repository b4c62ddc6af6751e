"""The edges of a tensor are printed as the tensor is: tried on the host's own."""

from __future__ import annotations

import pytest
import torch
from torch import _tensor_str as torch_printing

from avec.interception.torch import printing

TENSORS = {
    "a vector": torch.arange(3000.0),
    "a matrix": torch.arange(9000.0).view(90, 100).sin(),
    "a transposed matrix": torch.arange(9000).view(90, 100).t(),
    "short dimensions": torch.arange(6 * 7 * 1 * 50).view(6, 7, 1, 50),
    "numbers of all sizes": torch.arange(2000.0).sub(1000).exp(),
    "truths": torch.arange(2000) % 3 == 0,
    "complex": torch.view_as_complex(torch.arange(4000.0).view(2000, 2)).conj(),
    "half": torch.arange(3000.0).half(),
    "eight bits": torch.arange(3000.0).to(torch.float8_e4m3fn),
}


@pytest.mark.parametrize("name", TENSORS)
def test_its_edges_are_printed_as_the_whole(name: str) -> None:
    tensor = TENSORS[name]
    edges = printing._with_edges_of(tensor, torch_printing.PRINT_OPTS.edgeitems)
    assert edges.shape == tensor.shape
    assert torch_printing._tensor_str(edges, 4) == torch_printing._tensor_str(tensor, 4)


def test_what_is_between_the_edges_takes_no_memory() -> None:
    tensor = torch.zeros(1).expand(1 << 18, 1 << 18)  # 256 GiB, if it were copied
    edges = printing._with_edges_of(tensor, 3)
    assert edges.shape == tensor.shape
    assert edges[-1, -1] == 0
