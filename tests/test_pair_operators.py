"""The pairwise operators of non-local networks from Python: opcheck, torch.compile, empty sizes."""

import pytest
import torch
from operators import check, check_compiled, check_shapes_on_meta, detached, loci


def pair_inputs(dtype=torch.float32, grad=False, batch=2, queries=40, keys=30, inner=3, value=4):
    torch.manual_seed(0)
    shapes = (batch, queries, inner), (batch, keys, inner), (batch, keys, value)
    return tuple(torch.randn(shape, dtype=dtype, requires_grad=grad) for shape in shapes)


def concat_inputs(dtype=torch.float32, grad=False, batch=2, queries=40, keys=30, value=4):
    torch.manual_seed(0)
    shapes = (batch, queries), (batch, keys), (batch, keys, value)
    return tuple(torch.randn(shape, dtype=dtype, requires_grad=grad) for shape in shapes)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_opcheck(dtype):
    theta, phi, _ = pairs = pair_inputs(dtype, grad=True)
    check(loci.batch_product, (theta, phi.detach().transpose(1, 2).requires_grad_(), 0.5))
    check(loci.non_local_softmax_blocks, (*pairs, 0.5))
    y = loci.non_local_softmax(*detached(pairs), 0.5)
    check(loci.non_local_softmax_backward, (y, *detached(pairs), 0.5))
    concat = concat_inputs(dtype, grad=True)
    check(loci.non_local_concat, concat)
    check(loci.non_local_concat_backward, (loci.non_local_concat(*detached(concat)), *detached(concat)))


def all_forms(theta, phi, g):
    a, b = theta.sum(-1), phi.sum(-1)
    sums = loci.non_local_softmax(theta, phi, g, 0.5) + loci.non_local_dot(theta, phi, g)
    return sums + loci.non_local_concat(a, b, g)


# 40 x 30 weights are more numbers than the inputs and their gradients, 4 x 3 are fewer: both ways of each form.
@pytest.mark.parametrize("sizes", [{}, {"queries": 4, "keys": 3, "inner": 8, "value": 8}])
@pytest.mark.parametrize("dynamic", [False, True])
def test_compile_without_graph_breaks(sizes, dynamic):
    torch._dynamo.reset()
    compiled = torch.compile(all_forms, fullgraph=True, dynamic=dynamic)
    for batch in (2, 3) if dynamic else (2,):
        check_compiled(all_forms, compiled, pair_inputs(grad=True, batch=batch, **sizes))


def empty_inputs():
    for zero in ("batch", "queries", "inner", "value"):
        pairs = pair_inputs(**{zero: 0})
        yield loci.non_local_softmax, (*pairs, 1.0)
        yield loci.non_local_dot, pairs
        yield loci.non_local_softmax_blocks, (*pairs, 1.0)
        y = torch.zeros(*pairs[0].shape[:2], pairs[2].shape[2])
        yield loci.non_local_softmax_backward, (y, *pairs, 1.0)
        yield loci.batch_product, (pairs[0], pairs[1].transpose(1, 2), 1.0)
        if zero == "inner":
            continue
        concat = concat_inputs(**{zero: 0})
        yield loci.non_local_concat, concat
        yield loci.non_local_concat_backward, (y, *concat)


def test_every_size_but_the_keys_may_be_zero():
    for operator, inputs in empty_inputs():
        for value in check_shapes_on_meta(operator, inputs):
            assert not value.isnan().any(), operator


def test_second_derivatives_are_refused_by_name():
    pairs = pair_inputs(grad=True)
    (grad,) = torch.autograd.grad(loci.non_local_softmax(*pairs, 1.0).square().sum(), pairs[:1], create_graph=True)
    with pytest.raises(RuntimeError, match="non_local_softmax: a second derivative is not implemented"):
        grad.sum().backward()
