"""The configs and the example data that come with lucidcube, installed or in its repository."""

from collections.abc import Mapping
from pathlib import Path

from lucidcube.errors import UserError, did_you_mean

NOT_FOR_OBSERVATIONS = ("full", "quickstart")
"""Configs that are not made for data of the user."""
ALIASES = {"recommended": "planet"}
"""Other names of configs."""

_PACKAGE = Path(__file__).parents[1]


def shipped(folder: str) -> Path:
    """Return the folder `configs` or `example_data`; UserError if this installation does not have it.

    A wheel holds them in ``lucidcube/shipped``; an editable installation uses those of the repository.
    """
    for path in (_PACKAGE / "shipped" / folder, _PACKAGE.parents[1] / folder):
        if path.is_dir():
            return path
    raise UserError(f"this installation of lucidcube lacks the folder {folder}: install it from its wheel")


def configs_to_start_from() -> Mapping[str, str]:
    """Return a line about each of the configs that observers start from, by name."""
    paths = sorted(shipped("configs").glob("*.yaml"))
    return {p.stem: _title(p) for p in paths if p.stem not in NOT_FOR_OBSERVATIONS}


def config_text(name: str) -> str:
    """Return the YAML text of one of `configs_to_start_from`, or of one of the `ALIASES`."""
    known = configs_to_start_from()
    stem = ALIASES.get(name, name)
    if stem not in known:
        raise UserError(f"there is no preset {name!r}{did_you_mean(name, [*known, *ALIASES])}")
    return (shipped("configs") / f"{stem}.yaml").read_text()


def _title(path: Path) -> str:
    return path.read_text().partition("\n")[0].removeprefix("# ")
