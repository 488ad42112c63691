"""The transformer language model of the command line (loci/models/transformer_lm.h) as a module: the same names, the
same bits.

B batch, L positions, d width, V vocabulary.

    x = embedding[token]                                            [B, L, d]
        an n-gram memory g at the embedding:  x = x + g(x)
    per layer:  x = x + attention(norm(x))
                replace:  x = x + m(norm(x))         parallel:  z = norm(x); x = x + f(z) + m(z)
                after:    x = x + f(norm(x)); x = x + m(norm'(x))
                an n-gram memory g:  gate  x = x + g(x) before the attention;  sum, row  x = x + f(z) + g(z)
    logits = norm(x) embedding^T                                    [B, L, V]

A causal model sees of each position those before it and itself; the other kind, for masked tokens, the whole sequence.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from loci.library import ops
from loci.memory import KINDS, ProductKeyMemory
from loci.memory_layer import MemoryLayer, linear_map
from loci.ngram import NgramMemory
from loci.table import Table, at_least, distinct_tables, drawn_seed
from loci.transformer_options import DTYPES, MEMORY_SLOT, NGRAM_SLOT, layer_numbers, options_of, slot

NORM_EPSILON = 1e-5
START_STD = 0.02

# A table by name, rows, width, dtype, home and the deviation of its start.
TableMaker = Callable[[str, int, int, torch.dtype, str, float], Table]


class DecoderLayer(nn.Module):
    """Attention and feed-forward, with the memories of the layer."""

    attention_norm: Tensor
    attention_in: Tensor
    attention_out: Tensor
    ffn_norm: Tensor
    ffn_in: Tensor | None
    ffn_out: Tensor | None
    memory_norm: Tensor | None

    def __init__(self, number: int, width: int, heads: int, ffn_width: int | None, layers: int, own_norm: bool,
                 seed: int):  # fmt: skip
        super().__init__()
        self.heads = heads
        residual_std = START_STD / math.sqrt(2 * layers)

        def matrix(name: str, rows: int, columns: int, std: float) -> None:
            drawn = ops.normal_start(seed, f"layers.{number}.{name}", [rows, columns], std)
            self.register_parameter(name, nn.Parameter(drawn))

        self.register_parameter("attention_norm", nn.Parameter(torch.ones(width)))
        matrix("attention_in", 3 * width, width, START_STD)
        matrix("attention_out", width, width, residual_std)
        self.register_parameter("ffn_norm", nn.Parameter(torch.ones(width)))
        if ffn_width is None:
            self.register_parameter("ffn_in", None)
            self.register_parameter("ffn_out", None)
        else:
            matrix("ffn_in", ffn_width, width, START_STD)
            matrix("ffn_out", width, ffn_width, residual_std)
        self.register_parameter("memory_norm", nn.Parameter(torch.ones(width)) if own_norm else None)
        self.ngram: NgramMemory | None = None
        self.memory: MemoryLayer | None = None

    def ffn(self, z: Tensor) -> Tensor:
        assert self.ffn_in is not None and self.ffn_out is not None
        return linear_map(F.gelu(linear_map(z, self.ffn_in, None)), self.ffn_out, None)

    def attention(self, z: Tensor, rotation: Tensor, causal: bool, seen: Tensor | None) -> Tensor:
        """z [B, L, d], rotation complex [L, 1, 1, d / heads / 2], seen bool [B, 1, 1, L] or None: all -> [B, L, d]."""
        batch, length, width = z.shape
        head_width = width // self.heads
        mixed = linear_map(z, self.attention_in, None)  # [B, L, 3d]
        query_and_key, value = torch.split(mixed, [2 * width, width], -1)
        exact = query_and_key.to(torch.float64 if rotation.dtype == torch.complex128 else torch.float32)
        pairs = exact.view(batch, length, 2, self.heads, head_width // 2, 2)
        rotated = torch.view_as_real(torch.view_as_complex(pairs) * rotation)
        query, key = rotated.view(batch, length, 2, self.heads, head_width).to(mixed.dtype).unbind(2)
        value = value.view(batch, length, self.heads, head_width)
        read = F.scaled_dot_product_attention(
            query.transpose(1, 2),
            key.transpose(1, 2),
            value.transpose(1, 2),
            attn_mask=seen,
            is_causal=causal and length > 1,
        )
        return linear_map(read.transpose(1, 2).reshape(batch, length, width), self.attention_out, None)


class TransformerLM(nn.Module):
    """A language model with memories, as `loci train` makes it.

        model = loci.TransformerLM(vocabulary=257, layers=2, width=64, heads=4, context=64,
                                   memory={"layers": [-1], "rows": 2**12, "query_norm": "batch"})
        logits = model(tokens)                          # [B, L] -> [B, L, 257]
        model.loss(tokens[:, :-1], tokens[:, 1:])       # mean nats of a token, as `loci eval` computes it

    Args:
        vocabulary: V. layers, width, heads, ffn_width (0: 4 * width), dropout: of the transformer.
        context: the longest sequence. causal: False for positions that see both sides.
        memory: keys of [model.memory] (docs/recipe-keys.md): "layers" must be there; None: no memory.
        ngram: the same of [model.ngram].
        end_of_text: the token that ends a document, for n-gram memories; -1: none.
        seed: of the random numbers, as in C++; None draws it from torch's generator.
        make_table: makes the tables; None: new ones (loci.Table).

    Dropout draws from torch's generator, so training with dropout has other numbers than in C++.

    Raises ValueError for options that do not fit each other."""

    final_norm: Tensor
    embedding: Tensor

    def __init__(
        self,
        vocabulary: int,
        *,
        layers: int = 2,
        width: int = 128,
        heads: int = 4,
        ffn_width: int = 0,
        context: int = 128,
        dropout: float = 0.0,
        causal: bool = True,
        memory: Mapping[str, Any] | None = None,
        ngram: Mapping[str, Any] | None = None,
        end_of_text: int = -1,
        seed: int | None = None,
        make_table: TableMaker | None = None,
    ):
        super().__init__()
        for name, value in (("vocabulary", vocabulary), ("layers", layers), ("heads", heads), ("context", context)):
            at_least("TransformerLM", name, value, 1)
        if width < 2 or width % (2 * heads) != 0:
            raise ValueError(f"TransformerLM: width must be a multiple of 2 * heads (rotary positions turn pairs), "
                             f"got width {width}, heads {heads}")  # fmt: skip
        at_least("TransformerLM", "ffn_width", ffn_width, 0)
        if not 0 <= dropout < 1:
            raise ValueError(f"TransformerLM: dropout must be at least 0 and below 1, got {dropout}")
        if not causal and ngram is not None:
            raise ValueError("TransformerLM: ngram must be None where causal is False (an n-gram is of the tokens "
                             "before), got options")  # fmt: skip
        self.vocabulary, self.width, self.heads, self.context = vocabulary, width, heads, context
        self.causal = bool(causal)
        self.ffn_width, self.dropout, self.end_of_text = ffn_width, dropout, end_of_text
        self.seed = drawn_seed() if seed is None else int(seed)
        memory_options = slot("memory", MEMORY_SLOT, memory, options_of(ProductKeyMemory))
        ngram_options = slot("ngram", NGRAM_SLOT, ngram, options_of(NgramMemory))
        self.memory_options, self.ngram_options = memory_options, ngram_options
        self._make_table = make_table or self._new_table
        self._shared: list[Table] = []
        with_memory = layer_numbers("memory", memory_options, layers)
        at_layer = ngram_options is not None and ngram_options["at"] == "layer"
        with_ngram = layer_numbers("ngram", ngram_options, layers) if at_layer else []
        replaces = memory_options is not None and memory_options["placement"] == "replace"
        after = memory_options is not None and memory_options["placement"] == "after"

        drawn = ops.normal_start(self.seed, "embedding", [vocabulary, width], START_STD)
        self.register_parameter("embedding", nn.Parameter(drawn))
        self.ngram: NgramMemory | None = None
        if ngram_options is not None and not at_layer:
            self.ngram = self._ngram("", ngram_options)
        self.layers = nn.ModuleList()
        for number in range(layers):
            has_memory = number in with_memory
            hidden = None if has_memory and replaces else ffn_width or 4 * width
            layer = DecoderLayer(number, width, heads, hidden, layers, has_memory and after, self.seed)
            if ngram_options is not None and number in with_ngram:
                layer.ngram = self._ngram(f"layers.{number}.", ngram_options)
            if memory_options is not None and has_memory:
                layer.memory = self._memory(f"layers.{number}.", memory_options)
            self.layers.append(layer)
        self.register_parameter("final_norm", nn.Parameter(torch.ones(width)))
        del self._make_table, self._shared
        # No buffer: Module.to(dtype) would drop its imaginary part.
        self._rotation = rotation_table(context, width // heads)

    def _new_table(self, name: str, rows: int, width: int, dtype: torch.dtype, home: str, std: float) -> Table:
        if home != "memory":
            raise ValueError(f"TransformerLM: home must be memory without make_table, got {home!r}")
        return Table(rows, width, dtype, seed=self.seed, std=std, name=name)

    def _memory(self, prefix: str, options: Mapping[str, Any]) -> MemoryLayer:
        layer = dict(options["layer"])
        value_width = options["value_width"] or self.width
        if layer.get("output", "none") == "none" and value_width != self.width:
            raise ValueError(f"TransformerLM: memory value_width must be 0 or the model's {self.width} without output, "
                             f"got {value_width}")  # fmt: skip
        kind = options["kind"]
        if kind == "flat" and layer.pop("addressing", "mask") != "mask":
            raise ValueError("TransformerLM: memory addressing must be mask for kind flat, got modulo")
        owner = "" if options["shared_table"] else prefix
        if not self._shared or not options["shared_table"]:
            self._shared = []
            for name, columns in [("values", value_width)] + ([("down", self.width)] if kind == "peer" else []):
                std = 0.0 if name == "values" and options["start"] == "zero_values" else columns**-0.5
                self._shared.append(self._table(f"{owner}memory.{name}", columns, options, std))
        if kind == "peer":
            layer["down"] = self._shared[1]
        memory = KINDS[kind](self.width, table=self._shared[0], name=f"{prefix}memory", seed=self.seed, **layer)
        if options["start"] == "zero_output":
            memory.zero_output_map()
        return memory

    def _ngram(self, prefix: str, options: Mapping[str, Any]) -> NgramMemory:
        layer, name = dict(options["layer"]), f"{prefix}ngram"
        injection = layer.get("injection", "sum")
        if options["at"] == "embedding" and injection != "sum":
            raise ValueError(f"TransformerLM: ngram injection must be sum at the embedding, got {injection}")
        value_width = options["value_width"]
        if not value_width:
            value_width = self.width
            if injection == "gate":  # the columns together are about as wide as the model
                orders, heads = list(layer.get("orders", (1, 2, 3))), layer.get("hash_heads", 1)
                rows = ops.ngram_rows(orders, heads, options["rows"], self.vocabulary, self.seed, name)
                columns = len(rows[1])
                value_width = max(1, (self.width + columns // 2) // columns)
        table = self._table(f"{name}.values", value_width, options, 0.0)
        return NgramMemory(self.width, vocabulary=self.vocabulary, table=table, name=name, seed=self.seed, **layer)

    def _table(self, name: str, width: int, options: Mapping[str, Any], std: float) -> Table:
        dtype = DTYPES[options["value_dtype"]]
        return self._make_table(name, options["rows"], width, dtype, options["home"], std)

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """tokens [B, L] int64 -> logits [B, L, V].

        mask: bool [B, L], the positions that hold tokens; the others are padding, which no position attends to and
        memories do not read for. Of a causal model it must stand behind the tokens of its sequence.
        Raises ValueError for other shapes and beyond the context."""
        return linear_map(self.hidden(tokens, mask), self.embedding, None).to(self.embedding.dtype)

    def loss(self, input: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
        """Mean cross-entropy in nats over the targets that are at least 0: input, target [B, L] int64.

        For eager mode; a compiled model has forward()."""
        if input.shape != target.shape:
            raise ValueError(f"TransformerLM: target must be {list(input.shape)} like input, got {list(target.shape)}")
        x, goal = self.hidden(input, mask).view(-1, self.width), target.reshape(-1)
        if not self.causal:  # few positions have a target, and logits are most of the work
            asked = (goal >= 0).nonzero().squeeze(1)
            x, goal = x.index_select(0, asked), goal.index_select(0, asked)
        loss: Tensor = ops.vocabulary_loss(x, self.embedding, goal)
        return loss

    def hidden(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """What the embedding is multiplied with: [B, L, d]."""
        self._check(tokens, mask)
        complex_type = torch.complex128 if self.embedding.dtype == torch.float64 else torch.complex64
        rotation = self._rotation[: tokens.size(1)].to(self.embedding.device, complex_type)[:, None, None]
        starts = self.document_starts(tokens) if self.ngram_options is not None else None
        seen = None
        if mask is not None and not self.causal:  # a sequence of padding alone sees itself
            seen = (mask | ~mask.any(1, keepdim=True))[:, None, None]
        x = F.embedding(tokens, self.embedding)
        if self.ngram is not None:
            x = x + self.ngram(x, tokens, starts)
        x = self._drop(x)
        for layer in self.layers:
            x = self._through(layer, x, (tokens, starts), rotation, seen, mask)
        return layer_normed(x, self.final_norm)

    def _check(self, tokens: Tensor, mask: Tensor | None) -> None:
        if tokens.dim() != 2 or tokens.dtype != torch.int64:
            got = f"{tokens.dtype} {list(tokens.shape)}"
            raise ValueError(f"TransformerLM: tokens must be int64 [B, L], got {got}")
        if tokens.size(1) > self.context:
            raise ValueError(f"TransformerLM: tokens must be at most {self.context} (context), got {tokens.size(1)}")
        if mask is None:
            return
        if mask.dtype != torch.bool or mask.shape != tokens.shape:
            got = f"{mask.dtype} {list(mask.shape)}"
            raise ValueError(f"TransformerLM: mask must be bool {list(tokens.shape)} like tokens, got {got}")
        if self.ngram_options is not None:
            raise ValueError("TransformerLM: mask must be None for a model with n-gram memories, got one")

    def _through(
        self,
        layer: Any,
        x: Tensor,
        named: tuple[Tensor, Tensor | None],
        rotation: Tensor,
        seen: Tensor | None,
        mask: Tensor | None,
    ) -> Tensor:
        """`named`: tokens and starts of documents, which name the rows of n-grams."""
        gated = layer.ngram is not None and layer.ngram.injection == "gate"
        if gated:
            x = x + layer.ngram(x, *named)
        attended = layer.attention(layer_normed(x, layer.attention_norm), rotation, self.causal, seen)
        x = x + self._drop(attended)
        z = layer_normed(x, layer.ffn_norm)
        if layer.ffn_in is not None:
            x = x + self._drop(layer.ffn(z))
        if layer.ngram is not None and not gated:
            x = x + layer.ngram(z, *named)
        if layer.memory is not None:
            x = x + layer.memory(z if layer.memory_norm is None else layer_normed(x, layer.memory_norm), mask)
        return x

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)

    def document_starts(self, tokens: Tensor) -> Tensor:
        """bool [B, L]: true behind a token that ends a document."""
        return F.pad(tokens[:, :-1] == self.end_of_text, (1, 0))

    def memories(self) -> Iterator[tuple[str, MemoryLayer | NgramMemory]]:
        """Those of the layers and of the embedding, by name."""
        for name, module in self.named_modules():
            if isinstance(module, MemoryLayer | NgramMemory):
                yield name, module

    def tables(self) -> list[Table]:
        """Each once, for the optimisers of rows (loci.optim)."""
        return distinct_tables(memory for _, memory in self.memories())

    def extra_repr(self) -> str:
        return f"vocabulary={self.vocabulary}, width={self.width}, heads={self.heads}, context={self.context}"


def layer_normed(x: Tensor, gain: Tensor) -> Tensor:
    return F.layer_norm(x, (x.size(-1),), gain, None, NORM_EPSILON)


def rotation_table(context: int, head_width: int) -> Tensor:
    """exp(i * position / 10000^(2 j / e)), complex128 [context, e / 2] (Su et al. 2021, "RoFormer")."""
    exponent = torch.arange(0, head_width, 2, dtype=torch.float64, device="cpu") / -float(head_width)
    angle = torch.outer(torch.arange(context, dtype=torch.float64, device="cpu"), torch.pow(1e4, exponent))
    return torch.polar(torch.ones_like(angle), angle)
