"""Steps in random bases (RBD; Gressmann et al., NeurIPS 2020, arXiv 2011.04720): loci/optim/random_bases.h in torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch

from loci.library import ops
from loci.table import at_least, drawn_seed, one_of

VALUES = {"normal": 0, "signs": 1}


def share_directions(directions: int, weights: list[int]) -> list[int]:
    """Directions of each compartment: in proportion to its weights, at least 1."""
    if not len(weights) <= directions <= sum(weights):
        raise ValueError(
            f"RandomBases: directions must be from {len(weights)} (the compartments) to {sum(weights)} (the weights), "
            f"got {directions}"
        )
    wanted = [directions * n / sum(weights) for n in weights]
    shares, left = [1] * len(weights), directions - len(weights)
    for i, want in enumerate(wanted):
        more = min(max(int(want) - 1, 0), left)
        shares[i] += more
        left -= more
    for _ in range(left):
        lacks = [want - share for want, share in zip(wanted, shares, strict=True)]
        shares[lacks.index(max(lacks))] += 1
    return shares


class RandomBases(torch.optim.Optimizer):
    """Each step moves the weights along `directions` random directions, drawn anew and never stored:
    c_i = phi_i . gradient, theta -= lr * sum over i of c_i phi_i. Same bits for any number of threads.

    Args:
        params: float32 or float64 parameters, or groups {"params": ..., "lr": ...}. Directions go through all groups.
        lr: larger than for SGD: the step has the root of the share directions / weights of the gradient's length.
        directions: of a step, in all compartments together.
        compartments: "one": all weights share directions; "per_tensor": each parameter has its own, in proportion to
            its size and at least one, and its step is scaled to the share of all.
        values: numbers of a direction: "normal" (nearly) or "signs".
        fixed: the directions of the first step stay for ever (FPD).
        seed: of the directions; None draws it from torch's generator.

    Workers with equal seeds call `coefficients(rank, ranks)`, sum the [directions] numbers over the ranks and call
    `move(sum)`, in place of `step`.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        directions: int = 250,
        *,
        compartments: str = "one",
        values: str = "normal",
        fixed: bool = False,
        seed: int | None = None,
    ):
        one_of("RandomBases", "compartments", compartments, ("one", "per_tensor"))
        one_of("RandomBases", "values", values, tuple(VALUES))
        self.directions, self.compartments, self.fixed = directions, compartments, fixed
        self.seed = drawn_seed() if seed is None else int(seed)
        self._values, self._steps = VALUES[values], 0
        super().__init__(params, {"lr": lr})
        self._shares()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        super().add_param_group(param_group)
        at_least("RandomBases", "lr", self.param_groups[-1]["lr"], 0)

    def _tensors(self) -> list[tuple[torch.Tensor, float]]:
        return [(p, float(group["lr"])) for group in self.param_groups for p in group["params"] if p.numel() > 0]

    def _shares(self) -> list[tuple[list[tuple[torch.Tensor, float]], int]]:
        """Parameters and directions of each compartment."""
        tensors = self._tensors()
        parts = [tensors] if self.compartments == "one" else [[one] for one in tensors]
        shares = share_directions(self.directions, [sum(p.numel() for p, _ in part) for part in parts])
        return list(zip(parts, shares, strict=True))

    def _key(self, compartment: int) -> tuple[int, int, int, int]:
        return self.seed, 0 if self.fixed else self._steps % 2**32, compartment, self._values

    @torch.no_grad()
    def coefficients(self, rank: int = 0, ranks: int = 1) -> torch.Tensor:
        """Those [directions] of this rank's part of the directions; 0 elsewhere."""
        found = []
        for i, (part, directions) in enumerate(self._shares()):
            gradient = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1) for p, _ in part])
            begin, end = directions * rank // ranks, directions * (rank + 1) // ranks
            own = ops.random_basis_dot(gradient, begin, end - begin, *self._key(i))
            found.append(torch.nn.functional.pad(own, (begin, directions - end)))
        return torch.cat(found)

    @torch.no_grad()
    def move(self, coefficients: torch.Tensor) -> None:
        """Moves the parameters that have a gradient, and counts a step."""
        shares = self._shares()
        weights = sum(p.numel() for part, _ in shares for p, _ in part)
        parts = torch.split(coefficients, [directions for _, directions in shares])
        for i, ((part, _), c) in enumerate(zip(shares, parts, strict=True)):
            step = c.new_zeros(sum(p.numel() for p, _ in part))
            scale = (step.numel() * self.directions) / (len(c) * weights)
            ops.random_basis_add_(step, c.contiguous(), -scale, 0, *self._key(i))
            for (p, rate), change in zip(part, torch.split(step, [p.numel() for p, _ in part]), strict=True):
                if p.grad is not None:
                    p.add_(change.view(p.shape), alpha=rate)
        self._steps += 1

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self.move(self.coefficients())
        return loss

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"bases": {"seed": self.seed, "steps": self._steps}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on with the directions of the other one's seed and step."""
        bases = state_dict["bases"]
        super().load_state_dict({key: value for key, value in state_dict.items() if key != "bases"})
        self.seed, self._steps = int(bases["seed"]), int(bases["steps"])
