"""The list of private operators that hosts may call: what CUDA has kernels for is in it, and nothing else is taken."""

from __future__ import annotations

import pytest
import torch

from avec.destination.executors.torch.operators import resolve
from avec.destination.executors.torch.private_operators import PRIVATE_OPERATORS
from avec.errors import UnsupportedOperation
from avec.interception.torch.operators import cuda_operators

# Private operators with CUDA kernels that need not reach a destination: of AMD's GPUs or of Triton's making, views,
# and what makes tensors that a destination has none of.
LEFT_OUT = frozenset(
    "_efficientzerotensor _fused_sdp_choice _make_per_channel_quantized_tensor _make_per_tensor_quantized_tensor "
    "_nested_compute_contiguous_strides_offsets _nested_from_padded _nested_tensor_from_mask "
    "_nested_tensor_from_mask_left_aligned _nested_view_from_buffer _reshape_alias _to_sparse _to_sparse_bsc "
    "_to_sparse_bsr _to_sparse_csc _to_sparse_csr _triton_multi_head_attention _triton_scaled_dot_attention "
    "_use_miopen_ctc_loss".split()
)


def test_private_operators_with_kernels_for_cuda_are_listed_or_known_to_be_left_out() -> None:
    private = {name.partition(".")[0] for name in cuda_operators() if name.startswith("_")}
    assert private - PRIVATE_OPERATORS == LEFT_OUT


def test_private_operators_that_are_not_listed_are_refused() -> None:
    names = {name for name in torch._C._dispatch_get_all_op_names() if name.startswith("aten::_")}
    refused = {name for name in names if name.removeprefix("aten::").partition(".")[0] not in PRIVATE_OPERATORS}
    assert len(refused) > 300  # of about 900
    for name in refused:
        with pytest.raises(UnsupportedOperation, match="is not carried out for a host"):
            resolve(name, torch.__version__)
