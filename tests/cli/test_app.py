"""The command line: output, exit codes, and one-line messages for user errors."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import yaml
from astropy.io import fits

from lucidcube import __version__
from lucidcube.cli.app import app, main
from lucidcube.runner.monitor import Monitor
from lucidcube.simulate import Scene, write_scene
from lucidcube.stages.base import REGISTRY

SCENE = Scene(shape=(4, 25, 25), seed=3, wavelength_step=0.5e-9)


class Output(NamedTuple):
    """Exit code and output of the program."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.err.splitlines()


Command = Callable[..., Output]


@pytest.fixture
def lucidcube(capsys: pytest.CaptureFixture[str]) -> Command:
    """Return a function that runs a command line in this process."""

    def call(*arguments: object) -> Output:
        code = 0
        try:
            main([str(a) for a in arguments])
        except SystemExit as done:
            code = done.code if isinstance(done.code, int) else 0 if done.code is None else 1
        out, err = capsys.readouterr()
        return Output(code, out, err)

    return call


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Change to a folder with target.fits, star.fits, truth.fits and a config run.yaml."""
    write_scene(SCENE, tmp_path, truth=True)
    monkeypatch.chdir(tmp_path)
    write(tmp_path)
    return tmp_path


def write(folder: Path, **changes: Any) -> Path:
    """Write run.yaml, a small job; `changes` replace whole sections, and None leaves a section out."""
    values: dict[str, Any] = {
        "preset": "reference",
        "target": {"input": "target.fits", "stages": ["artefacts", "mask", "interpolate"]},
        "star": {"input": "star.fits", "stages": ["normalise_psf", "fit_psf"]},
        "deconvolve": {"n_iter": 5},
        "output": {"path": "out/sharp.fits"},
        "profile": "synchronous",
    }
    values |= changes
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in values.items() if v is not None}))
    return path


def assert_mistake(output: Output, *parts: str, problems: int = 1) -> None:
    """Check for exit code 2, one line per problem that contains the parts, no traceback and no stale files."""
    assert output.code == 2, output
    assert "Traceback" not in output.err
    assert len(output.lines) == problems, output.err
    assert all(line.startswith("lucidcube: ") for line in output.lines)
    for part in parts:
        assert re.search(part, output.err), (part, output.err)
    assert not temporary_files(Path.cwd())


def temporary_files(folder: Path) -> list[Path]:
    return [p for p in folder.rglob("*") if "part" in p.suffix or (p.name.startswith(".") and p.is_file())]


# Commands that succeed


def test_run(lucidcube: Command, folder: Path) -> None:
    output = lucidcube("run", "run.yaml")
    assert (output.code, output.out) == (0, "out/sharp.fits\n")
    assert "deconvolve" in output.err
    assert fits.getdata("out/sharp.fits").shape == SCENE.shape
    assert not temporary_files(folder)
    again = lucidcube("run", "run.yaml", "--quiet")
    assert again == (0, "out/sharp.fits\n", "")


@pytest.mark.slow
def test_run_with_overrides(lucidcube: Command, folder: Path) -> None:
    (folder / "more.yaml").write_text("output: {path: more.fits}")
    output = lucidcube("run", "run.yaml", "more.yaml", "--set", "deconvolve.n_iter=2", "--set", "target.mask.cut=[[0, 9]]", "--profile", "laptop", "--quiet")  # fmt: skip
    assert output == (0, "more.fits\n", "")
    with fits.open("more.fits") as hdus:
        rows = dict(zip(hdus["PROVENANCE"].data["KEY"], hdus["PROVENANCE"].data["VALUE"], strict=True))
    config = yaml.safe_load(rows["config"])
    assert config["deconvolve"]["n_iter"] == 2
    assert config["target"]["stages"][1]["mask"]["cut"] == [[0, 9]]
    assert config["profile"] == "laptop"


def test_plan(lucidcube: Command, folder: Path) -> None:
    output = lucidcube("plan", "run.yaml")
    assert output.code == 0
    for word in (
        *("artefacts", "mask", "interpolate", "normalise_psf", "fit_psf", "deconvolve"),
        "predicted peak",
    ):
        assert word in output.out, f"{word} cannot be read in the plan"
    assert sorted(p.name for p in folder.iterdir()) == ["run.yaml", "star.fits", "target.fits", "truth.fits"]


def test_plan_as_json(lucidcube: Command, folder: Path) -> None:
    plan = json.loads(lucidcube("plan", "run.yaml", "--json").out)
    assert [s["stage"] for s in plan["steps"]] == [
        "normalise_psf", "fit_psf", "artefacts", "mask", "interpolate", "deconvolve",
    ]  # fmt: skip
    assert plan["inputs"]["target"]["shape"] == [*SCENE.shape]
    assert plan["peak_memory_bytes"] > plan["scratch_bytes"] > 0


def test_stages(lucidcube: Command, folder: Path) -> None:
    listed = lucidcube("stages").out
    for name in REGISTRY:
        assert name in listed
        explained = lucidcube("stages", name)
        assert explained.code == 0
        assert all(
            parameter in explained.out for v in REGISTRY[name].variants() for parameter in v.model_fields
        )
    assert lucidcube("stages", "--markdown").out.startswith("# Stages")
    assert_mistake(lucidcube("stages", "rebinn"), "no stage 'rebinn'; did you mean 'rebin'")


def test_config_commands(lucidcube: Command, folder: Path) -> None:
    assert lucidcube("config", "check", "run.yaml") == (0, "no errors found\n", "")
    template = lucidcube("config", "template").out
    assert {*yaml.safe_load(template)} == {"target", "star", "deconvolve", "output", "checkpoints", "profile"}
    assert json.loads(lucidcube("config", "schema").out)["required"] == ["target"]
    assert not (folder / "out").exists()


def test_info(lucidcube: Command, folder: Path) -> None:
    output = lucidcube("info", "target.fits{DATA}[:, 2:20, :]")
    assert output.code == 0
    for part in ("4 planes of 18 x 25", "7165", "in air (AWAV)", "variance    from", "NaN"):
        assert part in output.out
    assert "2 planes of 25 x 25" in lucidcube("info", "target.fits", "--slice", "1:3").out


def test_version_and_help(lucidcube: Command) -> None:
    assert lucidcube("--version").out.strip() == __version__
    for arguments in (["--help"], ["run", "--help"], ["config", "--help"]):
        output = lucidcube(*arguments)
        assert (output.code, output.err) == (0, "")
        assert "lucidcube" in output.out


# Mistakes in the command


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["run"], "give a config file"),
        (["plan"], "give a config file"),
        (["config", "check"], "give a config file"),
        (["rum", "run.yaml"], "rum"),
        (["run", "run.yaml", "--sett", "a=b"], "sett"),
        (["run", "run.yaml", "--set", "deconvolve.n_iter"], "write it as key=value"),
        (["run", "run.yaml", "--set", "target.msk.cut=3"], "no stage 'msk'; did you mean 'mask'"),
        (["run", "run.yaml", "--profile", "latpop"], "did you mean 'laptop'"),
        (["run", "ran.yaml"], r"ran\.yaml: there is no such config file; did you mean run\.yaml"),
        (["info"], "cube"),
        (["info", "nowhere.fits"], "no file nowhere.fits"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else "",
)
def test_command_line_errors_name_the_mistake(
    lucidcube: Command, folder: Path, arguments: list[str], expected: str
) -> None:
    assert_mistake(lucidcube(*arguments), expected)


def test_no_arguments_print_the_help(lucidcube: Command) -> None:
    output = lucidcube()
    assert output.code in (0, 2)
    assert "run" in output.out + output.err
    assert "Traceback" not in output.err


# Mistakes in the config


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"deconvolve": {"n_itr": 3}}, r"run\.yaml: deconvolve\.n_itr: unknown key; did you mean 'n_iter'"),
        ({"deconvolve": {"n_iter": "many"}}, r"deconvolve\.n_iter: .*integer"),
        ({"deconvolve": {"n_iter": -1}}, r"deconvolve\.n_iter: .*greater than or equal to 0"),
        ({"deconvolve": {"method": "cleen"}}, r"deconvolve\.method: must be one of map, clean_modified"),
        ({"target": {"input": "target.fits", "stages": ["maks"]}}, "no stage 'maks'; did you mean 'mask'"),
        ({"star": None}, "deconvolve: needs a PSF"),
        ({"output": {"path": "a.fits", "products": ["residul"]}}, "output.products.*residul"),
        ({"outptu": {}}, "outptu: unknown key; did you mean 'output'"),
    ],
    ids=["key", "type", "range", "method", "stage", "star", "product", "top"],
)
@pytest.mark.parametrize("command", [["run"], ["config", "check"]], ids=" ".join)
def test_config_errors_name_the_key(
    lucidcube: Command, folder: Path, command: list[str], changes: dict[str, Any], expected: str
) -> None:
    write(folder, **changes)
    assert_mistake(lucidcube(*command, "run.yaml"), expected)


def test_all_errors_are_reported_together(lucidcube: Command, folder: Path) -> None:
    write(folder, deconvolve={"n_itr": 3}, target={"input": "target.fits", "stages": ["maks"]})
    assert_mistake(lucidcube("run", "run.yaml"), "n_itr", "maks", problems=2)
    write(folder, target={"input": "targt.fits"}, star={"input": "star.fits{DAT}", "stages": ["fit_psf"]})
    assert_mistake(lucidcube("run", "run.yaml"), r"target\.input: .*targt", r"star\.input: .*DAT", problems=2)


# Mistakes in the files


def test_a_wrong_order_of_stages_is_an_error(lucidcube: Command, folder: Path) -> None:
    write(folder, target={"input": "target.fits", "stages": ["mask", "artefacts", "interpolate"]})
    assert_mistake(lucidcube("run", "run.yaml"), r"target\.stages: mask needs 'badness', which artefacts makes: move artefacts before it")  # fmt: skip
    write(folder, target={"input": "target.fits", "stages": ["mask", "interpolate"]})
    assert_mistake(lucidcube("run", "run.yaml"), "mask needs 'badness': put artefacts before it")


def test_unreadable_files_are_errors(lucidcube: Command, folder: Path) -> None:
    (folder / "text.fits").write_text("this is not a FITS file at all, but a sentence.\n" * 100)
    (folder / "empty.fits").write_bytes(b"")
    whole = (folder / "target.fits").read_bytes()
    (folder / "short.fits").write_bytes(whole[: len(whole) // 3])
    fits.HDUList(
        [fits.PrimaryHDU(), fits.BinTableHDU.from_columns([fits.Column("A", "J", array=[1])])]
    ).writeto("table.fits")
    for name, expected in (
        ("targt.fits", r"target\.input: there is no file targt\.fits; did you mean target\.fits"),
        ("gone/target.fits", "no folder gone"),
        ("target.fits{DTA}", r"DTA.*DATA"),
        ("target.fits{7}", "7"),
        ("text.fits", r"text\.fits"),
        ("empty.fits", "is not a FITS file"),
        ("short.fits", r"short\.fits"),
        ("table.fits", r"table\.fits"),
        (".", "folder|directory"),
        ("target.fits[99:]", "leaves nothing"),
        ("target.fits(0,0,1)", "axes|axis"),
    ):
        write(folder, target={"input": name, "stages": ["interpolate"]})
        assert_mistake(lucidcube("run", "run.yaml"), expected)
        assert_mistake(lucidcube("info", name), expected.removeprefix(r"target\.input: "))


@pytest.mark.slow
def test_different_wavelengths_of_the_tracks_are_an_error(lucidcube: Command, folder: Path) -> None:
    write(folder, star={"input": "star.fits", "stages": ["normalise_psf", "fit_psf"], "slice": "1:"})
    output = lucidcube("run", "run.yaml")
    assert_mistake(output, "give both inputs the range that they share, wave: '")
    wave = output.err.split("wave: '")[1].split("'")[0]
    write(
        folder,
        target={"input": "target.fits", "stages": ["interpolate"], "wave": wave},
        star={"input": "star.fits", "stages": ["normalise_psf", "fit_psf"], "wave": wave},
    )
    assert lucidcube("run", "run.yaml", "--quiet").code == 0
    with fits.open("star.fits", mode="update") as hdus:
        hdus["DATA"].header["CRVAL3"] += 2.0
    write(folder)
    assert_mistake(
        lucidcube("run", "run.yaml"), "the target has 4 wavelengths.*and the star 4.*do not cover them"
    )


def psf(folder: Path, planes: np.ndarray) -> None:
    with fits.open(folder / "truth.fits") as hdus:
        fits.writeto(folder / "psf.fits", planes.astype(np.float32), hdus["PSF"].header, overwrite=True)
    star = {"input": "psf.fits", "stages": []}
    write(folder, target={"input": "target.fits", "stages": ["interpolate"]}, star=star)


@pytest.mark.slow
def test_invalid_psfs_are_errors(lucidcube: Command, folder: Path) -> None:
    good = fits.getdata("truth.fits", "PSF")
    psf(folder, good)
    assert lucidcube("run", "run.yaml", "--quiet").code == 0
    (folder / "out" / "sharp.fits").unlink()
    for planes, expected in (
        (good[:, 1:, 1:], "odd"),
        (good * 4.35, "unit sum.*4.35"),
        (np.roll(good, 3, axis=2), "centred"),
        (np.full_like(good, np.nan), "NaN"),
    ):
        psf(folder, planes)
        assert_mistake(lucidcube("run", "run.yaml", "--quiet"), expected, "deconvolve")
        assert not (folder / "out" / "sharp.fits").exists()


def test_a_star_without_data_is_an_error(lucidcube: Command, folder: Path) -> None:
    with fits.open("star.fits", mode="update") as hdus:
        hdus["DATA"].data[:] = np.nan
    assert_mistake(lucidcube("run", "run.yaml", "--quiet"), "star|PSF", "NaN|no data")


def test_bins_finer_than_the_input_are_an_error(lucidcube: Command, folder: Path) -> None:
    write(folder, target={"input": "target.fits", "stages": [{"rebin": {"bin_step": "0.2 nm"}}]})
    assert_mistake(
        lucidcube("run", "run.yaml"), "bin_step 2e-10 m is smaller than the step of the input, 5e-10 m"
    )


@pytest.mark.slow
def test_an_existing_product_needs_overwrite(lucidcube: Command, folder: Path) -> None:
    (folder / "out").mkdir()
    (folder / "out" / "sharp.fits").write_text("valuable")
    assert_mistake(
        lucidcube("run", "run.yaml", "--quiet"),
        "exists and was not made by lucidcube; give another name, or output.overwrite: true",
    )
    assert (folder / "out" / "sharp.fits").read_text() == "valuable"
    assert lucidcube("config", "check", "run.yaml").code == 2
    write(folder, output={"path": "out/sharp.fits", "overwrite": True})
    assert lucidcube("run", "run.yaml", "--quiet").code == 0
    write(folder, deconvolve={"n_iter": 1})
    assert lucidcube("run", "run.yaml", "--quiet").code == 0, "a product is not replaced"
    assert fits.getdata("out/sharp.fits", "DECONVOLUTION LOG")["iterations"].max() == 1
    (folder / "out" / "sharp.fits").write_bytes((folder / "star.fits").read_bytes())
    assert_mistake(lucidcube("run", "run.yaml", "--quiet"), "exists and was not made by lucidcube")


def test_an_unwritable_output_is_an_error(lucidcube: Command, folder: Path) -> None:
    (folder / "file").write_text("not a folder")
    for path, expected in (("file/sharp.fits", "file"), ("out", "out")):
        (folder / "out").mkdir(exist_ok=True)
        write(folder, output={"path": path}, checkpoints={"dir": "work"})
        assert_mistake(lucidcube("run", "run.yaml", "--quiet"), expected)
    write(folder, checkpoints={"dir": "file/work"})
    assert_mistake(lucidcube("run", "run.yaml", "--quiet"), r"set checkpoints\.dir")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_an_error(lucidcube: Command, folder: Path) -> None:
    (folder / "out").mkdir(mode=0o500)
    write(folder, checkpoints={"dir": "work"})
    assert_mistake(lucidcube("run", "run.yaml", "--quiet"), "[Pp]ermission")


# Failures during a run


@pytest.mark.slow
def test_a_failed_stage_ends_with_exit_code_1(
    lucidcube: Command, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise ZeroDivisionError("no way")

    with monkeypatch.context() as patched:
        patched.setattr("lucidcube.stages.interpolate.Linear.kernel", staticmethod(fail))
        output = lucidcube("run", "run.yaml", "--quiet")
    assert output.code == 1
    *failed, last = output.lines
    assert len(failed) == SCENE.shape[0] - 1, "a plane without data is not passed to the kernel"
    for line in failed:
        expected = (
            r"lucidcube: stage interpolate failed on plane \d \(7\.1.*e-07 m\): ZeroDivisionError: no way"
        )
        assert re.fullmatch(expected, line)
    assert last == (
        "lucidcube: blocks that failed: 3; finished blocks are kept; to continue, run the same command: "
        "lucidcube run run.yaml --quiet"
    )
    assert not (folder / "out" / "sharp.fits").exists()
    assert not temporary_files(folder)
    assert lucidcube("run", "run.yaml", "--quiet").code == 0


@pytest.mark.slow
@pytest.mark.parametrize("after", [2, 11, 20])
def test_an_interrupted_run_ends_with_exit_code_130(
    lucidcube: Command, folder: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    left = [after]

    def block(self: Monitor, number: int) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Monitor, "block", block)
        patched.setattr("lucidcube.lift.blocks.BLOCK_BYTES", 4 * 25 * 25)
        output = lucidcube("run", "run.yaml", "--quiet")
    if left[0] > 0:
        pytest.fail(f"the run had only {after - left[0]} blocks")
    assert output.code == 130
    assert output.lines == [
        "lucidcube: interrupted; finished blocks are kept; to continue, run the same command: lucidcube run run.yaml --quiet"
    ]
    assert not (folder / "out" / "sharp.fits").exists()
    assert not temporary_files(folder)
    assert lucidcube("run", "run.yaml", "--quiet").code == 0


# Closed pipes


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        *(
            pytest.param(arguments, marks=pytest.mark.slow)
            for arguments in (
                ["stages", "--markdown"],
                ["run", "run.yaml", "--quiet"],
            )
        ),
        *(
            pytest.param(arguments, marks=[pytest.mark.slow, pytest.mark.exhaustive])
            for arguments in (
                ["stages", "fit_psf"],
                ["rebin", "--help"],
                ["config", "template"],
                ["plan", "run.yaml"],
                ["info", "target.fits"],
            )
        ),
    ],
    ids=" ".join,
)
def test_a_closed_pipe_ends_quietly(folder: Path, arguments: list[str]) -> None:
    command = [sys.executable, "-m", "lucidcube", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()  # before the program writes, because it takes longer to start
        assert process.stderr.read() == b""
    assert process.returncode == 141


@pytest.mark.slow
def test_a_closed_pipe_of_the_progress_ends_quietly(folder: Path) -> None:
    command = [sys.executable, "-m", "lucidcube", "run", "run.yaml"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        process.stderr.close()
    assert process.returncode == 141


def test_each_stage_is_a_command_with_the_first_line_of_its_module() -> None:
    for name in REGISTRY:
        (title, _, text), *_ = (
            (s.partition(": ")) for s in [sys.modules[REGISTRY[name].__module__].__doc__ or ""]
        )
        assert title == f"Stage `{name}`"
        assert app[name].help == text.rstrip(".")
    assert {"base", "__init__"}.isdisjoint(app)
