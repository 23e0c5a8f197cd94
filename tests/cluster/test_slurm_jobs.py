"""Complete runs on a real SLURM of one node: a cancelled job must not change the product."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask.config
import numpy as np
import pytest
import yaml
from astropy.io import fits

from locations import ROOT
from lucidcube.cluster import load_profile, start_workers
from lucidcube.config.load import from_plain
from lucidcube.errors import ConfigError
from lucidcube.runner.monitor import Monitor
from lucidcube.runner.pipeline import run
from lucidcube.simulate import Scene, write_scene

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(280)]

STARTER = ROOT / "deploy" / "slurm-single-node.sh"
JOB = {"cores": 1, "processes": 1, "memory": "1GiB", "walltime": "00:20:00", "wait": "2 min"}


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Start a SLURM for these tests and return a folder; skip them where SLURM is not installed."""
    if any(
        shutil.which(p, path=f"{os.environ['PATH']}:/usr/sbin") is None
        for p in ("slurmctld", "slurmd", "munged")
    ):
        pytest.skip("no SLURM: deploy/slurm-single-node.sh install")
    folder = tmp_path_factory.mktemp("slurm")
    # The paths of sockets must be short.
    state = Path(f"/tmp/lucidcube-slurm-{os.getpid()}")
    environ = os.environ | {"SLURM_LAB_DIR": str(state), "SLURM_LAB_CPUS": "8"}

    def lab(command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(STARTER), command], env=environ, capture_output=True, text=True, check=False
        )

    started = lab("start")
    try:
        if started.returncode:
            pytest.skip(f"SLURM does not start: {started.stderr.strip()}")
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("SLURM_CONF", str(state / "slurm.conf"))
            patch.setenv("DASK_CONFIG", str(folder / "dask"))
            patch.setattr(dask.config, "PATH", str(folder / "dask"))
            pytest.importorskip("dask_jobqueue")
            yield folder
    finally:
        lab("stop")
        shutil.rmtree(state, ignore_errors=True)


@pytest.fixture(scope="module")
def expected(slurm: Path) -> Path:
    """Return the product of the same run on threads of this process."""
    write_scene(Scene(shape=(16, 31, 31), seed=11, wavelength_step=0.5e-9), slurm)
    with contextlib.chdir(slurm):
        return slurm / run(from_plain(job("threads.fits", "laptop"))).path


def job(out: str, profile: str, n_iter: int = 40) -> dict[str, Any]:
    return {
        "preset": "reference",
        "target": {"input": "target.fits", "stages": ["rebin", "artefacts", "mask", "interpolate"]},
        "star": {"input": "star.fits", "stages": ["rebin", "normalise_psf", "fit_psf"]},
        "deconvolve": {"method": "clean_modified", "n_iter": n_iter, "loop_gain": 0.2},
        "output": {"path": out},
        "checkpoints": {"dir": f"{out}.work"},  # nothing is reused from other runs
        "profile": profile,
    }


def profile(folder: Path, **values: Any) -> str:
    path = folder / f"{values['kind']}.yaml"
    path.write_text(yaml.safe_dump(values))
    return str(path)


def same_product(a: Path, b: Path) -> None:
    """Compare all images and tables bit by bit, except the provenance, which names the profile."""
    with fits.open(a) as one, fits.open(b) as other:
        assert [h.name for h in one] == [h.name for h in other]
        for mine, theirs in zip(one, other, strict=True):
            if mine.data is not None and mine.name != "PROVENANCE":
                assert np.array(mine.data).tobytes() == np.array(theirs.data).tobytes(), mine.name


def queued() -> list[str]:
    command = ["squeue", "--noheader", "--states=RUNNING", "--format=%i"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


class Canceller(Monitor):
    """Cancel a running job during the run."""

    def __init__(self) -> None:
        self.blocks = 0
        self.cancelled: str | None = None

    def block(self, *arguments: Any, **words: Any) -> None:
        self.blocks += 1
        if self.blocks == 20:
            self.cancelled = queued()[0]
            subprocess.run(["scancel", self.cancelled], check=True)


def test_a_cancelled_job_does_not_change_the_product(slurm: Path, expected: Path) -> None:
    config = from_plain(job("slurm.fits", profile(slurm, kind="slurm", jobs=2, **JOB)))
    watch = Canceller()
    with contextlib.chdir(slurm), dask.config.set({"distributed.deploy.lost-worker-timeout": "2s"}):
        done = run(config, watch)
    assert watch.cancelled
    same_product(slurm / done.path, expected)
    ends = time.monotonic() + 30
    while queued() and time.monotonic() < ends:
        time.sleep(0.2)
    assert not queued(), "jobs are still in the queue after the run"


@pytest.mark.parametrize("processes", [1, 2])
def test_a_lost_job_is_replaced(slurm: Path, processes: int) -> None:
    made = load_profile(profile(slurm, kind="slurm", **JOB | {"cores": processes, "processes": processes}))
    with (
        contextlib.chdir(slurm),
        dask.config.set({"distributed.deploy.lost-worker-timeout": "2s"}),
        start_workers(made) as workers,
    ):
        first, ends = queued(), time.monotonic() + 60
        workers.check()  # type: ignore[attr-defined]
        subprocess.run(["scancel", *first], check=True)
        while workers.client.nthreads() and time.monotonic() < ends:  # type: ignore[attr-defined]
            time.sleep(0.1)
        while not workers.client.nthreads() and time.monotonic() < ends:  # type: ignore[attr-defined]
            workers.check()  # type: ignore[attr-defined]
            time.sleep(0.5)
        assert queued()
        assert not {*queued()} & {*first}


def test_a_job_that_slurm_rejects(slurm: Path) -> None:
    made = load_profile(profile(slurm, kind="slurm", **JOB | {"queue": "nowhere"}))
    with pytest.raises(ConfigError, match="refuses the job: .*invalid partition"), start_workers(made):
        pass


def test_the_reason_of_waiting_jobs_is_reported(slurm: Path) -> None:
    held = {"arguments": {"job_extra_directives": ["--begin=now+1hour"]}, "wait": "3s"}
    made = load_profile(profile(slurm, kind="slurm", **JOB | held))
    with (
        contextlib.chdir(slurm),
        pytest.raises(ConfigError, match="within 3s: .*PENDING BeginTime"),
        start_workers(made),
    ):
        pass


def test_jobs_that_end_at_once(slurm: Path) -> None:
    broken = {"arguments": {"python": "/bin/false", "log_directory": "logs"}}
    made = load_profile(profile(slurm, kind="slurm", **JOB | broken), trust=True)
    with (
        contextlib.chdir(slurm),
        pytest.raises(ConfigError, match="ended before a worker started"),
        start_workers(made),
    ):
        pass


def test_one_allocation(slurm: Path, expected: Path) -> None:
    """The tasks of one job become scheduler, client and workers, and all of them end with the run."""
    allocation = profile(slurm, kind="slurm_runner", wait="2 min")
    (slurm / "job.yaml").write_text(yaml.safe_dump(job("allocation.fits", "laptop")))
    command = ["srun", "--ntasks=4", "--mem-per-cpu=800", "--time=5", "--kill-on-bad-exit=1"]
    done = subprocess.run(
        [*command, sys.executable, "-m", "lucidcube", "run", "job.yaml", "--profile", allocation, "--quiet"],
        cwd=slurm, capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    same_product(slurm / "allocation.fits", expected)
