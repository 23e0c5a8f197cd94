"""Operations on panels between the passes of transforms: copies, products and sums.

Panels are described in `lanes`. The functions here exist in compiled code only.
"""

from typing import Any

from llvmlite import ir
from numba.core import cgutils

from lucidcube.kernels.fourier.simd.vectors import (
    LANES,
    PAIR_DISTANCE,
    ROW,
    VECTOR,
    Array,
    Builder,
    Complex,
    Vector,
    constant,
    integer,
    lane_function,
)

WIDE = ir.VectorType(ir.DoubleType(), LANES)


@lane_function(arrays=2)
def copy_rows(b: Builder, source: Array, target: Array, count: Any, begin: Any, place: Any) -> None:
    """Copy `count` rows of a panel, from index `begin` of one array to index `place` of another."""
    _copy_pairs(b, source, target, count, (begin, integer(ROW), LANES), (place, integer(ROW), LANES))


@lane_function(arrays=2)
def load_columns(
    b: Builder, plane: Array, panel: Array, count: Any, begin: Any, step: Any, place: Any
) -> None:
    """Copy real columns of a plane, and those `PAIR_DISTANCE` on, into a panel as real and imaginary parts.

    `count` rows are copied, from index `begin` of the plane, whose rows are `step` long, to index `place`.
    """
    _copy_pairs(b, plane, panel, count, (begin, step, PAIR_DISTANCE), (place, integer(ROW), LANES))


@lane_function(arrays=2)
def store_columns(b: Builder, panel: Array, plane: Array, count: Any, begin: Any, step: Any) -> None:
    """Copy the first rows of a panel back to columns of a plane: the reverse of `load_columns`."""
    _copy_pairs(b, panel, plane, count, (integer(0), integer(ROW), LANES), (begin, step, PAIR_DISTANCE))


def _copy_pairs(
    b: Builder,
    source: Array,
    target: Array,
    count: Any,
    read: tuple[Any, Any, int],
    write: tuple[Any, Any, int],
) -> None:
    """Copy pairs of vectors; given are the first index, the step between pairs and the step within a pair."""
    with cgutils.for_range(b, count) as row:
        first, second = (b.add(begin, b.mul(row.index, step)) for begin, step, _ in (read, write))
        for half in (0, 1):
            vector = source.load(b.add(first, integer(half * read[2])))
            target.store(vector, b.add(second, integer(half * write[2])))


@lane_function(arrays=1)
def clear_rows(b: Builder, target: Array, count: Any, place: Any) -> None:
    """Write zeros to `count` rows of a panel, from index `place` on."""
    with cgutils.for_range(b, count) as row:
        there = b.add(place, b.mul(row.index, integer(ROW)))
        for half in (0, LANES):
            target.store(Vector(b, constant(0.0)), b.add(there, integer(half)))


@lane_function(arrays=2)
def multiply_rows(b: Builder, panel: Array, factors: Array, count: Any, place: Any, conjugate: Any) -> None:
    """Multiply a panel by `count` rows of factors from index `place` on, or, if 1, by their conjugates."""
    with b.if_else(b.icmp_signed("==", conjugate, integer(0))) as (plain, conjugated):
        for branch, sign in ((plain, 1.0), (conjugated, -1.0)):
            with branch, cgutils.for_range(b, count) as row:
                here = b.mul(row.index, integer(ROW))
                there = b.add(place, here)
                value = Complex(panel.load(here), panel.load(b.add(here, integer(LANES))))
                factor = Complex(factors.load(there), factors.load(b.add(there, integer(LANES))) * sign)
                product = value * factor
                panel.store(product.re, here)
                panel.store(product.im, b.add(here, integer(LANES)))


@lane_function(arrays=5)
def subtract_columns(
    b: Builder,
    panel: Array,
    plane: Array,
    valid: Array,
    extremes: Array,
    squares: Array,
    count: Any,
    begin: Any,
    step: Any,
) -> None:
    """Subtract a panel from the columns of a plane to which `store_columns` would copy it.

    `valid` is a plane of 1 and 0. `extremes` (2, step) receives, for each of these columns, the largest and
    the smallest of the valid remaining numbers and zero, and `squares` (step,), of float64, the sum of their
    squares.
    """
    kinds = VECTOR, VECTOR, WIDE
    totals = [[cgutils.alloca_once(b, kind) for kind in kinds] for _ in range(2)]
    for columns in totals:
        for total, kind in zip(columns, kinds, strict=True):
            b.store(ir.Constant(kind, None), total)
    with cgutils.for_range(b, count) as row:
        here, there = b.mul(row.index, integer(ROW)), b.add(begin, b.mul(row.index, step))
        for half, (highest, lowest, square) in enumerate(totals):
            pixel = b.add(there, integer(half * PAIR_DISTANCE))
            left = plane.load(pixel) - panel.load(b.add(here, integer(half * LANES)))
            plane.store(left, pixel)
            counted = (left * valid.load(pixel)).value
            for order, extreme in ((">", highest), ("<", lowest)):
                before = b.load(extreme)
                b.store(b.select(b.fcmp_ordered(order, counted, before), counted, before), extreme)
            wide = b.fpext(counted, WIDE)
            b.store(b.fadd(b.load(square), b.fmul(wide, wide)), square)
    for half, (highest, lowest, square) in enumerate(totals):
        column = b.add(begin, integer(half * PAIR_DISTANCE))
        extremes.store(Vector(b, b.load(highest)), column)
        extremes.store(Vector(b, b.load(lowest)), b.add(step, column))
        squares.store(Vector(b, b.load(square)), column)


@lane_function(arrays=4)
def multiply_by_power(
    b: Builder,
    given: Array,
    target: Array,
    pairs: Array,
    phases: Array,
    width: Any,
    count: Any,
    place: Any,
    first: Any,
) -> None:
    """Multiply a block of a spectrum by the power spectrum of a small window.

    The rows of the window are already transformed along x, and are taken in pairs at equal distances from its
    centre, which halves the work: a pair of sum S and difference D adds S cos + i D sin to the transform.
    `given`, from index `place` on, and `target` have a row for each frequency along x. `pairs` (count, width,
    4) holds real and imaginary parts of the sums and of the differences, and `phases` (count, 2, lanes), from
    index `first` on, the cosines and sines that belong to the distances.
    """
    sums = [cgutils.alloca_once(b, VECTOR) for _ in range(2)]
    with cgutils.for_range(b, width) as column:
        for total in sums:
            b.store(constant(0.0), total)
        with cgutils.for_range(b, count) as pair:
            phase = b.add(first, b.mul(pair.index, integer(ROW)))
            cosine, sine = phases.load(phase), phases.load(b.add(phase, integer(LANES)))
            start = b.mul(b.add(b.mul(pair.index, width), column.index), integer(4))
            sum_re, sum_im, difference_re, difference_im = (
                pairs.broadcast(b.add(start, integer(k))) for k in range(4)
            )
            for total, even, odd in (
                (sums[0], sum_re, difference_im * -1.0),
                (sums[1], sum_im, difference_re),
            ):
                partial = even.multiply_add(cosine, Vector(b, b.load(total)))
                b.store(odd.multiply_add(sine, partial).value, total)
        real, imaginary = (Vector(b, b.load(total)) for total in sums)
        power = real.multiply_add(real, imaginary * imaginary)
        here = b.mul(column.index, integer(ROW))
        for half in (integer(0), integer(LANES)):
            value = given.load(b.add(b.add(place, here), half))
            target.store(value * power, b.add(here, half))
