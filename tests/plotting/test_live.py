"""The live plot: frames, windows, the choice of the plane, and that plotting does not change the result."""

import importlib.util
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import dask.array as da
import matplotlib
import numpy as np
import pytest
import xarray as xr
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import imread

import lucidcube.plotting
import scenes
from lucidcube.cube import DATA, DIMS, FILLED, PSF, PSF_PLANE, WAVELENGTH, from_arrays
from lucidcube.errors import CubeError, UserError
from lucidcube.plotting import figure
from lucidcube.plotting import live as plot
from lucidcube.plotting.live import watch_plane
from lucidcube.stages.deconvolve import Deconvolve

SHAPE = (5, 31, 33)
CLEAN = Deconvolve(method="clean_modified", n_iter=6, loop_gain=0.1, chi2_target=None)
LUCY = Deconvolve(method="lucy_richardson", n_iter=6, chi2_target=None)
MULTISCALE = Deconvolve(method="clean_multiscale", n_iter=6, chi2_target=None)
MAP = Deconvolve(n_iter=6)


@pytest.fixture(autouse=True)
def few_frames(monkeypatch):
    """Let the plots write two frames and the result, because drawing takes most of the time."""
    monkeypatch.setattr(plot, "FRAMES", 2)


def changed(stage: Deconvolve, **values) -> Deconvolve:
    """Return the stage with other values of some parameters."""
    return Deconvolve(**stage.flat() | values)


def joined(shape=SHAPE) -> xr.Dataset:
    """Return a cube whose plane 3 has no data."""
    cube = scenes.target_cube(shape).copy(deep=True)
    made = scenes.arrays(shape)
    cube[PSF] = ((WAVELENGTH, *PSF_PLANE), made.psf)
    cube[FILLED] = (DIMS, (made.artefact_kind > 0).astype(np.uint8))
    return cube


@pytest.fixture(autouse=True)
def small_pictures(monkeypatch):
    monkeypatch.setattr(plot, "DPI", 40)


@pytest.fixture
def seen(monkeypatch):
    """Record the pictures, copies of the states, and the results that they receive."""
    recorded = {"pictures": [], "states": [], "results": []}
    note, finish = plot.Picture.note, plot.Picture.finish

    def noting(picture, state):
        copied = {k: np.array(getattr(state, k)) for k in ("components", "residual", "selected")}
        recorded["states"].append(state._replace(**copied))
        note(picture, state)

    def finishing(picture, result):
        recorded["pictures"].append(picture)
        recorded["results"].append(result)
        finish(picture, result)

    monkeypatch.setattr(plot.Picture, "note", noting)
    monkeypatch.setattr(plot.Picture, "finish", finishing)
    return recorded


@pytest.mark.slow
@pytest.mark.parametrize(
    "stage", [changed(CLEAN, threshold=-1), LUCY, MULTISCALE, MAP], ids=lambda stage: stage.method
)
def test_frames_differ(tmp_path, monkeypatch, stage):
    monkeypatch.setattr(plot, "DPI", 100)
    paths = watch_plane(joined(), stage, folder=tmp_path / "new" / "frames")
    assert [p.name for p in paths] == ["frame-00001.png", "frame-00002.png", "frame-00003.png"]
    assert sorted((tmp_path / "new" / "frames").iterdir()) == paths
    first, *_, last = (imread(p) for p in paths)
    assert first.shape == last.shape == (880, 1360, 4)
    changed = np.abs(first - last).max(axis=2) > 0.1
    middle_third = slice(int(1360 * 0.38), int(1360 * 0.62))
    assert changed[120:430, middle_third].mean() > 0.01  # components
    assert not changed[120:430, 75:385].any()  # the input stays


@pytest.mark.slow
def test_frames_at_iterations_in_geometric_progression(tmp_path, monkeypatch):
    monkeypatch.setattr(plot, "FRAMES", 30)
    assert len(watch_plane(joined(), changed(LUCY, n_iter=3), folder=tmp_path)) == 4
    iterations = sorted(plot._Frames(None, tmp_path, 1000)._iterations)
    assert iterations[0] == 1
    assert iterations[-1] == 1000
    assert 20 <= len(iterations) <= 30
    late = np.array(iterations[10:])
    np.testing.assert_allclose(late[1:] / late[:-1], 1000 ** (1 / 29), rtol=0.1)


@pytest.mark.slow
def test_frames_of_an_earlier_plot_are_removed_and_other_files_kept(tmp_path):
    for name in ("frame-00009.png", "frame-9.png", "notes.txt"):
        (tmp_path / name).write_text("old")
    paths = watch_plane(joined(), changed(CLEAN, n_iter=0), folder=tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"frame-00001.png", "frame-9.png", "notes.txt"}
    assert [p.name for p in paths] == ["frame-00001.png"]


@pytest.mark.slow
@pytest.mark.parametrize("stage", [CLEAN, LUCY, MULTISCALE, MAP], ids=lambda stage: stage.method)
def test_plotting_does_not_change_the_result(tmp_path, seen, stage):
    cube = joined()
    before = cube.copy(deep=True)
    settings, drawn = dict(matplotlib.rcParams), set(sys.modules)
    watch_plane(cube, stage, folder=tmp_path)
    assert dict(matplotlib.rcParams) == settings
    assert "matplotlib.pyplot" not in set(sys.modules) - drawn
    assert cube.identical(before)
    plane = cube.isel({WAVELENGTH: 2})
    alone = stage.deconvolve_plane(
        plane[DATA].values, plane[PSF].values, variance=plane["variance"].values, filled=plane[FILLED].values
    )
    (watched,) = seen["results"]
    for name in set(alone._fields) - {"extras", "start", "sharp"}:
        np.testing.assert_array_equal(getattr(watched, name), getattr(alone, name))
    assert watched.extras.keys() == alone.extras.keys()
    for name in alone.extras:
        np.testing.assert_array_equal(watched.extras[name], alone.extras[name])


@pytest.mark.slow
@pytest.mark.parametrize(
    "stage",
    [
        changed(CLEAN, give_best_result=False),
        changed(LUCY, threshold=0),
    ],
    ids=["clean", "lucy"],
)
def test_the_last_picture_shows_the_result(tmp_path, seen, stage):
    watch_plane(joined(), stage, folder=tmp_path)
    (picture,), (result,), last = seen["pictures"], seen["results"], seen["states"][-1]
    assert [s.iteration for s in seen["states"]] == list(range(1, 7))
    known = np.isfinite(result.components)
    np.testing.assert_array_equal(last.components[known], result.components[known])
    shown = picture._components.get_array()
    np.testing.assert_array_equal(np.ma.filled(shown, np.nan), result.components)
    shown = picture._residual.get_array()
    np.testing.assert_array_equal(np.ma.filled(shown, np.nan), result.residual)
    drawn = {line.get_label(): line.get_ydata() for line in (picture._fabs, picture._rms)}
    np.testing.assert_array_equal(drawn["rms"], last.rms)
    np.testing.assert_array_equal(drawn["fabs (largest)"], last.fabs)
    assert picture._threshold.get_xdata()[0] == last.threshold
    valid = np.isfinite(joined()[DATA].values[2]) & (joined()[FILLED].values[2] == 0)
    counted = picture._now.get_data().values.sum()
    assert 0 < counted <= np.count_nonzero(last.selected & valid)
    assert picture._all.get_data().values.sum() >= 0.98 * np.count_nonzero(valid)


def chosen(cube, wavelength=None):
    """Return the index of the plane that would be plotted."""
    return int(re.match(r"plane (\d+)", plot._load(cube, CLEAN, wavelength).name)[1])


def test_wavelength_chooses_the_nearest_plane():
    cube = joined()
    metres = cube[WAVELENGTH].values
    for wavelength in (
        metres[4],
        metres[4] + 0.2e-9,
        f"{metres[4] * 1e9:.2f} nm",
        f"{metres[4] * 1e6:.5f}um",
    ):
        assert chosen(cube, wavelength) == 4
    assert chosen(cube, metres[0] - 0.2e-9) == 0
    assert chosen(cube, f"{2.99792458e8 / metres[1] / 1e12:.3f} THz") == 1
    np.testing.assert_array_equal(plot._load(cube, CLEAN, metres[1]).data, cube[DATA].values[1])


def test_frequency_axis():
    cube = joined()
    cube[WAVELENGTH] = (WAVELENGTH, 2.3e11 + 1e9 * np.arange(5), {"units": "Hz"})
    assert chosen(cube, "234.3 GHz") == 4
    with pytest.raises(UserError, match="outside the cube's range, 230 GHz to 234 GHz"):
        chosen(cube, "240 GHz")


def test_middle_plane_with_data_is_the_default():
    cube = joined()
    assert chosen(cube) == 2
    cube[DATA].values[1:3] = np.nan
    assert chosen(cube) in (0, 4)
    cube[DATA].values[4] = np.nan
    assert chosen(cube) == 0


@pytest.mark.slow
def test_only_the_chosen_plane_is_computed(tmp_path):
    cube = joined()

    def only(block, block_info):
        assert block_info[0]["array-location"][0] == (4, 5), "computed another plane"
        return block

    for name in (DATA, PSF):
        lazy = da.from_array(cube[name].values, chunks=(1, -1, -1))
        lazy = da.map_blocks(only, lazy, dtype="float32", meta=np.empty((0, 0, 0), "float32"))
        cube[name] = (cube[name].dims, lazy, cube[name].attrs)
    wavelength = float(cube[WAVELENGTH][4])
    assert len(watch_plane(cube, changed(CLEAN, n_iter=1), wavelength=wavelength, folder=tmp_path)) == 2


@pytest.mark.parametrize(
    ("wavelength", "message"),
    [
        ("0.9um", r"wavelength 0\.9um is outside the cube's range, 0\.7165 um to 0\.7185 um"),
        (0.7, r"wavelength 0\.7 m is outside the cube's range"),
        ("blue", r"'blue' is not a position on the spectral axis of this cube; type, for example, '0\.72um'"),
        ("3 kg", r"'3 kg' is not a position on the spectral axis of this cube"),
        (float("nan"), "outside the cube's range"),
    ],
)
def test_invalid_wavelengths_are_errors(tmp_path, wavelength, message):
    with pytest.raises(UserError, match=message):
        watch_plane(joined(), CLEAN, wavelength=wavelength, folder=tmp_path)
    assert not list(tmp_path.iterdir())


def test_planes_without_data_and_unusable_psfs(tmp_path):
    cube = joined()
    cube[DATA].values[1] = np.nan
    with pytest.raises(UserError, match=r"plane 1 at 0\.717 µm has no data"):
        watch_plane(cube, CLEAN, wavelength=float(cube[WAVELENGTH][1]), folder=tmp_path)
    cube[PSF] = 2 * cube[PSF]
    with pytest.raises(UserError, match=r"plane 2 at .*unit sum"):
        watch_plane(cube, CLEAN, folder=tmp_path)
    cube[DATA].values[:] = np.nan
    with pytest.raises(UserError, match="no plane of the cube has data"):
        watch_plane(cube, CLEAN, folder=tmp_path)
    with pytest.raises(UserError, match="needs the variable 'psf'"):
        watch_plane(cube.drop_vars(PSF), CLEAN, folder=tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="the frames cannot be written to"):
        watch_plane(joined(), CLEAN, folder=tmp_path / "file")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "stage"),
    [
        ("constant", LUCY),
        ("zero", CLEAN),
        ("one pixel", CLEAN),
        ("tiny", CLEAN),
        ("infinite", CLEAN),
        ("negative", LUCY),
        ("all filled", CLEAN),
    ],
)
def test_unusual_planes(tmp_path, seen, kind, stage):
    """Images without wavelength, variance and unit, whose values give no scale."""
    data = np.zeros((11, 14), np.float32)
    data[4:6, 5:9] = 1
    if kind == "constant":
        data[:] = 7
    elif kind == "zero":
        data[:] = 0
    elif kind == "one pixel":
        data = np.where(np.arange(data.size).reshape(data.shape) == 60, 3, np.nan).astype(np.float32)
    elif kind == "tiny":
        data *= 1e-18
    elif kind == "infinite":
        data[0, :2] = np.inf, -np.inf
    elif kind == "negative":
        data -= 5
    psf = np.zeros((1, 5, 5), np.float32)
    psf[0, 1:4, 1:4] = 1 / 9
    cube = from_arrays(data, np.nan)
    cube[PSF] = ((WAVELENGTH, *PSF_PLANE), psf)
    if kind == "all filled":
        cube[FILLED] = (DIMS, np.ones((1, *data.shape), bool))
    paths = watch_plane(cube, stage, folder=tmp_path)
    assert imread(paths[-1]).std() > 0
    assert seen["pictures"][0]._plane.name == "plane 0"
    with pytest.raises(UserError, match="no wavelengths"):
        watch_plane(cube, stage, wavelength=5e-7, folder=tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="a display is recorded by its variable on Linux"
)
def test_frames_are_written_without_a_display(tmp_path, monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.chdir(tmp_path)
    paths = watch_plane(joined(), changed(CLEAN, n_iter=1))
    assert paths == [Path(plot.FOLDER, "frame-00001.png"), Path(plot.FOLDER, "frame-00002.png")]
    assert all((tmp_path / p).is_file() for p in paths)


@pytest.mark.slow
def test_frames_are_written_if_the_backend_has_no_windows(tmp_path, monkeypatch):
    from matplotlib import pyplot

    monkeypatch.setenv("DISPLAY", ":99")
    monkeypatch.chdir(tmp_path)
    pyplot.switch_backend("agg")
    assert len(watch_plane(joined(), changed(CLEAN, n_iter=1))) == 2
    assert pyplot.get_fignums() == []


class Canvas(FigureCanvasAgg):
    """The canvas of a window that is closed after the result is shown, or during drawing `closes_at`."""

    closes_at = 0

    def __init__(self, figure):
        super().__init__(figure)
        self.drawings, self.waited = 0, False

    def draw(self):
        """Draw nothing: the tests count how often this is requested."""

    def flush_events(self):
        self.drawings += 1
        if self.drawings == self.closes_at:
            self.callbacks.process("close_event", None)

    def start_event_loop(self, timeout=0):
        self.waited = True
        self.callbacks.process("close_event", None)


class Windowed(Figure):
    shown = False

    def show(self, warn=True):
        self.shown = True


@pytest.fixture
def window(monkeypatch):
    figure = Windowed(figsize=(6, 4))
    canvas = Canvas(figure)
    monkeypatch.setattr(plot, "_window", lambda: figure)
    return canvas


def test_window_shows_the_result_until_it_is_closed(window, seen, monkeypatch):
    monkeypatch.setattr(plot, "time", SimpleNamespace(perf_counter=lambda: 0.0))
    assert watch_plane(joined(), CLEAN) == []
    assert window.figure.shown
    assert window.waited
    assert window.drawings == 1 + 6 + 1  # before the start, at each iteration, and the result


@pytest.mark.slow
def test_window_is_drawn_for_a_fifth_of_the_time(window, monkeypatch):
    clock = iter(np.arange(0, 1e6, 0.5))
    # Only the plot may read this clock: other threads of this process would advance it.
    monkeypatch.setattr(plot, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    watch_plane(joined(), changed(CLEAN, n_iter=30, min_frac_stat_delta=0))
    # A drawing lasts one tick of this clock and so does an iteration that is not drawn. A drawing of one
    # tick allows the next one after five, which is at the fourth iteration: 1, 5, 9, ... 29.
    assert window.drawings - 2 == 8


def test_a_window_that_was_closed_is_not_drawn_again(window, seen, monkeypatch):
    monkeypatch.setattr(plot, "time", SimpleNamespace(perf_counter=lambda: 0.0))
    window.closes_at = 2
    watch_plane(joined(), CLEAN)
    assert window.drawings == 2
    assert not window.waited
    assert len(seen["states"]) == 6


def test_without_matplotlib_the_message_names_the_extra(monkeypatch, tmp_path):
    for name in [m for m in sys.modules if m.split(".")[0] == "matplotlib"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr(lucidcube.plotting, "figure", figure)  # restored after it is imported again
    monkeypatch.delitem(sys.modules, figure.__name__)
    spec = importlib.util.spec_from_file_location("plot_alone", plot.__file__)
    alone = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "plot_alone", alone)
    spec.loader.exec_module(alone)
    with pytest.raises(UserError, match=re.escape("needs matplotlib: pip install 'lucidcube[plot]'")):
        alone.watch_plane(joined(), CLEAN, folder=tmp_path)


@pytest.mark.slow
def test_a_psf_with_a_missing_rim_is_shown_as_it_is_used(tmp_path):
    cube = joined().compute()
    psf = cube[PSF].values.copy()
    psf[:, 0], psf[:, :, -1] = np.nan, np.nan
    psf /= np.nansum(psf, axis=(1, 2), keepdims=True)
    assert watch_plane(cube.assign({PSF: (cube[PSF].dims, psf)}), CLEAN, folder=tmp_path)
    with pytest.raises(CubeError, match="has no PSF"):
        watch_plane(cube.assign({PSF: (cube[PSF].dims, np.full_like(psf, np.nan))}), CLEAN, folder=tmp_path)
