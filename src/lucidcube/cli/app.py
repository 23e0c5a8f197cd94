"""The command line: thin, and quick to say --help because every command imports what it needs itself."""

from __future__ import annotations

import ast
import json
import shlex
import signal
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

from cyclopts import App, CycloptsError, Group, Parameter

from lucidcube import __version__
from lucidcube.errors import BlocksFailed, StageError, UserError
from lucidcube.run.signals import signals

STAGE_FAILED, USER_ERROR, STOPPED, INTERRUPTED, TERMINATED = 1, 2, 75, 130, 143

app = App(
    name="lucidcube",
    help="Sharpen astronomical integral-field cubes.",
    version=__version__,
    help_format="plaintext",
    result_action="return_value",
    suppress_keyboard_interrupt=False,
)
config_app = App(name="config", help="Make, check and explain configs.")
app.command(config_app)

STAGES = Group("Stages, one at a time", sort_key=1)


def _add_stages() -> None:
    """Name a command for each file of `lucidcube/stages`, without importing any."""
    for file in sorted((Path(__file__).parents[1] / "stages").glob("[!_]*.py")):
        if file.stem == "base":
            continue
        said = ast.get_docstring(ast.parse(file.read_text())) or ""
        text = said.partition(": ")[2].rstrip(".")
        app.command(f"lucidcube.cli.stage_commands:{file.stem}", name=file.stem, help=text, group=STAGES)


_add_stages()

Sets = Annotated[
    list[str] | None,
    Parameter(name="--set", consume_multiple=False, negative=(), help="override: deconvolve.n_iter=300"),
]


@app.command
def run(
    *configs: Path,
    sets: Sets = None,
    profile: str | None = None,
    quiet: Annotated[bool, Parameter(negative=())] = False,
    plot: Annotated[bool, Parameter(negative=())] = False,
    plot_wavelength: str | None = None,
    plot_folder: Path | None = None,
) -> None:
    """Do what the config says, and print where the product is. A run that was stopped goes on.

    Parameters
    ----------
    configs
        YAML files, merged left to right.
    sets
        Override of a parameter.
    profile
        Where to run: a built-in name, the address of a scheduler, or a YAML file.
    quiet
        Show no progress.
    plot
        Show how one plane is deconvolved; without a display, write frames as PNG.
    plot_wavelength
        Of that plane, as 0.72um; the middle one if not given.
    plot_folder
        Write frames there, display or not.
    """
    from lucidcube.cli.console import Progress
    from lucidcube.cli.stage_commands import inspector
    from lucidcube.cluster import load_profile, serve
    from lucidcube.run.monitor import Monitor
    from lucidcube.run.pipeline import run as run_pipeline

    config = _load(configs, sets, profile)
    serve(load_profile(config.profile))  # in an allocation all tasks but one are servants, and end here
    with signals() as stop, Monitor() if quiet else Progress() as monitor:
        done = run_pipeline(config, monitor, inspector(plot, plot_wavelength, plot_folder), stop)
    print(done.path)


@app.command
def clean(
    what: Path,
    *configs: Path,
    sets: Sets = None,
    remove: Annotated[bool, Parameter(negative=())] = False,
    all_: Annotated[bool, Parameter("--all", negative=())] = False,
) -> None:
    """List the checkpoints of a config, or in a work folder, and remove those that no longer serve.

    Parameters
    ----------
    what
        YAML file of a run, or its work folder.
    configs
        More YAML files, merged as by run.
    sets
        Override of a parameter, as given to run.
    remove
        Remove the checkpoints that this config does not use, and what killed runs left.
    all_
        With --remove: remove the others too. A folder does not tell which are used, so it needs this.
    """
    from lucidcube.cli.console import clean_table
    from lucidcube.run import prune as cleaning
    from lucidcube.run.products import stale_parts

    if what.is_dir():
        work, current, stray = what, None, cleaning.stale_files(what)
    else:
        from lucidcube.run.pipeline import checkpoints

        config = _load((what, *configs), sets, None)
        work, current = config.work(), checkpoints(config)
        stray = [*cleaning.stale_files(work), *stale_parts(Path(config.output.path))]
    entries = cleaning.find(work, current)
    removed = [e for e in entries if all_ or e.current is False]
    if not remove:
        clean_table(work, entries, stray)
    elif removed or stray:
        cleaning.remove(work, removed, stray)
        print(f"removed {len(removed)} of {len(entries)} checkpoints and {len(stray)} temporary files")
    else:
        print(f"nothing to remove in {work}" + ("" if current is not None or not entries else "; see --all"))


@app.command
def plan(
    *configs: Path,
    sets: Sets = None,
    profile: str | None = None,
    json_: Annotated[bool, Parameter("--json")] = False,
) -> None:
    """Show what a run would do: stages, shapes, blocks, bytes and memory. Nothing is computed.

    Parameters
    ----------
    configs
        YAML files, merged left to right.
    sets
        Override of a parameter.
    profile
        Where to run.
    json_
        Print JSON.
    """
    from lucidcube.cli.console import plan_json, plan_table
    from lucidcube.run.pipeline import check

    checked = check(_load(configs, sets, profile))
    if json_:
        print(json.dumps(plan_json(checked), indent=1))
    else:
        plan_table(checked)


@app.command
def stages(name: str | None = None, *, markdown: Annotated[bool, Parameter(negative=())] = False) -> None:
    """List the stages, or explain one with all its parameters.

    Parameters
    ----------
    name
        Of a stage.
    markdown
        Print the page of the documentation.
    """
    from difflib import get_close_matches

    from lucidcube.config.describe import stage_text, stages_markdown, summary
    from lucidcube.stages.base import REGISTRY

    if markdown:
        print(stages_markdown(), end="")
    elif name is None:
        print(summary())
    elif name in REGISTRY:
        print(stage_text(REGISTRY[name]))
    else:
        near = get_close_matches(name, REGISTRY, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(REGISTRY)}"
        raise UserError(f"there is no stage {name!r}; {hint}")


@app.command
def info(
    cube: str,
    *,
    ext: str | None = None,
    slice: str | None = None,
    wave: str | None = None,
    axes: str | None = None,
) -> None:
    """Say what lucidcube sees in a FITS file: axes, wavelengths, units, variance, missing planes.

    Parameters
    ----------
    cube
        PATH{EXT}[SLICE](AXES)
    ext
        Name or number of the HDU.
    slice
        Part to read, in numpy order: 100:200,:,3:-3
    wave
        Range of wavelengths to read: 0.55:0.60um
    axes
        Numpy axis numbers: spectral=0,celestial=1,2
    """
    from lucidcube.cli.console import cube_text
    from lucidcube.io.reader import open_cube
    from lucidcube.io.specifier import parse_specifier

    specifier = parse_specifier(cube).with_options(ext=ext, slice=slice, wave=wave, axes=axes)
    print(cube_text(open_cube(specifier)))


@app.command
def simulate(
    folder: Path, *, size: str = "5MB", seed: int = 0, truth: Annotated[bool, Parameter(negative=())] = False
) -> None:
    """Write a simulated target and star, plane by plane, so that they may be larger than memory.

    Parameters
    ----------
    folder
        Where to write target.fits and star.fits.
    size
        Of the target: 500MB, 8GiB.
    seed
        Of the random numbers: the same seed gives the same files.
    truth
        Write truth.fits as well: what the target would be without blur, noise and artefacts.
    """
    from lucidcube.simulate import parse_size, scene_for_size, write_scene

    for path in write_scene(scene_for_size(parse_size(size), seed=seed), folder, truth=truth):
        if path is not None:
            print(path)


@config_app.command(name="template")
def config_template() -> None:
    """Print a config with every parameter at its default, commented."""
    from lucidcube.config.describe import template

    print(template(), end="")


@config_app.command(name="schema")
def config_schema() -> None:
    """Print the JSON schema of a config, for editors."""
    from lucidcube.config.describe import schema

    print(json.dumps(schema(), indent=1))


@config_app.command(name="from")
def config_from(product: Path) -> None:
    """Print the config that a product was made with: from it the run can be repeated.

    Parameters
    ----------
    product
        FITS file written by lucidcube run.
    """
    import yaml

    from lucidcube.io.tables import read_provenance

    print(yaml.safe_dump(yaml.safe_load(read_provenance(product)["config"]), sort_keys=False), end="")


@config_app.command(name="check")
def config_check(*configs: Path, sets: Sets = None, profile: str | None = None) -> None:
    """Check a config and its inputs; all errors at once. Nothing is computed.

    Parameters
    ----------
    configs
        YAML files, merged left to right.
    sets
        Override of a parameter.
    profile
        Where it would run.
    """
    from lucidcube.run.pipeline import check

    check(_load(configs, sets, profile))
    print("nothing wrong")


def _load(configs: tuple[Path, ...], sets: list[str] | None, profile: str | None) -> Any:
    from lucidcube.config.schema import load

    if not configs:
        raise UserError("give a config file: lucidcube run configs/quickstart.yaml")
    overrides = [*(sets or []), *([f"profile={profile}"] if profile else [])]
    return load(configs, overrides)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit.

    0: done. 1: a stage failed on some blocks. 2: a mistake of the user's. 75: a run was stopped by SIGTERM
    and can go on (EX_TEMPFAIL: try again). 130, 143: interrupted, terminated.
    """
    given = sys.argv[1:] if arguments is None else arguments
    kept = f"what was done is kept, the same command goes on: {shlex.join(['lucidcube', *given])}"
    resumable = given[:1] == ["run"]
    try:
        with signals():
            app(given, exit_on_error=False, print_error=False)
    except UserError as error:
        _leave(USER_ERROR, *error.problems)
    except CycloptsError as error:
        _leave(USER_ERROR, f"{' '.join(str(error).split())} (see lucidcube --help)")
    except StageError as error:
        _leave(STAGE_FAILED, str(error), *([kept] if resumable else []))
    except BlocksFailed as error:
        count = f"blocks that failed: {len(error.failures)}"
        _leave(STAGE_FAILED, *str(error).splitlines(), *([f"{count}; {kept}"] if resumable else []))
    except KeyboardInterrupt as error:
        if getattr(error, "signal", None) == signal.SIGTERM:
            _leave(STOPPED if resumable else TERMINATED, f"stopped; {kept}" if resumable else "stopped")
        _leave(INTERRUPTED, f"interrupted; {kept}" if resumable else "interrupted")


def _leave(code: int, *lines: str) -> NoReturn:
    for line in lines:
        print(f"lucidcube: {line}", file=sys.stderr)
    sys.exit(code)
