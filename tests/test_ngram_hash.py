"""The hash of n-grams against Python's integers, and from the compiler."""

import os
import random

import pytest

# What another build of the library left in the compiler's cache on disk names operators that this one may not have.
os.environ["TORCHINDUCTOR_FORCE_DISABLE_CACHES"] = "1"
import torch
from command_line import BUILD

torch.ops.load_library(str(BUILD / "libloci.so"))
ngram_hash = torch.ops.loci.ngram_hash

PAD = 50_000


def wrapped(x):
    """An integer of any size as int64 keeps it."""
    return (x + 2**63) % 2**64 - 2**63


def reference(tokens, starts, multipliers, orders, modulus, offset, pad):
    """Rows [B][L][K] in integers without a limit."""

    def row(text, begins, position, order, p, first):
        document = max((i for i in range(position + 1) if begins[i]), default=0)
        h = 0
        for i in range(order):
            token = text[position - i] if position - i >= document else pad
            h ^= wrapped(token * multipliers[i])
        return h % p + first

    columns = list(zip(orders, modulus, offset, strict=True))
    return [
        [[row(text, begins, position, *column) for column in columns] for position in range(len(text))]
        for text, begins in zip(tokens, starts, strict=True)
    ]


def draw(orders, batch=3, length=17, seed=0, largest=PAD, starts=0.2):
    """Arguments as lists of integers. Multipliers of all of int64, so that most products wrap."""
    at_random = random.Random(seed)
    primes = [1009, 50021, 1_000_003, 97, 2**31 - 1][: len(orders)]
    return (
        [[at_random.randrange(largest) for _ in range(length)] for _ in range(batch)],
        [[at_random.random() < starts for _ in range(length)] for _ in range(batch)],
        [at_random.randrange(-(2**63), 2**63) | 1 for _ in range(max(orders, default=1))],
        orders,
        primes,
        [sum(primes[:i]) for i in range(len(primes))],
        PAD,
    )


def tensors(arguments):
    tokens, starts, multipliers, orders, modulus, offset, pad = arguments
    integers = [torch.tensor(x, dtype=torch.int64) for x in (multipliers, modulus, offset)]
    shape = (len(tokens), len(tokens[0]) if tokens else 5)
    return (
        torch.tensor(tokens, dtype=torch.int64).view(shape),
        torch.tensor(starts, dtype=torch.bool).view(shape),
        *(integers[0], orders, *integers[1:], pad),
    )


def assert_equals_the_reference(arguments):
    assert ngram_hash(*tensors(arguments)).tolist() == reference(*arguments)


@pytest.mark.parametrize("orders", [[1], [2], [3], [4], [5], [1, 2, 3], [5, 1, 3, 3, 2]])
@pytest.mark.parametrize("length", [1, 2, 4, 17])
def test_equals_integers_without_a_limit(orders, length):
    assert_equals_the_reference(draw(orders, length=length))


def test_products_wrap_and_hashes_are_negative():
    arguments = draw([2, 3])
    tokens, multipliers = arguments[0], arguments[2]
    assert any(abs(tokens[0][i] * multipliers[0]) >= 2**63 for i in range(17))
    assert min(wrapped(t * multipliers[0]) for t in tokens[0]) < 0
    rows = ngram_hash(*tensors(arguments))
    assert int(rows.min()) >= 0
    assert_equals_the_reference(arguments)


def test_the_start_of_a_document_hides_the_tokens_before_it():
    tokens, starts, *rest = draw([1, 2, 3, 4, 5], batch=1, length=12, starts=0)
    begins = [[i in (4, 5, 9) for i in range(12)]]
    assert_equals_the_reference((tokens, begins, *rest))
    rows = ngram_hash(*tensors((tokens, begins, *rest)))
    alone = ngram_hash(*tensors(([tokens[0][5:9]], [starts[0][5:9]], *rest)))
    assert rows[:, 5:9].equal(alone)
    # Whether position 0 is marked changes nothing: there is no token before it.
    begins[0][0] = True
    assert ngram_hash(*tensors((tokens, begins, *rest))).equal(rows)


def test_an_empty_batch_has_no_rows():
    tokens, starts, *rest = tensors(draw([1, 3]))
    assert ngram_hash(tokens[:0], starts[:0], *rest).shape == (0, 17, 2)
    assert ngram_hash(tokens[:, :0], starts[:, :0], *rest).shape == (3, 0, 2)
    multipliers, _, modulus, offset, pad = rest
    assert ngram_hash(tokens, starts, multipliers, [], modulus[:0], offset[:0], pad).shape == (3, 17, 0)


@pytest.mark.parametrize("shape", [(3, 17), (2, 1), (0, 4)])
def test_opcheck(shape):
    tokens, starts, *rest = tensors(draw([1, 3, 2]))
    result = torch.library.opcheck(ngram_hash, (tokens[: shape[0], : shape[1]], starts[: shape[0], : shape[1]], *rest))
    assert set(result.values()) == {"SUCCESS"}, result


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiled_it_gives_the_same_rows(dynamic):
    def rows_of(tokens, starts, *rest):
        return ngram_hash(tokens, starts, *rest) + 1

    compiled = torch.compile(rows_of, fullgraph=True, dynamic=dynamic)
    for length in (17, 5):
        tokens, starts, *rest = tensors(draw([1, 3, 2], length=length))
        assert compiled(tokens, starts, *rest).equal(ngram_hash(tokens, starts, *rest) + 1)
