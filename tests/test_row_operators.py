"""Operators that write rows, and the gradient of whole machine runs, from Python: opcheck, torch.compile, versions."""

import pytest
import torch
from operators import check, copied, loci, ram_unroll_inputs

ADAM, ADAM_ROW_MOMENT, ADAGRAD, SGD = range(4)
STOCHASTIC, NEAREST, MASTER = range(3)


def numbers(rule, rounding=NEAREST):
    return rule, rounding, 0.01, 0.9, 0.999, 1e-8, 0.1, 0.5, 77, 5


def table_and_state(rule=ADAM, rows=11, width=6, dtype=torch.float32, real=torch.float32):
    torch.manual_seed(0)
    adam = rule in (ADAM, ADAM_ROW_MOMENT)
    moment2 = {ADAM: torch.rand(rows, width, dtype=real), SGD: None}.get(rule, torch.rand(rows, dtype=real))
    return (
        torch.randn(rows, width, dtype=dtype),
        torch.randn(rows, width, dtype=real) if adam else None,
        moment2,
        torch.randint(9, (rows,), dtype=torch.int32) if adam else None,
        None,
    )


def references(rows=11, tokens=5, reads=3, width=6, real=torch.float32):
    """What row_order leaves, and the source."""
    torch.manual_seed(1)
    order = loci.row_order([torch.randint(rows, (tokens, reads))], [torch.randn(tokens, reads, dtype=real)])
    return *order, torch.randn(tokens, width, dtype=real)


def update_inputs(rule, dtype=torch.float32, real=torch.float32):
    row = torch.tensor([1, 4, 7])
    return *table_and_state(rule, dtype=dtype, real=real), row, torch.randn(3, 6, dtype=real), *numbers(rule)


def step_inputs(rule, dtype=torch.float32, real=torch.float32):
    return *table_and_state(rule, dtype=dtype, real=real), *references(real=real), *numbers(rule)


def usage_inputs(rows=11, tokens=5, heads=2, top_k=3):
    """Counters, some of them of before the window, and the reads of a step."""
    torch.manual_seed(3)
    reads, touched = (torch.randint(9, (rows,), dtype=torch.int32) for _ in range(2))
    counters = torch.stack((reads, torch.rand(rows).view(torch.int32), touched), 1)
    index = torch.randint(rows, (tokens, heads, top_k))
    return counters, index, torch.rand(tokens, heads, top_k), 4, 8


def counts_of_reads():
    """What observers of Python count with: usage, sub-keys, a sample of queries."""
    counters, index, weight, *when = usage_inputs()
    yield loci.usage_add_at_.default, (counters, index, weight, torch.tensor(when))
    yield loci.count_sub_keys_.default, (torch.zeros(2, 3 + 4, dtype=torch.int64), index, 4)
    queries, seen = torch.zeros(4, 2, 2, 3), torch.tensor([3, 1])
    yield loci.sample_queries_.default, (queries, seen, torch.randn(5, 2, 2, 3), 7, "layer")


def operators():
    yield from counts_of_reads()
    for rule in (ADAM, ADAM_ROW_MOMENT, ADAGRAD, SGD):
        for dtype, real in ((torch.float32,) * 2, (torch.bfloat16, torch.float32), (torch.float64,) * 2):
            yield loci.row_update_.default, update_inputs(rule, dtype, real)
            yield loci.row_step_.default, step_inputs(rule, dtype, real)
    yield loci.row_square_sum.default, (torch.randn(4, 6),)
    yield loci.row_square_sum_sorted.default, references()
    yield loci.row_sum.default, references()
    yield loci.usage_add_.default, usage_inputs()
    yield loci.usage_add_.default, (*usage_inputs()[:2], torch.rand(5, 2, 3, requires_grad=True), 0, 0)
    yield loci.ram_unroll.default, ram_unroll_inputs(grad=True)


def test_opcheck():
    for operator, inputs in operators():
        check(operator, inputs)


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiled_updates_write_the_same_bits(dynamic):
    def update(*inputs):
        loci.row_update_(*inputs)

    def step(*inputs):
        return loci.row_step_(*inputs) + 1

    def count(*inputs):
        loci.usage_add_(*inputs)

    cases = ((update, update_inputs(ADAM)), (step, step_inputs(ADAM_ROW_MOMENT)), (count, usage_inputs()))
    for function, inputs in cases:
        eager, compiled = copied(inputs), copied(inputs)
        with torch.no_grad():
            expected = function(*eager)
            got = torch.compile(function, fullgraph=True, dynamic=dynamic)(*compiled)
        assert expected is got is None or torch.equal(got, expected)
        for left, right, before in zip(compiled, eager, inputs, strict=True):
            if isinstance(left, torch.Tensor):
                assert torch.equal(left, right)
                assert left.shape == before.shape
        assert not torch.equal(compiled[0], inputs[0])


def test_sums_compile_and_sizes_that_depend_on_data_run_between_graphs():
    def order_then_sum(index, weight, source):
        order = loci.row_order([index], [weight * 2])
        return loci.row_sum(*order, source) + 1

    inputs = torch.randint(5, (4, 2)), torch.randn(4, 2), torch.randn(4, 3)
    torch.testing.assert_close(torch.compile(order_then_sum)(*inputs), order_then_sum(*inputs))
    given = references()
    assert torch.equal(torch.compile(loci.row_sum.default, fullgraph=True)(*given), loci.row_sum(*given))


def test_graphs_that_saved_a_written_tensor_refuse_to_run():
    for operator, inputs in ((loci.row_update_, update_inputs(ADAM)), (loci.row_step_, step_inputs(ADAM))):
        for written in range(3):  # table and moments
            table = inputs[0].requires_grad_()
            x = torch.ones(11, 6, requires_grad=True)
            loss = (x * inputs[written]).sum()
            operator(*inputs)
            with pytest.raises(RuntimeError, match="modified by an inplace operation"):
                loss.backward()
            inputs = (table.detach(), *inputs[1:])
        count, before = inputs[3], inputs[3]._version
        operator(*inputs)
        assert count._version == before + 1


def test_counting_moves_the_version_of_the_counters():
    for operator, inputs in ((loci.usage_add_.default, usage_inputs()), *counts_of_reads()):
        counters, *given = copied(inputs)
        before = counters._version
        operator(counters, *given)
        assert counters._version == before + 1 and not torch.equal(counters, inputs[0])


def test_counts_with_a_tensor_of_steps_are_those_with_numbers():
    counters, *given = usage_inputs()
    other = counters.clone()
    loci.usage_add_(counters, *given)
    loci.usage_add_at_(other, *given[:2], torch.tensor(given[2:]))
    assert torch.equal(counters, other)


@pytest.mark.parametrize(
    ("number", "change", "message"),
    [
        (0, {3: torch.tensor([4])}, r"usage_add: when must be int64 \[2\] \(window, step\), got Long \[1\]"),
        (1, {0: torch.zeros(2, 7)}, r"SubKeyCounts: counts must be int64 \[H, n1 \+ 4\], got Float \[2, 7\]"),
        (1, {2: 7}, r"SubKeyCounts: counts must be int64 \[H, n1 \+ 7\], got Long \[2, 7\]"),
        (1, {1: torch.zeros(5, 3, 3, dtype=torch.int64)},
         r"SubKeyCounts: address must be int64 \[T, 2, K\], got Long \[5, 3, 3\]"),
        (1, {1: torch.zeros(5, 2, 3, dtype=torch.int64, device="meta")},
         r"SubKeyCounts: counts and address must be on cpu, got cpu and meta"),
        (2, {1: torch.zeros(2, dtype=torch.int64, device="meta")},
         r"QueryReservoir: queries and seen must be on cpu, got cpu and meta"),
        (2, {2: torch.zeros(5, 2, 2, 3, device="meta")},
         r"QueryReservoir: query must have values, got a tensor on meta"),
        (1, {1: torch.full((1, 2, 1), 12)}, r"SubKeyCounts: address must be within 0 .. 11, got 12"),
        (2, {0: torch.zeros(4, 2, 2, 3).double()},
         r"QueryReservoir: queries must be float32 \[S, H, 2, w\], got Double"),
        (2, {1: torch.zeros(1)}, r"QueryReservoir: seen must be int64 \[2\], got Float \[1\]"),
        (2, {2: torch.zeros(5, 2, 2, 4)},
         r"QueryReservoir: query must be \[T, ...\] with \[2, 2, 3\], got \[5, 2, 2, 4\]"),
    ],
)  # fmt: skip
def test_counts_refuse_bad_input(number, change, message):
    operator, inputs = list(counts_of_reads())[number]
    given = [change.get(place, x) for place, x in enumerate(inputs)]
    with pytest.raises(RuntimeError, match=message):
        operator(*given)


def test_an_update_writes_a_leaf_that_requires_a_gradient():
    inputs = update_inputs(SGD)
    table = inputs[0].clone().requires_grad_()
    loci.row_update_(table, *inputs[1:])
    assert table.is_leaf and table.requires_grad
    assert not torch.equal(table.detach(), inputs[0])


def test_sizes_of_zero():
    assert loci.row_square_sum(torch.zeros(0, 3)).shape == (0,)
    assert torch.equal(loci.row_square_sum(torch.zeros(3, 0)), torch.zeros(3, dtype=torch.float64))
    empty = torch.zeros(0, dtype=torch.int64)
    for rule in (ADAM, ADAM_ROW_MOMENT, ADAGRAD, SGD):
        for rows, width in ((0, 3), (0, 0), (5, 0), (5, 3)):
            before = table_and_state(rule, rows, width)
            after = copied(before)
            loci.row_update_(*after, empty, torch.zeros(0, width), *numbers(rule))
            if width == 0 and rows > 0:
                loci.row_update_(*after, torch.tensor([0, 2]), torch.zeros(2, 0), *numbers(rule))
            for left, right in zip(after, before, strict=True):
                assert left is right is None or torch.equal(left, right)
    row, begin, source, coefficient = loci.row_order([torch.zeros(0, 3, dtype=torch.int64)], [torch.zeros(0, 3)])
    assert (row.shape, begin.tolist(), source.shape, coefficient.shape) == ((0,), [0], (0,), (0,))
    assert loci.row_sum(row, begin, source, coefficient, torch.zeros(0, 0)).shape == (0, 0)
    assert loci.row_sum(row, begin, source, coefficient, torch.zeros(0, 4)).shape == (0, 4)


def test_a_machine_run_has_a_gradient():
    inputs = ram_unroll_inputs(grad=True)
    weight = torch.tensor([2.0, -3.0], dtype=torch.float64)

    def gradient_of(run):
        objective, _, entropy, _, gradient, _ = run(*inputs)
        assert not entropy.requires_grad and not gradient.requires_grad
        (got,) = torch.autograd.grad((objective * weight).sum(), inputs[0])
        assert torch.equal(got, gradient * weight[:, None])
        return got

    expected = gradient_of(loci.ram_unroll)
    torch.testing.assert_close(gradient_of(torch.compile(loci.ram_unroll, fullgraph=True)), expected)


def test_a_second_derivative_of_a_machine_run_is_refused_by_name():
    inputs = ram_unroll_inputs(grad=True)
    (first,) = torch.autograd.grad(loci.ram_unroll(*inputs)[0].sum(), inputs[0], create_graph=True)
    with pytest.raises(RuntimeError, match="ram_unroll: a second derivative is not implemented"):
        first.square().sum().backward()


def test_row_order_takes_the_largest_rows_and_refuses_too_many_tokens():
    largest = 2**63 - 1
    index = torch.tensor([[largest, 0], [largest - 1, largest]])
    row, begin, source, _ = loci.row_order([index], [torch.ones(2, 2)])
    assert row.tolist() == [0, largest - 1, largest]
    assert begin.tolist() == [0, 1, 2, 4] and source.tolist() == [0, 1, 0, 1]
    many = torch.empty(2**31, 0, dtype=torch.int64)  # of no reads: needs no memory
    with pytest.raises(RuntimeError, match="tokens must be below 2\\^31, got 2147483648"):
        loci.row_order([many], [many.float()])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: loci.calibrated_map(x.to("meta"), 2, 4, True, 1e-3, "t", 1, 0), "inputs must be on cpu, got meta"),
        (lambda x: loci.calibrated_map(x, 0, 4, True, 1e-3, "t", 1, 0),
         "heads and half_width must be at least 1, got 0 and 4"),
        (lambda x: loci.calibrated_map(x[0], 2, 4, True, 1e-3, "t", 1, 0),
         r"inputs must be \[T, 6\] with T >= 2, got \[6\]"),
        (lambda x: loci.calibrated_map(x[:1], 2, 4, True, 1e-3, "t", 1, 0),
         r"inputs must be \[T, 6\] with T >= 2, got \[1, 6\]"),
        (lambda x: loci.calibrated_keys(x, 0, 3, "t", 1, 0),
         r"query must be \[T, H, 2, w\] with T >= 1, got \[5, 6\]"),
        (lambda x: loci.calibrated_keys(x.view(5, 1, 2, 3), 2, 3, "t", 1, 0), "half must be 0 or 1 and n at least 1"),
        (lambda x: loci.calibrated_keys(x.view(5, 1, 2, 3).to("meta"), 1, 3, "t", 1, 0), "query must be on cpu"),
    ],
)  # fmt: skip
def test_calibration_refuses_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call(torch.randn(5, 6))
