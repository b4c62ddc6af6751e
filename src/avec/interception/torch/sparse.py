"""Kernels of sparse CUDA tensors that CPUs and GPUs do not share (`structured`), composed of dense operators."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from avec.errors import UnsupportedOperation

aten = torch.ops.aten


def _coo(like: Tensor, indices: Tensor, values: Tensor, coalesced: bool | None = None) -> Tensor:
    made: Tensor = aten._sparse_coo_tensor_with_dims_and_tensors(
        like.sparse_dim(), like.dense_dim(), like.shape, indices, values, dtype=values.dtype, layout=torch.sparse_coo,
        device=values.device, is_coalesced=coalesced,
    )  # fmt: skip
    return made


def _flat(tensor: Tensor) -> Tensor:
    """Each element's place among those of the sparse dimensions, in one number."""
    flat = torch.zeros_like(tensor._indices()[0])
    for size, row in zip(tensor.shape, tensor._indices(), strict=False):
        flat = flat * size + row
    return flat


def _coalesce(self: Tensor) -> Tensor:
    if self._nnz() < 2 or not self.sparse_dim():
        return self.clone()._coalesced_(True)
    places, inverse = torch.unique(_flat(self), return_inverse=True)
    values = self._values()
    kind = torch.uint8 if values.dtype is torch.bool else values.dtype
    summed = torch.zeros((places.numel(), *values.shape[1:]), dtype=kind, device=values.device)
    summed.index_add_(0, inverse, values.to(kind))
    rows = []
    for size in reversed(self.shape[: self.sparse_dim()]):
        rows.append(places % size)
        places = places // size
    return _coo(self, torch.stack(rows[::-1]), summed.to(values.dtype), True)


def _add(self: Tensor, other: Tensor, *, alpha: float = 1, out: Tensor) -> Tensor:
    """Source: ATen/native/sparse/cuda/SparseCUDATensorMath.cu, add_out_sparse_cuda."""
    if not self.is_sparse:
        if out.data_ptr() != self.data_ptr() or out.shape != self.shape:
            out.resize_(self.shape).copy_(self)
        return out.index_put_(tuple(other._indices()), (other._values() * alpha).to(out.dtype), accumulate=True)
    if not other.is_sparse:
        raise RuntimeError("add(sparse, dense) is not supported. Use add(dense, sparse) instead.")
    if self.shape != other.shape:
        raise RuntimeError(
            f"add: expected 'self' and 'other' to have same size, but {self.shape} != {other.shape}"
            " (FYI: op2-sparse addition does not currently support broadcasting)"
        )
    values = torch.cat((self._values().to(out.dtype), (other._values() * alpha).to(out.dtype)))
    return out.copy_(_coo(self, torch.cat((self._indices(), other._indices()), 1), values))


def _mul(self: Tensor, other: Tensor, *, out: Tensor) -> Tensor:
    """Source: ATen/native/sparse/cuda/SparseCUDATensorMath.cu, mul_out_sparse_cuda."""
    if not self.is_sparse or (other.is_sparse and other.dim() == 0):
        self, other = other, self
    if not other.dim():
        factor = other._values().sum() if other.is_sparse else other
        return out.copy_(_coo(self, self._indices(), (self._values() * factor).to(out.dtype), self.is_coalesced()))
    if not other.is_sparse:
        values = self._values() * other.expand(self.shape)[tuple(self._indices())]
        return out.copy_(_coo(self, self._indices(), values.to(out.dtype), self.is_coalesced()))
    if self.shape != other.shape or self.sparse_dim() != other.sparse_dim():
        raise UnsupportedOperation("sparse CUDA tensors of different shapes cannot be multiplied; use dense ones")
    self, other = self.coalesce(), other.coalesce()
    if not self._nnz() or not other._nnz():
        return out.copy_(_coo(self, self._indices()[:, :0], self._values()[:0].to(out.dtype), True))
    own, others = _flat(self), _flat(other)
    found = torch.searchsorted(others, own).clamp_(max=others.numel() - 1)
    common = (others[found] == own).nonzero()[:, 0]
    values = self._values()[common] * other._values()[found[common]]
    return out.copy_(_coo(self, self._indices()[:, common], values.to(out.dtype), True))


def _product(sparse: Tensor, dense: Tensor) -> Tensor:
    """A sparse matrix by a dense one."""
    if sparse.dim() != 2 or dense.dim() != 2 or sparse.size(1) != dense.size(0):
        raise RuntimeError(f"mat1 and mat2 shapes cannot be multiplied: {tuple(sparse.shape)} by {tuple(dense.shape)}")
    rows, columns, values = _entries(sparse)
    result = torch.zeros((sparse.size(0), dense.size(1)), dtype=dense.dtype, device=dense.device)
    if not values.numel():
        return result
    return result.index_add_(0, rows, values[:, None] * dense.index_select(0, columns))


def _entries(sparse: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The rows, columns and values of a sparse matrix of any layout."""
    coo = sparse if sparse.is_sparse else sparse.to_sparse(layout=torch.sparse_coo)
    if coo.dense_dim():
        raise UnsupportedOperation("a sparse CUDA matrix of dense parts cannot be multiplied; use a dense one")
    rows, columns = coo._indices()
    return rows, columns, coo._values()


def _addmm(self: Tensor, mat1: Tensor, mat2: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    if mat2.layout is not torch.strided:
        if mat1.layout is not torch.strided or self.layout is not torch.strided:
            raise UnsupportedOperation("two sparse CUDA matrices cannot be multiplied; make the second one dense")
        product = _product(mat2.t(), mat1.t()).t()
    else:
        product = _product(mat1, mat2)
    product = product if alpha == 1 else product * alpha
    if not beta:
        return product
    return product + (self if beta == 1 else self * beta)


def _bmm(self: Tensor, mat2: Tensor) -> Tensor:
    if mat2.layout is not torch.strided or self.sparse_dim() != 3 or self.dim() != 3 or mat2.dim() != 3:
        raise UnsupportedOperation("only sparse CUDA matrices can be multiplied by dense ones, in batches of both")
    if self.shape[::2] != mat2.shape[:2]:
        raise RuntimeError(f"bmm: {tuple(self.shape)} by {tuple(mat2.shape)}: the sizes do not fit")
    batches, rows, columns = self._indices()
    count, height, width = self.size(0), self.size(1), mat2.size(2)
    result = torch.zeros((count * height, width), dtype=mat2.dtype, device=mat2.device)
    result.index_add_(0, batches * height + rows, self._values()[:, None] * mat2[batches, columns])
    return result.view(count, height, width)


def _groups(self: Tensor, dim: int) -> tuple[Tensor, int]:
    """For each element of a coalesced tensor the number of its group, of those that differ in one dimension alone."""
    if dim % self.dim() >= self.sparse_dim():
        raise UnsupportedOperation("softmax of sparse CUDA tensors over a dense dimension is not forwarded")
    others = [place for place in range(self.sparse_dim()) if place != dim % self.dim()]
    flat = torch.zeros_like(self._indices()[0])
    for place in others:
        flat = flat * self.size(place) + self._indices()[place]
    groups, inverse = torch.unique(flat, return_inverse=True)
    return inverse, groups.numel()


def _grouped(values: Tensor, groups: Tensor, count: int, how: str) -> Tensor:
    """The sum or the maximum of each element's group."""
    places = groups.view(-1, *(1 for _ in values.shape[1:])).expand_as(values)
    start = torch.zeros((count, *values.shape[1:]), dtype=values.dtype, device=values.device)
    return start.scatter_reduce(0, places, values, how, include_self=False).index_select(0, groups)


def _softmax(self: Tensor, dim: int, half_to_float: bool = False, *, log: bool = False) -> Tensor:
    """Source: ATen/native/sparse/SoftMax.cpp; what is not there counts as minus infinity."""
    self = self.coalesce()
    groups, count = _groups(self, dim)
    values = self._values() - _grouped(self._values(), groups, count, "amax")
    total = _grouped(values.exp(), groups, count, "sum")
    return _coo(self, self._indices(), values - total.log() if log else values.exp() / total, True)


def _softmax_backward(grad_output: Tensor, output: Tensor, dim: int, self: Tensor, *, log: bool = False) -> Tensor:
    output = output.coalesce()
    grads = grad_output.coalesce()
    if grads._nnz() != output._nnz():
        grads = grads.sparse_mask(output)
    groups, count = _groups(output, dim)
    grad, values = grads._values(), output._values()
    if log:
        result = grad - values.exp() * _grouped(grad, groups, count, "sum")
    else:
        result = values * (grad - _grouped(grad * values, groups, count, "sum"))
    return _coo(output, output._indices(), result, True)


def _addmm_out(self: Tensor, mat1: Tensor, mat2: Tensor, *, beta: float = 1, alpha: float = 1, out: Tensor) -> Tensor:
    result = _addmm(self, mat1, mat2, beta=beta, alpha=alpha)
    return out.resize_(result.shape).copy_(result)


def _addmm_(self: Tensor, mat1: Tensor, mat2: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    return self.copy_(_addmm(self, mat1, mat2, beta=beta, alpha=alpha))


def _index_select(self: Tensor, dim: int, index: Tensor) -> Tensor:
    """Source: ATen/native/sparse/SparseTensor.cpp, index_select_sparse_cpu."""
    dim = dim % self.dim()
    shape = list(self.shape)
    shape[dim] = index.numel()
    if dim >= self.sparse_dim():
        values = self._values().index_select(dim + 1 - self.sparse_dim(), index)
        return torch.sparse_coo_tensor(self._indices(), values, shape, check_invariants=False)
    selected, wanted = (self._indices()[dim][:, None] == index[None, :]).nonzero().unbind(1)
    indices = self._indices()[:, selected].clone()
    indices[dim] = wanted
    return torch.sparse_coo_tensor(indices, self._values()[selected], shape, check_invariants=False)


def _sampled_addmm(self: Tensor, mat1: Tensor, mat2: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    """Source: torch.sparse.sampled_addmm."""
    rows, columns, values = _entries(self)
    products = (mat1.index_select(0, rows) * mat2.t().index_select(0, columns)).sum(-1) * alpha + values * beta
    return torch.sparse_csr_tensor(
        self.crow_indices(), self.col_indices(), products, self.shape, check_invariants=False
    )


def _sampled_addmm_out(
    self: Tensor, mat1: Tensor, mat2: Tensor, *, beta: float = 1, alpha: float = 1, out: Tensor
) -> Tensor:
    return out.copy_(_sampled_addmm(self, mat1, mat2, beta=beta, alpha=alpha))


COO: dict[str, Callable[..., Any]] = {
    "_coalesce": _coalesce,
    "add.out": _add,
    "mul.out": _mul,
    "addmm": _addmm,
    "addmm.out": _addmm_out,
    "addmm_": _addmm_,
    "index_select": _index_select,
    "bmm": _bmm,
    "_sparse_softmax": _softmax,
    "_sparse_softmax_backward_data": _softmax_backward,
    "_sparse_log_softmax": functools.partial(_softmax, log=True),
    "_sparse_log_softmax_backward_data": functools.partial(_softmax_backward, log=True),
}
CSR: dict[str, Callable[..., Any]] = {
    "addmm.out": _addmm_out,
    "sparse_sampled_addmm": _sampled_addmm,
    "sparse_sampled_addmm.out": _sampled_addmm_out,
}
