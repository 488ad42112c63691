"""What the tests of the operators from Python share: the loaded library, and copies of inputs."""

import os

from command_line import BUILD

# What another build of the library left in the compiler's cache on disk names operators that this one may not have.
os.environ["TORCHINDUCTOR_FORCE_DISABLE_CACHES"] = "1"
import torch

torch.ops.load_library(str(BUILD / "libloci.so"))
loci = torch.ops.loci

RAM_OPERANDS = [1, 0, 0, 0, 1, 2, 2, 1, 2, 2, 2, 2, 2, 2]  # READ .. WRITE


def copied(inputs):
    """The inputs with tensors of their own, for operators that write into them."""
    return tuple(x.detach().clone() if isinstance(x, torch.Tensor) else x for x in inputs)


def detached(inputs):
    return tuple(x.detach() if isinstance(x, torch.Tensor) else x for x in inputs)


def on_meta(inputs):
    return tuple(x.to("meta") if isinstance(x, torch.Tensor) else x for x in inputs)


def ram_outputs(registers):
    """Numbers that the controller of a machine with all modules gives at a step, the stop included."""
    return sum(n * (registers + i) for i, n in enumerate(RAM_OPERANDS)) + registers * (registers + 14) + 1


def ram_unroll_inputs(dtype=torch.float64, grad=False):
    torch.manual_seed(2)
    seeds, samples, registers, values, width = 2, 3, 2, 5, 4
    parameters = width * (registers + 1) + width * (width + 1) + ram_outputs(registers) * (width + 1)
    tape = torch.randint(values, (seeds, samples, values), dtype=torch.int32)
    return (
        torch.randn(seeds, parameters, dtype=dtype, requires_grad=grad),
        *(tape, tape.flip(2), torch.ones(seeds, samples, values, dtype=dtype)),
        *(torch.tensor([3, 2]), torch.tensor([0.1, 0.0], dtype=dtype)),
        *(registers, list(range(14)), RAM_OPERANDS, torch.zeros(0, values, values, dtype=torch.int32)),
        *(10.0, True, False, width, True, 1e-6, True),
    )


def check(operator, inputs):
    """opcheck: schema, registration for autograd, fake tensors, traces of static and dynamic sizes."""
    result = torch.library.opcheck(operator, inputs)
    assert set(result.values()) == {"SUCCESS"}, (operator, result)
    assert len(result) == 4


def check_shapes_on_meta(operator, inputs):
    """Meta tensors give results of the sizes and dtypes of real ones. The real results."""
    shapes, results = operator(*on_meta(inputs)), operator(*inputs)
    one = isinstance(results, torch.Tensor)
    shapes, results = ([shapes], [results]) if one else (shapes, results)
    for shape, value in zip(shapes, results, strict=True):
        assert (shape is None) == (value is None), operator
        if value is not None:
            assert (shape.shape, shape.dtype) == (value.shape, value.dtype), operator
    return results


def check_compiled(function, compiled, inputs):
    """A compiled function and its gradients are near the eager ones."""
    expected = function(*inputs)
    cotangent = torch.randn_like(expected)
    wanted = torch.autograd.grad(expected, inputs, cotangent)
    result = compiled(*inputs)
    torch.testing.assert_close(result, expected)
    for got, want in zip(torch.autograd.grad(result, inputs, cotangent), wanted, strict=True):
        torch.testing.assert_close(got, want)
