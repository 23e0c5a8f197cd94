"""Passes of Fourier transforms of many columns at once, one column in each lane of a vector.

A panel holds as many complex columns as a vector has lanes: an array of float32 of which each row is a vector
of real parts and one of imaginary parts. The functions here exist in compiled code only.
"""

from typing import Any

from numba.core import cgutils

from lucidcube.kernels.fourier.simd.vectors import (
    LANES,
    PAIR_DISTANCE,
    ROW,
    Array,
    Builder,
    Complex,
    Vector,
    integer,
    lane_function,
    short_transform,
    transposed,
)

RADICES = (3, 4, 5, 6, 8, 9, 10)
"""Lengths of transform that one pass can do: those whose numbers fit into the registers."""


@lane_function(arrays=3)
def transform_pass(
    b: Builder, source: Array, target: Array, twiddles: Array, radix: Any, n: Any, stride: Any, swapped: Any
) -> None:
    """Do one pass of Stockham's self-sorting transform over a panel of n * stride rows, to another array.

    The radix divides n, the length that is left to transform; the stride is the product of the radices of the
    passes before. The twiddle factors exp(-2 pi i j k / n) for k < n / radix and 0 < j < radix are cosines
    and sines, j fastest; they are not read if n is the radix. If `swapped` is 1 and not 0, real and imaginary
    parts are exchanged in input and output, which gives the inverse transform without its factor.
    """
    end = b.append_basic_block("end")
    choice = b.switch(radix, end)
    for one in RADICES:
        block = b.append_basic_block(f"radix{one}")
        choice.add_case(integer(one), block)
        b.position_at_end(block)
        with b.if_else(b.icmp_signed("==", n, integer(one))) as (last, earlier):
            with last:
                _butterflies(b, source, target, None, one, n, stride, swapped)
            with earlier:
                _butterflies(b, source, target, twiddles, one, n, stride, swapped)
        b.branch(end)
    b.position_at_end(end)


def _butterflies(
    b: Builder,
    source: Array,
    target: Array,
    twiddles: Array | None,
    radix: int,
    n: Any,
    stride: Any,
    swapped: Any,
) -> None:
    """Do the short transforms of a pass (Van Loan 1992, "Computational Frameworks for the FFT", 1.7)."""
    re = b.mul(swapped, integer(LANES))
    im = b.sub(integer(LANES), re)
    given_re, given_im, made_re, made_im = (a.part(p) for a in (source, target) for p in (re, im))
    groups = b.sdiv(n, integer(radix))
    out = b.mul(stride, integer(ROW))
    into = b.mul(out, groups)
    with cgutils.for_range(b, groups) as group:
        factors = []
        if twiddles is not None:
            first = b.mul(group.index, integer(2 * (radix - 1)))
            for j in range(radix - 1):
                cosine, sine = (twiddles.broadcast(b.add(first, integer(2 * j + k))) for k in (0, 1))
                factors.append(Complex(cosine, sine))
        begin = b.mul(group.index, out)
        with cgutils.for_range(b, stride) as row:
            read = b.add(begin, b.mul(row.index, integer(ROW)))
            write = b.add(b.mul(begin, integer(radix)), b.mul(row.index, integer(ROW)))
            places = [b.add(read, b.mul(into, integer(j))) for j in range(radix)]
            given = [Complex(given_re.load(place), given_im.load(place)) for place in places]
            for j, result in enumerate(short_transform(given)):
                rotated = result * factors[j - 1] if factors and j else result
                place = b.add(write, b.mul(out, integer(j)))
                made_re.store(rotated.re, place)
                made_im.store(rotated.im, place)


@lane_function(arrays=2)
def split_columns(b: Builder, panel: Array, rows: Array, n: Any, first: Any, place: Any) -> None:
    """Compute `LANES` frequencies of twice the transform of each column from that of a panel of real columns.

    The panel is the transform, of length n, of what `load_columns` copied; its row n equals row 0. `rows`
    receives for each column, from index `place` on, a vector of real parts and one of imaginary parts. The
    lowest of the frequencies, `first`, may reach up to n.
    """

    def parts(imaginary: int) -> tuple[list[Vector], list[Vector]]:
        offset = integer(imaginary * LANES)
        ahead, behind = [], []
        for k in range(LANES):
            frequency = b.add(first, integer(k))
            ahead.append(panel.load(b.add(b.mul(frequency, integer(ROW)), offset)))
            behind.append(panel.load(b.add(b.mul(b.sub(n, frequency), integer(ROW)), offset)))
        return ahead, behind

    # Z = A + i B for real columns a and b: 2 A(k) = Z(k) + Z(-k)*, and 2 i B(k) = Z(k) - Z(-k)*.
    for column, imaginary, source, sign in ((0, 0, 0, 1), (0, 1, 1, -1), (1, 0, 1, 1), (1, 1, 0, -2)):
        ahead, behind = parts(source)
        both = zip(ahead, behind, strict=True)
        if sign == 1:
            square = [x + y for x, y in both]
        else:
            square = [x - y if sign == -1 else y - x for x, y in both]
        offset = column * PAIR_DISTANCE * ROW + imaginary * LANES
        for k, vector in enumerate(transposed(square)):
            rows.store(vector, b.add(place, integer(k * ROW + offset)))


@lane_function(arrays=2)
def join_columns(b: Builder, rows: Array, panel: Array, n: Any, first: Any, place: Any) -> None:
    """Compute the transform of a panel of real columns from theirs: the reverse of `split_columns`.

    The parameters are those of `split_columns`. Frequencies beyond n / 2 are not used, row n of the panel is
    scratch, and `rows` holds the spectra, not twice the spectra.
    """

    def column(number: int, imaginary: int) -> list[Vector]:
        offset = number * PAIR_DISTANCE * ROW + imaginary * LANES
        return [rows.load(b.add(place, integer(k * ROW + offset))) for k in range(LANES)]

    half = b.sdiv(n, integer(2))
    direct, mirrored = [], []
    for k in range(LANES):
        frequency = b.add(first, integer(k))
        needed = b.icmp_signed("<=", frequency, half)
        direct.append(b.mul(b.select(needed, frequency, n), integer(ROW)))
        mirrored.append(b.mul(b.select(needed, b.sub(n, frequency), n), integer(ROW)))
    # Z(k) = A(k) + i B(k), and Z(-k) = A(k)* + i B(k)*.
    for first_part, second_part, ahead, behind in (
        ((0, 0), (1, 1), (direct, 0, -1), (mirrored, 0, 1)),
        ((1, 0), (0, 1), (direct, 1, 1), (mirrored, 1, -1)),
    ):
        for places, imaginary, sign in (ahead, behind):
            both = zip(column(*first_part), column(*second_part), strict=True)
            square = transposed([x + y if sign > 0 else x - y for x, y in both])
            for vector, there in zip(square, places, strict=True):
                panel.store(vector, b.add(there, integer(imaginary * LANES)))
