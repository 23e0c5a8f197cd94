"""Every stage as a command that reads and writes FITS files."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from lucidcube.cli.app import main
from lucidcube.config.load import from_plain
from lucidcube.io.tables import read_provenance
from lucidcube.runner.pipeline import run
from lucidcube.simulate import Scene, write_scene
from lucidcube.stages.base import REGISTRY

STAR = "star_rebin_normalised_modelled_effective.fits"
CHAIN = [
    ["rebin", "target.fits"],
    ["artefacts", "target_rebin.fits", "--method", "ssa"],
    ["mask", "target_rebin_artefactmap.fits", "--max-dilation", "2", "--cut", "[[0, 2.5]]"],
    ["interpolate", "target_rebin.fits", "target_rebin_artefactmap_bpmask.fits", "--method", "linear"],
    ["rebin", "star.fits"],
    ["normalise_psf", "star_rebin.fits"],
    ["fit_psf", "star_rebin_normalised.fits"],
    [
        "deconvolve",
        "target_rebin_interp.fits",
        STAR,
        "--n-iter",
        "60",
    ],
]
PRODUCT = "target_rebin_interp_deconv.fits"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a simulated target and star, all products of the chain of commands, and that of the run."""
    made = tmp_path_factory.mktemp("chain")
    write_scene(Scene(shape=(21, 35, 37), seed=5), made)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(made)
        for command in CHAIN:
            main(command)
        run(
            from_plain(
                {
                    "target": {
                        "input": "target.fits",
                        "stages": [
                            "rebin",
                            {"artefacts": {"method": "ssa"}},
                            {"mask": {"cut": [[0, 2.5]], "max_dilation": 2}},
                            {"interpolate": {"method": "linear"}},
                        ],
                    },
                    "star": {"input": "star.fits", "stages": ["rebin", "normalise_psf", "fit_psf"]},
                    "deconvolve": {"n_iter": 60},
                    "output": {"path": "run.fits"},
                }
            )
        )
    return made


@pytest.fixture
def in_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(folder)
    return folder


def error_line(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    output = capsys.readouterr().err
    lines = [line for line in output.splitlines() if line.startswith("lucidcube: ")]
    assert len(lines) == 1, output
    assert "Traceback" not in output
    return lines[0]


def test_the_chain_of_commands_gives_the_values_of_the_run(folder: Path) -> None:
    with fits.open(folder / PRODUCT) as chain, fits.open(folder / "run.fits") as whole:
        for name in ("DECONVOLVED", "RESIDUAL", "STAT", "FILLED", "PSF"):
            np.testing.assert_array_equal(chain[name].data, whole[name].data, err_msg=name)
        # The wavelength went through a header in Angstrom: one bit may be lost.
        log, expected = chain["DECONVOLUTION LOG"].data, whole["DECONVOLUTION LOG"].data
        np.testing.assert_allclose(log["wavelength"], expected["wavelength"], rtol=1e-15)
        for column in log.names[1:]:
            np.testing.assert_array_equal(log[column], expected[column], err_msg=column)


@pytest.mark.parametrize(
    ("name", "images", "tables"),
    [
        ("target_rebin", ["DATA", "STAT"], []),
        ("target_rebin_artefactmap", ["BADNESS"], []),
        ("target_rebin_artefactmap_bpmask", ["MASK"], ["CUT BY CHANNEL"]),
        ("target_rebin_interp", ["DATA", "RESIDUAL", "FILLED", "STAT"], []),
        (
            "star_rebin_normalised",
            ["DATA", "STAT", "OUTLIER", "BACKGROUND", "STAR_REGION"],
            ["NORMALISATION"],
        ),
        ("star_rebin_normalised_modelled_effective", ["DATA"], ["FITTED MODEL PARAMS"]),
        (
            "target_rebin_interp_deconv",
            ["DECONVOLVED", "RESIDUAL", "POINTS", "MODEL", "STAT", "FILLED", "PSF"],
            ["DECONVOLUTION LOG"],
        ),
    ],
)
def test_the_extensions_that_each_command_writes(
    folder: Path, name: str, images: list[str], tables: list[str]
) -> None:
    with fits.open(folder / f"{name}.fits", checksum=True) as hdus:
        hdus.verify("exception")
        assert [h.name for h in hdus] == [*images, *tables, "PROVENANCE"]
        assert all(h.data.shape[0] == 6 for h in hdus[: len(images)])
        assert hdus[0].header["OBJECT"] == fits.getheader(folder / f"{name.split('_')[0]}.fits")["OBJECT"]


@pytest.mark.slow
def test_stages_that_use_the_psf_of_a_file(in_folder: Path, tmp_path: Path) -> None:
    """The mask, which is optional, stands between the data and the PSF."""
    scores, mask, filled, holes = (
        f"{tmp_path}/{name}.fits" for name in ("scores", "mask", "filled", "holes")
    )
    main(["artefacts", "target_rebin.fits", STAR, "-o", scores])
    main(["mask", scores, "-o", mask])
    main(["interpolate", "target_rebin.fits", mask, STAR, "-o", filled])
    main(["interpolate", "target_rebin.fits", STAR, "-o", holes])
    with fits.open(scores) as found:
        assert [h.name for h in found] == ["BADNESS", "AMPLITUDE", "PROVENANCE"]
    marks, data = fits.getdata(mask, "MASK"), fits.getdata("target_rebin.fits", "DATA")
    assert 0 < marks.mean() < 0.2
    for product, replaced in ((filled, marks > 0), (holes, np.zeros_like(marks, bool))):
        assert {"target.file", "star.file"} <= {*read_provenance(product)}
        with fits.open(product) as made:
            np.testing.assert_array_equal(np.isin(made["FILLED"].data, (1, 3)), replaced)
            good = np.isfinite(data) & ~replaced
            np.testing.assert_array_equal(made["DATA"].data[good], data[good])


@pytest.mark.skipif(shutil.which("fitsverify") is None, reason="fitsverify is not installed")
def test_fitsverify_reports_no_problems(folder: Path) -> None:
    products = [folder / "run.fits", *folder.glob("*_*.fits")]
    assert len(products) == 9
    for product in products:
        done = subprocess.run(["fitsverify", str(product)], capture_output=True, text=True, check=False)
        assert "0 warning(s) and 0 error(s)" in done.stdout, done.stdout


def test_the_psf_is_centred_in_its_header(folder: Path) -> None:
    for name in ("run.fits", PRODUCT):
        with fits.open(folder / name) as hdus:
            header, shape = hdus["PSF"].header, hdus["PSF"].data.shape
            assert (header["CRPIX1"], header["CRPIX2"]) == ((shape[2] + 1) / 2, (shape[1] + 1) / 2)
            assert header["CTYPE3"] == hdus[0].header["CTYPE3"]


def test_every_stage_has_a_command_with_its_parameters(capsys: pytest.CaptureFixture[str]) -> None:
    for name, cls in REGISTRY.items():
        main([name, "--help"])
        output = capsys.readouterr().out
        for parameter in {p for variant in cls.variants() for p in variant.model_fields}:
            assert f"--{parameter.replace('_', '-').lower()}" in output.lower(), f"{name} {parameter}"


def test_output_template(in_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["rebin", "target.fits", "-o", f"{tmp_path}/{{stem}}-new{{tag}}{{suffix}}", "--bin-step", "2nm"])
    path = tmp_path / "target-new_rebin.fits"
    assert capsys.readouterr().out.strip() == str(path)
    assert fits.getheader(path)["CD3_3"] == pytest.approx(20)


def test_reading_options(in_folder: Path, tmp_path: Path) -> None:
    reading = ["--slice", "3:7,2:-2", "--ext", "DATA"]
    main(["interpolate", "target.fits", "--method", "linear", *reading, "-o", f"{tmp_path}/part.fits"])
    with fits.open(tmp_path / "part.fits") as part, fits.open("target.fits") as whole:
        assert part[0].data.shape == (4, 31, 37)
        known = part["FILLED"].data == 0
        np.testing.assert_array_equal(part[0].data[known], whole["DATA"].data[3:7, 2:-2][known])
        assert part[0].header["CRPIX2"] == whole["DATA"].header["CRPIX2"] - 2


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            ["rebin", "target.fits", "-o", "star.fits"],
            "star.fits exists and was not made by lucidcube; give another name, or --overwrite",
        ),
        (["rebin", "target.fits", "-o", "target.fits", "--overwrite"], "is one of the inputs"),
        (["noise", "target_rebin.fits", "-o", "target_rebin.fits"], "is one of the inputs"),
        (["rebin", "target.fits", "--wave-start", "early"], "wave_start: input should be a valid number"),
        (["rebin", "targt.fits"], "did you mean target.fits"),
        (["rebin"], "takes 1 file:"),
        (["deconvolve", "target_rebin.fits"], "takes 2 files:"),
        (["rebin", "target.fits", "--bin-step", "1 kg"], "neither a wavelength"),
        (["rebin", "target.fits", "--operation", "men"], "did you mean 'mean'"),
        (["rebin", "target.fits", "-o", "{stm}.fits"], "no field {stm}"),
        (["rebin", "target.fits", "-o", "{stem"], "--output"),
        (["rebin", "target.fits", "--bin-stp", "1nm"], "bin-stp"),
        (["mask", "target_rebin_artefactmap.fits", "--cut", "[["], "not YAML"),
        (
            ["interpolate", "target.fits", "target_rebin_artefactmap_bpmask.fits", STAR, "-o", "x.fits"],
            "must be the same",
        ),
        (
            [
                "deconvolve",
                "target.fits",
                "star_rebin_normalised_modelled_effective.fits[:5]",
                "-o",
                "x.fits",
            ],
            "wavelengths",
        ),
        (["deconvolve", "target_rebin.fits", "star_rebin.fits", "-o", "x.fits"], "PSF must"),
    ],
)
def test_wrong_arguments_are_errors(
    in_folder: Path, arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(p.name for p in in_folder.iterdir())
    assert expected in error_line(arguments, capsys)
    assert sorted(p.name for p in in_folder.iterdir()) == before


def test_products_are_replaced_but_other_files_only_with_overwrite(in_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "out.fits"
    main(["rebin", "target.fits", "-o", str(path)])
    main(["rebin", "target.fits", "-o", str(path), "--operation", "sum"])
    assert "sum" in read_provenance(path)["config"]
    shutil.copy("star.fits", path)
    main(["rebin", "target.fits", "-o", str(path), "--overwrite"])
    assert fits.getdata(path).shape[0] == 6
