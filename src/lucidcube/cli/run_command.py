"""Run a config as the command line does: with a log, with progress, and with a report."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from lucidcube.cli.logs import running
from lucidcube.cli.report_commands import report_of_run
from lucidcube.cluster import serve
from lucidcube.config.schema import Config
from lucidcube.runner.lock import WAIT
from lucidcube.runner.pipeline import Inspect, run
from lucidcube.runner.signals import signals


class Made(NamedTuple):
    """The files that a run made; the report is None if there is none."""

    product: Path
    report: Path | None


def run_configs(
    config: Config,
    files: Sequence[Path],
    overrides: Sequence[str],
    inspect: Inspect | None = None,
    *,
    quiet: bool = False,
    verbose: bool = False,
    log_file: Path | None = None,
    report: bool = True,
    wait: float = WAIT,
    verify_inputs: bool = False,
) -> Made:
    """Run a config that was loaded from these files with these overrides, or continue the run.

    `inspect` is called with the cube that will be deconvolved; see `lucidcube.runner.pipeline.run` for it and
    for the errors.
    """
    serve(config.where, config.work())  # all tasks of an allocation but one become workers and end here
    started = datetime.now(UTC)
    with signals() as stop, running(quiet=quiet, verbose=verbose, log_file=log_file) as monitor:
        done = run(config, monitor, inspect, stop, wait=wait, verify_inputs=verify_inputs)
        page = report_of_run(config, done, started, files, overrides) if report else None
        if page is not None:
            monitor.message(f"report: {page}")
    return Made(done.path, page)
