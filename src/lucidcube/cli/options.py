"""The options that several commands share, and the config that they choose."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from lucidcube.errors import UserError, printable, printable_lines

if TYPE_CHECKING:
    from lucidcube.config.schema import Config

_SETS = "value of a parameter, which overrides the config: deconvolve.n_iter=300"
Sets = Annotated[list[str] | None, Parameter("--set", consume_multiple=False, negative=(), help=_SETS)]
Configs = Annotated[Path, Parameter(help="YAML files, merged from left to right")]
PROFILE = "where to run: a built-in profile, the address of a scheduler, or a YAML file"
Profile = Annotated[str | None, Parameter(help=PROFILE)]
TRUST = "accept a profile from a file that can run commands as you; read it first"
Trust = Annotated[bool, Parameter("--trust-profile", negative=(), help=TRUST)]
Flag = Annotated[bool, Parameter(negative=())]
_QUIET = "Show no progress and no messages but warnings."
Quiet = Annotated[bool, Parameter(["-q", "--quiet"], negative=(), help=_QUIET)]
_VERBOSE = "Show details of what happens, which are always in the log."
Verbose = Annotated[bool, Parameter(["-v", "--verbose"], negative=(), help=_VERBOSE)]
_LOG_FILE = "Path of the log, which is written beside the product if not given."
LogFile = Annotated[Path | None, Parameter(help=_LOG_FILE)]
All = Annotated[bool, Parameter("--all", negative=())]
Json = Annotated[bool, Parameter("--json", help="Print the plan as JSON.", negative=())]


def load_configs(
    configs: tuple[Path, ...], sets: list[str] | None, profile: str | None, trust_profile: bool = False
) -> "Config":
    """Return the config of these files and options."""
    from lucidcube.config.load import load

    if not configs:
        raise UserError("give a config file: lucidcube run configs/quickstart.yaml")
    return load(configs, overrides(sets, profile), trust_profile=trust_profile)


def overrides(sets: list[str] | None, profile: str | None) -> list[str]:
    """Return the values of ``--set``, and that of ``--profile`` in the same form."""
    return [*(sets or []), *([f"profile={profile}"] if profile else [])]


def to_stdout(text: object, end: str = "\n") -> None:
    """Print a result, which may have several lines and foreign text in it."""
    print(printable_lines(str(text)), end=end, flush=True)


def to_stderr(text: str) -> None:
    """Print a message that is no result."""
    note(f"lucidcube: {text}")


def note(text: str) -> None:
    """Print a line about what happens."""
    print(printable(text), file=sys.stderr)
