"""The command that runs the quick start from an installed package."""

import contextlib
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from lucidcube.cli.options import to_stdout
from lucidcube.config.load import load
from lucidcube.config.shipped import shipped
from lucidcube.errors import UserError
from lucidcube.io.atomic import write_atomically
from lucidcube.io.output_path import expanded

CONFIG = "quickstart.yaml"
DATA = ("example_data/target.fits", "example_data/star.fits")


def demo(
    folder: Annotated[Path, Parameter(help="folder to write to")] = Path("lucidcube-demo"),
    *,
    open_: Annotated[bool | None, Parameter("--open", help="open the report; if there is a display")] = None,
    quiet: Annotated[bool, Parameter(["-q", "--quiet"], negative=(), help="show only warnings")] = False,
) -> None:
    """Run the quick start in a folder of its own, and print the paths of the product and of the report.

    The example data and the config are copied to the folder, in which the run can be repeated with
    ``lucidcube run quickstart.yaml``.
    """
    from lucidcube.cli.run_command import run_configs
    from lucidcube.cli.view import open_with_desktop, why_not_open

    folder = expanded(folder)
    try:
        _copy_to(folder)
    except OSError as error:
        raise UserError(f"{folder} cannot be written to: {error.strerror or error}") from None
    with contextlib.chdir(folder):  # the paths of the config are relative
        made = run_configs(load(CONFIG), [Path(CONFIG)], [], quiet=quiet)
    to_stdout(folder / made.product)
    if made.report is not None:
        to_stdout(folder / made.report)
        if open_ or (open_ is None and why_not_open() is None):
            open_with_desktop(folder / made.report)


def _copy_to(folder: Path) -> None:
    """Copy the config and the data to a folder; UserError if it has other files with their names."""
    sources = {CONFIG: shipped("configs") / CONFIG}
    sources |= {name: shipped("example_data") / Path(name).name for name in DATA}
    contents = {folder / name: path.read_bytes() for name, path in sources.items()}
    for path, content in contents.items():
        if path.exists() and (not path.is_file() or path.read_bytes() != content):
            raise UserError(f"{path} exists and is not that of the demo: give another folder")
    for path, content in contents.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            write_atomically(path, content)
