"""Writes out code for vector registers, which do what they are told whatever the compiler thinks of a loop.

numba compiles loops, and whether it uses vector instructions for one depends on guesses about overlapping
memory and costs. Here arithmetic is put down as instructions on vectors instead, by running ordinary Python
over symbols: what is written once for complex numbers serves every length of vector that processors have.
"""

from __future__ import annotations

import math
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils, config, types
from numba.core.codegen import get_host_cpu_features
from numba.core.errors import TypingError

FLOAT, INDEX = ir.FloatType(), ir.IntType(32)


def _features() -> set[str]:
    """What the processor can do that numba compiles for."""
    given = config.CPU_FEATURES
    return set((get_host_cpu_features() if given is None else given).split(","))


def _lanes() -> int:
    """Numbers of four bytes in a vector register."""
    features = _features()
    return 16 if "+avx512f" in features else 8 if "+avx" in features else 4


LANES = _lanes()
"""Numbers in a vector. The results do not depend on it."""
ROW = 2 * LANES
"""Length of a panel's row."""
APART = 16
"""Distance between the two real columns that share a complex one: a multiple of any number of lanes."""
VECTOR = ir.VectorType(FLOAT, LANES)
FUSED = platform.machine() != "x86_64" or "+fma" in _features()
"""Whether a product and a sum are one instruction, rounded once. Where they are to be is written out, so that
it is the same on all processors that can; those from before 2013 cannot."""


@dataclass(frozen=True)
class Vector:
    """A vector in code being written."""

    builder: ir.IRBuilder
    value: Any

    def __add__(self, other: Vector) -> Vector:
        return Vector(self.builder, self.builder.fadd(self.value, other.value))

    def __sub__(self, other: Vector) -> Vector:
        return Vector(self.builder, self.builder.fsub(self.value, other.value))

    def __mul__(self, other: Vector | float) -> Vector:
        return Vector(self.builder, self.builder.fmul(self.value, _value(other)))

    def times(self, factor: Vector | float, plus: Vector) -> Vector:
        """This times a factor plus something else."""
        if not FUSED:
            return self * factor + plus
        kind = ir.FunctionType(VECTOR, [VECTOR] * 3)
        fma = cgutils.get_or_insert_function(self.builder.module, kind, f"llvm.fma.v{LANES}f32")
        return Vector(self.builder, self.builder.call(fma, [self.value, _value(factor), plus.value]))


@dataclass(frozen=True)
class Complex:
    """A vector of complex numbers in code being written."""

    re: Vector
    im: Vector

    def __add__(self, other: Complex) -> Complex:
        return Complex(self.re + other.re, self.im + other.im)

    def __sub__(self, other: Complex) -> Complex:
        return Complex(self.re - other.re, self.im - other.im)

    def __mul__(self, factor: Complex | float) -> Complex:
        if not isinstance(factor, Complex):
            return Complex(self.re * factor, self.im * factor)
        return self._product(factor.re, factor.im)

    def _product(self, re: Vector | float, im: Vector | float) -> Complex:
        return Complex(self.re.times(re, self.im * im * -1.0), self.re.times(im, self.im * re))

    def times(self, factor: float, plus: Complex) -> Complex:
        """This times a factor plus something else."""
        return Complex(self.re.times(factor, plus.re), self.im.times(factor, plus.im))

    def plus_i(self, other: Complex) -> Complex:
        """This plus i times the other."""
        return Complex(self.re - other.im, self.im + other.re)

    def minus_i(self, other: Complex) -> Complex:
        """This minus i times the other."""
        return Complex(self.re + other.im, self.im - other.re)

    def turned(self, k: int, n: int) -> Complex:
        """Multiplied by exp(-2 pi i k / n)."""
        k %= n
        if k == 0:
            return self
        if 4 * k == n:
            return Complex(self.im, self.re * -1.0)
        if 8 * k == n:
            return Complex(self.re + self.im, self.im - self.re) * math.sqrt(0.5)
        angle = -2 * math.pi * k / n
        return self._product(math.cos(angle), math.sin(angle))


def short_transform(x: Sequence[Complex]) -> list[Complex]:
    """Discrete Fourier transform of a few numbers: by its factors 4, 2, 3, 5, and outright for these."""
    n = len(x)
    if n == 2:
        return [x[0] + x[1], x[0] - x[1]]
    if n == 4:
        even, odd = (x[0] + x[2], x[0] - x[2]), (x[1] + x[3], x[1] - x[3])
        return [even[0] + odd[0], even[1].minus_i(odd[1]), even[0] - odd[0], even[1].plus_i(odd[1])]
    factor = next((p for p in (4, 2, 3, 5) if n % p == 0 and n > p), None)
    if factor is not None:
        parts = [short_transform(x[j::factor]) for j in range(factor)]
        groups = [
            short_transform([part[k].turned(j * k, n) for j, part in enumerate(parts)])
            for k in range(n // factor)
        ]
        return [group[q] for q in range(factor) for group in groups]
    return _odd_transform(x)


def _odd_transform(x: Sequence[Complex]) -> list[Complex]:
    """The same for an odd number of them: pairs at equal distances from both ends share their factors."""
    n, pairs = len(x), range(1, len(x) // 2 + 1)
    total, results = x[0], [x[0]] * n
    for j in pairs:
        total = total + (x[j] + x[n - j])
    results[0] = total
    for k in pairs:
        even, odd = x[0], None
        for j in pairs:
            angle = 2 * math.pi * j * k / n
            even = (x[j] + x[n - j]).times(math.cos(angle), even)
            less, sine = x[j] - x[n - j], math.sin(angle)
            odd = less * sine if odd is None else less.times(sine, odd)
        assert odd is not None
        results[k], results[n - k] = even.minus_i(odd), even.plus_i(odd)
    return results


def _value(given: Vector | float) -> Any:
    return given.value if isinstance(given, Vector) else constant(given)


def constant(value: float) -> ir.Constant:
    return ir.Constant(VECTOR, [ir.Constant(FLOAT, float(np.float32(value)))] * LANES)


def whole(value: int) -> ir.Constant:
    return ir.Constant(ir.IntType(64), value)


class Array:
    """An array of float32, as if it were flat, in code being written."""

    def __init__(self, context: Any, builder: ir.IRBuilder, kind: Any, value: Any) -> None:
        self._builder = builder
        self._data = context.make_array(kind)(context, builder, value=value).data

    def load(self, place: Any) -> Vector:
        value = self._builder.load(self._at(place))
        value.align = 4
        return Vector(self._builder, value)

    def store(self, vector: Vector, place: Any) -> None:
        kind = vector.value.type
        self._builder.store(vector.value, self._at(place, kind)).align = 4

    def everywhere(self, place: Any) -> Vector:
        """A vector that holds the number at a place in all lanes."""
        undefined = ir.Constant(VECTOR, ir.Undefined)
        number = self._builder.load(self._builder.gep(self._data, [place]))
        first = self._builder.insert_element(undefined, number, ir.Constant(INDEX, 0))
        return Vector(self._builder, self._builder.shuffle_vector(first, undefined, _order([0] * LANES)))

    def _at(self, place: Any, kind: ir.Type = VECTOR) -> Any:
        return self._builder.bitcast(self._builder.gep(self._data, [place]), kind.as_pointer())


def _order(lanes: Sequence[int]) -> ir.Constant:
    return ir.Constant(ir.VectorType(INDEX, len(lanes)), list(lanes))


def transposed(rows: list[Vector]) -> list[Vector]:
    """Rows and columns of a square exchanged: blocks of half the size, of a quarter, and so on."""
    distance = LANES // 2
    while distance:
        low = [k // (2 * distance) * 2 * distance + k % distance for k in range(LANES)]
        first = [k + (LANES if j // distance % 2 else 0) for j, k in enumerate(low)]
        second = [k + distance for k in first]
        turned = list(rows)
        for k in range(LANES):
            if k // distance % 2 == 0:
                pair = rows[k].value, rows[k + distance].value
                for target, order in ((k, first), (k + distance, second)):
                    shuffled = rows[k].builder.shuffle_vector(*pair, _order(order))
                    turned[target] = Vector(rows[k].builder, shuffled)
        rows, distance = turned, distance // 2
    return rows


Emit = Callable[..., None]


def compiled(arrays: Sequence[Any], numbers: int, emit: Emit) -> tuple[Any, Callable[..., Any]]:
    """Signature and code of a function of arrays and of so many whole numbers that returns nothing."""
    if any(kind.dtype not in (types.float32, types.float64) or kind.layout != "C" for kind in arrays):
        raise TypingError("only contiguous arrays of floats can be worked on lane by lane")
    signature = types.void(*arrays, *[types.intp] * numbers)

    def code(context: Any, builder: ir.IRBuilder, _signature: Any, given: Sequence[Any]) -> Any:
        made = [Array(context, builder, *one) for one in zip(arrays, given, strict=False)]
        emit(builder, *made, *given[len(arrays) :])
        return context.get_dummy_value()

    return signature, code
