"""Code for vector registers, written as ordinary Python over symbols.

numba compiles loops, and whether it uses vector instructions for one of them depends on its estimates of
overlapping memory and of cost. Here the arithmetic is written as instructions on vectors instead, through
llvmlite, so that one text about complex numbers serves every vector length that processors have.
"""

from __future__ import annotations

import inspect
import math
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from llvmlite import ir
from numba.core import cgutils, config, types
from numba.core.codegen import get_host_cpu_features
from numba.core.errors import TypingError
from numba.extending import intrinsic

FLOAT, INDEX = ir.FloatType(), ir.IntType(32)
Builder: TypeAlias = ir.IRBuilder

_given = config.CPU_FEATURES
FEATURES = set((get_host_cpu_features() if _given is None else _given).split(","))
"""Features of the processor for which numba compiles."""
LANES = 16 if "+avx512f" in FEATURES else 8 if "+avx" in FEATURES else 4
"""Numbers in a vector. Results do not depend on it."""
ROW = 2 * LANES
"""Length of a row of a panel: a vector of real parts and one of imaginary parts."""
PAIR_DISTANCE = 16
"""Distance between the two real columns that form a complex one: a multiple of any number of lanes."""
VECTOR = ir.VectorType(FLOAT, LANES)
FUSED = platform.machine() not in ("x86_64", "AMD64") or "+fma" in FEATURES
"""Whether a product and a sum are one instruction, which rounds once. Where they are fused is written out, so
that results are the same on all processors with this instruction; x86 processors before 2013 lack it."""


@dataclass(frozen=True)
class Vector:
    """A vector in the code being generated."""

    builder: Builder
    value: Any

    def __add__(self, other: Vector) -> Vector:
        return Vector(self.builder, self.builder.fadd(self.value, other.value))

    def __sub__(self, other: Vector) -> Vector:
        return Vector(self.builder, self.builder.fsub(self.value, other.value))

    def __mul__(self, other: Vector | float) -> Vector:
        return Vector(self.builder, self.builder.fmul(self.value, _value(other)))

    def multiply_add(self, factor: Vector | float, addend: Vector) -> Vector:
        """Return self * factor + addend."""
        if not FUSED:
            return self * factor + addend
        kind = ir.FunctionType(VECTOR, [VECTOR] * 3)
        fma = cgutils.get_or_insert_function(self.builder.module, kind, f"llvm.fma.v{LANES}f32")
        return Vector(self.builder, self.builder.call(fma, [self.value, _value(factor), addend.value]))


@dataclass(frozen=True)
class Complex:
    """A vector of complex numbers in the code being generated."""

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
        return Complex(self.re.multiply_add(re, self.im * im * -1.0), self.re.multiply_add(im, self.im * re))

    def multiply_add(self, factor: float, addend: Complex) -> Complex:
        """Return self * factor + addend, for a real factor."""
        return Complex(self.re.multiply_add(factor, addend.re), self.im.multiply_add(factor, addend.im))

    def plus_i(self, other: Complex) -> Complex:
        """Return self + i other."""
        return Complex(self.re - other.im, self.im + other.re)

    def minus_i(self, other: Complex) -> Complex:
        """Return self - i other."""
        return Complex(self.re + other.im, self.im - other.re)

    def rotated(self, k: int, n: int) -> Complex:
        """Return self exp(-2 pi i k / n)."""
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
    """Return the discrete Fourier transform of a few numbers, by its factors 4, 2, 3 and 5."""
    n = len(x)
    if n == 2:
        return [x[0] + x[1], x[0] - x[1]]
    if n == 4:
        even, odd = (x[0] + x[2], x[0] - x[2]), (x[1] + x[3], x[1] - x[3])
        return [even[0] + odd[0], even[1].minus_i(odd[1]), even[0] - odd[0], even[1].plus_i(odd[1])]
    factor = next((p for p in (4, 2, 3, 5) if n % p == 0 and n > p), None)
    if factor is None:
        return _odd_transform(x)
    parts = [short_transform(x[j::factor]) for j in range(factor)]
    groups = [
        short_transform([part[k].rotated(j * k, n) for j, part in enumerate(parts)])
        for k in range(n // factor)
    ]
    return [group[q] for q in range(factor) for group in groups]


def _odd_transform(x: Sequence[Complex]) -> list[Complex]:
    """Return the transform of an odd number: pairs at equal distances from both ends share factors."""
    n, pairs = len(x), range(1, len(x) // 2 + 1)
    total, results = x[0], [x[0]] * n
    for j in pairs:
        total = total + (x[j] + x[n - j])
    results[0] = total
    for k in pairs:
        even, odd = x[0], None
        for j in pairs:
            angle = 2 * math.pi * j * k / n
            even = (x[j] + x[n - j]).multiply_add(math.cos(angle), even)
            difference, sine = x[j] - x[n - j], math.sin(angle)
            odd = difference * sine if odd is None else difference.multiply_add(sine, odd)
        assert odd is not None  # noqa: S101  for mypy
        results[k], results[n - k] = even.minus_i(odd), even.plus_i(odd)
    return results


def _value(given: Vector | float) -> Any:
    return given.value if isinstance(given, Vector) else constant(given)


def constant(value: float) -> ir.Constant:
    """Return a vector whose lanes all hold a number."""
    return ir.Constant(VECTOR, [ir.Constant(FLOAT, float(np.float32(value)))] * LANES)


def integer(value: int) -> ir.Constant:
    """Return an integer constant."""
    return ir.Constant(ir.IntType(64), value)


class Array:
    """A contiguous array of floats, indexed as if it were flat, in the code being generated."""

    def __init__(self, builder: Builder, data: Any) -> None:
        self._builder, self._data = builder, data

    def part(self, place: Any) -> Array:
        """Return the part of the array from an index on."""
        return Array(self._builder, self._builder.gep(self._data, [place]))

    def load(self, place: Any) -> Vector:
        """Return the vector that begins at an index."""
        value = self._builder.load(self._at(place))
        value.align = 4
        return Vector(self._builder, value)

    def store(self, vector: Vector, place: Any) -> None:
        """Write a vector from an index on."""
        kind = vector.value.type
        self._builder.store(vector.value, self._at(place, kind)).align = 4

    def broadcast(self, place: Any) -> Vector:
        """Return a vector whose lanes all hold the number at an index."""
        undefined = ir.Constant(VECTOR, ir.Undefined)
        number = self._builder.load(self._builder.gep(self._data, [place]))
        first = self._builder.insert_element(undefined, number, ir.Constant(INDEX, 0))
        return Vector(self._builder, self._builder.shuffle_vector(first, undefined, _order([0] * LANES)))

    def _at(self, place: Any, kind: ir.Type = VECTOR) -> Any:
        return self._builder.bitcast(self._builder.gep(self._data, [place]), kind.as_pointer())


def _order(lanes: Sequence[int]) -> ir.Constant:
    return ir.Constant(ir.VectorType(INDEX, len(lanes)), list(lanes))


def transposed(rows: list[Vector]) -> list[Vector]:
    """Return the transpose of a square: blocks of half its side are exchanged, then of a quarter, etc."""
    distance = LANES // 2
    while distance:
        low = [k // (2 * distance) * 2 * distance + k % distance for k in range(LANES)]
        first = [k + (LANES if j // distance % 2 else 0) for j, k in enumerate(low)]
        second = [k + distance for k in first]
        exchanged = list(rows)
        for k in range(LANES):
            if k // distance % 2 == 0:
                pair = rows[k].value, rows[k + distance].value
                for target, order in ((k, first), (k + distance, second)):
                    shuffled = rows[k].builder.shuffle_vector(*pair, _order(order))
                    exchanged[target] = Vector(rows[k].builder, shuffled)
        rows, distance = exchanged, distance // 2
    return rows


def lane_function(arrays: int) -> Callable[[Callable[..., None]], Any]:
    """Make a code generator into a function for compiled code that returns nothing.

    The generator takes the builder, then so many arrays, then integers; the function takes all but the
    builder. It reads and writes contiguous arrays of floats as if these were flat, and checks no bounds.
    """

    def decorate(generate: Callable[..., None]) -> Any:
        def define(_typing_context: Any, *kinds: Any) -> tuple[Any, Callable[..., Any]]:
            if any(a.dtype not in (types.float32, types.float64) or a.layout != "C" for a in kinds[:arrays]):
                raise TypingError("only contiguous arrays of floats can be processed lane by lane")

            def code(context: Any, builder: Builder, _signature: Any, given: Sequence[Any]) -> Any:
                both = zip(kinds[:arrays], given, strict=False)
                data = [context.make_array(kind)(context, builder, value=value).data for kind, value in both]
                generate(builder, *(Array(builder, one) for one in data), *given[arrays:])
                return context.get_dummy_value()

            return types.void(*kinds[:arrays], *[types.intp] * (len(kinds) - arrays)), code

        define.__name__, define.__doc__ = generate.__name__, generate.__doc__
        # numba binds arguments by this signature, of which the first parameter is the typing context.
        define.__signature__ = inspect.signature(generate)  # type: ignore[attr-defined]
        return intrinsic(define)

    return decorate
