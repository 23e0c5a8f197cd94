"""The commands that make pages about products, and the report at the end of a run."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from lucidcube.cli.options import to_stderr, to_stdout
from lucidcube.errors import UserError
from lucidcube.runner.monitor import Summary

YAML = (".yaml", ".yml")


def report(
    product: Annotated[Path, Parameter(help="FITS file written by lucidcube run, or the config of the run")],
    *configs: Annotated[Path, Parameter(help="more YAML files, if the run had several")],
    sets: Annotated[list[str] | None, Parameter("--set", consume_multiple=False, negative=())] = None,
) -> None:
    """Make the report of a run again: a page and its numbers, beside the product.

    Images that the product does not contain come from the checkpoints of the run, if they still exist.

    Parameters
    ----------
    sets
        Overrides of the run, if the config is given.
    """
    from lucidcube.report.page import write_report

    origins: dict[str, str] | None = None
    if product.suffix.lower() in YAML:
        from lucidcube.config.load import load
        from lucidcube.config.origins import origins as origins_of
        from lucidcube.io.tables import config_of, read_provenance

        files, overrides = [product, *configs], sets or []
        config = load(files, overrides)
        product = Path(config.output.path)
        if not product.is_file():
            raise UserError(f"{product} does not exist yet: lucidcube run {files[0]}")
        if config_of(read_provenance(product), str(product)) == config.plain():
            origins = origins_of(config, files, overrides)
    try:
        to_stdout(write_report(product, origins=origins))
    except OSError as error:
        raise UserError(f"{product}: the report cannot be written: {error.strerror or error}") from error


def compare(
    a: Annotated[Path, Parameter(help="FITS file written by lucidcube run")],
    b: Annotated[Path, Parameter(help="another one on the same grid")],
    *,
    truth: Annotated[str | None, Parameter(help="cube without blur and noise, as PATH{EXT}[SLICE]")] = None,
    output: Annotated[Path | None, Parameter(name=["-o", "--output"], help="page to write")] = None,
) -> None:
    """Make a page that shows two products side by side, with their difference and their numbers.

    With a truth, the relative error of each is given, after smoothing by one pixel.
    """
    from lucidcube.report.compare import write_comparison

    try:
        to_stdout(write_comparison(a, b, truth=truth, output=output))
    except OSError as error:
        raise UserError(f"the comparison cannot be written: {error.strerror or error}") from error


def report_of_run(
    config: Any,
    done: Summary,
    started: datetime,
    files: Sequence[Path],
    sets: Sequence[str],
    cubes: Mapping[str, Any] | None = None,
) -> Path | None:
    """Write the report of a run that has just ended; a failure is a warning, because the product exists.

    `cubes` are those of a preview; see `lucidcube.report.page.write_report`.
    """
    try:
        from lucidcube.config.origins import origins
        from lucidcube.report.numbers import run_record
        from lucidcube.report.page import write_report

        record = run_record(done, started.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC"))
        where = origins(config, files, sets)
        return write_report(done.path, config=config, origins=where, run=record, cubes=cubes)
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        to_stderr(f"warning: the report was not written: {reason}")
        return None
