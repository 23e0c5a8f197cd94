"""Profiles: their fields, the resources of a machine, and the scripts and states of jobs."""

from __future__ import annotations

import json
import os
import signal
import stat
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dask.config
import numpy as np
import psutil
import pytest
from astropy.io import fits

from locations import ROOT
from lucidcube.cli.app import main
from lucidcube.cluster import job_script, layout, load_profile, start_workers
from lucidcube.cluster.jobqueue import (
    QUEUES,
    WORKER_ENVIRONMENT,
    WORKER_SETTINGS,
    Jobs,
    preflight,
)
from lucidcube.cluster.profile import (
    QUEUE_KINDS,
    Layout,
    Profile,
)
from lucidcube.cluster.resources import CORE_VARIABLES, Resources, available_resources
from lucidcube.cluster.rules import VARIABLES
from lucidcube.cluster.slurm_runner import allocation_layout, serve
from lucidcube.cluster.values import expand_variables, import_class, parse_duration
from lucidcube.config.load import from_plain, load, of_product
from lucidcube.errors import ConfigError
from lucidcube.io.tables import read_provenance

DEPLOY = ROOT / "deploy"
MIB = 1 << 20


@pytest.fixture(scope="module", autouse=True)
def _settings_elsewhere(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Redirect the file of defaults that dask_jobqueue writes to the folder of dask's settings on import."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dask.config, "PATH", str(tmp_path_factory.mktemp("dask")))
        pytest.importorskip("dask_jobqueue")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def program(folder: Path, name: str, text: str) -> None:
    """Write a stand-in for a program of a queue: a few lines of shell."""
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


# Fields of a profile


@pytest.mark.parametrize("path", sorted(DEPLOY.glob("*.yaml")), ids=lambda p: p.stem)
def test_deployed_profiles_load(path: Path, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_PROCID", "1")
    monkeypatch.setenv("SLURM_NTASKS", "4")
    made = layout(load_profile(str(path)))
    assert None not in made


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kind: threads\nwalltime: '1:00:00'", "walltime does not apply to kind: threads"),
        ("kind: slurm\nworkers: 3", "workers does not apply to kind: slurm"),
        ("kind: slurm\nwalltime: 12:00:00", "walltime: must be quoted"),
        ("kind: slurm\nwalltime: long", "'long' is not a duration"),
        ("kind: address\naddress: tcp://a:1\nwait: 0s", "not a duration"),
        ("kind: slurm\nwalltime: '00:00:00'", "not a duration"),
        ("kind: slurm\nwalltime: ''", "not a duration"),
        ("kind: slurm\nwalltime: '90'", "not a duration"),
        ("kind: slurm\nmemory: lots", "memory: Could not interpret"),
        ("fft: fftw", "fft: Input should be 'auto', 'simd' or 'scipy'"),
        ("class: os.system", "not a cluster class of"),
        ("class: subprocess.PopenCluster", "not a cluster class of"),
        ("class: distributed.utils.import_file", "not a cluster class of"),
        ("class: distributed_evil.EvilCluster", "not a cluster class of"),
        ("class: distributed.__builtins__.XCluster", "not a cluster class of"),
        ("kind: slurm\nclass: dask_jobqueue.SLURMCluster", "go together"),
        ("kind: class", "go together"),
        ("class: !!python/object/apply:os.system [true]", "not YAML"),
    ],
)
def test_invalid_profiles(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_profile(str(path))
    assert len(caught.value.problems) == 1
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "length"),
    [
        ("01:00:00", 3600),
        ("1-00:00:00", 86400),
        ("100:00:00", 360000),
        ("01:30", 5400),
        ("90 min", 5400),
        ("1.5h", 5400),
        ("2 days", 172800),
        ("10 minutes", 600),
    ],
)
def test_durations(text: str, length: int) -> None:
    assert parse_duration(text) == length


def test_directories_with_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCRATCH", "/local")
    monkeypatch.delenv("NOWHERE", raising=False)
    assert expand_variables("$SCRATCH/x") == "/local/x"
    assert expand_variables("${SCRATCH:-/tmp}") == "/local"
    assert expand_variables("${NOWHERE:-/tmp}") == "/tmp"
    with pytest.raises(ConfigError, match="NOWHERE"):
        expand_variables("$NOWHERE/x")


def test_a_missing_class() -> None:
    with pytest.raises(ConfigError, match="pip install"):
        import_class("dask_gateway.GatewayCluster")
    with pytest.raises(ConfigError, match="there is no class"):
        import_class("distributed.CloudCluster")


def test_any_dask_cluster() -> None:
    made = Profile.model_validate(
        {
            "class": "distributed.LocalCluster",
            "arguments": {
                "n_workers": 1,
                "threads_per_worker": 2,
                "processes": False,
                "dashboard_address": ":0",
            },
        }
    )
    assert made.kind == "class"
    assert job_script(made) is None
    with start_workers(made) as workers:
        assert workers.window == 4
        assert workers.dashboard is None or workers.dashboard.startswith("http://")
    with (
        pytest.raises(ConfigError, match="LocalCluster: .*rubbish"),
        start_workers(made.model_copy(update={"arguments": {"rubbish": 1, "processes": False}})),
    ):
        pass


def test_importing_a_class_keeps_the_handler_of_ctrl_c() -> None:
    before = signal.getsignal(signal.SIGINT)
    import_class("dask_jobqueue.SLURMCluster")
    assert signal.getsignal(signal.SIGINT) is before


# Available resources


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Simulate a machine of 64 cores; return the path of the file for the memory limit of a container."""
    for name in os.environ:
        if name.startswith("SLURM_") or any(name in group for group in CORE_VARIABLES):
            monkeypatch.delenv(name)
    monkeypatch.setattr("lucidcube.cluster.resources.CPU_COUNT", 64)
    monkeypatch.setattr("lucidcube.cluster.resources.CONTAINER_MEMORY", (tmp_path / "memory.max",))
    return tmp_path / "memory.max"


def test_the_memory_limit_of_a_container_is_respected(machine: Path) -> None:
    total = psutil.virtual_memory().total
    assert available_resources() == Resources(64, total)
    machine.write_text("max\n")
    assert available_resources() == Resources(64, total)
    machine.write_text(f"{300 * MIB}\n")
    assert available_resources() == Resources(64, 300 * MIB)


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize(
    ("environ", "cores", "memory"),
    [
        ({"SLURM_CPUS_PER_TASK": "2", "SLURM_CPUS_ON_NODE": "64", "SLURM_MEM_PER_NODE": "100"}, 2, 100),
        ({"SLURM_CPUS_ON_NODE": "3", "SLURM_MEM_PER_CPU": "100"}, 3, 300),
        ({"SLURM_CPUS_PER_TASK": "2", "SLURM_MEM_PER_CPU": "100"}, 2, 200),
        ({"NCPUS": "5"}, 5, None),
        ({"PBS_NP": "6"}, 6, None),
        ({"LSB_DJOB_NUMPROC": "7"}, 7, None),
        ({"NSLOTS": "8"}, 8, None),
        ({"NSLOTS": "100"}, 64, None),
        ({"SLURM_CPUS_PER_TASK": "two", "SLURM_MEM_PER_NODE": "0", "NSLOTS": ""}, 64, None),
    ],
)
def test_variables_of_batch_systems(
    environ: dict[str, str], cores: int, memory: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    total = psutil.virtual_memory().total
    assert available_resources() == Resources(cores, total if memory is None else memory * MIB)


@pytest.mark.parametrize(
    ("memory", "limit", "processes"),
    [(64 << 30, None, 8), (9 << 30, None, 4), (9 << 30, "1GiB", 8), (1 << 20, None, 1)],
)
def test_no_process_gets_too_little_memory(
    memory: int, limit: str | None, processes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lucidcube.cluster.profile.available_resources", lambda: Resources(8, memory))
    assert layout(Profile(kind="processes", memory=limit)).processes == processes


def test_local_layouts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lucidcube.cluster.profile.available_resources", lambda: Resources(8, 10 << 30))
    assert layout(Profile()) == Layout(1, 8, 9 << 30)
    assert layout(Profile(kind="synchronous")) == Layout(1, 1, 9 << 30)
    assert layout(Profile(kind="processes")) == Layout(4, 2, (9 << 30) // 4)
    assert layout(Profile(kind="processes", memory="1GiB")) == Layout(8, 1, 1 << 30)
    assert layout(Profile(kind="processes", workers=2, threads=3)) == Layout(2, 3, (9 << 30) // 2)
    assert layout(Profile(kind="address", address="tcp://a:1")) == Layout(None, None, None)


@pytest.mark.usefixtures("machine")
def test_the_layout_of_an_allocation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    profile = Profile(kind="slurm_runner")
    with pytest.raises(ConfigError, match="srun"):
        allocation_layout(profile)
    for name, value in {
        "SLURM_PROCID": "1",
        "SLURM_NTASKS": "6",
        "SLURM_CPUS_PER_TASK": "2",
        "SLURM_TASKS_PER_NODE": "4(x1),2",
        "SLURM_MEM_PER_NODE": "4000",
    }.items():
        monkeypatch.setenv(name, value)
    assert allocation_layout(profile) == Layout(4, 2, int(4000 * MIB * 0.9) // 4)
    monkeypatch.setenv("SLURM_NTASKS", "2")
    with pytest.raises(ConfigError, match="3 tasks"):
        allocation_layout(profile)
    serve(Profile(), tmp_path)  # does nothing


def test_the_workers_of_an_allocation_have_the_settings_of_other_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_PROCID", "2")
    monkeypatch.setenv("SLURM_NTASKS", "4")
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    options: dict[str, Any] = {}
    monkeypatch.setattr("lucidcube.cluster.slurm_runner.import_class", lambda _: options.update)
    environment = "distributed.nanny.pre-spawn-environ"
    # The context restores the settings that the worker changes for the rest of its life.
    with dask.config.set(dict.fromkeys((*WORKER_SETTINGS, environment))):
        serve(Profile(kind="slurm_runner", memory="1GiB", security="none"), tmp_path)
        assert {name: dask.config.get(name) for name in WORKER_SETTINGS} == WORKER_SETTINGS
        assert dask.config.get(environment) == WORKER_ENVIRONMENT
    assert options["worker_options"]["memory_limit"] == 1 << 30


# Jobs


def test_every_kind_of_queue_is_described() -> None:
    assert {*QUEUES} == QUEUE_KINDS


def job_profile(kind: str, **changes: Any) -> Profile:
    given = {
        "jobs": 3,
        "cores": 4,
        "processes": 2,
        "memory": "8GiB",
        "walltime": "02:00:00",
        "queue": "long",
        "account": "astro",
    }
    return Profile(kind=kind, **{**given, **changes})  # type: ignore[arg-type]


HEADERS = {
    "slurm": """\
#SBATCH -J lucidcube
#SBATCH -p long
#SBATCH -A astro
#SBATCH -n 1
#SBATCH --cpus-per-task=4
#SBATCH --mem=8G
#SBATCH -t 02:00:00""",
    "pbs": """\
#PBS -N lucidcube
#PBS -q long
#PBS -A astro
#PBS -l select=1:ncpus=4:mem=8192MB
#PBS -l walltime=02:00:00""",
    "lsf": """\
#BSUB -J lucidcube
#BSUB -q long
#BSUB -P "astro"
#BSUB -n 4
#BSUB -R "span[hosts=1]"
#BSUB -M 8590
#BSUB -W 02:00""",
    "sge": """\
#$ -N lucidcube
#$ -q long
#$ -P astro
#$ -l mem_free=2G
#$ -l h_rt=02:00:00
#$ -cwd
#$ -j y
#$ -pe smp 4""",
}
ARGUMENTS: dict[str, dict[str, Any]] = {
    "lsf": {"lsf_units": "mb"},
    "sge": {"resource_spec": "mem_free=2G", "job_extra_directives": ["-pe smp 4"]},
}
BODY = """\
cd {here}
export OMP_NUM_THREADS=1
export OPENBLAS_NUM_THREADS=1
export MKL_NUM_THREADS=1
export NUMBA_NUM_THREADS=1
export MALLOC_ARENA_MAX=2
export MALLOC_MMAP_THRESHOLD_=4194304
export MALLOC_TRIM_THRESHOLD_=8388608
export DASK_DISTRIBUTED__WORKER__MEMORY__TARGET=False
export DASK_DISTRIBUTED__WORKER__MEMORY__SPILL=False
export DASK_DISTRIBUTED__WORKER__MEMORY__PAUSE=False
export DASK_DISTRIBUTED__WORKER__MEMORY__TERMINATE=0.95
export DASK_DISTRIBUTED__SCHEDULER__WORKER_SATURATION=1.1
export DASK_DISTRIBUTED__WORKER__HTTP__ROUTES=[]
"""
WORKER = (
    "python -m distributed.cli.dask_worker tls://SCHEDULER:PORT --name lucidcube --nthreads 2 --memory-limit 4.00GiB "
    "--nworkers 2 --nanny --death-timeout 60 --local-directory ${TMPDIR:-/tmp} --no-dashboard "
    "--dashboard-address 127.0.0.1:0 --lifetime 6600s --lifetime-stagger 300s"
)


@pytest.mark.parametrize("kind", HEADERS)
def test_job_scripts(kind: str, here: Path) -> None:
    profile = job_profile(kind, arguments={"python": "python", **ARGUMENTS.get(kind, {})})
    body = BODY.format(here=here)
    assert job_script(profile) == f"#!/usr/bin/env bash\n\n{HEADERS[kind]}\n{body}{WORKER}\n"
    assert layout(profile) == Layout(6, 2, 4 << 30)


def test_job_script_of_htcondor(here: Path) -> None:
    profile = job_profile(
        "htcondor", queue=None, account=None, arguments={"python": "python", "disk": "1GiB"}
    )
    lines = (job_script(profile) or "").splitlines()
    command = "; ".join([*BODY.format(here=here).splitlines(), WORKER])
    assert f"Arguments = \"-c '{command}'\"" in lines
    assert {
        "MY.DaskWorkerCores = 4",
        f"MY.DaskWorkerMemory = {8 << 30}",
        f"MY.DaskWorkerDisk = {1 << 30}",
    } <= {*lines}
    assert lines[-1] == "Queue"
    with pytest.raises(ConfigError, match="job_extra_directives"):
        job_script(job_profile("htcondor", account=None))


def test_site_settings_fill_in_missing_fields(here: Path) -> None:
    (here / "site.yaml").write_text(
        "jobqueue:\n  slurm:\n    cores: 8\n    memory: 16GiB\n    queue: theirs\n    local-directory: /local\n"
        "    walltime: '00:40:00'\n    job-script-prologue: [module load science]\n    worker-extra-args: [--protocol, tls]\n"
    )
    script = job_script(Profile(kind="slurm", site="site.yaml")) or ""
    for part in (
        "-p theirs", "--cpus-per-task=8", "--mem=16G", "-t 00:40:00", "--local-directory /local", "--nworkers 8",
        "\nmodule load science\n", "--protocol tls --no-dashboard", "--lifetime 1800s", "export OMP_NUM_THREADS=1\n", "--death-timeout 60",
    ):  # fmt: skip
        assert part in script, part
    changed = job_script(Profile(kind="slurm", site="site.yaml", queue="mine", memory="4GiB")) or ""
    assert "-p mine" in changed
    assert "--mem=4G" in changed
    assert dask.config.get("jobqueue.slurm.queue") is None, "the settings of the site are still active"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cores": None}, "profile: give cores and memory of a job"),
        ({"memory": None}, "profile: give cores and memory of a job"),
        ({"processes": 9}, "profile: 9 processes on 4 cores: give each process a core"),
        ({"cores": None, "arguments": {"cores": "many"}}, "profile: cores, .* of a job: .*'many'"),
        ({"cores": None, "arguments": {"cores": [4]}}, "profile: cores, .* of a job: .*list"),
        ({"processes": None, "arguments": {"processes": "x"}}, "profile: cores, .* of a job: .*'x'"),
        ({"memory": None, "arguments": {"memory": "lots"}}, "profile: cores, .* of a job: .*lots"),
        (
            {"walltime": None, "arguments": {"walltime": "long"}},
            "profile: cores, .*: 'long' is not a duration",
        ),
        ({"arguments": {"rubbish": 1}}, "rubbish"),
        ({"site": "nowhere.yaml"}, "there is no file nowhere.yaml"),
    ],
)
def test_invalid_job_profiles(changes: dict[str, Any], message: str, here: Path) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        job_script(job_profile("slurm", **changes))
    assert "\n" not in str(caught.value)


def test_invalid_job_settings_of_a_site(here: Path) -> None:
    for name, value, message in (
        ("cores", "many", "of a job: .*'many'"),
        ("memory", "lots", "of a job: .*lots"),
        ("walltime", "'long'", "'long' is not a duration"),
    ):
        (here / "site.yaml").write_text(f"jobqueue:\n  slurm:\n    {name}: {value}\n")
        with pytest.raises(ConfigError, match=message) as caught:
            job_script(job_profile("slurm", site="site.yaml", **{name: None}))
        assert "\n" not in str(caught.value)
    (here / "site.yaml").write_text("jobqueue: [")
    with pytest.raises(ConfigError, match="profile: site: .*site.yaml") as caught:
        job_script(job_profile("slurm", site="site.yaml"))
    assert "\n" not in str(caught.value)


def test_a_directory_with_an_unknown_variable_is_one_line(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The scratch directory of worker processes is expanded here, and that of a job on its node."""
    monkeypatch.delenv("SCRATCH", raising=False)
    (here / "mine.yaml").write_text("kind: processes\nworkers: 1\nlocal_directory: $SCRATCH/x\n")
    fits.writeto(here / "cube.fits", np.ones((4, 5, 6), np.float32), fits.Header({"CTYPE3": "WAVE"}))
    with pytest.raises(SystemExit) as caught:
        main(["interpolate", "cube.fits", "--method", "linear", "--profile", "mine.yaml"])
    assert caught.value.code == 2
    assert capsys.readouterr().err == (
        "lucidcube: profile: local_directory: $SCRATCH/x: a variable in it is not set\n"
    )
    assert sorted(p.name for p in here.iterdir()) == ["cube.fits", "mine.yaml"]
    assert "--local-directory $SCRATCH/x" in (
        job_script(job_profile("slurm", local_directory="$SCRATCH/x")) or ""
    )


HOSTILE = [
    "x\ny",
    "x\n",
    "x y",
    "$(touch x)",
    "`touch x`",
    "x;y",
    "x&y",
    "x|y",
    "x>y",
    "'x",
    '"x',
    "\\x",
    "-x",
    "",
    "x\0",
    "x\u2028y",
    "ünï",
]


@pytest.mark.parametrize("value", HOSTILE)
@pytest.mark.parametrize("field", ["queue", "account", "interface", "local_directory"])
def test_fields_of_job_scripts_hold_no_commands(field: str, value: str) -> None:
    if field == "local_directory" and value == "-x":
        return  # the name of a folder
    with pytest.raises(ValueError, match="a shell could take for a command"):
        job_profile("slurm", **{field: value})


@pytest.mark.parametrize(
    "value",
    [
        "$NOWHERE/x",
        "${NOWHERE:-/tmp}",
        "$TMPDIRX",
        "${TMPDIR:-$(touch x)}",
        "${TMPDIR:-a b}",
        "$",
        "${",
        "$$",
        "${TMPDIR:+x}",
        "${!HOME}",
    ],
)
def test_only_documented_variables_expand(value: str) -> None:
    with pytest.raises(ValueError, match="variables that expand are HOME, USER"):
        job_profile("slurm", local_directory=value)


@pytest.mark.parametrize(
    "value", ["$TMPDIR", "${TMPDIR:-/tmp}", "/local/$USER/$SLURM_JOB_ID.x", "~/scratch", "/data-1/a_b"]
)
def test_documented_variables_are_listed(value: str) -> None:
    assert value in (job_script(job_profile("slurm", local_directory=value)) or "")
    listed = (ROOT / "docs" / "hpc.md").read_text()
    assert [name for name in VARIABLES if f"`${name}`" not in listed] == []


def test_usual_names_are_accepted(here: Path) -> None:
    script = (
        job_script(
            job_profile(
                "slurm", queue="cpu-long,cpu_short", account="astro.2024/x+y@site", interface="eth0.100:1"
            )
        )
        or ""
    )
    assert "#SBATCH -p cpu-long,cpu_short\n#SBATCH -A astro.2024/x+y@site\n" in script


# Profiles that run commands

RUNNING_COMMANDS = [
    ("kind: slurm\nsite: site.yaml", "site"),
    ("kind: slurm\narguments: {python: /tmp/evil}", "arguments.python"),
    ("kind: slurm\narguments: {job_script_prologue: [touch x]}", "arguments.job_script_prologue"),
    ("kind: slurm\narguments: {worker_extra_args: [--preload, evil]}", "arguments.worker_extra_args"),
    ("kind: slurm\narguments: {shebang: '#!/tmp/evil', log_directory: logs}", "arguments.shebang"),
    ("kind: slurm\narguments: {log_directory: 'x\n#SBATCH --x'}", "arguments.log_directory"),
    ("kind: slurm\narguments: {log_directory: \"x\\ntouch y\"}", "arguments.log_directory"),
    ("kind: slurm\narguments: {job_name: [x]}", "arguments.job_name"),
    ("kind: slurm\narguments: {job_extra_directives: ['--qos=x', '--export=PATH=.']}", "arguments.job_extra_directives"),
    ("kind: slurm\narguments: {job_extra_directives: [\"--qos=x\\ntouch y\"]}", "arguments.job_extra_directives"),
    ("kind: htcondor\narguments: {job_extra_directives: {executable: /tmp/evil}}", "arguments.job_extra_directives"),
    ("class: dask_jobqueue.SLURMCluster\narguments: {python: x}", "arguments.python"),
    ("class: distributed.LocalCluster\narguments: {preload: [evil], n_workers: 1}", "arguments.preload"),
    ("class: dask_gateway.GatewayCluster", "class"),
    ("kind: address\naddress: tcp://10.0.0.1:8786", "address"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "field"), RUNNING_COMMANDS)
def test_profiles_that_run_commands_need_trust(text: str, field: str, here: Path) -> None:
    (here / "mine.yaml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_profile("mine.yaml")
    assert caught.value.problems == (
        f"mine.yaml: {field}: this profile can run commands as you: read it, then add --trust-profile",
    )
    assert load_profile("mine.yaml", trust=True).kind


@pytest.mark.parametrize(
    "text",
    [
        "kind: slurm\narguments: {log_directory: logs/x, job_name: sharp, death_timeout: 90}",
        "kind: slurm\narguments: {job_extra_directives: [--begin=now+1hour, --exclusive, --constraint=avx2]}",
        "kind: sge\narguments: {resource_spec: mem_free=4G, job_extra_directives: [-pe smp 16]}",
        "class: distributed.LocalCluster\narguments: {n_workers: 1, processes: false}",
    ],
)
def test_harmless_arguments_need_no_trust(text: str, here: Path) -> None:
    (here / "mine.yaml").write_text(text)
    load_profile("mine.yaml")


@pytest.mark.parametrize(
    "field", ["workers", "threads", "memory", "block_factor", "jobs", "cores", "processes"]
)
@pytest.mark.parametrize("value", ["true", "[true]"])
def test_true_is_no_number(field: str, value: str, here: Path) -> None:
    kind = "slurm" if field in ("jobs", "cores", "processes") else "processes"
    (here / "mine.yaml").write_text(f"kind: {kind}\n{field}: {value}\n")
    with pytest.raises(ConfigError, match=f"mine.yaml: {field}: "):
        load_profile("mine.yaml")


@pytest.mark.slow
def test_the_command_line_accepts_a_profile_that_is_trusted(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both a stage as a command and a config; nothing is submitted."""
    (here / "mine.yaml").write_text("class: distributed.LocalCluster\narguments: {rubbish: 1}\n")
    cards = fits.Header({"CTYPE3": "WAVE", "CUNIT3": "um"})
    fits.writeto(here / "cube.fits", np.ones((4, 5, 6), np.float32), cards)
    (here / "run.yaml").write_text("target: {input: cube.fits, stages: [{interpolate: {method: linear}}]}\n")
    commands = (
        ["interpolate", "cube.fits", "--method", "linear"],
        ["run", "run.yaml"],
        ["preview", "run.yaml"],
    )
    for words in commands:
        for trust, said in (([], "add --trust-profile"), (["--trust-profile"], "LocalCluster: ")):
            with pytest.raises(SystemExit) as caught:
                main([*words, "--profile", "mine.yaml", *trust])
            error = capsys.readouterr().err.splitlines()[-1]
            assert caught.value.code == 2
            assert said in error


# Profiles in configs


@pytest.mark.parametrize("named", ["slurm.yaml", "./slurm", "/nowhere/x.yaml", "tcp://10.0.0.1:8786"])
def test_a_config_names_built_in_profiles_only(
    named: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("slurm.yaml", "slurm"):
        (here / name).write_text("kind: threads\nworkers: 1\n")
    (here / "run.yaml").write_text(f"target: {{input: cube.fits, stages: []}}\nprofile: {named}\n")
    said = (
        f"run.yaml: profile: {named!r}: a config can only name a built-in profile (laptop, processes, "
        f"synchronous, gpu); type --profile {named}"
    )
    with pytest.raises(ConfigError) as caught:
        load("run.yaml")
    assert caught.value.problems == (said,)
    with pytest.raises(SystemExit) as ended:
        main(["run", "run.yaml"])
    assert ended.value.code == 2
    assert said in capsys.readouterr().err
    if "nowhere" not in named:
        assert load("run.yaml", [f"profile={named}"]).profile == named


def test_products_and_configs_made_from_them_name_no_path(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From FITS to FITS with a profile in a file, and from the product back to a config that runs."""
    (here / "secret").mkdir()
    (here / "secret" / "mine.yaml").write_text("kind: threads\nworkers: 1\n")
    cards = fits.Header({"CTYPE3": "WAVE", "CUNIT3": "um"})
    fits.writeto(here / "cube.fits", np.ones((4, 5, 6), np.float32), cards)
    (here / "run.yaml").write_text(
        "target: {input: cube.fits, stages: [{interpolate: {method: linear}}]}\noutput: {path: out.fits}\n"
    )
    main(["run", "run.yaml", "--quiet", "--profile", "secret/mine.yaml"])
    assert json.loads(read_provenance(here / "out.fits")["config"])["profile"] == "mine.yaml"
    assert b"secret" not in (here / "out.fits").read_bytes()
    capsys.readouterr()
    main(["config", "from", "out.fits"])
    text = capsys.readouterr().out
    assert "profile" not in text
    (here / "again.yaml").write_text(text)
    assert load("again.yaml").profile == "laptop"


def test_an_address_is_not_recorded() -> None:
    made = from_plain({"target": {"input": "cube.fits", "stages": []}, "profile": "tcp://10.0.0.1:8786"})
    assert made.plain()["profile"] == "address"
    assert "profile" not in of_product(made.plain())
    assert of_product({"profile": ["tcp://10.0.0.1:8786"]}) == {}
    with pytest.raises(ConfigError, match="PROVENANCE is damaged"):
        of_product(["tcp://10.0.0.1:8786"])


def test_workers_end_before_the_walltime(here: Path) -> None:
    """The lifetime includes its stagger."""
    for walltime in ("00:10:00", "04:00:00", "2-00:00:00"):
        words = (job_script(job_profile("slurm", walltime=walltime)) or "").split()
        life, stagger = (int(words[words.index(w) + 1][:-1]) for w in ("--lifetime", "--lifetime-stagger"))
        assert life + stagger < parse_duration(walltime)
        assert life > 0.7 * parse_duration(walltime)


# The queue


def test_a_rejected_job_is_an_error(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(
        here,
        "sbatch",
        'test "$*" = --test-only && grep -q astro && echo "sbatch: error: no such account\nat all" >&2; exit 1',
    )
    monkeypatch.setenv("PATH", f"{here}:/usr/bin:/bin")
    with pytest.raises(ConfigError) as caught, start_workers(job_profile("slurm")):
        pass
    assert str(caught.value) == "profile: the queue refuses the job: sbatch: error: no such account at all"


def test_an_accepted_job(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(here, "sbatch", "exit 0")
    monkeypatch.setenv("PATH", f"{here}:/usr/bin:/bin")
    preflight("slurm", "#!/bin/sh")


@pytest.mark.parametrize("kind", ["slurm", "pbs", "lsf", "sge"])
def test_no_queue_on_this_machine(kind: str, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(here))
    with pytest.raises(ConfigError, match="start the run on a login node"), start_workers(job_profile(kind)):
        pass


def submitted(queue: str, *ids: str) -> Jobs:
    return Jobs(SimpleNamespace(workers={i: SimpleNamespace(job_id=i) for i in ids}), queue, len(ids))


def test_the_queue_explains_why_jobs_wait(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{here}:/usr/bin:/bin")
    assert submitted("slurm").reason() == "the queue accepted no job"
    assert submitted("pbs", "7", "8").reason() == "jobs 7, 8"
    program(here, "squeue", 'echo "7 PENDING Priority   $4"')
    assert submitted("slurm", "7", "8").reason() == "7 PENDING Priority 7,8"
    program(here, "qstat", 'echo "$*"')
    assert submitted("pbs", "7", "8").reason() == "-s 7 8"
    program(here, "squeue", "exit 0")
    assert submitted("slurm", "7").reason() == "jobs 7 have left the queue"


@pytest.mark.parametrize(
    ("squeue", "ended"),
    [
        ('echo "7 PENDING Priority"', False),
        ("exit 0", True),
        ('echo "slurm_load_jobs error: Invalid job id specified" >&2; exit 1', True),
        ('echo "cannot reach the controller" >&2; exit 1', False),
    ],
)
def test_jobs_that_have_left_the_queue(
    squeue: str, ended: bool, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{here}:/usr/bin:/bin")
    program(here, "squeue", squeue)
    assert submitted("slurm", "7").ended() is ended
    assert not submitted("pbs", "7").ended(), "only SLURM is asked"
    assert not submitted("slurm").ended()


class Cluster:
    """Stand-in for a cluster of dask-jobqueue with two jobs of two workers each."""

    def __init__(self) -> None:
        self.worker_spec = {"c-0": {"group": ["-0", "-1"]}, "c-1": {"group": ["-0", "-1"]}}
        self.workers = {"c-0": SimpleNamespace(job_id="10"), "c-1": SimpleNamespace(job_id="11")}
        self.observed = {"c-0-0", "c-0-1", "c-1-0", "c-1-1"}
        self.cancelled: list[str] = []
        self.requested = 0

    def sync(self, function: Any, jobs: list[str]) -> None:
        function(jobs)

    def scale_down(self, jobs: list[str]) -> None:
        self.cancelled += jobs
        for job in jobs:
            del self.worker_spec[job], self.workers[job]

    def scale(self, jobs: int) -> None:
        self.requested = jobs


@pytest.fixture
def no_timeout() -> Iterator[None]:
    """Lost workers are replaced at once."""
    with dask.config.set({"distributed.deploy.lost-worker-timeout": "0s"}):
        yield


@pytest.mark.usefixtures("no_timeout")
def test_a_lost_job_is_replaced() -> None:
    cluster = Cluster()
    jobs = Jobs(cluster, "pbs", 2)
    jobs.replace_lost()
    cluster.observed -= {"c-0-0"}
    jobs.replace_lost()
    assert not cluster.cancelled, "one worker of the job is left"
    cluster.observed -= {"c-0-1"}
    jobs.replace_lost()
    assert cluster.cancelled == ["c-0"]
    assert cluster.requested == 2


@pytest.mark.usefixtures("no_timeout")
def test_a_waiting_job_is_kept() -> None:
    cluster = Cluster()
    jobs = Jobs(cluster, "pbs", 2)
    jobs.replace_lost()
    # A job that is submitted again under the same name is waiting in the queue.
    cluster.observed = {"c-1-0"}
    cluster.workers["c-0"] = SimpleNamespace(job_id="12")
    jobs.replace_lost()
    jobs.replace_lost()
    assert not cluster.cancelled
    assert not cluster.requested


def test_workers_can_be_missing_for_a_while() -> None:
    cluster = Cluster()
    jobs = Jobs(cluster, "pbs", 2)
    with dask.config.set({"distributed.deploy.lost-worker-timeout": "1h"}):
        for here in (cluster.observed, set(), cluster.observed, set()):
            cluster.observed = here
            jobs.replace_lost()
    assert not cluster.cancelled
