"""What is done to panels between the passes of transforms: copies, products, sums.

As in `kernels/lanes.py`, a panel's rows hold a vector of real parts and one of imaginary parts; the functions
exist in compiled code only, take contiguous arrays as if these were flat, and check no bounds.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils
from numba.extending import intrinsic

from lucidcube.kernels.fourier.simd.vectors import (
    APART,
    LANES,
    ROW,
    VECTOR,
    Array,
    Complex,
    Vector,
    compiled,
    constant,
    whole,
)

WIDE = ir.VectorType(ir.DoubleType(), LANES)


@intrinsic
def copy_rows(typingctx: Any, source: Any, target: Any, count: Any, begin: Any, place: Any) -> Any:
    """
    Copy rows of a panel from one array to another.

    Parameters
    ----------
    source, target : array of float32
    count : int
        Number of rows.
    begin, place : int
        Where they begin in the source and in the target.
    """
    return compiled([source, target], 3, _emit_copy)


def _emit_copy(b: ir.IRBuilder, source: Array, target: Array, count: Any, begin: Any, place: Any) -> None:
    _emit_halves(b, source, target, count, (begin, whole(ROW), LANES), (place, whole(ROW), LANES))


@intrinsic
def load_columns(
    typingctx: Any, plane: Any, panel: Any, count: Any, begin: Any, step: Any, place: Any
) -> Any:
    """
    Copy real columns of a plane into a panel: `LANES` as real parts, those `APART` further on as imaginary.

    Parameters
    ----------
    plane, panel : array of float32
    count : int
        Number of rows.
    begin, step : int
        Where the first pixel is, and how long a row of the plane.
    place : int
        Where the first row of the panel is.
    """
    return compiled([plane, panel], 4, _emit_load)


def _emit_load(
    b: ir.IRBuilder, plane: Array, panel: Array, count: Any, begin: Any, step: Any, place: Any
) -> None:
    _emit_halves(b, plane, panel, count, (begin, step, APART), (place, whole(ROW), LANES))


@intrinsic
def store_columns(typingctx: Any, panel: Any, plane: Any, count: Any, begin: Any, step: Any) -> Any:
    """Copy the first rows of a panel to columns of a plane, as `load_columns` takes them from there."""
    return compiled([panel, plane], 3, _emit_store)


def _emit_store(b: ir.IRBuilder, panel: Array, plane: Array, count: Any, begin: Any, step: Any) -> None:
    _emit_halves(b, panel, plane, count, (whole(0), whole(ROW), LANES), (begin, step, APART))


def _emit_halves(
    b: ir.IRBuilder,
    source: Array,
    target: Array,
    count: Any,
    where: tuple[Any, Any, int],
    there: tuple[Any, Any, int],
) -> None:
    """Copy pairs of vectors; given are where the first is, the step to the next pair, that within a pair."""
    with cgutils.for_range(b, count) as row:
        first, second = (b.add(begin, b.mul(row.index, step)) for begin, step, _ in (where, there))
        for half in (0, 1):
            vector = source.load(b.add(first, whole(half * where[2])))
            target.store(vector, b.add(second, whole(half * there[2])))


@intrinsic
def clear_rows(typingctx: Any, target: Any, count: Any, place: Any) -> Any:
    """Put zeros into `count` rows of an array of float32, from `place` on."""
    return compiled([target], 2, _emit_clear)


def _emit_clear(b: ir.IRBuilder, target: Array, count: Any, place: Any) -> None:
    with cgutils.for_range(b, count) as row:
        there = b.add(place, b.mul(row.index, whole(ROW)))
        for half in (0, LANES):
            target.store(Vector(b, constant(0.0)), b.add(there, whole(half)))


@intrinsic
def multiply_rows(typingctx: Any, panel: Any, factors: Any, count: Any, place: Any, conjugate: Any) -> Any:
    """
    Multiply a panel by complex factors, in place.

    Parameters
    ----------
    panel : array of float32
        Of at least `count` rows.
    factors : array of float32
        As many rows, from `place` on.
    count, place : int
    conjugate : int
        1 to multiply by the conjugate of the factors, or 0.
    """
    return compiled([panel, factors], 3, _emit_multiply)


def _emit_multiply(
    b: ir.IRBuilder, panel: Array, factors: Array, count: Any, place: Any, conjugate: Any
) -> None:
    with b.if_else(b.icmp_signed("==", conjugate, whole(0))) as (plain, conjugated):
        for branch, sign in ((plain, 1.0), (conjugated, -1.0)):
            with branch, cgutils.for_range(b, count) as row:
                here = b.mul(row.index, whole(ROW))
                there = b.add(place, here)
                value = Complex(panel.load(here), panel.load(b.add(here, whole(LANES))))
                factor = Complex(factors.load(there), factors.load(b.add(there, whole(LANES))) * sign)
                product = value * factor
                panel.store(product.re, here)
                panel.store(product.im, b.add(here, whole(LANES)))


@intrinsic
def subtract_columns(
    typingctx: Any,
    panel: Any,
    plane: Any,
    valid: Any,
    extremes: Any,
    squares: Any,
    count: Any,
    begin: Any,
    step: Any,
) -> Any:
    """
    Subtract a panel from those columns of a plane that `store_columns` would put it to; gather what is left.

    Parameters
    ----------
    panel : array of float32
    plane, valid : array of float32
        Of the same shape; `valid` is 1 or 0.
    extremes : array of float32, (2, step)
        Takes for these columns the largest and the smallest of the valid numbers and zero.
    squares : array of float64, (step,)
        Takes the sums of their squares.
    count : int
        Number of rows.
    begin, step : int
        The first of the columns, and how long a row of the planes is.
    """
    return compiled([panel, plane, valid, extremes, squares], 3, _emit_subtract)


def _emit_subtract(
    b: ir.IRBuilder,
    panel: Array,
    plane: Array,
    valid: Array,
    extremes: Array,
    squares: Array,
    count: Any,
    begin: Any,
    step: Any,
) -> None:
    kinds = VECTOR, VECTOR, WIDE
    totals = [[cgutils.alloca_once(b, kind) for kind in kinds] for _ in range(2)]
    for columns in totals:
        for total, kind in zip(columns, kinds, strict=True):
            b.store(ir.Constant(kind, None), total)
    with cgutils.for_range(b, count) as row:
        here, there = b.mul(row.index, whole(ROW)), b.add(begin, b.mul(row.index, step))
        for half, (highest, lowest, square) in enumerate(totals):
            pixel = b.add(there, whole(half * APART))
            left = plane.load(pixel) - panel.load(b.add(here, whole(half * LANES)))
            plane.store(left, pixel)
            counted = (left * valid.load(pixel)).value
            for order, extreme in ((">", highest), ("<", lowest)):
                before = b.load(extreme)
                b.store(b.select(b.fcmp_ordered(order, counted, before), counted, before), extreme)
            wide = b.fpext(counted, WIDE)
            b.store(b.fadd(b.load(square), b.fmul(wide, wide)), square)
    for half, (highest, lowest, square) in enumerate(totals):
        column = b.add(begin, whole(half * APART))
        extremes.store(Vector(b, b.load(highest)), column)
        extremes.store(Vector(b, b.load(lowest)), b.add(step, column))
        squares.store(Vector(b, b.load(square)), column)


@intrinsic
def multiply_by_power(
    typingctx: Any,
    given: Any,
    target: Any,
    pairs: Any,
    phases: Any,
    width: Any,
    count: Any,
    place: Any,
    first: Any,
) -> Any:
    """
    Multiply a block of a spectrum by the power spectrum of a small window.

    The window's rows are transformed along x already and taken in pairs at equal distances from its centre,
    which halves the work: for sum S and difference D of a pair, the part of the transform about the centre
    is S cos + i D sin.

    Parameters
    ----------
    given, target : array of float32
        Rows of a panel, in the first from `place` on.
    pairs : array of float32, (count, width, 4)
        Real and imaginary parts of the sums, and of the differences.
    phases : array of float32, (count, 2, lanes)
        Cosines and sines of the angles that belong to the distances, from `first` on.
    width : int
        Frequencies along x.
    count : int
        Pairs.
    place, first : int
    """
    return compiled([given, target, pairs, phases], 4, _emit_power)


def _emit_power(
    b: ir.IRBuilder,
    given: Array,
    target: Array,
    pairs: Array,
    phases: Array,
    width: Any,
    count: Any,
    place: Any,
    first: Any,
) -> None:
    sums = [cgutils.alloca_once(b, VECTOR) for _ in range(2)]
    with cgutils.for_range(b, width) as column:
        for total in sums:
            b.store(constant(0.0), total)
        with cgutils.for_range(b, count) as pair:
            phase = b.add(first, b.mul(pair.index, whole(ROW)))
            cosine, sine = phases.load(phase), phases.load(b.add(phase, whole(LANES)))
            start = b.mul(b.add(b.mul(pair.index, width), column.index), whole(4))
            sum_re, sum_im, less_re, less_im = (pairs.everywhere(b.add(start, whole(k))) for k in range(4))
            for total, one, other in ((sums[0], sum_re, less_im * -1.0), (sums[1], sum_im, less_re)):
                after = other.times(sine, one.times(cosine, Vector(b, b.load(total))))
                b.store(after.value, total)
        real, imaginary = (Vector(b, b.load(total)) for total in sums)
        power = real.times(real, imaginary * imaginary)
        here = b.mul(column.index, whole(ROW))
        for half in (whole(0), whole(LANES)):
            value = given.load(b.add(b.add(place, here), half))
            target.store(value * power, b.add(here, half))
