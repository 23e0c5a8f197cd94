"""The commands that make, check and explain configs."""

import json
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from lucidcube.cli.options import Configs, Profile, Sets, Trust, load_configs, overrides, to_stderr, to_stdout

config_app = App(name="config", help="Make, check and explain configs.")

_ORIGIN = Parameter(negative=(), help="Say behind each value where it comes from: file and line, --set, ...")
Product = Annotated[Path, Parameter(help="FITS file written by lucidcube run.")]


@config_app.command
def template() -> None:
    """Print a config that explains every parameter and sets it to its default."""
    from lucidcube.config.describe import template

    print(template(), end="")


@config_app.command
def schema() -> None:
    """Print the JSON schema of a config, for editors."""
    from lucidcube.config.describe import schema

    print(json.dumps(schema(), indent=1))


@config_app.command(name="from")
def from_product(product: Product) -> None:
    """Print the config that a product was made with, from which the run can be repeated."""
    import yaml

    from lucidcube.config.load import of_product
    from lucidcube.io.tables import config_of, read_provenance

    config = of_product(config_of(read_provenance(product), str(product)))
    to_stdout(yaml.safe_dump(config, sort_keys=False), end="")


@config_app.command
def check(
    *configs: Configs, sets: Sets = None, profile: Profile = None, trust_profile: Trust = False
) -> None:
    """Check a config and its inputs, and report all errors at once. Nothing is computed."""
    from lucidcube.runner.pipeline import check

    for warning in check(load_configs(configs, sets, profile, trust_profile)).warnings:
        to_stderr(f"warning: {warning}")
    print("no errors found")


@config_app.command
def show(
    *configs: Configs,
    sets: Sets = None,
    profile: Profile = None,
    trust_profile: Trust = False,
    origin: Annotated[bool, _ORIGIN] = False,
) -> None:
    """Print the complete config as it would run, in which nothing is left to presets and defaults."""
    from lucidcube.config.origins import origins
    from lucidcube.config.show import show

    config = load_configs(configs, sets, profile, trust_profile)
    to_stdout(show(config, origins(config, configs, overrides(sets, profile)) if origin else None), end="")


@config_app.command
def presets() -> None:
    """List the configs to start from, by kind of object and instrument."""
    from lucidcube.config.shipped import configs_to_start_from

    for name, title in configs_to_start_from().items():
        print(f"{name:14} {title}")
    print("To make a config for your files: lucidcube config new PRESET target.fits star.fits > my.yaml")


@config_app.command
def new(preset: str, target: str, star: str | None = None) -> None:
    """Print a config for your files, with comments about what they hold and what you may want to change.

    Parameters
    ----------
    preset
        One of those that lucidcube config presets lists.
    target
        The object to sharpen, as PATH{EXT}[SLICE](AXES); all but PATH are optional.
    star
        A star, in the same form; not for presets without one.
    """
    from lucidcube.cli.new_config import new_config

    to_stdout(new_config(preset, target, star, to_stderr), end="")
