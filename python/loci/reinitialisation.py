"""Re-initialisation: sub-keys that hardly any query finds are drawn anew, and rows that nothing reads.

    with loci.Reinitialise(model, optimizers=[dense, rows], steps=10_000) as reinitialise:
        for batch in batches:
            ...
            dense.step()
            rows.step()
            for event in reinitialise.step():
                print(event)

Of Karimov et al. 2021, "CNN with large memory layers"; the rules are ours (docs/product-key-memory.md,
"Re-initialisation"). At the end of each window of steps, for each head and half of a memory:

    dead = the sub-keys with less than dead_below times the mean of the half's reads, least used first, at most the
           share most_redrawn of all
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from loci.library import classes, ops
from loci.memory import ProductKeyMemory, product_key_memories
from loci.memory_layer import Reads
from loci.optimizer_state import Optimizers, forget_rows, forget_vectors, parts_of
from loci.table import Table, Watching, at_least, check_whole, drawn_seed, one_of

WHO = "Reinitialise"
KEYS = ("query", "split", "fresh")
VALUES = ("fresh", "copy", "zero", "keep")
SAMPLED = 4096  # queries of a window, for the rule "query"


@dataclass(frozen=True)
class Redrawn:
    """What an event did to a memory."""

    step: int  # steps made
    event: int  # number of the window
    memory: str
    redrawn: int  # sub-keys
    sub_keys: int  # of how many, over heads and halves
    refreshed: int  # rows of the table, once for all the memories that share it
    used: float  # share of the table's rows that this memory read in the window


class Window:
    """What is counted of a memory; called with what it reads, in training alone."""

    def __init__(self, owner: Reinitialise, name: str, memory: ProductKeyMemory):
        self.owner, self.name, self.memory = owner, name, memory
        heads, first, half = memory.keys1.shape
        self.sub_keys = torch.zeros(heads, first + memory.keys2.size(1), dtype=torch.int64)
        self.usage = torch.zeros(memory.table.rows, 3, dtype=torch.int32)  # of the dates of reads alone
        self.queries = torch.zeros(SAMPLED if owner.keys == "query" else 0, heads, 2, half)
        self.seen = torch.zeros(2, dtype=torch.int64)  # tokens of the window, number of the window
        self.when = torch.zeros(2, dtype=torch.int64)  # twice the steps made: the dates alone are wanted

    def __call__(self, reads: Reads) -> None:
        if not self.memory.training:
            return
        ops.count_sub_keys_(self.sub_keys, reads.address, self.memory.keys2.size(1))
        ops.usage_add_at_(self.usage, reads.index, reads.weight.detach().float(), self.when)
        if self.owner.keys == "query":
            ops.sample_queries_(self.queries, self.seen, reads.query.detach(), self.owner.seed, self.name)

    def begin(self, number: int) -> None:
        self.sub_keys.zero_()
        self.seen.copy_(torch.tensor([0, number]))

    def state(self) -> dict[str, Tensor]:
        return {"sub_keys": self.sub_keys, "usage": self.usage, "queries": self.queries, "seen": self.seen}


class Reinitialise(Watching):
    """Re-initialises the memories in `module` while it is entered. Reads in training count, compiled or not.

    A redrawn sub-key becomes, by `keys`:
        "query"  a half-query of the window, as long as the live sub-keys are on average
        "split"  a live sub-key drawn with p ~ its reads, plus N(0, (noise * std of the live ones)^2)
        "fresh"  a new start
    and rows that no head of any memory of their table read in the window become, by `values`:
        "fresh"  as they start, N(0, table.std^2)      "zero"  0, both if they were read before
        "copy"   (with "split") the row of the pair with the parent in a redrawn sub-key's place
        "keep"   as they are

    Redrawn sub-keys and rows lose what the optimisers keep for them: a row its moments and count; a sub-key its first
    moment, while its second becomes the mean of the live ones', since the count of updates is the whole parameter's.
    Decisions depend on counts, dates, sampled queries and `seed` alone: the bits of the command line
    ([model.memory.reinitialise]) for equal reads.

    Args:
        module: with ProductKeyMemory or PeerMemory (its table `up` alone gets new rows).
        optimizers: one or several, of its keys and tables: dense ones of torch, of rows, or loci.optim.Both.
        steps: of the whole training. until: share of them after which nothing is drawn anew.
        window: steps from one event to the next. dead_below, most_redrawn, noise: see above.
        seed: None draws it from torch's generator.

    Raises ValueError for settings out of range, "copy" without "split", a module without memories or with flat keys,
    and for frozen rows unless values is "keep"."""

    def __init__(
        self,
        module: nn.Module,
        optimizers: Optimizers,
        *,
        steps: int,
        keys: str = "query",
        values: str = "fresh",
        window: int = 200,
        dead_below: float = 0.1,
        most_redrawn: float = 0.25,
        until: float = 0.7,
        noise: float = 0.1,
        seed: int | None = None,
    ):
        one_of(WHO, "keys", keys, KEYS)
        one_of(WHO, "values", values, VALUES)
        if values == "copy" and keys != "split":
            raise ValueError(f"{WHO}: keys must be 'split' where values is 'copy', got {keys!r}")
        at_least(WHO, "steps", steps, 1)
        at_least(WHO, "window", window, 1)
        at_least(WHO, "noise", noise, 0)
        for what, share in (("dead_below", dead_below), ("most_redrawn", most_redrawn), ("until", until)):
            if not 0 <= share <= 1:
                raise ValueError(f"{WHO}: {what} must be within 0 .. 1, got {share}")
        self.optimizers = list(parts_of(optimizers))
        self.steps, self.keys, self.values, self.window, self.until = int(steps), keys, values, int(window), until
        self.dead_below, self.most_redrawn, self.noise = dead_below, most_redrawn, noise
        self.seed = drawn_seed() if seed is None else int(seed)
        self.made = 0  # steps
        self.number, self.begin, self.begin_before = 0, 0, 0  # of the window, its first step and that of the one before
        memories = product_key_memories(WHO, module)
        check_whole(WHO, (memory.table for memory in memories.values()))
        for memory in memories.values():
            if memory.table.frozen and values != "keep":
                raise ValueError(f"{WHO}: rows must be trained or values 'keep', got frozen table {memory.table.name}")
        self.windows = [Window(self, name, memory) for name, memory in memories.items()]
        super().__init__((window.memory, window) for window in self.windows)

    def step(self) -> list[Redrawn]:
        """Says that a training step is over, its optimisers' steps included. What an event did, else nothing."""
        self.made += 1
        for window in self.windows:
            window.when.fill_(self.made)
        if self.made - self.begin < self.window:
            return []
        events = self._redraw() if self.made < self.until * self.steps else []
        self._begin_window(self.begin)
        return events

    def restart(self) -> None:
        """Says that the memories were started anew, such as by loci.calibrate: all reads are forgotten, and a window
        begins here."""
        for window in self.windows:
            window.usage.zero_()
        self._begin_window(0)

    def _begin_window(self, begin_before: int) -> None:
        self.number, self.begin, self.begin_before = self.number + 1, self.made, begin_before
        for window in self.windows:
            window.begin(self.number)

    def _redraw(self) -> list[Redrawn]:
        sharing: dict[int, list[Window]] = {}
        for window in self.windows:
            sharing.setdefault(id(window.memory.table), []).append(window)
        return [event for windows in sharing.values() for event in self._redraw_table(windows[0].memory.table, windows)]

    @torch.no_grad()
    def _redraw_table(self, table: Table, windows: list[Window]) -> list[Redrawn]:
        event = classes.Reinitialisation(
            table.object, self.keys, self.values, self.dead_below, self.most_redrawn, self.noise
        )
        for window in windows:
            memory = window.memory
            queries = window.queries[: int(window.seen[0])] if self.keys == "query" else None
            event.add_layer(window.name, memory.keys1, memory.keys2, memory.addressing == "modulo",
                            memory.row_offset, window.sub_keys, window.usage, queries)  # fmt: skip
        redrawn, rows, keys = event.redraw(self.seed, self.number, self.begin, self.begin_before, table.std)
        for layer, half, dead, live in keys:
            memory = windows[layer].memory
            forget_vectors(self.optimizers, (memory.keys1, memory.keys2)[half], dead, live)
        if rows.numel() > 0:
            forget_rows(self.optimizers, table, rows)
        return [
            Redrawn(self.made, self.number, window.name, count, window.sub_keys.numel(), rows.numel(),
                    int((window.usage[:, 2] > self.begin).sum()) / table.rows)
            for window, count in zip(windows, redrawn, strict=True)
        ]  # fmt: skip

    def state_dict(self) -> dict[str, Any]:
        """Counts, samples, the place in the window and how rows start: a run that loads it makes the same decisions.
        The tensors are the counters themselves."""
        return {
            "position": [self.seed, self.made, self.number, self.begin, self.begin_before],
            "std": {window.name: window.memory.table.std for window in self.windows},
            "memories": {window.name: window.state() for window in self.windows},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """ValueError for the state of other memories or another rule of keys; then nothing changes."""
        given = state["memories"]
        names = [window.name for window in self.windows]
        if list(given) != names:
            raise ValueError(f"{WHO}: the state must be of memories {names}, got {list(given)}")
        for window in self.windows:
            for key, own in window.state().items():
                other = given[window.name][key]
                if other.shape != own.shape or other.dtype != own.dtype:
                    raise ValueError(f"{WHO}: {window.name}.{key} must be {own.dtype} {list(own.shape)}, "
                                     f"got {other.dtype} {list(other.shape)}")  # fmt: skip
        for window in self.windows:
            for key, own in window.state().items():
                own.copy_(given[window.name][key])
            window.when.fill_(int(state["position"][1]))
            window.memory.table.std = float(state["std"][window.name])
        self.seed, self.made, self.number, self.begin, self.begin_before = (int(part) for part in state["position"])
