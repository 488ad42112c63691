"""z' = f(s, z) by explicit Runge-Kutta methods: the formulas, words and errors of loci/nn/small/ode_solver.h.

A state is a tuple of tensors, its parts; s is a number. Gradients go through the steps, where torch records them, and
not through the choice of a step."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from loci.table import at_least, one_of

State = tuple[Tensor, ...]
Field = Callable[[float, State], State]
CONTROLS = ("batch", "sample")


class OdeError(ArithmeticError):
    """A step that underflows, too many steps, or a field that is NaN or infinite."""


class Tableau(NamedTuple):
    """c, the rows of a, b and, of a pair, b - the weights of the other order."""

    order: int
    c: Sequence[float]
    a: Sequence[Sequence[float]]
    b: Sequence[float]
    error: Sequence[float] = ()


_DOPRI_B = (35 / 384, 0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84, 0)
_DOPRI_OTHER = (5179 / 57600, 0, 7571 / 16695, 393 / 640, -92097 / 339200, 187 / 2100, 1 / 40)
_TSIT_B = (0.09646076681806523, 0.01, 0.4798896504144996, 1.379008574103742, -3.290069515436081, 2.324710524099774, 0)
METHODS = {
    "euler": Tableau(1, (0,), ((),), (1,)),
    "midpoint": Tableau(2, (0, 0.5), ((), (0.5,)), (0, 1)),
    "rk4": Tableau(4, (0, 0.5, 0.5, 1), ((), (0.5,), (0, 0.5), (0, 0, 1)), (1 / 6, 1 / 3, 1 / 3, 1 / 6)),
    "dopri5": Tableau(
        5,
        (0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1, 1),
        (
            (),
            (1 / 5,),
            (3 / 40, 9 / 40),
            (44 / 45, -56 / 15, 32 / 9),
            (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
            (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
            _DOPRI_B[:6],
        ),
        _DOPRI_B,
        tuple(b - other for b, other in zip(_DOPRI_B, _DOPRI_OTHER, strict=True)),
    ),
    "tsit5": Tableau(
        5,
        (0, 0.161, 0.327, 0.9, 0.9800255409045097, 1, 1),
        (
            (),
            (0.161,),
            (-0.008480655492356989, 0.335480655492357),
            (2.8971530571054935, -6.359448489975075, 4.3622954328695815),
            (5.325864828439257, -11.748883564062828, 7.4955393428898365, -0.09249506636175525),
            (5.86145544294642, -12.92096931784711, 8.159367898576159, -0.071584973281401, -0.028269050394068383),
            _TSIT_B[:6],
        ),
        _TSIT_B,
        (-0.00178001105222577714, -0.0008164344596567469, 0.007880878010261995, -0.1447110071732629,
         0.5823571654525552, -0.45808210592918697, 1 / 66),
    ),
}  # fmt: skip


@dataclass
class OdeCount:
    """Evaluations of the field; steps that were taken, and that were refused."""

    evaluations: int = 0
    taken: int = 0
    refused: int = 0


@dataclass(frozen=True)
class Solver:
    """Options: `steps` of euler, midpoint and rk4, the others of dopri5 and tsit5. ValueError for impossible ones."""

    method: str = "rk4"
    steps: int = 10
    rtol: float = 1e-3
    atol: float = 1e-4
    control: str = "batch"
    first_step: float = 0.0
    max_steps: int = 10000

    def __post_init__(self) -> None:
        one_of("ode", "method", self.method, list(METHODS))
        one_of("ode", "control", self.control, CONTROLS)
        at_least("ode", "steps", self.steps, 1)
        at_least("ode", "max_steps", self.max_steps, 1)
        numbers = (self.rtol, self.atol, self.first_step)
        if not all(math.isfinite(x) and x >= 0 for x in numbers) or (self.rtol + self.atol == 0 and self.chooses):
            raise ValueError(f"ode: rtol, atol and first_step must be numbers of at least 0, one of the first two "
                             f"above 0, got {self.rtol}, {self.atol} and {self.first_step}")  # fmt: skip

    @property
    def chooses(self) -> bool:
        """Whether the method chooses its steps."""
        return bool(METHODS[self.method].error)


class Step(NamedTuple):
    """A step of h from the state z at s."""

    s: float
    h: float
    z: State


def slopes_of(field: Field, s: float, z: State, count: OdeCount) -> State:
    slope = field(s, z)
    count.evaluations += 1
    if len(slope) != len(z) or any(k.shape != part.shape for k, part in zip(slope, z, strict=True)):
        raise ValueError(f"ode: the field must give slopes of the state's shape {[list(part.shape) for part in z]}, "
                         f"got {[list(k.shape) for k in slope]}")  # fmt: skip
    return tuple(k.to(part.dtype) for k, part in zip(slope, z, strict=True))


def weighted_sum(base: Tensor | None, k: Sequence[State], part: int, weights: Sequence[float], h: float) -> Tensor:
    """base + h times the sum of weight k."""
    total = base
    for slope, weight in zip(k, weights, strict=False):
        if weight != 0:
            total = slope[part] * (h * weight) if total is None else torch.add(total, slope[part], alpha=h * weight)
    assert total is not None
    return total


def moved(z: State, k: Sequence[State], weights: Sequence[float], h: float) -> State:
    return tuple(weighted_sum(part, k, place, weights, h) for place, part in enumerate(z))


def stages_of(
    field: Field, step: Step, method: Tableau, first: State | None, count: OdeCount
) -> tuple[list[State], State]:
    """The slopes of all stages, of which the first may be known, and the state after the step."""
    k = [slopes_of(field, step.s, step.z, count) if first is None else first]
    z = step.z
    for c, a in zip(method.c[1:], method.a[1:], strict=True):
        z = moved(step.z, k, a, step.h)
        k.append(slopes_of(field, step.s + c * step.h, z, count))
    return k, z if method.error else moved(step.z, k, method.b, step.h)


def ode_step(field: Field, step: Step, name: str, count: OdeCount) -> State:
    """One step of any method, without an estimate."""
    method = METHODS[name]
    if not method.error:
        return stages_of(field, step, method, None, count)[1]
    # The last stage is for the estimate and for the next step.
    short = Tableau(method.order, method.c[:-1], method.a[:-1], method.a[-1])
    return stages_of(field, step, short, None, count)[1]


def root_mean_square(x: Tensor, scale: Tensor, control: str) -> float:
    if x.numel() == 0:
        return 0.0
    square = (x / scale).square()
    if control == "batch" or square.dim() == 0:
        return math.sqrt(square.mean().item())
    return math.sqrt(square.reshape(square.size(0), -1).mean(1).max().item())


def worst(values: Sequence[float]) -> float:
    return math.nan if any(map(math.isnan, values)) else max(values, default=0.0)


class StepControl:
    def __init__(self, options: Solver, controlled: int):
        self.options, self.controlled, self.method = options, controlled, METHODS[options.method]

    @torch.no_grad()
    def error_ratio(self, step: Step, k: Sequence[State], after: State) -> float:
        ratios = []
        for part in range(self.controlled):
            error = weighted_sum(None, k, part, self.method.error, step.h)
            scale = torch.maximum(step.z[part].abs(), after[part].abs()) * self.options.rtol + self.options.atol
            ratios.append(root_mean_square(error, scale, self.options.control))
        return worst(ratios)

    def factor(self, ratio: float) -> float:
        if not math.isfinite(ratio):
            return 0.2
        return 10.0 if ratio == 0 else min(10.0, max(0.2, 0.9 * ratio ** (-1 / self.method.order)))

    def norm(self, x: State, z: State) -> float:
        scales = [part.abs() * self.options.rtol + self.options.atol for part in z[: self.controlled]]
        parts = zip(x, scales, strict=False)
        return worst([root_mean_square(one, scale, self.options.control) for one, scale in parts])

    @torch.no_grad()
    def first_step(self, field: Field, start: Step, slope: State, length: float, count: OdeCount) -> float:
        """Its size; `slope` is that of z at s."""
        if self.options.first_step > 0:
            return min(self.options.first_step, length)
        size, speed = self.norm(start.z, start.z), self.norm(slope, start.z)
        guess = min(length, 1e-6 if size < 1e-5 or speed < 1e-5 else 0.01 * size / speed)
        h = math.copysign(guess, start.h)
        after = slopes_of(field, start.s + h, moved(start.z, [slope], (1,), h), count)
        bend = tuple(k - first for k, first in zip(after, slope, strict=True))
        most = worst([speed, self.norm(bend, start.z) / guess])
        if not math.isfinite(most):
            return guess
        by_bend = max(1e-6, guess * 1e-3) if most <= 1e-15 else (0.01 / most) ** (1 / self.method.order)
        return min(100 * guess, by_bend, length)


def refuse_numbers(s: float) -> OdeError:
    return OdeError(f"ode: the field must give finite numbers, got NaN or infinity at s = {s:.6g}")


def integrate(
    field: Field,
    z: State,
    start: float,
    end: float,
    options: Solver,
    count: OdeCount,
    watch: Callable[[Step], None] = lambda step: None,
    controlled: int | None = None,
) -> State:
    """The state at `end`. `watch` is called before each step that is taken; the first `controlled` parts decide on
    steps."""
    if not z or not all(part.is_floating_point() for part in z) or not math.isfinite(start) or not math.isfinite(end):
        raise ValueError(f"ode: a state of floating tensors and finite ends are expected, got "
                         f"{[str(part.dtype) for part in z]} from {start} to {end}")  # fmt: skip
    if start == end:
        return z
    if options.chooses:
        return integrate_controlled(field, z, start, end, options, count, watch, controlled or len(z))
    h = (end - start) / options.steps
    for place in range(options.steps):
        step = Step(start + place * h, h, z)
        watch(step)
        z = ode_step(field, step, options.method, count)
        count.taken += 1
    return z


def integrate_controlled(
    field: Field,
    z: State,
    start: float,
    end: float,
    options: Solver,
    count: OdeCount,
    watch: Callable[[Step], None],
    controlled: int,
) -> State:
    control, method = StepControl(options, controlled), METHODS[options.method]
    direction = 1.0 if end > start else -1.0
    first = slopes_of(field, start, z, count)
    if not all(bool(k.isfinite().all()) for k in first):
        raise refuse_numbers(start)
    h = control.first_step(field, Step(start, direction, z), first, abs(end - start), count)
    least = 4 * (2.0**-52 if z[0].dtype == torch.float64 else 2.0**-23) * max(abs(start), abs(end))
    s, tried, last = start, 0, False
    while not last:
        if tried == options.max_steps:
            raise OdeError(f"ode: the solution must take at most {options.max_steps} steps, got s = {s:.6g} of "
                           f"{end:.6g} after so many, with a step of {h:.3g}")  # fmt: skip
        tried += 1
        left = abs(end - s)
        last = h >= 0.999 * left  # no sliver of a step is left behind
        step = Step(s, direction * (left if last else h), z)
        k, after = stages_of(field, step, method, first, count)
        ratio = control.error_ratio(step, k, after)
        h = abs(step.h) * control.factor(ratio)
        if ratio <= 1:  # false for NaN
            watch(step)
            s, z, first = (end if last else s + step.h), after, k[-1]
            count.taken += 1
            continue
        last = False
        count.refused += 1
        if h >= least:
            continue
        if not math.isfinite(ratio):
            raise refuse_numbers(s)
        raise OdeError(f"ode: the step must stay above {least:.3g}, got {h:.3g} at s = {s:.6g} with an error ratio of "
                       f"{ratio:.3g}")  # fmt: skip
    return z
