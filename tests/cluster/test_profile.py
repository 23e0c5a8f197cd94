"""Profiles: what may stand in one, what a machine grants, and the jobs that come of it, as text."""

from __future__ import annotations

import signal
import stat
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dask.config
import pytest

from locations import ROOT
from lucidcube.cluster import executor, job_script, layout, load_profile
from lucidcube.cluster.jobqueue import Jobs, import_class
from lucidcube.cluster.profile import Layout, Profile, expanded, seconds
from lucidcube.cluster.queue_commands import left_the_queue, preflight, why_waiting
from lucidcube.cluster.resources import Grant, granted, processes_for
from lucidcube.cluster.slurm_runner import allocation_layout, serve
from lucidcube.errors import ConfigError

DEPLOY = ROOT / "deploy"
MIB = 1 << 20


@pytest.fixture(scope="module", autouse=True)
def _settings_elsewhere(tmp_path_factory: pytest.TempPathFactory) -> None:
    """dask_jobqueue writes a file of defaults where dask keeps its settings when it is first imported."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dask.config, "PATH", str(tmp_path_factory.mktemp("dask")))
        pytest.importorskip("dask_jobqueue")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def program(folder: Path, name: str, text: str) -> None:
    """A program of a queue that is none: a few lines of shell."""
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


# What may stand in a profile


@pytest.mark.parametrize("path", sorted(DEPLOY.glob("*.yaml")), ids=lambda p: p.stem)
def test_deployed_profiles_load(path: Path, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_PROCID", "1")
    monkeypatch.setenv("SLURM_NTASKS", "4")
    made = layout(load_profile(str(path)))
    assert None not in made


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("kind: threads\nwalltime: '1:00:00'", "walltime means nothing for kind: threads"),
        ("kind: slurm\nworkers: 3", "workers means nothing for kind: slurm"),
        ("kind: slurm\nwalltime: 12:00:00", "walltime: must be quoted"),
        ("kind: slurm\nwalltime: long", "'long' is no length of time"),
        ("kind: address\naddress: tcp://a:1\nwait: 0s", "no length of time"),
        ("class: os.system", "no cluster class of"),
        ("class: subprocess.PopenCluster", "no cluster class of"),
        ("class: distributed.utils.import_file", "no cluster class of"),
        ("class: distributed_evil.EvilCluster", "no cluster class of"),
        ("class: distributed.__builtins__.XCluster", "no cluster class of"),
        ("kind: slurm\nclass: dask_jobqueue.SLURMCluster", "go together"),
        ("kind: class", "go together"),
        ("class: !!python/object/apply:os.system [true]", "not YAML"),
    ],
)
def test_wrong_profiles(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_profile(str(path))
    assert len(caught.value.problems) == 1
    assert said in str(caught.value)
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
    ],
)
def test_lengths_of_time(text: str, length: int) -> None:
    assert seconds(text) == length


def test_folders_with_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCRATCH", "/local")
    monkeypatch.delenv("NOWHERE", raising=False)
    assert expanded("$SCRATCH/x") == "/local/x"
    assert expanded("${SCRATCH:-/tmp}") == "/local"
    assert expanded("${NOWHERE:-/tmp}") == "/tmp"
    with pytest.raises(ConfigError, match="NOWHERE"):
        expanded("$NOWHERE/x")


def test_a_class_that_is_not_there() -> None:
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
    with executor(made) as workers:
        assert workers.workers == 2
        assert workers.dashboard is None or workers.dashboard.startswith("http://")
    with (
        pytest.raises(ConfigError, match="LocalCluster: .*rubbish"),
        executor(made.model_copy(update={"arguments": {"rubbish": 1, "processes": False}})),
    ):
        pass


def test_ctrl_c_stays_what_it_was() -> None:
    before = signal.getsignal(signal.SIGINT)
    import_class("dask_jobqueue.SLURMCluster")
    assert signal.getsignal(signal.SIGINT) is before


# What is granted


def machine(root: Path, group: str, **files: str) -> Path:
    """A root with control groups: ``a__b="1"`` is the file b in the folder a, dots as in the names."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(group)
    for name, content in files.items():
        path = root / "sys/fs/cgroup" / name.replace("__", "/").replace("_DOT_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content + "\n")
    return root


def test_quotas_of_control_groups(tmp_path: Path) -> None:
    root = machine(
        tmp_path / "2",
        "0::/a/b\n",
        a__b__cpu_DOT_max="max 100000",
        a__cpu_DOT_max="50000 100000",
        a__b__memory_DOT_max=str(300 * MIB),
    )
    assert granted({}, root) == Grant(1, 300 * MIB)
    root = machine(
        tmp_path / "1",
        "4:memory:/a\n3:cpu,cpuacct:/a\n",
        cpu__a__cpu_DOT_cfs_quota_us="100000",
        cpu__a__cpu_DOT_cfs_period_us="100000",
        memory__memory_DOT_limit_in_bytes=str(200 * MIB),
        memory__a__memory_DOT_limit_in_bytes="9223372036854771712",
    )
    assert granted({}, root) == Grant(1, 200 * MIB)


@pytest.mark.parametrize(
    "environ",
    [
        {"SLURM_CPUS_PER_TASK": "1", "SLURM_CPUS_ON_NODE": "64", "SLURM_MEM_PER_NODE": "100"},
        {"SLURM_CPUS_ON_NODE": "1", "SLURM_MEM_PER_CPU": "100"},
        {"NCPUS": "1"},
        {"LSB_DJOB_NUMPROC": "1"},
        {"NSLOTS": "1"},
    ],
)
def test_what_batch_systems_say(environ: dict[str, str], tmp_path: Path) -> None:
    grant = granted(environ, tmp_path)
    assert grant.cores == 1
    if any(name.startswith("SLURM") for name in environ):
        assert grant.memory == 100 * MIB


def test_what_is_no_number_is_left_out(tmp_path: Path) -> None:
    plain = granted({}, tmp_path)
    assert granted({"SLURM_CPUS_PER_TASK": "two", "SLURM_MEM_PER_NODE": "0", "NSLOTS": ""}, tmp_path) == plain
    assert plain.cores >= 1
    assert plain.memory > 0


def test_processes_need_memory() -> None:
    assert processes_for(Grant(8, 64 << 30)) == 8
    assert processes_for(Grant(8, 9 << 30)) == 4
    assert processes_for(Grant(8, 9 << 30), 1 << 30) == 8
    assert processes_for(Grant(8, 1 << 20)) == 1


def test_local_layouts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lucidcube.cluster.profile.granted", lambda: Grant(8, 10 << 30))
    assert layout(Profile()) == Layout(1, 8, 9 << 30)
    assert layout(Profile(kind="synchronous")) == Layout(1, 1, 9 << 30)
    assert layout(Profile(kind="processes")) == Layout(4, 2, (9 << 30) // 4)
    assert layout(Profile(kind="processes", memory="1GiB")) == Layout(8, 1, 1 << 30)
    assert layout(Profile(kind="processes", workers=2, threads=3)) == Layout(2, 3, (9 << 30) // 2)
    assert layout(Profile(kind="address", address="tcp://a:1")) == Layout(None, None, None)


def test_an_allocation() -> None:
    profile = Profile(kind="slurm_runner")
    environ = {
        "SLURM_PROCID": "1", "SLURM_NTASKS": "6", "SLURM_CPUS_PER_TASK": "2", "SLURM_TASKS_PER_NODE": "4(x1),2",
        "SLURM_MEM_PER_NODE": "4000",
    }  # fmt: skip
    assert allocation_layout(profile, environ) == Layout(4, 2, int(4000 * MIB * 0.9) // 4)
    with pytest.raises(ConfigError, match="3 tasks"):
        allocation_layout(profile, environ | {"SLURM_NTASKS": "2"})
    with pytest.raises(ConfigError, match="srun"):
        allocation_layout(profile, {})
    serve(Profile())  # nothing to serve


# Jobs


def asked(kind: str, **changes: Any) -> Profile:
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
export MALLOC_TRIM_THRESHOLD_=65536
export DASK_DISTRIBUTED__WORKER__MEMORY__TARGET=False
export DASK_DISTRIBUTED__WORKER__MEMORY__SPILL=False
export DASK_DISTRIBUTED__WORKER__MEMORY__PAUSE=False
export DASK_DISTRIBUTED__WORKER__MEMORY__TERMINATE=0.95
export DASK_DISTRIBUTED__SCHEDULER__WORKER_SATURATION=1.1
"""
WORKER = (
    "python -m distributed.cli.dask_worker tcp://SCHEDULER:PORT --name lucidcube --nthreads 2 --memory-limit 4.00GiB "
    "--nworkers 2 --nanny --death-timeout 60 --local-directory ${TMPDIR:-/tmp} --lifetime 6600s --lifetime-stagger 300s"
)


@pytest.mark.parametrize("kind", HEADERS)
def test_job_scripts(kind: str, here: Path) -> None:
    profile = asked(kind, arguments={"python": "python", **ARGUMENTS.get(kind, {})})
    body = BODY.format(here=here)
    assert job_script(profile) == f"#!/usr/bin/env bash\n\n{HEADERS[kind]}\n{body}{WORKER}\n"
    assert layout(profile) == Layout(6, 2, 4 << 30)


def test_job_script_of_htcondor(here: Path) -> None:
    profile = asked("htcondor", queue=None, account=None, arguments={"python": "python", "disk": "1GiB"})
    said = (job_script(profile) or "").splitlines()
    command = "; ".join([*BODY.format(here=here).splitlines(), WORKER])
    assert f"Arguments = \"-c '{command}'\"" in said
    assert {
        "MY.DaskWorkerCores = 4",
        f"MY.DaskWorkerMemory = {8 << 30}",
        f"MY.DaskWorkerDisk = {1 << 30}",
    } <= {*said}
    assert said[-1] == "Queue"
    with pytest.raises(ConfigError, match="job_extra_directives"):
        job_script(asked("htcondor", account=None))


def test_the_sites_settings_fill_what_is_left_out(here: Path) -> None:
    (here / "site.yaml").write_text(
        "jobqueue:\n  slurm:\n    cores: 8\n    memory: 16GiB\n    queue: theirs\n    local-directory: /local\n"
        "    walltime: '00:40:00'\n    job-script-prologue: [module load science]\n    worker-extra-args: [--protocol, tls]\n"
    )
    said = job_script(Profile(kind="slurm", site="site.yaml")) or ""
    for part in (
        "-p theirs", "--cpus-per-task=8", "--mem=16G", "-t 00:40:00", "--local-directory /local", "--nworkers 8",
        "\nmodule load science\n", "--protocol tls --lifetime 1800s", "export OMP_NUM_THREADS=1\n", "--death-timeout 60",
    ):  # fmt: skip
        assert part in said, part
    own = job_script(Profile(kind="slurm", site="site.yaml", queue="mine", memory="4GiB")) or ""
    assert "-p mine" in own
    assert "--mem=4G" in own
    assert dask.config.get("jobqueue.slurm.queue") is None, "the site's settings outlived their use"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"cores": None}, "give cores and memory"),
        ({"processes": 9}, "9 processes on 4 cores"),
        ({"arguments": {"rubbish": 1}}, "rubbish"),
        ({"site": "nowhere.yaml"}, "there is no file nowhere.yaml"),
    ],
)
def test_jobs_that_cannot_be(changes: dict[str, Any], said: str, here: Path) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        job_script(asked("slurm", **changes))
    assert "\n" not in str(caught.value)


def test_a_walltime_is_never_reached(here: Path) -> None:
    """However the lifetimes of the workers are spread."""
    for walltime in ("00:10:00", "04:00:00", "2-00:00:00"):
        words = (job_script(asked("slurm", walltime=walltime)) or "").split()
        life, stagger = (int(words[words.index(w) + 1][:-1]) for w in ("--lifetime", "--lifetime-stagger"))
        assert life + stagger < seconds(walltime)
        assert life > 0.7 * seconds(walltime)


# The queue


def test_a_refused_job(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(
        here,
        "sbatch",
        'test "$*" = --test-only && grep -q astro && echo "sbatch: error: no such account\nat all" >&2; exit 1',
    )
    monkeypatch.setenv("PATH", f"{here}:/usr/bin:/bin")
    with pytest.raises(ConfigError) as caught, executor(asked("slurm")):
        pass
    assert str(caught.value) == "profile: the queue refuses the job: sbatch: error: no such account at all"


def test_an_accepted_job(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(here, "sbatch", "exit 0")
    monkeypatch.setenv("PATH", f"{here}:/usr/bin:/bin")
    preflight("slurm", "#!/bin/sh")


@pytest.mark.parametrize("kind", ["slurm", "pbs", "lsf", "sge"])
def test_no_queue_here(kind: str, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(here))
    with pytest.raises(ConfigError, match="start the run on a login node"), executor(asked(kind)):
        pass


def test_what_jobs_wait_for(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{here}:/usr/bin:/bin")
    assert why_waiting("slurm", []) == "the queue took no job"
    assert why_waiting("pbs", ["7", "8"]) == "jobs 7, 8"
    program(here, "squeue", 'echo "7 PENDING Priority   $4"')
    assert why_waiting("slurm", ["7", "8"]) == "7 PENDING Priority 7,8"
    assert not left_the_queue("slurm", ["7"])
    program(here, "squeue", "exit 0")
    assert left_the_queue("slurm", ["7"])
    program(here, "squeue", 'echo "slurm_load_jobs error: Invalid job id specified" >&2; exit 1')
    assert left_the_queue("slurm", ["7"])
    program(here, "squeue", 'echo "cannot reach the controller" >&2; exit 1')
    assert not left_the_queue("slurm", ["7"])
    assert not left_the_queue("pbs", ["7"])


class Cluster:
    """Stands for one of dask-jobqueue: two jobs of two workers."""

    def __init__(self) -> None:
        self.worker_spec = {"c-0": {"group": ["-0", "-1"]}, "c-1": {"group": ["-0", "-1"]}}
        self.workers = {"c-0": SimpleNamespace(job_id="10"), "c-1": SimpleNamespace(job_id="11")}
        self.observed = {"c-0-0", "c-0-1", "c-1-0", "c-1-1"}
        self.given_up: list[str] = []
        self.asked = 0

    def sync(self, function: Any, jobs: list[str]) -> None:
        function(jobs)

    def scale_down(self, jobs: list[str]) -> None:
        self.given_up += jobs
        for job in jobs:
            del self.worker_spec[job], self.workers[job]

    def scale(self, jobs: int) -> None:
        self.asked = jobs


@pytest.fixture
def impatient() -> Iterator[None]:
    with dask.config.set({"distributed.deploy.lost-worker-timeout": "0s"}):
        yield


@pytest.mark.usefixtures("impatient")
def test_a_lost_job_is_replaced() -> None:
    cluster = Cluster()
    jobs = Jobs(cluster, "pbs", 2)
    jobs.tend()
    cluster.observed -= {"c-0-0"}
    jobs.tend()
    assert not cluster.given_up, "half of the job is there"
    cluster.observed -= {"c-0-1"}
    jobs.tend()
    assert cluster.given_up == ["c-0"]
    assert cluster.asked == 2


@pytest.mark.usefixtures("impatient")
def test_a_job_that_has_not_begun_is_left_alone() -> None:
    cluster = Cluster()
    jobs = Jobs(cluster, "pbs", 2)
    jobs.tend()
    # Submitted anew under the same name, it is at the end of the queue.
    cluster.observed = {"c-1-0"}
    cluster.workers["c-0"] = SimpleNamespace(job_id="12")
    jobs.tend()
    jobs.tend()
    assert not cluster.given_up
    assert not cluster.asked


def test_a_worker_that_is_away_for_a_moment() -> None:
    cluster = Cluster()
    jobs = Jobs(cluster, "pbs", 2)
    with dask.config.set({"distributed.deploy.lost-worker-timeout": "1h"}):
        for here in (cluster.observed, set(), cluster.observed, set()):
            cluster.observed = here
            jobs.tend()
    assert not cluster.given_up
