"""The simulation, compared with physics computed in another way and with its own files."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS
from numpy.typing import NDArray
from scipy import fft, integrate, signal, special

from locations import ROOT
from lucidcube.errors import ConfigError, CubeError
from lucidcube.simulate import AdaptiveOptics, ArtefactKind, Scene, parse_size, scene_for_size, write_scene
from lucidcube.simulate.optics import ARCSEC, RadialPsf
from lucidcube.simulate.planet import amplitudes, disc_radius, methane_depth, sunlight
from scenes import arrays, scene, star_cube, target_cube

PERFECT = AdaptiveOptics(r0=1e6, core_variance=0.0, floor=0.0)
SMALL = (6, 31, 31)


def psf_stamp(optics: AdaptiveOptics, wavelength: float, side: int, scale: float) -> NDArray[np.float64]:
    radial = RadialPsf(optics, scale, 0.75 * side, 450e-9)
    centre = (side // 2, side // 2)
    return radial.look_up((side, side), centre).paint(radial.profile(wavelength)).astype(np.float64)


def square_grid_psf(
    optics: AdaptiveOptics, wavelength: float, side: int, scale: float
) -> NDArray[np.float64]:
    """Compute the PSF from a pupil on a grid and the covariance of the phase by FFT, in square pixels."""
    grid, spacing, fine_grid = 512, 1 / 16, 2048
    axis = np.fft.fftfreq(grid, spacing)
    frequency = np.hypot(axis[:, None], axis)
    spectrum = np.where(frequency < optics.cutoff, optics.corrected(frequency), optics.turbulence(frequency))
    covariance = fft.fft2(spectrum).real / (grid * spacing) ** 2

    def beyond(q: float) -> float:
        return 2 * np.pi * q * float(optics.turbulence(np.array(q)))

    # The grid ends at 8 per metre, its corners further out; finer phase is variance without covariance.
    missed = integrate.quad(beyond, 8.0, np.inf)[0]
    missed -= float(spectrum[frequency > 8.0].sum()) / (grid * spacing) ** 2
    structure = 2 * (covariance[0, 0] - covariance)
    structure.ravel()[1:] += 2 * missed
    metres = np.hypot(*np.meshgrid(*2 * [np.fft.fftfreq(grid, 1 / (grid * spacing))]))
    pupil = (metres <= optics.diameter / 2) & (metres >= optics.obstruction * optics.diameter / 2)
    overlap = fft.ifft2(np.abs(fft.fft2(pupil.astype(float))) ** 2).real
    transfer = overlap / overlap[0, 0] * np.exp(-0.5 * (500e-9 / wavelength) ** 2 * structure)
    padded = np.pad(np.fft.fftshift(transfer), (fine_grid - grid) // 2)
    fine = np.fft.fftshift(fft.fft2(np.fft.ifftshift(padded)).real) / fine_grid**2
    step = wavelength / (fine_grid * spacing) / ARCSEC / scale
    pixel = np.rint((np.arange(fine_grid) - fine_grid // 2) * step).astype(int) + side // 2
    kept = (pixel >= 0) & (pixel < side)
    image = np.zeros((side, side))
    np.add.at(image, (pixel[kept][:, None], pixel[kept]), fine[np.ix_(kept, kept)])
    return image


class TestOptics:
    def test_without_turbulence_it_is_the_airy_pattern(self) -> None:
        wavelength, scale = 700e-9, 0.025
        image = psf_stamp(PERFECT, wavelength, 31, scale)
        # Intensity of an annular aperture, averaged over the disc of one pixel's area by brute force.
        angle = ((np.arange(201) + 0.5) / 201 - 0.5) * 2 / np.sqrt(np.pi)
        dy, dx = np.meshgrid(angle, angle, indexing="ij")
        inside = np.hypot(dy, dx) < 1 / np.sqrt(np.pi)
        hole, pixel = PERFECT.obstruction, 8.0 / wavelength * ARCSEC * scale
        for y, x in [(0, 0), (0, 1), (1, 1), (2, 1), (4, 3)]:
            u = np.maximum(np.pi * pixel * np.hypot(y + dy[inside], x + dx[inside]), 1e-9)
            amplitude = 2 * special.j1(u) / u - hole**2 * 2 * special.j1(hole * u) / (hole * u)
            peak = np.pi / 4 * pixel**2 / (1 - hole**2)
            assert image[15 + y, 15 + x] == pytest.approx(peak * np.mean(amplitude**2), rel=0.012)

    def test_it_is_the_power_spectrum_transformed_on_a_square_grid(self) -> None:
        optics = AdaptiveOptics(outer_scale=6.0, core_width=0.4, core_variance=12.0)
        image = psf_stamp(optics, 700e-9, 61, 0.025)
        other = square_grid_psf(optics, 700e-9, 61, 0.025)
        radius = np.hypot(*(np.indices(image.shape) - 30))
        for reach in (1.5, 3.0, 6.0, 10.0, 20.0, 28.0):
            inside = radius <= reach
            assert image[inside].sum() == pytest.approx(other[inside].sum(), rel=0.02)

    def test_the_structure_function_is_the_integral_of_the_spectrum(self) -> None:
        optics = AdaptiveOptics()
        for baseline in (0.3, 1.0, 4.0):

            def integrand(q: float, baseline: float = baseline) -> float:
                at = np.array([q])
                inside = optics.corrected(at) if q < optics.cutoff else optics.turbulence(at)
                return float(4 * np.pi * q * inside[0] * (1 - special.j0(2 * np.pi * q * baseline)))

            edges = np.concatenate([[0, 0.01, 0.1], np.arange(0.5, 60, 0.5)])
            total = sum(integrate.quad(integrand, a, b, limit=200)[0] for a, b in pairwise(edges))
            total += integrate.quad(
                lambda q: 4 * np.pi * q * 0.0229 * optics.r0 ** (-5 / 3) * q ** (-11 / 3), 59.5, np.inf
            )[0]
            assert optics.structure_function(np.array([baseline]))[0] == pytest.approx(total, rel=3e-3)

    def test_the_corrected_spectrum_holds_the_stated_variance(self) -> None:
        optics = AdaptiveOptics()
        edges = np.concatenate([[0], np.geomspace(1e-3, optics.cutoff, 12)])
        total = sum(
            integrate.quad(lambda q: 2 * np.pi * q * float(optics.corrected(np.array(q))), a, b)[0]
            for a, b in pairwise(edges)
        )
        assert total == pytest.approx(optics.core_variance + optics.floor * np.pi * optics.cutoff**2)

    def test_sum_over_a_wide_field_is_one(self) -> None:
        assert psf_stamp(AdaptiveOptics(), 700e-9, 601, 0.025).sum() == pytest.approx(1.0, abs=3e-3)

    def test_towards_the_red_the_core_is_sharper_and_the_halo_wider(self) -> None:
        blue, red = (psf_stamp(AdaptiveOptics(), w, 101, 0.025) for w in (480e-9, 930e-9))
        perfect_blue, perfect_red = (psf_stamp(PERFECT, w, 101, 0.025) for w in (480e-9, 930e-9))
        assert red[50, 50] / perfect_red[50, 50] > 3 * blue[50, 50] / perfect_blue[50, 50]
        assert np.sum(red[50] > red[50, 50] / 2) <= np.sum(blue[50] > blue[50, 50] / 2)
        # Where the mirror's correction ends, at wavelength * cut-off, the halo falls most steeply.
        radius = np.log(np.arange(8, 40))
        for wavelength in (760e-9, 930e-9):
            image = psf_stamp(AdaptiveOptics(), wavelength, 101, 0.025)
            slope = np.diff(np.log(image[50, 58:90])) / np.diff(radius)
            edge = wavelength * AdaptiveOptics().cutoff / ARCSEC / 0.025
            assert 8.5 + np.argmin(slope) == pytest.approx(edge, abs=1.5)


class TestPlane:
    def test_blurred_is_the_truth_convolved_with_the_psf(self) -> None:
        made = Scene(shape=(3, 34, 41), seed=3)
        plane = made.plane(1)
        wanted = signal.convolve(
            plane.truth.astype(np.float64), plane.psf.astype(np.float64), mode="same", method="direct"
        )
        assert plane.psf.shape == (33, 33)
        np.testing.assert_allclose(plane.blurred, wanted, atol=1e-5 * wanted.max())

    def test_psf_is_a_centred_odd_stamp_of_unit_sum(self) -> None:
        for psf in arrays().psf:
            assert psf.sum(dtype=np.float64) == pytest.approx(1, abs=1e-6)
            assert psf.min() > 0
            assert np.unravel_index(psf.argmax(), psf.shape) == (20, 20)
            np.testing.assert_array_equal(psf, psf[::-1, ::-1])

    def test_noise_has_the_stated_variance(self) -> None:
        made = arrays((12, 61, 61), 5)
        pull = (made.observed - made.blurred - made.artefact_flux) / np.sqrt(made.variance)
        pull = pull[np.isfinite(pull)].astype(np.float64)
        assert np.mean(pull**2) == pytest.approx(1, abs=4 * np.sqrt(2 / pull.size))
        assert np.mean(pull) == pytest.approx(0, abs=4 / np.sqrt(pull.size))
        bright = made.blurred[0] > 0.6 * made.blurred[0].max()
        signal_to_noise = made.blurred[0][bright] / np.sqrt(63.0**2 + 20.0 * made.blurred[0][bright])
        found = np.nanmedian(made.blurred[0][bright] / np.sqrt(made.variance[0][bright]))
        assert found == pytest.approx(np.median(signal_to_noise), rel=0.02)

    def test_methane_darkens_the_disc_but_not_the_moon(self) -> None:
        made = Scene(shape=(2, 61, 61), first_wavelength=707e-9, wavelength_step=20e-9)
        assert methane_depth(727e-9) > 5 * methane_depth(707e-9)
        continuum, methane = made.plane(0).truth, made.plane(1).truth
        moon = made.moon
        assert methane[moon.y, moon.x] / continuum[moon.y, moon.x] > 0.9
        assert 0.1 < np.median(methane[25:36, 25:36] / continuum[25:36, 25:36]) < 0.5
        deck, haze, clouds, _ = (
            amplitudes(727e-9) / amplitudes(707e-9) / (sunlight(727e-9) / sunlight(707e-9))
        )
        assert deck == pytest.approx(np.exp(methane_depth(707e-9) - methane_depth(727e-9)), rel=1e-5)
        assert haze == pytest.approx(1, rel=1e-5)
        assert deck < clouds < haze

    def test_flux_of_the_disc_is_that_of_minnaerts_law(self) -> None:
        made = Scene(shape=(1, 101, 101), first_wavelength=750e-9)
        truth = made.plane(0).truth.astype(np.float64)
        y, x = np.indices(truth.shape) - 50
        radius = disc_radius((101, 101))
        rho = np.hypot(y, x) / radius
        moon = made.moon
        assert truth[rho > 1.05].sum() == truth[moon.y, moon.x]
        # mu**0.7 over a flattened disc is pi r^2 (1 - f) / 1.35; bands and clouds move that a little.
        level = truth[rho < 0.3].mean()
        smooth = level * np.pi * radius**2 * 0.98 / 1.35
        assert truth[rho <= 1.05].sum() == pytest.approx(smooth, rel=0.15)
        darkening = np.median(truth[(rho > 0.93) & (rho < 0.96)]) / np.median(truth[rho < 0.5])
        assert 0.3 < darkening < 0.65

    def test_the_planet_does_not_depend_on_the_observation(self) -> None:
        one = Scene(shape=(40, 61, 61), seed=2)
        part = Scene(shape=(1, 61, 61), seed=2, first_wavelength=float(one.wavelengths[7]))
        np.testing.assert_array_equal(one.plane(7).truth, part.plane(0).truth)

    def test_missing_data(self) -> None:
        made, empty = arrays(), scene().empty_plane
        assert empty is not None
        gone = np.isnan(made.observed)
        np.testing.assert_array_equal(gone, np.isnan(made.variance))
        assert gone[empty].all()
        others = np.delete(gone, empty, axis=0)
        assert (others == others[0]).all()
        assert 0.05 < others[0].mean() < 0.2
        assert others[0][[0, 0, -1, -1], [0, -1, 0, -1]].all()
        assert others[0][4:-4, 4:-4].any()
        assert not made.artefact_kind[gone].any()
        assert not made.artefact_flux[gone].any()
        assert Scene(shape=(3, 31, 31)).empty_plane is None


class TestArtefacts:
    def test_every_kind_occurs_from_subtle_to_obvious(self) -> None:
        made = arrays((32, 61, 61), 11)
        ratio = np.abs(made.artefact_flux) / np.sqrt(np.nan_to_num(made.variance, nan=np.inf))
        for kind in ArtefactKind:
            assert (made.artefact_kind == kind).any(), kind.name
        assert (ratio[made.artefact_kind == ArtefactKind.NONE] < 1).all()
        assert (ratio[made.artefact_kind != ArtefactKind.NONE] >= 1).all()
        assert 0.005 < (made.artefact_kind > 0).mean() < 0.05
        assert np.any((ratio > 1) & (ratio < 5))
        assert np.any(ratio > 50)
        # A cold pixel under the ghost may still gain.
        assert np.mean(made.artefact_flux[made.artefact_kind == ArtefactKind.COLD] < 0) > 0.8
        assert (made.artefact_flux[made.artefact_kind == ArtefactKind.HOT] > 0).all()

    def test_ghost_and_stripes_move_with_wavelength(self) -> None:
        made = Scene(shape=(25, 101, 101), first_wavelength=705e-9, wavelength_step=1.25e-9, seed=2)
        centres = []
        for index in (2, 12, 22):
            kind = made.plane(index).artefact_kind
            centres.append(np.argwhere(kind == ArtefactKind.GHOST).mean(axis=0))
        first, second = np.diff(centres, axis=0)
        assert np.hypot(*first) > 15
        np.testing.assert_allclose(first, second, atol=2)

    def test_bad_pixels_are_permanent_and_cosmic_rays_are_not(self) -> None:
        made = Scene(shape=(32, 101, 101), seed=1)
        one, two = made.plane(3).artefact_kind, made.plane(4).artefact_kind
        np.testing.assert_array_equal(one == ArtefactKind.HOT, two == ArtefactKind.HOT)
        cosmic = [made.plane(i).artefact_kind == ArtefactKind.COSMIC for i in range(6)]
        assert not np.logical_and.reduce(cosmic).any()
        assert np.logical_or.reduce(cosmic).any()


class TestStar:
    def test_star_is_the_psf_between_pixels_on_a_background(self) -> None:
        made = Scene(shape=(2, 61, 61), seed=9)
        plane = made.star_plane(1)
        y, x = np.indices(plane.observed.shape)
        near = np.hypot(y - made.star_centre[0], x - made.star_centre[1]) < 6
        light = plane.observed - plane.background
        centroid = [(light[near] * axis[near]).sum() / light[near].sum() for axis in (y, x)]
        assert centroid == pytest.approx(made.star_centre, abs=0.05)
        assert min(abs(c - round(c)) for c in made.star_centre) > 0.1
        # The stated PSF, moved by Fourier's shift theorem, is the star.
        move = np.array(made.star_centre) - 30
        ky, kx = np.fft.fftfreq(61)[:, None], np.fft.rfftfreq(61)
        shifted = fft.irfft2(
            fft.rfft2(plane.psf) * np.exp(-2j * np.pi * (ky * move[0] + kx * move[1])), (61, 61)
        )
        scale = light[near].sum() / shifted[near].sum()
        assert np.abs(light - scale * shifted)[near].max() < 0.015 * light[near].max()

    def test_noise_and_outliers(self) -> None:
        made = Scene(shape=(2, 101, 101), seed=9)
        plane = made.star_plane(0)
        np.testing.assert_array_equal(plane.psf, made.plane(0).psf)
        y, x = np.indices(plane.observed.shape)
        wing = np.hypot(y - made.star_centre[0], x - made.star_centre[1]) > 0.2 * 101
        rough = (plane.observed - signal.medfilt2d(plane.observed, 5))[wing] / np.sqrt(plane.variance)[wing]
        rough = rough[np.isfinite(rough)]
        assert 0.9 < 1.4826 * np.median(np.abs(rough)) < 1.15
        assert 4 <= np.count_nonzero(rough > 8) <= 6

    def test_the_star_has_its_own_field(self) -> None:
        made = Scene(shape=(2, 61, 61), star_shape=(41, 43))
        assert made.star_plane(0).observed.shape == (41, 43)
        assert made.plane(0).psf.shape == (41, 41) == made.star_plane(0).psf.shape


class TestDeterminism:
    def test_planes_are_the_same_in_any_order(self) -> None:
        one, two = Scene(shape=SMALL, seed=8), Scene(shape=SMALL, seed=8)
        forwards = [one.plane(i) for i in range(6)]
        backwards = [two.plane(i) for i in reversed(range(6))][::-1]
        for a, b in zip(forwards, backwards, strict=True):
            for image, other in zip(a, b, strict=True):
                np.testing.assert_array_equal(image, other)
        np.testing.assert_array_equal(one.star_plane(4).observed, two.star_plane(4).observed)

    def test_another_seed_is_another_scene(self) -> None:
        one, two = Scene(shape=SMALL, seed=8).plane(0), Scene(shape=SMALL, seed=9).plane(0)
        assert (one.truth != two.truth).any()
        assert np.nanmax(np.abs(one.observed - two.observed)) > 0
        np.testing.assert_array_equal(one.psf, two.psf)

    def test_planes_have_independent_noise(self) -> None:
        made = Scene(shape=(2, 101, 101), seed=8)
        a, b = ((p.observed - p.blurred - p.artefact_flux) for p in (made.plane(0), made.plane(1)))
        star = made.star_plane(0)
        residual = (star.observed - signal.medfilt2d(star.observed, 3)) / np.sqrt(star.variance)
        good = np.isfinite(a) & np.isfinite(residual)
        for other in (b, residual):
            assert abs(np.corrcoef(a[good], other[good])[0, 1]) < 4 / np.sqrt(good.sum())

    @pytest.mark.parametrize("index", [-1, 6])
    def test_a_plane_out_of_range_is_an_error(self, index: int) -> None:
        with pytest.raises(IndexError, match="of a scene of 6"):
            Scene(shape=SMALL).plane(index)
        with pytest.raises(IndexError, match="of a scene of 6"):
            Scene(shape=SMALL).star_plane(index)

    def test_invalid_scenes_are_errors(self) -> None:
        with pytest.raises(CubeError, match="21 x 21"):
            Scene(shape=(5, 20, 40))
        with pytest.raises(CubeError, match="wavelengths"):
            Scene(wavelength_step=0.0)


class TestFiles:
    def test_files_have_the_layout_of_muse(self, tmp_path: Path) -> None:
        made = Scene(shape=SMALL, seed=4, star_shape=(25, 27))
        paths = write_scene(made, tmp_path / "new", truth=True)
        with fits.open(paths.target) as target:
            target.verify("exception")
            assert [hdu.name for hdu in target] == ["PRIMARY", "DATA", "STAT"]
            assert target["PRIMARY"].data is None
            header = target["DATA"].header
            assert header["BITPIX"] == -32
            assert (header["CTYPE3"], header["CUNIT3"]) == ("AWAV", "Angstrom")
            assert header["BUNIT"] == "10**(-20)*erg/s/cm**2/Angstrom"
            grid = header["CRVAL3"] + header["CD3_3"] * (np.arange(6) + 1 - header["CRPIX3"])
            np.testing.assert_allclose(grid * 1e-10, made.wavelengths, rtol=1e-12)
            for index in range(6):
                plane = made.plane(index)
                np.testing.assert_array_equal(target["DATA"].data[index], plane.observed)
                np.testing.assert_array_equal(target["STAT"].data[index], plane.variance)
        with fits.open(paths.star) as star:
            np.testing.assert_array_equal(star["DATA"].data[5], made.star_plane(5).observed)
            np.testing.assert_array_equal(star["STAT"].data[5], made.star_plane(5).variance)
        assert paths.truth is not None
        with fits.open(paths.truth) as known:
            plane = made.plane(2)
            for name, image in zip(
                ("TRUTH", "BLURRED", "PSF", "ARTEFACTS", "ARTEFACT_FLUX"),
                (plane.truth, plane.blurred, plane.psf, plane.artefact_kind, plane.artefact_flux),
                strict=True,
            ):
                np.testing.assert_array_equal(known[name].data[2], image)
            assert known["ARTEFACTS"].header["KIND5"] == "COSMIC"
        assert sorted(path.name for path in paths.target.parent.iterdir()) == [
            "star.fits",
            "target.fits",
            "truth.fits",
        ]

    def test_the_moon_is_at_its_sky_coordinates(self, tmp_path: Path) -> None:
        made = Scene(shape=(1, 61, 81), seed=4)
        paths = write_scene(made, tmp_path, truth=True)
        assert paths.truth is not None
        with fits.open(paths.truth) as known:
            sky = WCS(known["TRUTH"].header).celestial
            image = known["TRUTH"].data[0]
        x, y = sky.world_to_pixel_values(made.moon.right_ascension, made.moon.declination)
        assert (float(y), float(x)) == pytest.approx((made.moon.y, made.moon.x), abs=1e-4)
        assert image[made.moon.y, made.moon.x] > 0
        around = image[made.moon.y - 2 : made.moon.y + 3, made.moon.x - 2 : made.moon.x + 3]
        assert np.count_nonzero(around) == 1
        scales = np.sqrt(np.abs(np.linalg.det(sky.pixel_scale_matrix))) * 3600
        assert scales == pytest.approx(0.025)

    @pytest.mark.parametrize("angle", [0.0, 20.0, -75.0])
    def test_the_field_has_the_stated_position_angle(self, angle: float, tmp_path: Path) -> None:
        paths = write_scene(Scene(shape=(1, 31, 31), position_angle=angle), tmp_path)
        sky = WCS(fits.getheader(paths.target, "DATA")).celestial
        centre, up, right = (sky.pixel_to_world(x, y) for x, y in ((15, 15), (15, 20), (20, 15)))
        turned = centre.position_angle(up).wrap_at("180d").deg
        assert turned == pytest.approx(angle, abs=1e-3)
        # Seen from inside the sphere: east is to the left of north.
        assert centre.position_angle(right).wrap_at("180d").deg == pytest.approx(
            (angle + 90) % 360 - 180, abs=1e-3
        )
        assert centre.separation(up).arcsec == pytest.approx(5 * 0.025, rel=1e-4)

    def test_a_failure_leaves_no_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(self: Scene, index: int) -> None:
            raise RuntimeError("no more planes")

        monkeypatch.setattr(Scene, "plane", fail)
        with pytest.raises(RuntimeError, match="no more planes"):
            write_scene(Scene(shape=SMALL), tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == ["star.fits"]

    @pytest.mark.slow
    def test_memory_does_not_grow_with_the_cube(self, tmp_path: Path) -> None:
        program = (
            "import resource, sys\n"
            "from lucidcube.simulate import Scene, write_scene\n"
            "write_scene(Scene(shape=(3, 151, 151)), sys.argv[1])\n"
            "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
            "write_scene(Scene(shape=(400, 151, 151)), sys.argv[1])\n"
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", program, str(tmp_path)],
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        )
        written = (tmp_path / "target.fits").stat().st_size
        assert written > 70e6
        assert int(done.stdout) * 1024 < written / 10


class TestSizes:
    @pytest.mark.parametrize(
        ("text", "size"),
        [
            ("8GB", 8 * 10**9),
            ("500MiB", 500 * 2**20),
            ("1.5 tb", 15 * 10**11),
            ("64k", 64000),
            ("123", 123),
            ("2KiB", 2048),
            ("1e3", 1000),
        ],
    )
    def test_parse(self, text: str, size: int) -> None:
        assert parse_size(text) == size

    @pytest.mark.parametrize("text", ["", "GB", "8 XB", "-1GB", "0", "8iB", "nan"])
    def test_invalid_sizes_are_errors(self, text: str) -> None:
        with pytest.raises(ConfigError, match="500MiB"):
            parse_size(text)

    @pytest.mark.parametrize("size", [30_000, 10**6, 5 * 10**7, 6 * 10**7, 10**9, 16 * 10**9])
    def test_scene_for_size(self, size: int) -> None:
        made = scene_for_size(size, seed=3)
        planes = made.shape[0] * made.shape[1] * made.shape[2] * 8
        assert 0.9 * size <= planes <= size
        assert made.seed == 3
        assert made.wavelengths[0] >= 475e-9 - 1e-15
        assert made.wavelengths[-1] <= 935e-9 + 1e-15
        if size >= 10**9:
            assert made.shape[1:] == (341, 341)

    def test_a_size_that_is_too_small_is_an_error(self) -> None:
        with pytest.raises(ConfigError, match="28kB"):
            scene_for_size(1000)


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_example", ROOT / "example_data" / "make_example.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class TestExample:
    def test_committed_files_are_those_of_the_script(self, script: ModuleType, tmp_path: Path) -> None:
        script.main(["--out", str(tmp_path)])
        for name in ("target.fits", "star.fits"):
            committed = ROOT / "example_data" / name
            assert committed.stat().st_size < 2e6
            with fits.open(committed) as old, fits.open(tmp_path / name) as new:
                for extension in ("DATA", "STAT"):
                    assert old[extension].header == new[extension].header
                    # FFTs and exponentials of other machines differ in the last bit.
                    np.testing.assert_allclose(old[extension].data, new[extension].data, rtol=1e-4, atol=0.1)

    def test_options(self, script: ModuleType, tmp_path: Path) -> None:
        script.main(["--out", str(tmp_path), "--size", "25", "--nwave", "2", "--seed", "5", "--truth"])
        with fits.open(tmp_path / "truth.fits") as known:
            np.testing.assert_array_equal(known["TRUTH"].data[1], script.scene(25, 2, 5).plane(1).truth)


def test_scenes_as_cubes() -> None:
    for cube, data in ((target_cube(), arrays().observed), (star_cube(), arrays().star)):
        assert cube["data"].dims == ("wavelength", "y", "x")
        assert cube["data"].dtype == cube["variance"].dtype == np.float32
        np.testing.assert_array_equal(cube["data"], data)
        np.testing.assert_array_equal(cube["wavelength"], scene().wavelengths)
