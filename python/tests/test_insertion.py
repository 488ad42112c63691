"""Memories in models that exist: small random models of each family, made from transformers' configurations."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import loci

transformers = pytest.importorskip("transformers", reason="transformers is not installed")

SMALL = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4,
         "vocab_size": 60, "max_position_embeddings": 64}  # fmt: skip
GROUPED = SMALL | {"num_key_value_heads": 2, "pad_token_id": 0}
CAUSAL: dict[str, Any] = {
    "llama": lambda: transformers.LlamaForCausalLM(transformers.LlamaConfig(**GROUPED)),
    "mistral": lambda: transformers.MistralForCausalLM(transformers.MistralConfig(**GROUPED)),
    "qwen2": lambda: transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**GROUPED)),
    "qwen3": lambda: transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**GROUPED, head_dim=8)),
    "gemma": lambda: transformers.GemmaForCausalLM(transformers.GemmaConfig(**GROUPED, head_dim=8)),
    "gpt2": lambda: transformers.GPT2LMHeadModel(
        transformers.GPT2Config(n_embd=32, n_layer=4, n_head=4, vocab_size=60, n_positions=64, bos_token_id=1,
                                eos_token_id=2)),
    "gpt-neox": lambda: transformers.GPTNeoXForCausalLM(transformers.GPTNeoXConfig(**SMALL)),
}  # fmt: skip
MASKED: dict[str, Any] = {
    "bert": lambda: transformers.BertForMaskedLM(transformers.BertConfig(**SMALL)),
    "roberta": lambda: transformers.RobertaForMaskedLM(transformers.RobertaConfig(**SMALL)),
}
ROWS = 64
OPTIONS = {"heads": 2, "top_k": 4, "key_width": 16}


def model_of(family: str) -> Any:
    torch.manual_seed(1)
    return (CAUSAL | MASKED)[family]().eval()


def tokens(*sizes: int) -> Tensor:
    return torch.randint(3, 60, sizes, generator=torch.Generator().manual_seed(2))


def draw_rows(inserted: loci.Inserted) -> None:
    for place, table in enumerate(inserted.tables()):
        table.std = 1.0
        table.reset_parameters(seed=place)


@pytest.mark.parametrize("family", [*CAUSAL, *MASKED])
def test_the_output_stays_and_then_changes(family: str) -> None:
    model = model_of(family)
    ids, mask = tokens(8, 12), torch.ones(8, 12, dtype=torch.long)
    mask[:3, :5] = 0
    with torch.no_grad():
        before = model(ids, attention_mask=mask).logits
        inserted = loci.insert(model, rows=ROWS, layers=[1, -1], seed=3, **OPTIONS)
        assert torch.equal(model(ids, attention_mask=mask).logits, before)
        assert [place.layer for place in inserted.places] == [1, 3] and len(inserted.tables()) == 2
        draw_rows(inserted)
        assert not torch.equal(model(ids, attention_mask=mask).logits, before)
        loci.remove(model)
        assert torch.equal(model(ids, attention_mask=mask).logits, before)
    assert not any("loci" in name for name in model.state_dict())


@pytest.mark.parametrize("family", CAUSAL)
def test_generation_with_a_cache_is_that_without(family: str) -> None:
    model = model_of(family)
    draw_rows(loci.insert(model, rows=ROWS, layers=[2], seed=3, **OPTIONS))
    settings = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    for batch in (1, 8):
        ids, mask = tokens(batch, 7), torch.ones(batch, 7, dtype=torch.long)
        mask[batch // 2 :, :3] = 0 if batch > 1 else 1  # left padding
        cached = model.generate(ids, attention_mask=mask, use_cache=True, **settings)
        assert torch.equal(cached, model.generate(ids, attention_mask=mask, use_cache=False, **settings))


@pytest.mark.parametrize("family", ["llama", "gpt2", "bert"])
def test_only_the_memories_train(family: str) -> None:
    model = model_of(family).train()
    base = {name: p.clone() for name, p in model.named_parameters()}
    inserted = loci.insert(model, rows=ROWS, layers=[0, 2], seed=3, **OPTIONS)
    both = loci.optim.Both(
        torch.optim.AdamW(inserted.parameters(), lr=1e-2), loci.optim.RowAdam(inserted.tables(), lr=3e-2)
    )
    ids = tokens(4, 12)
    losses = []
    for _ in range(30):
        both.zero_grad()
        loss = model(ids, labels=ids).loss
        loss.backward()
        both.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.1
    for name, parameter in model.named_parameters():
        assert ("loci_memory" in name) == parameter.requires_grad
        if name in base:
            assert torch.equal(parameter, base[name]) and parameter.grad is None


def test_checkpointed_training_has_the_same_gradients() -> None:
    gradients = []
    for checkpointed in (False, True):
        model = model_of("llama").train()
        inserted = loci.insert(model, rows=ROWS, layers=[1], seed=3, train_backbone=True, **OPTIONS)
        draw_rows(inserted)
        if checkpointed:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        model(tokens(2, 9), labels=tokens(2, 9)).loss.backward()
        gradients.append(inserted.tables()[0].gradient().to_dense())
    torch.testing.assert_close(*gradients)


def test_a_model_with_a_memory_compiles_as_one_graph() -> None:
    model = model_of("llama").train()
    draw_rows(loci.insert(model, rows=ROWS, layers=[1], seed=3, **OPTIONS))
    torch._dynamo.reset()
    explained = torch._dynamo.explain(lambda ids: model(ids, use_cache=False).logits)(tokens(2, 9))
    assert explained.graph_break_count == 0, explained.break_reasons


@pytest.mark.parametrize("shared", [False, True])
def test_saved_memories_come_back(tmp_path: Path, shared: bool) -> None:
    model = model_of("llama")
    inserted = loci.insert(model, rows=ROWS, layers=[0, 3], seed=3, shared_table=shared, table_dtype=torch.bfloat16,
                           **OPTIONS)  # fmt: skip
    draw_rows(inserted)
    assert len(inserted.tables()) == 2 - shared
    with torch.no_grad():
        inserted.memories[0].keys1.mul_(1.5)
        expected = model(tokens(2, 9)).logits
        loci.save(model, tmp_path / "adapter")
        assert sorted(path.name for path in (tmp_path / "adapter").iterdir()) == ["config.json", "memory.safetensors"]
        base = model_of("llama")
        loaded = loci.load(base, tmp_path / "adapter")
        assert torch.equal(base(tokens(2, 9)).logits, expected)
    assert loaded.tables()[0].dtype == torch.bfloat16 and "2 memories beside model.layers.0.mlp" in str(loaded)


def test_loading_refuses_another_model_and_damaged_files(tmp_path: Path) -> None:
    model = model_of("llama")
    loci.insert(model, rows=ROWS, layers=[1], seed=3, **OPTIONS)
    folder = tmp_path / "adapter"
    loci.save(model, folder)
    with pytest.raises(ValueError, match="must be the LlamaForCausalLM that the memories were made for"):
        loci.load(model_of("mistral"), folder)
    with pytest.raises(ValueError, match=r"the model must have no memory, got one beside model\.layers\.1\.mlp"):
        loci.load(model, folder)
    with pytest.raises(ValueError, match=r"must be a folder that loci\.save made"):
        loci.load(model_of("llama"), tmp_path)
    data = (folder / "memory.safetensors").read_bytes()
    (folder / "memory.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match="must be whole"):
        loci.load(model_of("llama"), folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "memory.safetensors").write_bytes(data)
    (folder / "config.json").write_text(json.dumps(config | {"format": 9}))
    with pytest.raises(ValueError, match="must be of format 1, got 9"):
        loci.load(model_of("llama"), folder)


def test_what_fails_leaves_the_model_as_it_was(tmp_path: Path) -> None:
    model = model_of("llama")
    loci.insert(model, rows=ROWS, layers=[1], seed=3, **OPTIONS)
    loci.save(model, tmp_path)
    base = model_of("llama")
    names, config = list(base.state_dict()), json.loads((tmp_path / "config.json").read_text())

    def refused(message: str, action: Any) -> None:
        with pytest.raises((ValueError, TypeError), match=message):
            action()
        assert list(base.state_dict()) == names and all(p.requires_grad for p in base.parameters())

    refused("top_k must be within", lambda: loci.insert(base, rows=ROWS, **OPTIONS | {"top_k": 1000}))
    refused("unexpected keyword argument 'head'", lambda: loci.insert(base, rows=ROWS, head=3))
    for change, message in (
        ({"places": [{"name": "x"}]}, r"config\.json must have what loci\.save writes"),
        ({"options": 3}, r"config\.json must have what loci\.save writes"),
        ({"rows": 2 * ROWS}, r"memory\.safetensors must fit its config\.json, got size mismatch for table\.values"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(config | change))
        refused(message, lambda: loci.load(base, tmp_path))
    del config["places"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    refused("got KeyError", lambda: loci.load(base, tmp_path))


class Odd(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8))
        self.my_ffn = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.my_ffn(self.encoder(x))


def test_modules_of_any_model_can_be_named() -> None:
    model, x = Odd(), torch.randn(3, 8)
    before = model(x)
    inserted = loci.insert(model, rows=ROWS, where=["my_ffn"], seed=1, **OPTIONS)
    assert torch.equal(model(x), before)
    draw_rows(inserted)
    memory = inserted.memories[0]
    assert torch.equal(model(x), x + (model.my_ffn._modules["2"](torch.relu(model.my_ffn[0](model.encoder(x))))
                                      + memory(model.encoder(x))))  # fmt: skip
    same = copy.deepcopy(model)
    assert torch.equal(same(x), model(x))


@pytest.mark.parametrize("kind", ["flat", "peer"])
def test_other_kinds_of_memory_are_inserted(kind: str) -> None:
    model, x = Odd(), torch.randn(3, 8)
    before = model(x)
    inserted = loci.insert(model, rows=ROWS, where=["my_ffn"], kind=kind, seed=1, **OPTIONS)
    assert torch.equal(model(x), before) and len(inserted.tables()) == (2 if kind == "peer" else 1)
    draw_rows(inserted)
    assert not torch.equal(model(x), before)


@pytest.mark.parametrize(
    ("message", "arguments"),
    [
        (r"Odd has my_ffn", {}),
        (r"where must name modules of the model, got 'ffn'; near: my_ffn", {"where": ["ffn"]}),
        (r"my_ffn\.1 must end in a linear map", {"where": ["my_ffn.1"]}),
        (r"kind must be one of product_key, flat, peer, got 'tree'", {"kind": "tree"}),
    ],
)
def test_what_cannot_be_inserted_is_said(message: str, arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=message):
        loci.insert(Odd(), rows=ROWS, **arguments)
    with pytest.raises(ValueError, match=r"layers must be within -4 \.\. 3, got 4"):
        loci.insert(model_of("gpt2"), rows=ROWS, layers=[4])
    with pytest.raises(ValueError, match="the model must have memories"):
        loci.remove(Odd())
