"""N-gram memories of Python: the bits of the C++ layer, compiled, with documents."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from memory_cases import STEPS, WIDTH, assert_same, c_plus_plus, inputs, parameters_and_gradients, toml, with_drawn_rows
from torch import Tensor

import loci

NGRAMS: dict[str, dict[str, Any]] = {
    "sum": {},
    "gate": {"injection": "gate", "hash_heads": 2, "orders": [1, 3]},
    "gate-convolution": {"injection": "gate", "orders": [2], "convolution": True},
    "row": {"injection": "row", "orders": [1]},
}


def ngram(name: str, **changes: Any) -> loci.NgramMemory:
    settings = {"rows": 90, "vocabulary": 20, "seed": 1, "name": "memory"} | NGRAMS[name] | changes
    return loci.NgramMemory(WIDTH, **settings)


def words(*sizes: int) -> Tensor:
    return torch.randint(20, sizes, generator=torch.Generator().manual_seed(6))


@pytest.mark.parametrize("name", NGRAMS)
def test_n_grams_have_the_bits_of_the_c_plus_plus_layer(tmp_path: Path, name: str) -> None:
    value_width = WIDTH if name == "sum" else 10
    options = (
        f'kind = "ngram"\nrows = 90\nvalue_width = {value_width}\nvocabulary = 20\n[ngram]\n{toml(NGRAMS[name])}\n'
        f"[table_optimizer]\nlearning_rate = 1e-2\n"
    )
    x, grad, tokens = inputs(STEPS, 2, 9), inputs(STEPS, 2, 9).flip(0).contiguous(), words(STEPS, 2, 9)
    expected = c_plus_plus(tmp_path, options, {"x": x, "grad": grad, "tokens": tokens})
    memory = with_drawn_rows(ngram(name, value_width=value_width))
    rows = loci.optim.RowAdam(memory.tables(), lr=1e-2, seed=7)
    outputs = []
    for step in range(STEPS):
        y = memory(x[step], tokens[step])
        y.backward(grad[step])
        outputs.append(y.detach())
        rows.step()
    found = {"y": torch.stack(outputs), memory.table.name: memory.table.values}
    assert_same(found | parameters_and_gradients(memory), expected)


def test_n_grams_compile_count_and_know_documents() -> None:
    eager = ngram("gate-convolution")
    compiled = copy.deepcopy(eager)
    torch._dynamo.reset()
    run = torch.compile(compiled, fullgraph=True)
    x, tokens = inputs(2, 9), words(2, 9)
    with loci.Usage(compiled) as usage:
        torch.testing.assert_close(run(x, tokens), eager(x, tokens))
    assert usage.metrics()[""]["reads"] == 18
    run(x, tokens).sum().backward()
    eager(x, tokens).sum().backward()
    assert torch.equal(compiled.table.gradient().indices(), eager.table.gradient().indices())
    starts = torch.zeros(2, 9, dtype=torch.bool)
    starts[:, 4] = True
    cut = eager.rows(tokens, starts)
    assert torch.equal(cut[:, 4:], eager.rows(tokens[:, 4:])) and not torch.equal(cut, eager.rows(tokens))
    eager.table.prefetch(cut)
    for message, make in (
        ("orders must be within 1 .. 16, got 17", lambda: ngram("sum", orders=[17])),
        ("injection must be one of sum, gate, row, got 'add'", lambda: ngram("sum", injection="add")),
        ("the table's width must be 12 (the layer's) for injection sum, got 5", lambda: ngram("sum", value_width=5)),
        ("x must be [B, L, 12] and tokens [B, L], got [2, 9, 12], [2, 8]", lambda: ngram("sum")(x, tokens[:, 1:])),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            make()
