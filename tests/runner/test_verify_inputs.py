"""An input that is changed during a run, with the same size and time, gives no product."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import yaml
from astropy.io import fits

from commands import call
from lucidcube.config.load import load
from lucidcube.errors import UserError
from lucidcube.runner.inputs import changed_inputs, input_identities
from lucidcube.runner.monitor import Monitor
from lucidcube.runner.pipeline import run
from lucidcube.simulate import Scene, write_scene

CONFIG = {
    "target": {"input": "target.fits", "stages": [{"interpolate": {"method": "linear"}}]},
    "output": {"path": "out.fits", "products": ["deconvolved"]},
    "checkpoints": {"dir": "work"},
    "profile": "synchronous",
}


class Changer(Monitor):
    """Adds one to every pixel of the target when the first block is finished."""

    done = False

    def block(self, number: int) -> None:
        if self.done:
            return
        self.done, before = True, os.stat("target.fits")
        with fits.open("target.fits", "update") as hdus:
            hdus["DATA"].data += 1
        os.utime("target.fits", ns=(before.st_atime_ns, before.st_mtime_ns))
        assert os.stat("target.fits").st_size == before.st_size


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_scene(Scene(shape=(4, 25, 25), seed=5), tmp_path)
    Path("run.yaml").write_text(yaml.safe_dump(CONFIG))
    return tmp_path


def test_a_change_that_size_and_time_do_not_tell_is_noticed(capsys: pytest.CaptureFixture[str]) -> None:
    config = load("run.yaml")
    with pytest.raises(
        UserError, match="target.input: target.fits was changed during the run: there is no product"
    ):
        run(config, Changer(), verify_inputs=True)
    assert not Path("out.fits").exists()
    assert not [*Path().glob(".out.fits*")]
    assert not [*Path("work").glob("target-*")]
    assert call(capsys, "run", "run.yaml", "--verify-inputs", "--no-report", "-q")[0] == 0
    again = fits.getdata("out.fits")
    Path("out.fits").unlink()
    os.rename("work", "other")
    run(config)
    assert np.array_equal(fits.getdata("out.fits"), again, equal_nan=True)


def test_a_checksum_that_was_remembered_is_not_used(capsys: pytest.CaptureFixture[str]) -> None:
    config = load("run.yaml")
    run(config)
    first = fits.getdata("out.fits")
    Changer().block(0)
    run(config)
    assert np.array_equal(fits.getdata("out.fits"), first, equal_nan=True), (
        "without the option, size and time decide"
    )
    run(config, verify_inputs=True)
    assert not np.array_equal(fits.getdata("out.fits"), first, equal_nan=True)


def test_an_input_that_vanished_has_changed() -> None:
    config = load("run.yaml")
    before = input_identities(config)
    assert changed_inputs(config, before) == []
    Path("target.fits").unlink()
    (line,) = changed_inputs(config, before)
    assert line.startswith("target.input: target.fits was changed during the run")
