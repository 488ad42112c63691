"""Solutions of ordinary differential equations with their gradients: `odeint`. The block is loci/ode_block.py.

    y = loci.odeint(field, z, [0.0, 0.5, 1.0])            # field(s, z); y [3, ...]

Formulas: docs/small-systems.md, "ODE blocks"; those of loci/nn/small/ode_solve.h, with the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from loci.ode_solver import Field, OdeCount, Solver, State, Step, integrate, ode_step
from loci.table import at_least, one_of

FieldOf = Callable[[float, State, Sequence[Tensor]], State]
GRADIENTS = ("steps", "adjoint", "checkpoints")


@dataclass
class OdeCounts:
    """What forward and backward did."""

    forward: OdeCount = field(default_factory=OdeCount)
    backward: OdeCount = field(default_factory=OdeCount)


def pulled_back(y: State, a: Sequence[Tensor], inputs: Sequence[Tensor]) -> list[Tensor]:
    """Gradients of the sum of a y; zeros where there is none."""
    pairs = [(one, grad) for one, grad in zip(y, a, strict=True) if one.requires_grad]
    if not pairs:
        return [torch.zeros_like(one) for one in inputs]
    outputs, grads = zip(*pairs, strict=True)
    found = torch.autograd.grad(outputs, inputs, grads, allow_unused=True)
    return [torch.zeros_like(one) if grad is None else grad for one, grad in zip(inputs, found, strict=True)]


@dataclass
class Problem:
    """What forward leaves for backward."""

    field: FieldOf
    start: float
    end: float
    solver: Solver
    gradient: str
    checkpoint_steps: int
    counts: OdeCounts
    parts: int
    learned: int  # of theta
    groups: list[list[Step]]  # steps between checkpoints; the first of each holds its state

    def keep(self, step: Step) -> None:
        if self.gradient != "checkpoints":
            return
        if not self.groups or len(self.groups[-1]) == self.checkpoint_steps:
            self.groups.append([step])
        else:
            self.groups[-1].append(Step(step.s, step.h, ()))

    def adjoint(self, f: Field, theta: list[Tensor], z: State, a: Sequence[Tensor]) -> list[Tensor]:
        """Backward in s: parts z, a, and g of theta."""
        n = self.parts

        def slopes(s: float, now: State) -> State:
            with torch.enable_grad():
                at_s = tuple(part.detach().requires_grad_() for part in now[:n])
                slope = f(s, at_s)
                grads = pulled_back(slope, now[n : 2 * n], [*at_s, *theta])
            return (*(k.detach() for k in slope), *(-grad for grad in grads))

        state = (*z, *a, *(torch.zeros_like(part) for part in theta))
        return list(
            integrate(slopes, state, self.end, self.start, self.solver, self.counts.backward, controlled=2 * n)[n:]
        )

    def again(self, f: Field, theta: list[Tensor], a: Sequence[Tensor]) -> list[Tensor]:
        """The steps of each group once more, with gradients."""
        grads = [*a, *(torch.zeros_like(part) for part in theta)]
        for group in reversed(self.groups):
            with torch.enable_grad():
                first = z = tuple(part.detach().requires_grad_() for part in group[0].z)
                for step in group:
                    z = ode_step(f, Step(step.s, step.h, z), self.solver.method, self.counts.backward)
                found = pulled_back(z, grads[: self.parts], [*first, *theta])
            grads = found[: self.parts] + [
                g + more for g, more in zip(grads[self.parts :], found[self.parts :], strict=True)
            ]
        return grads


def with_inputs(f: FieldOf, inputs: Sequence[Tensor]) -> Field:
    return lambda s, z: f(s, z, inputs)


class _Solution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, problem: Problem, *tensors: Tensor) -> State:
        z, rest = tensors[: problem.parts], tensors[problem.parts :]
        f = with_inputs(problem.field, rest[problem.learned :])
        end = integrate(f, z, problem.start, problem.end, problem.solver, problem.counts.forward, problem.keep)
        ctx.problem = problem
        ctx.save_for_backward(*rest, *(end if problem.gradient == "adjoint" else ()))
        return end

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *a: Tensor) -> Any:
        problem, saved = ctx.problem, list(ctx.saved_tensors)
        end = tuple(saved[len(saved) - problem.parts :]) if problem.gradient == "adjoint" else ()
        rest = saved[: len(saved) - len(end)]
        # Inputs without their history, which is not a part of the solution.
        inputs = [one.detach().requires_grad_(one.requires_grad) for one in rest[problem.learned :]]
        wanted = rest[: problem.learned] + [one for one in inputs if one.requires_grad]
        f = with_inputs(problem.field, inputs)
        with torch.autocast("cpu", enabled=False):
            found = problem.adjoint(f, wanted, end, a) if end else problem.again(f, wanted, a)
        of_inputs = iter(found[problem.parts + problem.learned :])
        return (None, *found[: problem.parts + problem.learned],
                *(next(of_inputs) if one.requires_grad else None for one in inputs))  # fmt: skip


def solve(
    f: FieldOf,
    inputs: Sequence[Tensor],
    z: State,
    start: float,
    end: float,
    solver: Solver,
    gradient: str,
    checkpoint_steps: int,
    theta: Iterable[Tensor],
    counts: OdeCounts,
) -> State:
    """The state at `end`. `theta`: leaves that the field depends on; `inputs`: tensors with a history, given to it."""
    learned = [part for part in theta if part.requires_grad]
    alone = not any(part.requires_grad for part in (*learned, *z, *inputs))
    with torch.autocast("cpu", enabled=False):
        if gradient == "steps" or not torch.is_grad_enabled() or alone or start == end:
            return integrate(with_inputs(f, inputs), z, start, end, solver, counts.forward)
        if not all(part.is_leaf for part in learned):
            raise ValueError("ode: parameters must be leaves, got the result of an operation")
        problem = Problem(f, start, end, solver, gradient, checkpoint_steps, counts, len(z), len(learned), [])
        return _Solution.apply(problem, *z, *learned, *inputs)  # type: ignore[no-any-return, no-untyped-call]


def odeint(
    field: Callable[[Tensor, Tensor], Tensor],
    z: Tensor,
    points: Sequence[float],
    *,
    method: str = "dopri5",
    gradient: str = "steps",
    checkpoint_steps: int = 1,
    parameters: Iterable[Tensor] | None = None,
    counts: OdeCounts | None = None,
    **solver: Any,
) -> Tensor:
    """The solution of z' = field(s, z) with z(points[0]) = z, at all points, [points, *z.shape].

    Args:
        field: a module or a function; s is a tensor [].
        points: numbers that rise or fall. `steps` of a fixed method are those between two points.
        method: euler, midpoint, rk4 (`steps` equal ones), dopri5 or tsit5 (`rtol`, `atol`, `control`, `first_step`,
            `max_steps`).
        gradient: through the "steps", by the "adjoint", or "checkpoints": each `checkpoint_steps`-th state is kept and
            the steps between are made again.
        parameters: of adjoint and checkpoints, what the field depends on; those of a module by default.
        counts: gets the evaluations, of backward too.

    Raises ValueError for bad options, and OdeError (an ArithmeticError) for a step that underflows and a field that is
    NaN or infinite, with s."""
    one_of("odeint", "gradient", gradient, GRADIENTS)
    at_least("odeint", "checkpoint_steps", checkpoint_steps, 1)
    if parameters is None and gradient != "steps" and not isinstance(field, nn.Module):
        raise ValueError(f"odeint: parameters must be given for gradient {gradient!r} of a function, got None")
    theta = (
        list(parameters) if parameters is not None else list(field.parameters()) if isinstance(field, nn.Module) else []
    )
    ends = [float(point) for point in points]
    rises = [later > earlier for earlier, later in pairwise(ends)]
    if not ends or (any(rises) and not all(rises)) or len(set(ends)) < len(ends):
        raise ValueError(f"odeint: points must be numbers that rise or fall, got {ends}")
    options, found = Solver(method=method, **solver), counts or OdeCounts()

    def slopes(s: float, state: State, _: Sequence[Tensor]) -> State:
        return (field(state[0].new_tensor(s), state[0]),)

    state: State = (z,)
    states = [z]
    for start, end in pairwise(ends):
        state = solve(slopes, (), state, start, end, options, gradient, checkpoint_steps, theta, found)
        states.append(state[0])
    return torch.stack(states)
