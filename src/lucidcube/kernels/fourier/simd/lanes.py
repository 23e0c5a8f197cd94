"""Fourier transforms of many columns at once, one in each lane of a vector: the passes, in pieces.

A panel holds as many complex columns as a vector register of this processor has lanes: for each row a vector
of real parts and one of imaginary parts, one behind the other in an array of float32.

The functions exist in compiled code only. They take contiguous arrays of float32, as if these were flat, and
check no bounds.
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
    Array,
    Complex,
    Vector,
    compiled,
    short_transform,
    transposed,
    whole,
)

RADICES = (3, 4, 5, 6, 8, 9, 10)
"""Lengths of transform that one pass can do: those whose numbers fit into the registers."""


@intrinsic
def transform_pass(
    typingctx: Any, source: Any, target: Any, twiddles: Any, radix: Any, n: Any, stride: Any, swapped: Any
) -> Any:
    """
    One pass of Stockham's self-sorting transform over a panel, from one array to another.

    Parameters
    ----------
    source, target : array of float32
        Panels of n * stride rows.
    twiddles : array of float32
        exp(-2 pi i j k / n) for k < n / radix and 0 < j < radix: cosine and sine, j fastest. Not read if
        n is the radix.
    radix : int
        One of `RADICES`; divides n.
    n : int
        Length of what is left to transform; n times stride is the length of the whole.
    stride : int
        Product of the radices of the passes before.
    swapped : int
        1 to take imaginary for real parts and the other way round, in and out, which makes it the inverse
        transform, without its factor; or 0.
    """
    return compiled([source, target, twiddles], 4, _emit_pass)


def _emit_pass(
    b: ir.IRBuilder,
    source: Array,
    target: Array,
    twiddles: Array,
    radix: Any,
    n: Any,
    stride: Any,
    swapped: Any,
) -> None:
    end = b.append_basic_block("end")
    choice = b.switch(radix, end)
    for one in RADICES:
        block = b.append_basic_block(f"radix{one}")
        choice.add_case(whole(one), block)
        b.position_at_end(block)
        with b.if_else(b.icmp_signed("==", n, whole(one))) as (last, earlier):
            with last:
                _emit_butterflies(b, source, target, None, one, n, stride, swapped)
            with earlier:
                _emit_butterflies(b, source, target, twiddles, one, n, stride, swapped)
        b.branch(end)
    b.position_at_end(end)


def _emit_butterflies(
    b: ir.IRBuilder,
    source: Array,
    target: Array,
    twiddles: Array | None,
    radix: int,
    n: Any,
    stride: Any,
    swapped: Any,
) -> None:
    """All the short transforms of a pass; see Van Loan 1992, "Computational Frameworks for the FFT", 1.7."""
    re = b.mul(swapped, whole(LANES))
    im = b.sub(whole(LANES), re)
    groups = b.sdiv(n, whole(radix))
    out = b.mul(stride, whole(ROW))
    into = b.mul(out, groups)
    with cgutils.for_range(b, groups) as group:
        factors = []
        if twiddles is not None:
            first = b.mul(group.index, whole(2 * (radix - 1)))
            for j in range(radix - 1):
                cosine, sine = (twiddles.everywhere(b.add(first, whole(2 * j + k))) for k in (0, 1))
                factors.append(Complex(cosine, sine))
        begin = b.mul(group.index, out)
        with cgutils.for_range(b, stride) as row:
            read = b.add(begin, b.mul(row.index, whole(ROW)))
            write = b.add(b.mul(begin, whole(radix)), b.mul(row.index, whole(ROW)))
            places = [b.add(read, b.mul(into, whole(j))) for j in range(radix)]
            given = [Complex(source.load(b.add(p, re)), source.load(b.add(p, im))) for p in places]
            for j, result in enumerate(short_transform(given)):
                turned = result * factors[j - 1] if factors and j else result
                place = b.add(write, b.mul(out, whole(j)))
                target.store(turned.re, b.add(place, re))
                target.store(turned.im, b.add(place, im))


@intrinsic
def split_columns(typingctx: Any, panel: Any, rows: Any, n: Any, first: Any, place: Any) -> Any:
    """
    From the transform of a panel of real columns to half-spectra of each: a square of `LANES` frequencies.

    The panel holds what `load_columns` took. Results are twice the transforms.

    Parameters
    ----------
    panel : array of float32
        Transformed, of n + 1 rows, the last being equal to the first.
    rows : array of float32
        `LANES` frequencies in a row of real parts and one of imaginary ones, for each column: the first from
        `place` on.
    n : int
        Length of the transform.
    first : int
        The lowest of the frequencies, which may reach up to n.
    place : int
    """
    return compiled([panel, rows], 3, _emit_split)


def _emit_split(b: ir.IRBuilder, panel: Array, rows: Array, n: Any, first: Any, place: Any) -> None:
    def parts(imaginary: int) -> tuple[list[Vector], list[Vector]]:
        offset = whole(imaginary * LANES)
        ahead, behind = [], []
        for k in range(LANES):
            frequency = b.add(first, whole(k))
            ahead.append(panel.load(b.add(b.mul(frequency, whole(ROW)), offset)))
            behind.append(panel.load(b.add(b.mul(b.sub(n, frequency), whole(ROW)), offset)))
        return ahead, behind

    # Z = A + i B for real columns a and b: 2 A(k) = Z(k) + Z(-k)*, and 2 i B(k) = Z(k) - Z(-k)*.
    for column, imaginary, source, sign in ((0, 0, 0, 1), (0, 1, 1, -1), (1, 0, 1, 1), (1, 1, 0, -2)):
        ahead, behind = parts(source)
        both = zip(ahead, behind, strict=True)
        if sign == 1:
            square = [x + y for x, y in both]
        else:
            square = [x - y if sign == -1 else y - x for x, y in both]
        _store_square(b, rows, transposed(square), place, column * APART * ROW + imaginary * LANES)


def _store_square(b: ir.IRBuilder, rows: Array, square: list[Vector], place: Any, offset: int) -> None:
    for k, vector in enumerate(square):
        rows.store(vector, b.add(place, whole(k * ROW + offset)))


@intrinsic
def join_columns(typingctx: Any, rows: Any, panel: Any, n: Any, first: Any, place: Any) -> Any:
    """
    From half-spectra of real columns to the transform of a panel of them: the reverse of `split_columns`.

    Parameters
    ----------
    rows, panel, n, first, place
        As for `split_columns`. Frequencies beyond n / 2 are not used; the row n of the panel is scratch.
        It takes the spectra, not twice the spectra.
    """
    return compiled([rows, panel], 3, _emit_join)


def _emit_join(b: ir.IRBuilder, rows: Array, panel: Array, n: Any, first: Any, place: Any) -> None:
    def column(number: int, imaginary: int) -> list[Vector]:
        offset = number * APART * ROW + imaginary * LANES
        return [rows.load(b.add(place, whole(k * ROW + offset))) for k in range(LANES)]

    half = b.sdiv(n, whole(2))
    direct, mirrored = [], []
    for k in range(LANES):
        frequency = b.add(first, whole(k))
        needed = b.icmp_signed("<=", frequency, half)
        direct.append(b.mul(b.select(needed, frequency, n), whole(ROW)))
        mirrored.append(b.mul(b.select(needed, b.sub(n, frequency), n), whole(ROW)))
    # Z(k) = A(k) + i B(k), and Z(-k) = A(k)* + i B(k)*.
    for first_part, second_part, ahead, behind in (
        ((0, 0), (1, 1), (direct, 0, -1), (mirrored, 0, 1)),
        ((1, 0), (0, 1), (direct, 1, 1), (mirrored, 1, -1)),
    ):
        for places, imaginary, sign in (ahead, behind):
            both = zip(column(*first_part), column(*second_part), strict=True)
            square = transposed([x + y if sign > 0 else x - y for x, y in both])
            for vector, there in zip(square, places, strict=True):
                panel.store(vector, b.add(there, whole(imaginary * LANES)))
