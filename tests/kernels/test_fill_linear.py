"""Linear filling against a full Delaunay tessellation, analytic planes, symmetry and recorded outputs."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage
from scipy.interpolate import LinearNDInterpolator
from scipy.spatial import Delaunay

from locations import ORACLE
from lucidcube.kernels.fill_linear import LARGEST_SIDE, fill_linear

RECORDED = ORACLE / "interpolate_reference.npz"


def scattered(shape: tuple[int, int], fraction: float, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random(shape) < fraction


def noise(shape: tuple[int, int], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(100, 30, shape).astype(np.float32)


def framed(plane: np.ndarray, hole: np.ndarray) -> np.ndarray:
    wide = ndimage.uniform_filter(np.pad(np.where(hole, 0, plane).astype(float), 1), 3, mode="constant")
    wide[1:-1, 1:-1] = np.where(hole, np.nan, plane)
    return wide


def circle_test(a, b, c, p) -> int:
    rows = [[int(q[0] - p[0]), int(q[1] - p[1])] for q in (a, b, c)]
    (ay, ax), (by, bx), (cy, cx) = rows
    squares = [y * y + x * x for y, x in rows]
    return (
        squares[0] * (by * cx - bx * cy) - squares[1] * (ay * cx - ax * cy) + squares[2] * (ay * bx - ax * by)
    )


def tessellation(points: np.ndarray) -> list[np.ndarray]:
    """Return the corners of the Delaunay cells: Qhull's triangles, merged if they are on one circle."""
    mesh = Delaunay(points)
    parent = list(range(len(mesh.simplices)))

    def root(i: int) -> int:
        while parent[i] != i:
            i = parent[i]
        return i

    for i, (triangle, beside) in enumerate(zip(mesh.simplices, mesh.neighbors, strict=True)):
        for j in beside[beside > i]:
            other = next(p for p in mesh.simplices[j] if p not in triangle)
            if circle_test(*points[triangle], points[other]) == 0:
                parent[root(j)] = root(i)
    cells: dict[int, set[int]] = {}
    for i, triangle in enumerate(mesh.simplices):
        cells.setdefault(root(i), set()).update(map(int, triangle))
    return [np.array(sorted(cell)) for cell in cells.values()]


def range_of_triangulations(wide: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the minimum and maximum at each hole over all Delaunay triangulations of the good pixels."""
    points, holes = np.argwhere(~np.isnan(wide)), np.argwhere(np.isnan(wide))
    values = wide[~np.isnan(wide)]
    low, high = np.full(wide.shape, np.inf), np.full(wide.shape, -np.inf)
    for cell in tessellation(points):
        y, x = points[cell].T
        inside = holes[((holes >= [y.min(), x.min()]) & (holes <= [y.max(), x.max()])).all(1)]
        for three in itertools.combinations(cell, 3) if len(inside) else ():
            matrix = np.vstack([points[list(three)].T, np.ones(3)]).astype(float)
            if abs(np.linalg.det(matrix)) < 0.5:
                continue
            weights = np.linalg.solve(matrix, np.vstack([inside.T, np.ones(len(inside))]))
            for (v, u), weight in zip(inside, weights.T, strict=True):
                if weight.min() > -1e-9:
                    value = weight @ values[list(three)]
                    low[v, u], high[v, u] = min(low[v, u], value), max(high[v, u], value)
    return low[1:-1, 1:-1], high[1:-1, 1:-1]


def disc_hole(shape: tuple[int, int], radius: float) -> np.ndarray:
    y, x = np.indices(shape)
    return np.hypot(y - shape[0] // 2, x - shape[1] // 2) <= radius


HOLES = {
    "few": scattered((23, 31), 0.05, 1),
    "many": scattered((31, 23), 0.3, 2),
    "most": scattered((25, 25), 0.6, 3),
    "nearly all": scattered((20, 22), 0.97, 4),
    "disc": disc_hole((25, 27), 9.0),
    "outside a disc": ~disc_hole((25, 27), 8.0),
    "block": np.pad(np.ones((5, 8), bool), 6),
    "stripe": np.pad(np.ones((23, 1), bool), ((0, 0), (7, 7))),
    "checkerboard": np.indices((14, 15)).sum(0) % 2 == 0,
    "island": np.pad(np.pad(np.zeros((3, 3), bool), 3, constant_values=True), 3),
}


@pytest.mark.parametrize("name", HOLES)
def test_lies_within_the_delaunay_triangulations_of_all_good_pixels(name):
    hole = HOLES[name]
    plane = noise(hole.shape)
    low, high = range_of_triangulations(framed(plane, hole))
    filled = fill_linear(plane, hole)
    assert (filled[hole] >= low[hole] - 1e-4).all()
    assert (filled[hole] <= high[hole] + 1e-4).all()
    np.testing.assert_array_equal(filled[~hole], plane[~hole])


@pytest.mark.slow
def test_equals_scipy_where_the_triangulation_is_unique():
    plane, hole = noise((48, 48)), scattered((48, 48), 0.3, 5)
    wide = framed(plane, hole)
    low, high = range_of_triangulations(wide)
    unique = hole & (high - low < 1e-9)
    assert unique.sum() > 50
    good = ~np.isnan(wide)
    scipy = LinearNDInterpolator(np.argwhere(good), wide[good])(np.argwhere(~good))
    theirs = wide.copy()
    theirs[~good] = scipy
    np.testing.assert_allclose(fill_linear(plane, hole)[unique], theirs[1:-1, 1:-1][unique], rtol=2e-6)


@pytest.mark.parametrize("fraction", [0.03, 0.3, 0.7])
def test_a_tilted_plane_is_recovered_exactly(fraction):
    y, x = np.indices((60, 50))
    plane = (3 * y - 2 * x + 5).astype(np.float32)
    hole = np.pad(scattered((54, 44), fraction, 6), 3)
    np.testing.assert_allclose(fill_linear(np.where(hole, np.nan, plane), hole & False), plane, atol=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("fraction", [0.1, 0.4])
def test_rotation_and_mirroring_commute_with_filling(fraction):
    plane, hole = noise((40, 40)), scattered((40, 40), fraction, 7)
    filled = fill_linear(plane, hole)
    for turns, mirror in itertools.product(range(4), (False, True)):

        def turned(image, turns=turns, mirror=mirror):
            return np.rot90(image.T if mirror else image, turns)

        np.testing.assert_allclose(fill_linear(turned(plane), turned(hole)), turned(filled), rtol=1e-6)


def test_groups_of_holes_do_not_influence_each_other():
    plane = noise((64, 64))
    labels, n = ndimage.label(scattered((64, 64), 0.15, 8), structure=np.ones((3, 3)))
    together = fill_linear(plane, labels > 0)
    edge = np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))
    checked = 0
    for label in set(range(1, n + 1)) - set(edge):
        alone = fill_linear(plane, labels == label)
        np.testing.assert_array_equal(alone[labels == label], together[labels == label])
        checked += 1
    assert checked > 50


def test_a_single_missing_pixel_is_the_mean_of_its_four_neighbours():
    plane = noise((9, 9))
    hole = np.zeros(plane.shape, bool)
    hole[4, 5] = True
    expected = np.mean([plane[3, 5], plane[5, 5], plane[4, 4], plane[4, 6]], dtype=float)
    assert fill_linear(plane, hole)[4, 5] == pytest.approx(expected, rel=1e-6)


def test_a_missing_rim_falls_linearly_to_zero_at_the_edge():
    plane = np.full((30, 40), 8.0, np.float32)
    plane[:, :7] = np.nan
    filled = fill_linear(plane, np.zeros(plane.shape, bool))
    np.testing.assert_allclose(filled[10:20, :8], np.broadcast_to(np.arange(1, 9), (10, 8)), rtol=1e-6)


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (7, 1), (2, 2), (3, 12)])
@pytest.mark.parametrize("finite", [0, 1, "all"])
def test_small_and_nearly_empty_planes(shape, finite):
    plane = np.full(shape, 5.0, np.float32)
    hole = np.ones(shape, bool)
    hole.flat[: hole.size if finite == "all" else finite] = False
    filled = fill_linear(np.where(hole, np.float32(np.nan), plane), hole & False)
    assert np.isfinite(filled).all()
    assert (filled >= 0).all()
    assert (filled <= 5).all()
    np.testing.assert_array_equal(filled[~hole], 5)


def test_arguments_are_not_modified_and_may_be_strided_or_read_only():
    whole = noise((40, 60))
    plane, hole = whole[::2, ::-3], scattered((20, 20), 0.3, 9)
    whole.flags.writeable = hole.flags.writeable = False
    np.testing.assert_array_equal(fill_linear(plane, hole), fill_linear(plane.copy(), hole.copy()))
    assert fill_linear(plane, hole & False) is not plane


@pytest.mark.parametrize(
    ("plane", "missing"),
    [((4, 4), (4, 5)), ((4,), (4,)), ((LARGEST_SIDE + 1, 1), (LARGEST_SIDE + 1, 1))],
)
def test_wrong_shapes_are_errors(plane, missing):
    with pytest.raises(ValueError, match="one shape"):
        fill_linear(np.zeros(plane, np.float32), np.zeros(missing, bool))


@pytest.mark.slow
@settings(deadline=None, max_examples=150)
@given(hole=arrays(bool, st.tuples(st.integers(1, 14), st.integers(1, 14))), seed=st.integers(0, 99))
def test_any_hole_is_filled_within_the_range_of_the_frame_and_the_good_pixels(hole, seed):
    plane = noise(hole.shape, seed)
    filled = fill_linear(plane, hole)
    good = framed(plane, hole)
    assert filled.dtype == np.float32
    assert np.nanmin(good) - 1e-4 <= filled.min()
    assert filled.max() <= np.nanmax(good) + 1e-4
    np.testing.assert_array_equal(filled[~hole], plane[~hole])


@pytest.mark.slow
def test_reproduces_the_recorded_reference():
    """Compare with two planes of the recorded products of the reference program.

    The reference chooses triangles arbitrarily, so a hole in a degenerate cell may differ by as much as the
    valid triangulations do; all others agree to float32. Its frame is made from a plane whose missing pixels
    were already filled (by the same rule), so holes open to the edge differ by up to a ninth of their
    outermost filled pixels.
    """
    recorded = np.load(RECORDED)
    for plane, masked, theirs in zip(*(recorded[k] for k in ("plane", "masked", "filled")), strict=True):
        hole = masked | np.isnan(plane)
        ours = fill_linear(plane, masked)
        np.testing.assert_array_equal(theirs[~hole], plane[~hole])
        np.testing.assert_array_equal(ours[~hole], plane[~hole])
        labels, _ = ndimage.label(np.pad(hole, 1, constant_values=True), structure=np.ones((3, 3)))
        enclosed = hole & (labels[1:-1, 1:-1] != labels[0, 0])
        low, high = range_of_triangulations(framed(plane, hole))
        unique = enclosed & (high - low < 1e-3)
        assert unique.sum() > 20
        assert enclosed.sum() > 100
        np.testing.assert_allclose(ours[unique], theirs[unique], rtol=1e-5)
        slack = 1e-5 * np.abs(theirs[enclosed])
        assert (theirs[enclosed] >= low[enclosed] - slack).all()
        assert (theirs[enclosed] <= high[enclosed] + slack).all()
        rim = hole & ~enclosed
        assert np.quantile(np.abs(ours - theirs)[rim], 0.9) < 0.01 * np.nanquantile(plane, 0.99)
