"""Batch queues: whether one would take a job, and what jobs wait for.

Programs of the queue are run by argument list, never through a shell.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence

from lucidcube.errors import ConfigError

PREFLIGHT = {"slurm": ("sbatch", "--test-only")}
"""Programs that say whether a queue would take the script on their input."""

SUBMIT = {"slurm": "sbatch", "pbs": "qsub", "lsf": "bsub", "sge": "qsub", "htcondor": "condor_submit"}

REASON: dict[str, tuple[str, ...]] = {
    "slurm": ("squeue", "--noheader", "--format=%i %T %r", "--jobs"),
    "pbs": ("qstat", "-s"),
    "lsf": ("bjobs", "-p"),
    "sge": ("qstat", "-j"),
    "htcondor": ("condor_q", "-better-analyze"),
}
"""Programs that say why jobs are not running; the numbers of the jobs follow."""

PATIENCE = 60.0
"""Seconds that a program of the queue may take."""


def preflight(queue: str, script: str) -> None:
    """Ask the queue whether it would take a job, without submitting it.

    Parameters
    ----------
    queue
        As ``slurm``; one that cannot be asked is not.
    script
        Of the job.

    Raises
    ------
    ConfigError
        If the program that submits jobs is not on this machine, or the queue refuses; in its own words.
    """
    program = SUBMIT.get(queue)
    if program is not None and shutil.which(program) is None:
        raise ConfigError(
            f"profile: kind: {queue} needs {program}, which is not here: start the run on a login node"
        )
    if queue in PREFLIGHT:
        code, said = _ask(PREFLIGHT[queue], script)
        if code != 0:
            raise ConfigError(f"profile: the queue refuses the job: {said}")


def left_the_queue(queue: str, jobs: Sequence[str]) -> bool:
    """Whether none of the jobs is waiting or running any more, as far as the queue can be asked."""
    if queue != "slurm" or not jobs:
        return False
    code, said = _ask((*REASON[queue], ",".join(jobs)))
    return (code == 0 and not said) or "Invalid job id" in said


def why_waiting(queue: str, jobs: Sequence[str]) -> str:
    """What the queue says about jobs that do not run yet, in one line."""
    if not jobs:
        return "the queue took no job"
    if queue not in REASON or shutil.which(REASON[queue][0]) is None:
        return f"jobs {', '.join(jobs)}"
    numbers = [",".join(jobs)] if queue == "slurm" else list(jobs)
    _, said = _ask((*REASON[queue], *numbers))
    return said or f"jobs {', '.join(jobs)} have left the queue"


def _ask(command: Sequence[str], text: str = "") -> tuple[int, str]:
    """Run a program of the queue; its exit code, and what it said in one line."""
    try:
        done = subprocess.run(
            list(command), input=text, capture_output=True, text=True, timeout=PATIENCE, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return 1, f"{command[0]}: {error}"
    said = " ".join(f"{done.stdout} {done.stderr}".split())
    return done.returncode, said if len(said) < 400 else said[:400] + " ..."
