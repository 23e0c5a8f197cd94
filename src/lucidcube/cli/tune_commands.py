"""The commands that show what a run would do: `preview` and `tune`."""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from lucidcube.cli.options import (
    Configs,
    LogFile,
    Profile,
    Quiet,
    Sets,
    Trust,
    Verbose,
    load_configs,
    overrides,
    to_stdout,
)
from lucidcube.errors import UserError

if TYPE_CHECKING:
    import xarray as xr

Open = Annotated[bool | None, Parameter("--open", negative="--no-open")]


def preview(
    *configs: Configs,
    channels: str | None = None,
    wave: str | None = None,
    sets: Sets = None,
    profile: Profile = None,
    trust_profile: Trust = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    log_file: LogFile = None,
    open_: Open = None,
) -> None:
    """Compute a few planes of a run, write them with a report, and print the path of the report.

    The planes are the same as in the whole run. The file is called NAME-preview.fits after the product. What
    they depend on is kept in the work folder, so that the next preview takes less time.

    Parameters
    ----------
    channels
        Numbers of planes after rebinning, counted from 0: 10,99,135. Without --channels and --wave, three
        planes that are spread over the cube are chosen.
    wave
        Wavelengths of planes: 0.65um,0.72um
    open_
        Open the report in a browser, which is also done without this option if there is a display.
    """
    from lucidcube.cli.logs import running
    from lucidcube.cli.report_commands import report_of_run
    from lucidcube.cli.view import open_with_desktop, why_not_open
    from lucidcube.cluster import serve
    from lucidcube.runner.lock import WAIT, locked, product_locked
    from lucidcube.runner.preview import Preview
    from lucidcube.runner.preview_product import preview_config, write_preview
    from lucidcube.runner.session import computing
    from lucidcube.runner.signals import signals

    numbers = _numbers(channels)
    shown, started = preview_config(load_configs(configs, sets, profile, trust_profile)), datetime.now(UTC)
    serve(shown.where, shown.work())  # all tasks of an allocation but one become workers and end here
    with signals() as stop, running(quiet=quiet, verbose=verbose, log_file=log_file) as monitor:
        opened = Preview(shown, monitor)
        planes = _chosen(opened.wavelength, numbers, wave)
        with (
            locked(opened.folder, WAIT),
            product_locked(Path(shown.output.path), WAIT),
            computing(opened.profile, Path(shown.output.path), shown.work(), monitor, stop) as computer,
        ):
            made = opened.compute(shown, planes, computer)
            write_preview(made, shown, opened.inputs(shown), computer)
        changes = overrides(sets, profile)
        page = report_of_run(shown, computer.summary, started, configs, changes, made.cubes())
    to_stdout(page or shown.output.path)
    if page is not None and (open_ or (open_ is None and why_not_open() is None)):
        open_with_desktop(page)


def _numbers(channels: str | None) -> list[int]:
    """Return the numbers of planes in an option."""
    parts = [part.strip() for part in (channels or "").split(",") if part.strip()]
    if wrong := [part for part in parts if not part.isdecimal()]:
        raise UserError(
            f"--channels {wrong[0]}: the number of a plane is a whole number from 0: --channels 10,99,135"
        )
    return [int(part) for part in parts]


def _chosen(axis: "xr.DataArray", numbers: list[int], wave: str | None) -> list[int]:
    """Return the numbers of the planes to compute."""
    from lucidcube.plotting.channels import nearest_plane
    from lucidcube.runner.preview import checked_planes, spread_planes

    wanted = [part.strip() for part in (wave or "").split(",") if part.strip()]
    chosen = [*numbers, *(nearest_plane(axis, text) for text in wanted)] or spread_planes(axis.size)
    return checked_planes(chosen, axis.size)


def tune(
    config: Annotated[Path, Parameter(help="YAML file, into which the chosen values can be written")],
    *,
    sets: Sets = None,
    profile: Profile = None,
    trust_profile: Trust = False,
    port: int = 0,
    open_: Open = None,
) -> None:
    """Serve a page on which parameters of the mask and the deconvolution are chosen with one plane in view.

    The page is served to this machine only. Its address, with a token, is printed; Ctrl-C ends the command.
    The changes that were written into the config are printed as well.

    Parameters
    ----------
    port
        Port of the page; any free one if not given.
    open_
        Open the page in a browser, which is also done without this option if there is a display.
    """
    from importlib.util import find_spec

    if find_spec("panel") is None or find_spec("ruamel.yaml") is None:
        raise UserError('lucidcube tune needs more packages: pip install "lucidcube[gui]"')
    from lucidcube.cli.view import why_not_open
    from lucidcube.tune.server import serve

    def opened(address: str) -> None:
        to_stdout(address)
        if open_ or (open_ is None and why_not_open() is None):
            import webbrowser

            webbrowser.open(address)

    serve(config, overrides(sets, profile), port, opened, trust_profile=trust_profile)
