"""`OdeBlock`: an ordinary differential equation around any module that keeps a shape.

    block = loci.OdeBlock(torch.nn.Linear(3, 3), 2, start="zeros", added=1, method="dopri5")
    y = block(x)                                          # [B, 2] -> [B, 2]
    block.counts.forward.evaluations

B samples, C channels of x, S depth, J terms of a basis. Dimension 1 holds channels.

Formulas and knobs: docs/small-systems.md, "ODE blocks"; those of loci/nn/small/ode_block.h, with the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from loci.library import ops
from loci.ode import GRADIENTS, FieldOf, OdeCounts, solve, with_inputs
from loci.ode_solver import OdeCount, Solver, State, integrate
from loci.table import at_least, drawn_seed, one_of

VARIANCES = ("constant", "concat", "fourier", "chebyshev")
Loss = Callable[[Tensor, Tensor], Tensor]


def depth_basis(s: Tensor, basis: str, terms: int, depth: float) -> Tensor:
    """psi(s) [.., J]: fourier 1, cos(w s), sin(w s), cos(2 w s) .. with w = 2 pi / depth; chebyshev
    T_j(2 s / depth - 1)."""
    psi = [torch.ones_like(s)]
    u = s * (2 / depth) - 1
    while len(psi) < terms:
        j = len(psi)
        if basis == "fourier":
            angle = s * (2 * math.pi * ((j + 1) // 2) / depth)
            psi.append(angle.cos() if j % 2 == 1 else angle.sin())
        else:
            psi.append(u if j == 1 else 2 * u * psi[-1] - psi[-2])
    return torch.stack(psi, -1)


class GalerkinField(nn.Module):
    """Any module with weights that are sums of a basis: theta(s) = sum over j of alpha_j psi_j(s). alpha_0 starts as
    the module's parameters, the others as 0. s is [], or [B] for each sample's own (by vmap)."""

    def __init__(self, module: nn.Module, basis: str, terms: int, depth: float):
        super().__init__()
        self.basis, self.terms, self.depth = basis, terms, depth
        self.names = [name for name, _ in module.named_parameters()]
        self._module = [module]  # not a part: its parameters are not used
        self.alpha = nn.ParameterList(
            torch.cat((value.detach()[None], value.new_zeros(terms - 1, *value.shape))) for value in module.parameters()
        )

    def forward(self, s: Tensor, z: Tensor) -> Tensor:
        psi = depth_basis(s, self.basis, self.terms, self.depth)
        weights = {name: torch.tensordot(psi, alpha, 1) for name, alpha in zip(self.names, self.alpha, strict=True)}
        module = self._module[0]
        if s.dim() == 0:
            return torch.func.functional_call(module, weights, (z,))  # type: ignore[no-any-return]

        def of_sample(own: dict[str, Tensor], one: Tensor) -> Tensor:
            return torch.func.functional_call(module, own, (one[None],))[0]  # type: ignore[no-any-return]

        return torch.func.vmap(of_sample)(weights, z)


class OdeBlock(nn.Module):
    """A block whose depth is the time of an equation: z(0) = start(x), z' = f(s, z, x), y = z(S).

    Args:
        field: any module of [B, inputs, ..] -> [B, C + added, ..], with `inputs` as `field_inputs` says: the whole
            state, then x (data_control), then a channel of s (concat). A list: one for each piece of the depth.
        channels: C, dimension 1 of x.
        depth: S. `depth_kind` "own": of each sample its own, S(x) = w_2 . tanh(W_1 mean(x) + b_1) + b_2 with
            b_2 = depth at the start, `depth_width` hidden units; "absolute": |S(x)|.
        start: "same" x; "zeros" [x, 0] with `added` channels; "learned" W x + b of all channels of the state.
        order: n: z_1' = z_2 .. z_n' = f, n parts of C + added channels.
        variance: how the field depends on s: "constant"; "concat"; "fourier", "chebyshev": its weights are sums of
            `terms` functions of s (loci.ode.GalerkinField).
        reads_depth: the field takes (s, z), s [] or, of own depths, [B].
        whole: y is the whole state, [B, n (C + added), ..], in place of the first C channels.
        gradient, checkpoint_steps, solver: as of odeint; the default is rk4 in 10 steps.
        name, seed: the start's and the depth's parameters come by counter from both, as those of the C++ block."""

    def __init__(
        self,
        field: nn.Module | Sequence[nn.Module],
        channels: int,
        *,
        depth: float = 1.0,
        depth_kind: str = "constant",
        depth_width: int = 16,
        start: str = "same",
        added: int = 0,
        order: int = 1,
        data_control: bool = False,
        variance: str = "constant",
        terms: int = 3,
        reads_depth: bool = False,
        whole: bool = False,
        gradient: str = "steps",
        checkpoint_steps: int = 1,
        name: str = "ode",
        seed: int | None = None,
        **solver: Any,
    ):
        super().__init__()
        who = "OdeBlock"
        for what, value, least in (("channels", channels, 1), ("order", order, 1), ("depth_width", depth_width, 1),
                                   ("terms", terms, 1), ("checkpoint_steps", checkpoint_steps, 1),
                                   ("added", added, 1 if start == "zeros" else 0)):  # fmt: skip
            at_least(who, what, value, least)
        one_of(who, "depth_kind", depth_kind, ("constant", "own", "absolute"))
        one_of(who, "start", start, ("same", "zeros", "learned"))
        one_of(who, "variance", variance, VARIANCES)
        one_of(who, "gradient", gradient, GRADIENTS)
        if start == "same" and added:
            raise ValueError(
                f'OdeBlock: start must be "zeros" or "learned" where channels are added, got "same" with {added}'
            )
        if not math.isfinite(depth) or depth == 0:
            raise ValueError(f"OdeBlock: depth must be a number that is not 0, got {depth}")
        galerkin = variance in ("fourier", "chebyshev")
        if galerkin and reads_depth:
            raise ValueError(
                f'OdeBlock: variance must be "constant" or "concat" of a field that reads the depth, got {variance!r}'
            )
        self.channels, self.part, self.order = channels, channels + added, order
        self.depth, self.depth_kind, self.start = float(depth), depth_kind, start
        self.data_control, self.concat, self.whole = data_control, variance == "concat", whole
        self.reads_depth = reads_depth or galerkin
        self.gradient, self.checkpoint_steps = gradient, checkpoint_steps
        self.solver, self.counts = Solver(**solver), OdeCounts()
        fields = [field] if isinstance(field, nn.Module) else list(field)
        if not fields or (not self.solver.chooses and self.solver.steps % len(fields)):
            raise ValueError(f"OdeBlock: there must be a field, and steps a multiple of the pieces, got {len(fields)} "
                             f"pieces and {self.solver.steps} steps")  # fmt: skip
        self._pieces = []
        for place, one in enumerate(fields):
            piece = GalerkinField(one, variance, terms, self.depth) if galerkin else one
            self.add_module("field" if len(fields) == 1 else f"field{place}", piece)
            self._pieces.append("field" if len(fields) == 1 else f"field{place}")
        self.name, self.seed = name, drawn_seed() if seed is None else int(seed)
        self._draw(depth_width)

    def _draw(self, H: int) -> None:
        def normal(which: str, *sizes: int) -> nn.Parameter:
            return nn.Parameter(
                ops.normal_start(self.seed, f"{self.name}.{which}", list(sizes), 1 / math.sqrt(sizes[1]))
            )

        if self.start == "learned":
            self.start_weight = normal("start_weight", self.order * self.part, self.channels)
            self.start_bias = nn.Parameter(torch.zeros(self.order * self.part))
        if self.depth_kind != "constant":
            self.depth_weight1, self.depth_bias1 = (
                normal("depth_weight1", H, self.channels),
                nn.Parameter(torch.zeros(H)),
            )
            self.depth_weight2 = normal("depth_weight2", 1, H)
            self.depth_bias2 = nn.Parameter(torch.full((1,), self.depth))

    @property
    def field_inputs(self) -> int:
        return self.order * self.part + (self.channels if self.data_control else 0) + self.concat

    def own_depth(self, x: Tensor) -> Tensor | None:
        """S of each sample [B], or None where it is constant."""
        if self.depth_kind == "constant":
            return None
        mean = x if x.dim() == 2 else x.flatten(2).mean(2)
        hidden = nn.functional.linear(mean, self.depth_weight1, self.depth_bias1).tanh()
        depth = nn.functional.linear(hidden, self.depth_weight2, self.depth_bias2).squeeze(1)
        return depth.abs() if self.depth_kind == "absolute" else depth

    def state_of(self, x: Tensor) -> State:
        """The parts of z(0)."""
        if x.dim() < 2 or x.size(1) != self.channels or not x.is_floating_point():
            raise ValueError(f"OdeBlock: x must be [B, {self.channels}, ..] of a floating type, got {list(x.shape)} of "
                             f"{x.dtype}")  # fmt: skip
        if self.start == "learned":
            z = nn.functional.linear(x if x.dim() == 2 else x.movedim(1, -1), self.start_weight, self.start_bias)
            return (z if x.dim() == 2 else z.movedim(-1, 1)).chunk(self.order, 1)
        zeros = x.new_zeros(x.size(0), self.part, *x.shape[2:])
        first = x if self.start == "same" else torch.cat((x, zeros[:, self.channels :]), 1)
        return (first, *([zeros] * (self.order - 1)))

    def _inputs(self, x: Tensor, S: Tensor | None) -> list[Tensor]:
        """Of the field: x where it is seen, and depths of the samples' own."""
        return [*([x] if self.data_control else []), *([] if S is None else [S])]

    def _field_of(self, place: int, loss: Loss | None) -> FieldOf:
        module = getattr(self, self._pieces[place])
        needs_depth = self.reads_depth or self.concat or loss is not None

        def beside(numbers: Tensor, z: Tensor) -> Tensor:
            return numbers.view(-1, *[1] * (z.dim() - 1))

        def slopes(t: float, state: State, given: Sequence[Tensor]) -> State:
            S = None if self.depth_kind == "constant" else given[-1]
            s = state[0].new_tensor(t) if S is None and needs_depth else None if S is None else S * t
            z = state[: self.order]
            inputs = [*z, given[0]] if self.data_control else list(z)
            if self.concat and s is not None:
                channel = s if s.dim() == 0 else beside(s, z[0])
                inputs.append(channel.to(z[0].dtype).expand(z[0].size(0), 1, *z[0].shape[2:]))
            entry = inputs[0] if len(inputs) == 1 else torch.cat(inputs, 1)
            slope = [*z[1:], module(s, entry) if self.reads_depth else module(entry)]
            if S is not None:
                slope = [k * beside(S, k) for k in slope]
            if loss is not None and s is not None:
                way = S.abs() if S is not None else math.copysign(1.0, self.depth)
                slope.append(loss(s, z[0] if self.order == 1 else torch.cat(z, 1)) * way)
            return tuple(slope)

        return slopes

    def _ends(self, place: int) -> tuple[float, float]:
        all = self.depth if self.depth_kind == "constant" else 1.0
        return all * place / len(self._pieces), all * (place + 1) / len(self._pieces)

    def _in_type(self, x: Tensor) -> Tensor:
        first = next(iter(self.parameters()), None)
        return x if first is None else x.to(first.dtype)

    def forward(self, x: Tensor, loss: Loss | None = None) -> Any:
        """x [B, C, ..] -> y, in the dtype of x. With a loss l(s, z) [B] of the whole state, (y, its integral over the
        depth [B])."""
        self.counts = OdeCounts()
        dtype = x.dtype
        with torch.autocast(x.device.type, enabled=False):
            x = self._in_type(x)
            S = self.own_depth(x)
            z = self.state_of(x)
            if loss is not None:
                z = (*z, x.new_zeros(x.size(0)))
            pieces = len(self._pieces)
            theta = [p for name in self._pieces for p in getattr(self, name).parameters()]
            solver = self.solver if pieces == 1 else replace(self.solver, steps=max(1, self.solver.steps // pieces))
            for place in range(pieces):
                z = solve(self._field_of(place, loss), self._inputs(x, S), z, *self._ends(place), solver, self.gradient,
                          self.checkpoint_steps, theta, self.counts)  # fmt: skip
        y = torch.cat(z[: self.order], 1) if self.whole and self.order > 1 else z[0]
        y = (y if self.whole else y[:, : self.channels]).to(dtype)
        return y if loss is None else (y, z[-1])

    @torch.no_grad()
    def path(self, x: Tensor, steps: int) -> Tensor:
        """The whole states at the ends of `steps` steps of rk4 (rounded up to a multiple of the pieces), the start
        first: [steps + 1, B, n (C + added), ..]."""
        at_least("OdeBlock", "steps of a path", steps, 1)
        with torch.autocast(x.device.type, enabled=False):
            x = self._in_type(x)
            S, z = self.own_depth(x), self.state_of(x)
            states: list[Tensor] = []
            solver = Solver("rk4", -(-steps // len(self._pieces)))
            for place in range(len(self._pieces)):
                f = with_inputs(self._field_of(place, None), self._inputs(x, S))
                z = integrate(f, z, *self._ends(place), solver, OdeCount(),
                              lambda step: states.append(torch.cat(step.z, 1)))  # fmt: skip
        return torch.stack([*states, torch.cat(z, 1)])

    def extra_repr(self) -> str:
        return (
            f"{self.channels}, depth={self.depth}, start={self.start!r}, order={self.order}, "
            f"method={self.solver.method!r}"
        )
