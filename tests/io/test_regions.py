"""DS9 regions against explicit geometry, the WCS, the masks of the package, real files and random text."""

import pickle
import warnings
from pathlib import Path

import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.utils.exceptions import AstropyUserWarning
from astropy.wcs import WCS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from regions import PixCoord, Regions

from locations import SHARED
from lucidcube.errors import ConfigError, CubeError, UserError
from lucidcube.io.region_file import LARGEST_FILE, load_regions
from lucidcube.io.regions import const_regions, dynamic_regions, region_mask

REAL = sorted((SHARED / "data").glob("*.reg"))
SHAPE = (40, 50)


@pytest.fixture
def write(tmp_path):
    def write(text: str | bytes, name: str = "some.reg") -> Path:
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


@pytest.fixture
def drawn(write):
    def drawn(text: str, shape: tuple[int, int] = SHAPE, **kwargs) -> np.ndarray:
        return region_mask(load_regions(write(text), **kwargs), shape)

    return drawn


def grid(shape: tuple[int, int] = SHAPE) -> tuple[np.ndarray, np.ndarray]:
    """Return the coordinates y, x of the pixel centres in DS9's convention."""
    return np.indices(shape) + 1


def celestial() -> WCS:
    """Return a WCS with pixels of 0.2 arcsec, and north rotated by 30 degrees."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = "RA---TAN", "DEC--TAN"
    wcs.wcs.crval = 150.0, -30.0
    wcs.wcs.crpix = 25.0, 20.0
    angle = np.radians(30)
    wcs.wcs.cd = np.array([[-np.cos(angle), np.sin(angle)], [np.sin(angle), np.cos(angle)]]) * 0.2 / 3600
    wcs.wcs.set()
    return wcs


def turned(y, x, y0, x0, degrees):
    """Return the offsets along the axes of a shape that is rotated from +x towards +y."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return -(x - x0) * s + (y - y0) * c, (x - x0) * c + (y - y0) * s


def test_a_circle_on_the_first_pixel_marks_the_first_pixel(drawn):
    mask = drawn("image\ncircle(1,1,0.5)")
    assert mask.dtype == bool
    assert np.argwhere(mask).tolist() == [[0, 0]]


def test_x_is_the_last_axis(drawn):
    assert np.argwhere(drawn("image; circle(7,3,0.9)")).tolist() == [[2, 6]]


def test_shapes_follow_their_geometry(drawn):
    y, x = grid()
    v, u = turned(y, x, 19.1, 24.3, 33)
    np.testing.assert_array_equal(drawn("image;circle(24.3,19.1,8.2)"), np.hypot(y - 19.1, x - 24.3) < 8.2)
    ellipse = (u / 12) ** 2 + (v / 5) ** 2
    np.testing.assert_array_equal(drawn("image;ellipse(24.3,19.1,12,5,33)"), ellipse < 1)
    np.testing.assert_array_equal(
        drawn("image;ellipse(24.3,19.1,6,2.5,12,5,33)"), (ellipse < 1) & (ellipse > 0.25)
    )
    box = (abs(u) < 10) & (abs(v) < 3)
    np.testing.assert_array_equal(drawn("image;box(24.3,19.1,20,6,33)"), box)
    inner = (abs(u) < 5) & (abs(v) < 1.5)
    np.testing.assert_array_equal(drawn("image;box(24.3,19.1,10,3,20,6,33)"), box & ~inner)
    radius = np.hypot(y - 19.1, x - 24.3)
    ring = (radius > 3.05) & (radius < 9.1)
    np.testing.assert_array_equal(drawn("image;annulus(24.3,19.1,3.05,6,9.1)"), ring)
    triangle = (x > 5.5) & (y > 4.5) & ((x - 5.5) / 20 + (y - 4.5) / 30 < 1)
    np.testing.assert_array_equal(drawn("image;polygon(5.5,4.5,25.5,4.5,5.5,34.5)"), triangle)


def test_a_missing_angle_is_zero(drawn):
    np.testing.assert_array_equal(drawn("image;box(20,20,9,5)"), drawn("image;box(20,20,9,5,0)"))


def test_exclusion_takes_out_of_all_included_regions_in_any_order(drawn):
    y, x = grid()
    expected = (np.hypot(y - 20, x - 20) < 9.5) & ~(np.hypot(y - 20, x - 25) < 5.5)
    for text in (
        "image;circle(20,20,9.5);-circle(25,20,5.5)",
        "image\n-circle(25,20,5.5)\n+circle(20,20,9.5)",
        "image\ncircle(20,20,9.5)\ncircle(25,20,5.5) # include=0 text={include=1}",
    ):
        np.testing.assert_array_equal(drawn(text), expected)


def test_regions_off_the_image_or_larger_than_it(drawn):
    assert drawn("image;circle(-500,20,3);circle(20,9000,30)").sum() == 0
    assert drawn("image;circle(20,20,900000)").all()
    assert drawn("image;box(20,20,1e8,1e8,45)").all()
    y, x = grid()
    np.testing.assert_array_equal(drawn("image;circle(0,-3,9.5)"), np.hypot(y + 3, x) < 9.5)


def test_agrees_with_the_masks_of_the_regions_package(write):
    path = write(
        "image\ncircle(20.2,11.4,6)\nellipse(30,25,9,4,70)\nbox(10,30,8,5,20)\npolygon(3,3,12,5,7,14)\n"
        "annulus(40,10,3,6)\n"
    )
    for region, theirs in zip(load_regions(path), Regions.read(path, format="ds9"), strict=True):
        mask = theirs.to_mask(mode="center").to_image(SHAPE) > 0
        np.testing.assert_array_equal(region_mask([region], SHAPE), mask)


@pytest.mark.parametrize("frame", ["fk5", "icrs", "galactic"])
def test_celestial_circles_are_circles_on_the_sky(drawn, frame):
    wcs = celestial()
    centre = wcs.pixel_to_world(30.3, 14.6)
    at = centre.galactic if frame == "galactic" else centre.transform_to(frame)
    lon, lat = at.spherical.lon.deg, at.spherical.lat.deg
    mask = drawn(f'{frame}\ncircle({lon:.9f},{lat:+.9f},1.5")', wcs=wcs)
    y, x = np.indices(SHAPE)
    separation = wcs.pixel_to_world(x, y).separation(centre).arcsec
    np.testing.assert_array_equal(mask, separation < 1.5)


def test_sexagesimal_positions_and_cubes_with_a_spectral_axis(drawn):
    cube = WCS(naxis=3)
    cube.wcs.ctype = "RA---TAN", "DEC--TAN", "AWAV"
    cube.wcs.crval = 150.0, -30.0, 4750.0
    cube.wcs.crpix = 25.0, 20.0, 1.0
    cube.wcs.cdelt = -0.2 / 3600, 0.2 / 3600, 1.25
    cube.wcs.cunit = "deg", "deg", "Angstrom"
    cube.wcs.set()
    mask = drawn('fk5\ncircle(10:00:00.0,-30:00:00.0,0.5")', wcs=cube)
    y, x = grid()
    np.testing.assert_array_equal(mask, np.hypot(y - 20, x - 25) < 2.5)
    np.testing.assert_array_equal(drawn('fk5\ncircle(10h00m00s,-30d00m00s,0.5")', wcs=cube), mask)


def test_the_angle_of_a_celestial_box_follows_the_wcs(drawn):
    wcs = celestial()
    mask = drawn('icrs\nbox(150,-30,4",1",0)', wcs=wcs)
    y, x = np.indices(SHAPE)
    sky = SkyCoord(150, -30, unit="deg").spherical_offsets_to(wcs.pixel_to_world(x, y))
    east, north = (offset.arcsec for offset in sky)
    np.testing.assert_array_equal(mask, (abs(east) < 2) & (abs(north) < 0.5))


def test_the_physical_frame_uses_the_ltm_cards(drawn):
    same = drawn("physical\ncircle(20,11,6.5)")
    np.testing.assert_array_equal(same, drawn("image\ncircle(20,11,6.5)"))
    header = {"LTM1_1": 0.5, "LTM2_2": 0.5, "LTV1": -3.0, "LTV2": 4.0}
    for physical, image in [
        ("circle(46,20,13)", "circle(20,14,6.5)"),
        ("box(46,20,20,8,30)", "box(20,14,10,4,30)"),
        ("polygon(10,2,40,4,20,40)", "polygon(2,5,17,6,7,24)"),
    ]:
        np.testing.assert_array_equal(drawn(f"physical;{physical}", header=header), drawn(f"image;{image}"))


@pytest.mark.parametrize(
    "header",
    [{"LTM1_1": 2.0}, {"LTM1_1": -1, "LTM2_2": -1}, {"LTM1_2": 0.1}, {"LTM1_1": "x"}, {"LTM1_1": np.nan}],
)
def test_a_physical_frame_that_distorts_shapes_is_an_error(write, header):
    with pytest.raises(CubeError, match="save in image coordinates"):
        load_regions(write("physical;circle(1,2,3)"), header=header)


def test_labels_comments_and_line_endings(write):
    path = write(
        b"\xef\xbb\xbf# Region file format: DS9; version 4.1\r\nglobal color=green width=1\r\nIMAGE\r\n"
        b"Circle 3 4 5 # color=#0ff text={a; b} tag={x}\r\n# text(5,5) text={no}\r\n"
        b"box(1,2,3,4,5) # text=\"two\";-circle(1,2,3) # text='three' background\r\n\r\n"
        b"# composite(3,4,0) || composite=1\r\ncomposite(3,4,0) || composite=1\r\n"
        b"circle(5,6,7) ||\r\ncircle(5,6,8)"
    )
    found = load_regions(path)
    assert [r.label for r in found] == ["a; b", "two", "three", "", ""]
    assert [r.excluded for r in found] == [False, False, True, False, False]
    assert found[0].parameters == (2, 3, 5)
    assert found[2].where.endswith("line 6")


def test_markers_are_ignored(write):
    found = load_regions(write("image;circle(1,2,3);point(4,5) # point=x\nline(1,2,3,4);vector(1,2,3,4)"))
    assert [region.shape for region in found] == ["circle"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no region here marks a pixel"),
        ("# only a comment", "no region here marks a pixel"),
        ("image\npoint(3,4)\nline(1,2,3,4)", "2 without area"),
        ("image\n-circle(3,4,5)", "1 excluded"),
        ("circle(3,4,5)", "before any frame"),
        ("linear\ncircle(3,4,5)", "line 1: cannot read `linear`"),
        ("image\npanda(1,2,0,90,1,3,10,2)", "line 2: cannot read `panda"),
        ("image\n!circle(3,4,5)", "cannot read"),
        ("image circle(3,4,5)", "cannot read"),
        ("image\n-composite(3,4,0) || composite=1\ncircle(3,4,5)", "cannot read"),
        ("image\ncircle(3,4)", "3 numbers"),
        ("image\ncircle(3,4,5,6)", "3 numbers"),
        ("image\nannulus(3,4,5)", "4 or more"),
        ("image\npolygon(3,4,5,6)", "3 corners"),
        ("image\nbox(3,4,5,6,7,8)", "5 numbers"),
        ("image\ncircle(3,nan,5)", "is no position"),
        ("image\ncircle(1e400,4,5)", "nowhere on the plane"),
        ("image\ncircle(1e99,4,1e98)", "nowhere on the plane"),
        ("image\ncircle(3,4,-5)", "strictly positive"),
        ("image\nannulus(3,4,6,5)", "outer"),
        ('image\ncircle(3,4,5")', "check its units"),
        ("image\ncircle(3,4,5)||circle(6,7,8)", "is no position"),
        ("fk5\ncircle(10,20,3i)", "check its units"),
        ("fk5\ncircle(10,95,3)", "90 deg"),
        ("fk5\ncircle(10,20,3)", "no celestial WCS"),
    ],
)
def test_unusable_regions_are_named(write, text, message):
    with pytest.raises(CubeError, match=message) as caught:
        load_regions(write(text))
    assert "some.reg" in str(caught.value)


def test_all_problems_of_a_file_are_reported_at_once(write):
    with pytest.raises(CubeError) as caught:
        load_regions(write("image\ncircle(1,2)\ncircle(1,2,3)\nfoo(1)\nbox(1)"))
    assert [problem.split(": ")[0][-6:] for problem in caught.value.problems] == [
        "line 2",
        "line 4",
        "line 5",
    ]


def test_positions_outside_the_projection_are_errors(write):
    with pytest.raises(CubeError, match="nowhere on the plane"):
        load_regions(write("icrs;circle(330,30,1)"), wcs=celestial())


def test_unreadable_files_are_errors(tmp_path, write):
    with pytest.raises(CubeError, match="cannot read this region file"):
        load_regions(tmp_path / "none.reg")
    with pytest.raises(CubeError, match="cannot read this region file"):
        load_regions(tmp_path)
    with pytest.raises(CubeError, match="cannot read this region file"):
        load_regions("nul\0.reg")
    with pytest.raises(CubeError, match="bytes at most"):
        load_regions(write("image;circle(1,2,3)\n" + "#" * LARGEST_FILE))


def test_many_regions_and_many_problems_are_few_lines(write, monkeypatch):
    monkeypatch.setattr("lucidcube.io.region_file.MOST_REGIONS", 50)
    assert len(load_regions(write("image\n" + "circle(1,2,3)\n" * 50))) == 50
    with pytest.raises(CubeError, match="50 regions at most"):
        load_regions(write("image\n" + "circle(1,2,3)\n" * 51))
    with pytest.raises(CubeError, match="and 980 more unusable") as caught:
        load_regions(write("image\n" + "circle(1)\n" * 1000))
    assert len(caught.value.problems) == 21


def test_const_regions_hold_in_every_channel_and_per_file(write):
    groups = const_regions(
        [write("image;circle(10,10,5);-circle(10,10,2)", "a.reg"), write("image;circle(10,10,1)", "b.reg")]
    )
    masks = [region_mask(group.at(123), SHAPE) for group in groups]
    assert not masks[0][9, 9]
    assert masks[1][9, 9]
    assert groups[0].at(0) == groups[0].at(1e6)


def test_dynamic_regions_follow_their_label_and_their_order(write):
    a = write("image\nellipse(10,10,4,2,170) # text={moon}\ncircle(5,5,2)\nbox(20,20,4,4,0)", "a.reg")
    b = write("image\ncircle(9,7,4)\nellipse(30,20,8,4,10) # text={moon}", "b.reg")
    c = write("image\ncircle(9,7,4)", "c.reg")
    group = dynamic_regions([(20, c), (0, a), (10, b)])
    assert [r.shape for r in group.at(0)] == ["ellipse", "circle", "box"]
    moon, circle = group.at(2.5)
    # The ellipse goes from 170 to 10 degrees through 180, the shorter way.
    np.testing.assert_allclose(moon.parameters, [14, 11.5, 10, 5, 175])
    np.testing.assert_allclose(circle.parameters, [5, 4.5, 2.5])
    assert [r.shape for r in group.at(10)] == ["ellipse", "circle"]
    assert [r.parameters for r in group.at(15)] == [(8, 6, 4)]
    assert group.at(-0.5) == group.at(20.5) == ()


def test_a_region_missing_between_two_files_is_interpolated(write):
    a = write("image;circle(1,1,2) # text={a}\ncircle(9,9,2) # text={b}", "a.reg")
    b = write("image;circle(9,9,2) # text={b}", "b.reg")
    c = write("image;circle(5,9,4) # text={a}\ncircle(9,9,2) # text={b}", "c.reg")
    group = dynamic_regions([(0, a), (1, b), (4, c)])
    np.testing.assert_allclose([r.parameters for r in group.at(1) if r.label == "a"], [(1, 2, 2.5)])


def test_regions_with_the_same_label_are_matched_in_order(write):
    a = write("image;circle(1,1,2) # text={x}\ncircle(9,9,2) # text={x}", "a.reg")
    b = write("image;circle(3,1,2) # text={x}\ncircle(9,5,2) # text={x}", "b.reg")
    found = [r.parameters for r in dynamic_regions([(0, a), (2, b)]).at(1)]
    np.testing.assert_allclose(found, [(1, 0, 2), (8, 6, 2)])


@pytest.mark.parametrize(("first", "last", "half"), [(10, 350, 0), (350, 10, 360), (0, 90, 45), (40, 60, 50)])
def test_angles_are_interpolated_the_shorter_way(write, first, last, half):
    files = [(i, write(f"image;box(9,9,4,2,{a})", f"{i}.reg")) for i, a in enumerate((first, last))]
    assert dynamic_regions(files).at(0.5)[0].parameters[-1] % 180 == pytest.approx(half % 180)


def test_matched_regions_must_have_the_same_shape(write):
    texts = ["circle(1,2,3)", "box(1,2,3,4,5)", "-circle(1,2,3);circle(1,2,3) # text={y}"]
    paths = [write(f"image;{text}", f"{i}.reg") for i, text in enumerate(texts)]
    for other in paths[1:]:
        with pytest.raises(CubeError, match="does not match"):
            dynamic_regions([(0, paths[0]), (1, other)])


def test_dynamic_channels_must_be_given_once(write):
    path = write("image;circle(1,2,3)")
    for files in ([], [(1, path), (1.0, path)], [(float("nan"), path)]):
        with pytest.raises(ConfigError, match="each channel once"):
            dynamic_regions(files)


def test_groups_are_small_and_picklable(write):
    group = dynamic_regions([(0, write("image;circle(1,2,3)")), (3, write("image;circle(1,9,3)", "b.reg"))])
    packed = pickle.dumps(group)
    assert len(packed) < 2000
    assert pickle.loads(packed).at(1) == group.at(1)


@pytest.mark.slow
@pytest.mark.skipif(not REAL, reason="the shared data are not here")
@pytest.mark.parametrize("path", REAL, ids=lambda path: path.name)
def test_real_files_agree_with_the_package_region_by_region(path):
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = "RA---TAN", "DEC--TAN"
    wcs.wcs.crval = (171.16, -59.26) if "mixed" in path.name else (202.48, 47.2)
    wcs.wcs.crpix = 300.0, 300.0
    wcs.wcs.cdelt = -0.2 / 3600, 0.2 / 3600
    wcs.wcs.set()
    shape = (990, 1010)
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", AstropyUserWarning
        )  # warnings about display settings that the package ignores
        theirs = Regions.read(path, format="ds9")
    everywhere = PixCoord(*np.indices(shape)[::-1])
    included, excluded = np.zeros(shape, bool), np.zeros(shape, bool)
    for region in theirs:
        pixel = region.to_pixel(wcs) if "Sky" in type(region).__name__ else region
        if type(pixel).__name__.startswith(("Point", "Line", "Text")):
            continue
        into = included if pixel.meta["include"] else excluded
        into |= pixel.copy(meta={}).contains(everywhere)
    ours = region_mask(load_regions(path, wcs=wcs), shape)
    assert ours.any()
    np.testing.assert_array_equal(ours, included & ~excluded)


TEXT = "image fk5 physical galactic circle box ellipse polygon annulus - ( ) , # 1 2.5 1:2:3 3' 4\" 1h2m3s"
WORDS = st.sampled_from(
    [*TEXT.split(), "5d", "1e5", "-7", "150", "-30", "text={a}", "text={", "||", ";", "\n"]
)


def drawn_or_refused(path: Path) -> None:
    """Check that a file gives either a mask or one message that names the file."""
    refusal = ""
    try:
        found = load_regions(path, wcs=celestial())
    except UserError as error:
        refusal = str(error)
    if refusal:
        assert refusal.startswith(str(path))
    else:
        assert region_mask(found, (5, 6)).shape == (5, 6)


@pytest.mark.slow
@settings(deadline=None, max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.one_of(st.text(), st.lists(WORDS, max_size=40).map(" ".join), st.binary()))
def test_any_text_gives_regions_or_a_message_for_the_user(tmp_path, text):
    path = tmp_path / "fuzz.reg"
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", errors="surrogatepass"))
    drawn_or_refused(path)


NUMBERS = st.lists(
    st.one_of(
        st.sampled_from(["150", "-30", "3'"]),
        st.floats(-1e6, 1e6).map(lambda v: f"{v:.4g}"),
        st.from_regex(r"""[0-9.]{1,4}[:dhmsrie'"]?[0-9.]{0,3}['"]?""", fullmatch=True),
    ),
    min_size=3,
    max_size=8,
)


@pytest.mark.slow
@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    frame=st.sampled_from(["image", "physical", "fk5", "galactic"]),
    shape=st.sampled_from(["circle", "box", "ellipse", "polygon", "annulus"]),
    numbers=NUMBERS,
)
def test_any_numbers_give_a_region_or_a_message_for_the_user(tmp_path, frame, shape, numbers):
    path = tmp_path / "fuzz.reg"
    path.write_text(f"{frame}\n{shape}({','.join(numbers)})\n")
    drawn_or_refused(path)
