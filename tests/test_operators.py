"""The operators from Python: opcheck, torch.compile, export and messages, without any Python registration."""

import itertools

import pytest
import torch
from operators import (
    RAM_OPERANDS,
    check,
    check_compiled,
    check_shapes_on_meta,
    copied,
    detached,
    loci,
    on_meta,
    ram_outputs,
    ram_unroll_inputs,
)
from torch.utils._python_dispatch import TorchDispatchMode


def read_inputs(dtype=torch.float32, grad=False, tokens=4):
    torch.manual_seed(0)
    table = torch.randn(11, 6, dtype=dtype, requires_grad=grad)
    index = torch.randint(11, (tokens, 3))
    weight = torch.randn(tokens, 3, dtype=dtype, requires_grad=grad)
    return table, index, weight


def search_inputs(dtype=torch.float32, grad=False, tokens=5):
    torch.manual_seed(0)
    query = torch.randn(tokens, 2, 2, 8, dtype=dtype, requires_grad=grad)
    keys1 = torch.randn(2, 6, 8, dtype=dtype, requires_grad=grad)
    keys2 = torch.randn(2, 7, 8, dtype=dtype, requires_grad=grad)
    return query, keys1, keys2, 5, 41


def linear_inputs(dtype=torch.float32, grad=False, vectors=3):
    torch.manual_seed(0)
    shapes = (vectors, 7), (5, 7), (5,)
    return tuple(torch.randn(shape, dtype=dtype, requires_grad=grad) for shape in shapes)


def binary_inputs(vectors=3, inputs=70, outputs=5):
    torch.manual_seed(0)
    words, out_words = (inputs + 63) // 64, (outputs + 63) // 64
    a, b = (loci.sign_pack(torch.randn(rows, inputs)) for rows in (vectors, outputs))
    assert a.shape == (vectors, words)
    return a, b, inputs, torch.zeros(outputs, dtype=torch.int32), torch.ones(out_words, dtype=torch.int64)


SAMPLED = torch.tensor([7, -9]), torch.tensor([5])  # seed and stream, first


def binary_numbers(dtype=torch.float32, grad=False, sizes=(2, 3, 7)):
    torch.manual_seed(0)
    return torch.randn(sizes, dtype=dtype, requires_grad=grad)


REELS = (7, -9, 0.25)  # seed, stream, bound


def reel_inputs(dtype=torch.float32, grad=False, sizes=(3, 5)):
    torch.manual_seed(0)
    return torch.randn(6, *sizes, dtype=dtype, requires_grad=grad), torch.randn(sizes, dtype=dtype)


def select_inputs(dtype=torch.float32, grad=False, tokens=3):
    torch.manual_seed(0)
    score1 = torch.randn(tokens, 2, 9, dtype=dtype, requires_grad=grad)
    score2 = torch.randn(tokens, 2, 8, dtype=dtype, requires_grad=grad)
    return score1, score2, 5, 70


def batch_norm_inputs(dtype=torch.float32, grad=False, tokens=6, training=True, low=False):
    torch.manual_seed(0)
    x = torch.randn(tokens, 5, dtype=torch.bfloat16 if low else dtype, requires_grad=grad)
    gain, bias = (torch.randn(5, dtype=dtype, requires_grad=grad) for _ in range(2))
    return x, gain, bias, torch.randn(5, dtype=dtype), torch.rand(5, dtype=dtype) + 0.5, training, 0.1, 1e-5


def half_norm_inputs(dtype=torch.float32, grad=False, tokens=4, with_bias=True):
    torch.manual_seed(0)
    x = torch.randn(tokens, 3, 2, 7, dtype=dtype, requires_grad=grad)
    gain, bias = (torch.randn(3, 2, 7, dtype=dtype, requires_grad=grad) for _ in range(2))
    return x, gain, bias if with_bias else None, 1e-5


RAM_MACHINE = (list(range(14)), RAM_OPERANDS, torch.zeros(0, 5, 5, dtype=torch.int32), 10.0, True)


def ram_step_inputs(dtype=torch.float32, grad=False, samples=3, registers=2, values=5):
    torch.manual_seed(0)
    logits = ram_outputs(registers) - 1
    shapes = ((samples, registers, values), (samples, values, values))
    distributions = [torch.randn(shape, dtype=dtype).softmax(-1).requires_grad_(grad) for shape in shapes]
    return torch.randn(samples, logits, dtype=dtype, requires_grad=grad), *distributions, *RAM_MACHINE


def forward_and_backward_operators(dtype):
    table, index, weight = read = read_inputs(dtype, grad=True)
    yield loci.table_read, read
    grad = torch.randn(4, 6, dtype=dtype)
    yield loci.table_project, (table, index, grad.clone().requires_grad_())
    yield loci.table_read_backward_table, (grad, table.detach(), index, weight.detach())

    if dtype == torch.float32:
        rows = torch.randint(-127, 128, (11, 6), dtype=torch.int8)
        yield loci.table_read, (rows, index, weight, torch.rand(11))
        yield loci.table_project, (rows, index, grad.clone().requires_grad_(), torch.rand(11))

    query, keys1, keys2, _, _ = search = search_inputs(dtype, grad=True)
    yield loci.product_key_search, search
    score, chosen = loci.product_key_search(*detached(search))
    search_backward = score, chosen, query.detach(), keys1.detach(), keys2.detach()
    yield loci.product_key_search_backward, (*search_backward, [True, True, True])

    for grad in (False, True):
        yield loci.few_linear, linear_inputs(dtype, grad)
    yield loci.few_linear, linear_inputs(dtype, grad=True)[:2]

    yield loci.sign_pack, (torch.randn(2, 3, 70, dtype=dtype),)
    binary = binary_inputs()
    yield loci.binary_linear, binary[:3]
    yield loci.binary_threshold, (loci.binary_linear(*binary[:3]), *binary[3:])
    yield loci.binary_layer, binary

    yield loci.nearest_power, (binary_numbers(dtype, grad=True),)
    for whole in (False, True):
        yield loci.straight_through_sign, (binary_numbers(dtype, grad=True), whole)
    yield loci.sampled_sign, (binary_numbers(dtype, grad=True), *SAMPLED)

    scores, grad = reel_inputs(dtype, grad=True)
    yield loci.reel_values, (grad, 6, *REELS)
    for draw, chosen_only in ((-1, False), (2, True)):
        yield loci.reel_weights, (scores, *REELS, draw, chosen_only)
    weight, choice = loci.reel_weights(scores.detach(), *REELS, -1, False)
    yield loci.reel_score_gradient, (grad, choice, 6, *REELS, True)
    for velocity in (torch.zeros_like(scores), None):
        numbers = (0.1, 0.9 if velocity is not None else 0.0, 1e-3, 2.0, False, False, True)
        yield loci.reel_step_, (scores.detach().clone(), velocity, weight.clone(), choice, grad, *REELS, *numbers)

    select = select_inputs(dtype, grad=True)
    yield loci.product_key_select, select
    score, chosen = loci.product_key_select(*detached(select))
    yield loci.product_key_select_backward, (score, chosen, 9, 8)

    for training in (True, False):
        norm = batch_norm_inputs(dtype, grad=True, training=training)
        yield loci.batch_norm, norm
        y, statistics = loci.batch_norm(*copied(norm))
        x, gain = detached(norm)[:2]
        yield loci.batch_norm_backward, (y, x, gain, statistics, training)
    if dtype == torch.float32:
        yield loci.batch_norm, batch_norm_inputs(grad=True, low=True)
    for with_bias in (True, False):
        norm = half_norm_inputs(dtype, grad=True, with_bias=with_bias)
        yield loci.half_norm, norm
        y, mean, scale = loci.half_norm(*detached(norm))
        x, gain = detached(norm)[:2]
        if with_bias:
            yield loci.half_norm_backward, (y, x, gain, mean, scale, True)

    step = ram_step_inputs(dtype, grad=True)
    yield loci.ram_step, step
    logits, registers, tape = detached(step)[:3]
    yield loci.ram_step_backward, (registers, tape, logits, registers, tape, *RAM_MACHINE)
    yield loci.ram_unroll, ram_unroll_inputs(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_opcheck(dtype):
    for operator, inputs in forward_and_backward_operators(dtype):
        check(operator, inputs)


def memory(query, keys1, keys2, table):
    """Search, softmax and read: what a layer does with the three operators."""
    score, index = loci.product_key_search(query, keys1, keys2, 5, 11)
    weight = score.softmax(-1)
    tokens = query.shape[0]
    return loci.table_read(table, index.reshape(tokens, -1), weight.reshape(tokens, -1))


def memory_inputs(tokens):
    query, keys1, keys2, _, _ = search_inputs(grad=True, tokens=tokens)
    table, _, _ = read_inputs(grad=True)
    return query, keys1, keys2, table


@pytest.mark.parametrize("dynamic", [False, True])
def test_compile_without_graph_breaks(dynamic):
    compiled = torch.compile(memory, fullgraph=True, dynamic=dynamic)
    for tokens in (5, 8) if dynamic else (5,):
        check_compiled(memory, compiled, memory_inputs(tokens))


def test_compile_of_select_alone():
    def score_of(score1, score2):
        return loci.product_key_select(score1, score2, 5, 70)[0].square().sum()

    score1, score2, _, _ = select_inputs(grad=True)
    expected = torch.autograd.grad(score_of(score1, score2), (score1, score2))
    got = torch.autograd.grad(torch.compile(score_of, fullgraph=True)(score1, score2), (score1, score2))
    for left, right in zip(got, expected, strict=True):
        torch.testing.assert_close(left, right)


def test_export_keeps_the_operators_as_calls():
    class Memory(torch.nn.Module):
        def forward(self, query, keys1, keys2, table):
            return memory(query, keys1, keys2, table)

    inputs = detached(memory_inputs(5))
    tokens = torch.export.Dim("tokens", min=2, max=64)
    program = torch.export.export(Memory(), inputs, dynamic_shapes=({0: tokens}, None, None, None))
    called = {node.target for node in program.graph.nodes if node.op == "call_function"}
    assert {loci.product_key_search.default, loci.table_read.default} <= called
    other = detached(memory_inputs(9))
    torch.testing.assert_close(program.module()(*other), memory(*other))


@pytest.mark.parametrize("frozen", [(), (0,), (1, 2), (0, 1)])
def test_compile_makes_the_needed_gradients_of_a_search(frozen):
    def score_of(query, keys1, keys2):
        return loci.product_key_search(query, keys1, keys2, 5, 41)[0].square().sum()

    leaves = search_inputs(grad=True)[:3]
    leaves = [x.detach() if i in frozen else x for i, x in enumerate(leaves)]
    wanted = [x for x in leaves if x.requires_grad]
    expected = torch.autograd.grad(score_of(*leaves), wanted)
    got = torch.autograd.grad(torch.compile(score_of, fullgraph=True)(*leaves), wanted)
    for left, right in zip(got, expected, strict=True):
        torch.testing.assert_close(left, right)


@pytest.mark.parametrize("training", [True, False])
def test_compile_of_the_norms_writes_running_statistics(training):
    def loss_of(x, gain, bias, mean, variance, half):
        y, _ = loci.batch_norm(x, gain, bias, mean, variance, training, 0.1, 1e-5)
        return y.square().sum() + loci.half_norm(*half)[0].square().sum()

    def run(function):
        norm = batch_norm_inputs(grad=True, training=training)
        mean, variance = norm[3].clone(), norm[4].clone()
        half = half_norm_inputs(grad=True)
        leaves = (*norm[:3], *half[:3])
        gradients = torch.autograd.grad(function(*norm[:3], mean, variance, half), leaves)
        return (*gradients, mean, variance)

    torch._dynamo.reset()
    for left, right in zip(run(torch.compile(loss_of, fullgraph=True)), run(loss_of), strict=True):
        torch.testing.assert_close(left, right)


def empty_inputs():
    """Every size of every operator as 0, one at a time."""
    index = torch.zeros(4, 3, dtype=torch.int64)
    yield loci.table_read, (torch.zeros(0, 6), index[:0], torch.zeros(0, 3))
    yield loci.table_project, (torch.zeros(0, 6), index[:0], torch.zeros(0, 6))
    for tokens, reads, width in ((0, 3, 6), (4, 0, 6), (4, 3, 0)):
        table, chosen, x = torch.zeros(5, width), index[:tokens, :reads], torch.zeros(tokens, width)
        yield loci.table_read, (table, chosen, torch.zeros(tokens, reads))
        yield loci.table_project, (table, chosen, x)
        yield loci.table_read_backward_table, (x, table, chosen, torch.zeros(tokens, reads))
    for tokens, heads, width in ((0, 2, 8), (4, 0, 8), (4, 2, 0)):
        query, keys = torch.zeros(tokens, heads, 2, width), torch.zeros(heads, 6, width)
        yield loci.product_key_search, (query, keys, keys, 5, 36)
        score, chosen = torch.zeros(tokens, heads, 5), torch.zeros(tokens, heads, 5, dtype=torch.int64)
        yield loci.product_key_search_backward, (score, chosen, query, keys, keys, [True, True, True])
        scores = torch.zeros(tokens, heads, 6)
        yield loci.product_key_select, (scores, scores, 5, 36)
        yield loci.product_key_select_backward, (score, chosen, 6, 6)
    for vectors, inputs, outputs in ((0, 6, 5), (4, 0, 5), (4, 6, 0)):
        weight, bias = torch.zeros(outputs, inputs), torch.zeros(outputs)
        yield loci.few_linear, (torch.zeros(vectors, inputs), weight, bias)
    for vectors, inputs, outputs in ((0, 70, 5), (4, 0, 5), (4, 70, 0)):
        binary = binary_inputs(vectors, inputs, outputs)
        yield loci.sign_pack, (torch.zeros(vectors, inputs),)
        yield loci.binary_linear, binary[:3]
        yield loci.binary_threshold, (torch.zeros(vectors, outputs, dtype=torch.int32), *binary[3:])
        yield loci.binary_layer, binary
    for sizes in ((0,), (3, 0), (0, 0)):
        numbers = binary_numbers(sizes=sizes)
        yield loci.nearest_power, (numbers,)
        yield loci.straight_through_sign, (numbers, False)
        yield loci.sampled_sign, (numbers, *SAMPLED)
        scores, grad = reel_inputs(sizes=sizes)
        yield loci.reel_values, (grad, 6, *REELS)
        yield loci.reel_weights, (scores, *REELS, -1, False)
        yield loci.reel_score_gradient, (grad, torch.zeros(sizes, dtype=torch.uint8), 6, *REELS, False)
    for tokens, features in ((0, 5), (4, 0), (0, 0)):
        x, feature = torch.zeros(tokens, features), torch.zeros(features)
        for training in (True, False):
            yield loci.batch_norm, (x, feature, feature, feature.clone(), feature.clone(), training, 0.1, 1e-5)
            yield loci.batch_norm_backward, (x, x, feature, torch.zeros(2, features, dtype=torch.float64), training)
    for tokens, heads, width in ((0, 2, 8), (4, 0, 8), (4, 2, 0)):
        x, gain, half = (
            torch.zeros(tokens, heads, 2, width),
            torch.zeros(heads, 2, width),
            torch.zeros(tokens, heads, 2),
        )
        for bias in (gain, None):
            yield loci.half_norm, (x, gain, bias, 1e-5)
            yield loci.half_norm_backward, (x, x, gain, half, half, bias is not None)


def test_every_size_may_be_zero():
    for operator, inputs in empty_inputs():
        check_shapes_on_meta(operator, inputs)


def test_compile_of_a_step_of_the_random_access_machine():
    def loss_of(logits, registers, tape):
        new_registers, new_tape = loci.ram_step(logits, registers, tape, *RAM_MACHINE)
        return new_registers.square().sum() + new_tape.square().sum()

    leaves = ram_step_inputs(grad=True)[:3]
    expected = torch.autograd.grad(loss_of(*leaves), leaves)
    got = torch.autograd.grad(torch.compile(loss_of, fullgraph=True)(*leaves), leaves)
    for left, right in zip(got, expected, strict=True):
        torch.testing.assert_close(left, right)


def test_the_random_access_machine_knows_its_shapes_on_meta():
    for operator, inputs in ((loci.ram_step, ram_step_inputs()), (loci.ram_unroll, ram_unroll_inputs())):
        for shape, value in zip(operator(*on_meta(inputs)), operator(*inputs), strict=True):
            assert shape.is_meta
            assert (shape.shape, shape.dtype) == (value.shape, value.dtype)


def test_messages():
    table, index, weight = read_inputs()
    with pytest.raises(IndexError, match=r"table_read: index must be within 0 \.\. 10, got 1[1-9]"):
        loci.table_read(table, index + 11, weight)
    with pytest.raises(RuntimeError, match="table_read: index must be int64, got Int"):
        loci.table_read(table, index.int(), weight)
    query, keys1, keys2, _, _ = search_inputs()
    with pytest.raises(RuntimeError, match=r"product_key_search: top_k must be within 1 \.\. addresses = 41, got 0"):
        loci.product_key_search(query, keys1, keys2, 0, 41)
    score1, score2, _, _ = select_inputs()
    with pytest.raises(
        RuntimeError, match=r"product_key_select: addresses must be within 1 \.\. n1 \* n2 = 72, got 73"
    ):
        loci.product_key_select(score1, score2, 5, 73)


def test_second_derivatives_are_refused_by_name():
    table, index, weight = read_inputs(grad=True)
    (grad,) = torch.autograd.grad(loci.table_read(table, index, weight).square().sum(), weight, create_graph=True)
    with pytest.raises(RuntimeError, match="table_read: a second derivative is not implemented"):
        grad.sum().backward()
    direct = loci.table_read_backward_table(torch.ones(4, 6), table, index, weight)
    with pytest.raises(RuntimeError, match="derivative for loci::table_read_backward_table is not implemented"):
        direct.sum().backward()


def test_written_statistics_are_not_used_by_an_older_graph():
    x, gain, bias, mean, variance, *rest = detached(batch_norm_inputs())
    product = gain.clone().requires_grad_() * mean
    loci.batch_norm(x, gain, bias, mean, variance, *rest)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.sum().backward()


class GradientsAskedFor(TorchDispatchMode):
    """Which gradients the last backward pass of a search was asked for."""

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        if function == loci.product_key_search_backward.default:
            self.needed = list(arguments[5])
        return function(*arguments, **(keywords or {}))


# Autograd drops a gradient that nobody needs, so it is not enough to look at the gradients.
def test_autograd_asks_for_no_gradient_of_frozen_inputs():
    for needed in itertools.product((False, True), repeat=3):
        if not any(needed):
            continue
        query, keys1, keys2 = torch.randn(3, 2, 2, 4), torch.randn(2, 5, 4), torch.randn(2, 6, 4)
        for x, is_needed in zip((query, keys1, keys2), needed, strict=True):
            x.requires_grad_(is_needed)
        with GradientsAskedFor() as asked:
            loci.product_key_search(query, keys1, keys2, 4, 30)[0].sum().backward()
        assert asked.needed == list(needed)
