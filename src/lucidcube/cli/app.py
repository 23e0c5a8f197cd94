"""The command line. Commands import other modules only when they are called, so that --help is fast."""

import json
import os
import shlex
import signal
import sys
from pathlib import Path
from typing import NoReturn

from cyclopts import App, CycloptsError, Group

from lucidcube import __version__
from lucidcube.cli import file_commands
from lucidcube.cli.closed_pipe import Console, ends_quietly
from lucidcube.cli.config_commands import config_app
from lucidcube.cli.options import (
    All,
    Configs,
    Flag,
    Json,
    LogFile,
    Profile,
    Quiet,
    Sets,
    Trust,
    Verbose,
    load_configs,
    overrides,
    to_stderr,
    to_stdout,
)
from lucidcube.cli.start import INTERRUPTED, STAGE_FAILED, STOPPED, TERMINATED, USER_ERROR, machine_fails
from lucidcube.errors import BlocksFailed, StageError, UserError, did_you_mean, printable
from lucidcube.runner.signals import signals

EXIT_CODES = (
    "Exit codes: 0 success, 1 a stage failed on some planes or all workers were lost, 2 a mistake in the "
    "input or a failing disk, 75 stopped (can be continued), 130 interrupted, 141 pipe closed, "
    "143 terminated."
)

app = App(
    name="lucidcube",
    help="Sharpen astronomical integral-field cubes.",
    help_epilogue=EXIT_CODES,
    version=__version__,
    help_format="plaintext",
    result_action="return_value",
    suppress_keyboard_interrupt=False,
    console=Console(),
)
app.command(config_app)
app.register_install_completion_command(
    help="Install the completion of commands, and load it in the startup file of the shell."
)

# Add a command for each stage without importing any; its help is the first line of the stage's file.
_stages = Group("Stages, one at a time", sort_key=1)
for _file in sorted((Path(__file__).parents[1] / "stages").glob("[!_]*.py")):
    _title, _, _text = _file.read_text().partition("\n")[0].strip('"').partition(": ")
    if _title == f"Stage `{_file.stem}`":
        _command = f"lucidcube.cli.stage_commands:{_file.stem}"
        app.command(_command, name=_file.stem, help=_text.rstrip("."), group=_stages)

for _each in file_commands.COMMANDS:
    app.command(_each)


app.command(
    "lucidcube.cli.demo:demo", help="Run the quick start in a folder of its own, with the example data."
)
app.command("lucidcube.cli.cite:cite", help="Print how to cite lucidcube.")
app.command("lucidcube.cli.report_commands:report", help="Make the report of a run again.")
app.command("lucidcube.cli.report_commands:compare", help="Make a page that compares two products.")
app.command("lucidcube.cli.tune_commands:preview", help="Compute a few planes of a run, with a report.")
app.command("lucidcube.cli.tune_commands:tune", help="Choose parameters on a page in the browser.")


@app.command
def run(
    *configs: Configs,
    sets: Sets = None,
    profile: Profile = None,
    trust_profile: Trust = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    log_file: LogFile = None,
    plot: Flag = False,
    plot_wavelength: str | None = None,
    plot_folder: Path | None = None,
    report: bool = True,
    wait: float = 10.0,
    verify_inputs: Flag = False,
) -> None:
    """Run all stages of a config and print the path of the product. A run that was stopped is continued.

    A page about the run, the report, is written beside the product.

    Parameters
    ----------
    plot
        Show how one plane is deconvolved; without a display, write frames as PNG files.
    plot_wavelength
        Wavelength of that plane, such as 0.72um; the middle one if not given.
    plot_folder
        Folder to write frames to, even if there is a display.
    report
        Write the report.
    wait
        Seconds to wait for another run that uses the same work folder or product.
    verify_inputs
        Compare the content of the inputs before and after the computation, for which they are read two more
        times. Without this option only a change of the size or of the time of a file is noticed.
    """
    from lucidcube.cli.run_command import run_configs
    from lucidcube.cli.stage_commands import inspector

    config, given = load_configs(configs, sets, profile, trust_profile), overrides(sets, profile)
    inspect = inspector(plot, plot_wavelength, plot_folder)
    made = run_configs(
        config,
        configs,
        given,
        inspect,
        quiet=quiet,
        verbose=verbose,
        log_file=log_file,
        report=report,
        wait=wait,
        verify_inputs=verify_inputs,
    )
    to_stdout(made.product)


@app.command
def prune(what: Path, *configs: Configs, sets: Sets = None, remove: Flag = False, all_: All = False) -> None:
    """List the checkpoints in the work folder of a config, and remove the stale ones.

    Parameters
    ----------
    what
        YAML file of a run, or its work folder.
    remove
        Remove the checkpoints that this config does not use, and the temporary files of killed runs.
    all_
        With --remove: also remove the checkpoints that are used. Required with a folder, for which it is
        unknown which ones are used.
    """
    from lucidcube.cli.console import prune_table
    from lucidcube.runner import prune as pruning

    product = None
    if os.path.isdir(what):
        work, current, stale = what, None, pruning.stale_files(what)
    else:
        from lucidcube.runner.reopen import checkpoints

        config = load_configs((what, *configs), sets, None)
        work, current = config.work(), checkpoints(config)
        product = Path(config.output.path)
        stale = [*pruning.stale_files(work), *pruning.stale_part_files(product)]
    entries = pruning.find(work, current)
    removed = [e for e in entries if all_ or e.current is False]
    if not remove:
        prune_table(work, entries, stale)
    elif removed or stale:
        pruning.remove(work, removed, stale, product)
        print(f"removed {len(removed)} of {len(entries)} checkpoints and {len(stale)} temporary files")
    else:
        to_stdout(
            f"nothing to remove in {work}" + ("" if current is not None or not entries else "; see --all")
        )


@app.command
def plan(
    *configs: Configs,
    sets: Sets = None,
    profile: Profile = None,
    trust_profile: Trust = False,
    json_: Json = False,
) -> None:
    """Show what a run would do: stages, shapes, blocks, bytes and memory. Nothing is computed."""
    from lucidcube.cli.console import plan_json, plan_table
    from lucidcube.runner.pipeline import check

    checked = check(load_configs(configs, sets, profile, trust_profile))
    for warning in checked.warnings:
        to_stderr(f"warning: {warning}")
    if json_:
        print(json.dumps(plan_json(checked), indent=1))
    else:
        plan_table(checked)


@app.command
def stages(name: str | None = None, *, markdown: Flag = False) -> None:
    """List the stages, or explain one of them with all its parameters.

    Parameters
    ----------
    name
        Name of a stage.
    markdown
        Print the page about the stages of the documentation.
    """
    from lucidcube.config.describe import stage_text, stages_markdown, summary
    from lucidcube.stages.base import REGISTRY

    if markdown:
        print(stages_markdown(), end="")
    elif name is None:
        print(summary())
    elif name in REGISTRY:
        print(stage_text(REGISTRY[name]))
    else:
        raise UserError(f"there is no stage {name!r}{did_you_mean(name, REGISTRY)}")


@app.command
def simulate(
    folder: Path, *, size: str = "5MB", seed: int = 0, truth: Flag = False, overwrite: Flag = False
) -> None:
    """Write a simulated target and star, plane by plane, so that they may be larger than memory.

    Parameters
    ----------
    folder
        Folder to write target.fits and star.fits to.
    size
        Size of the target: 500MB, 8GiB.
    seed
        Seed of the random numbers: the same seed gives the same files.
    truth
        Write truth.fits as well: the target without blur, noise and artefacts.
    overwrite
        Replace files with these names that were not simulated.
    """
    from lucidcube.io.output_path import path_problems
    from lucidcube.simulate import is_simulated, parse_size, scene_for_size, write_scene

    for name in ("target.fits", "star.fits", *(["truth.fits"] if truth else [])):
        path = folder / name
        for problem in path_problems(path, {}, overwrite or is_simulated(path), "--overwrite"):
            raise UserError(problem)
    for written in write_scene(scene_for_size(parse_size(size), seed=seed), folder, truth=truth):
        if written is not None:
            to_stdout(written)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit.

    The exit codes are 0 for success, 1 if a stage failed on some blocks, 2 for a mistake of the user, a
    failing disk or too little memory, 75 (EX_TEMPFAIL) if a run was stopped by SIGTERM or SIGHUP and can be
    continued, 130 and 143 if the program was interrupted or terminated, and 141 if the reader of its output
    closed the pipe.
    """
    with ends_quietly():
        _main(sys.argv[1:] if arguments is None else arguments)


def _main(arguments: list[str]) -> None:
    resumable = arguments[:1] == ["run"]
    command = shlex.join(["lucidcube", *arguments])
    kept = f"finished blocks are kept; to continue, run the same command: {command}"
    try:
        with signals():
            app(arguments, exit_on_error=False, print_error=False)
    except UserError as error:
        _exit(USER_ERROR, *error.problems)
    except CycloptsError as error:
        _exit(USER_ERROR, f"{' '.join(str(error).split())} (see lucidcube --help)")
    except StageError as error:
        _exit(STAGE_FAILED, str(error), *([kept] if resumable else []))
    except BlocksFailed as error:
        count = f"blocks that failed: {len(error.failures)}"
        _exit(STAGE_FAILED, *str(error).splitlines(), *([f"{count}; {kept}"] if resumable else []))
    except (OSError, ImportError) as error:
        if not machine_fails(error):
            raise
        _exit(USER_ERROR, f"the disk or the machine fails: {error}", *([kept] if resumable else []))
    except MemoryError as error:
        text = f"there is not enough memory ({error})" if str(error) else "there is not enough memory"
        _exit(USER_ERROR, text, *([kept] if resumable else []))
    except KeyboardInterrupt as error:
        terminated = getattr(error, "signal", None) in (signal.SIGTERM, signal.SIGHUP)
        text = "stopped" if terminated else "interrupted"
        code = (STOPPED if resumable else TERMINATED) if terminated else INTERRUPTED
        _exit(code, f"{text}; {kept}" if resumable else text)


def _exit(code: int, *lines: str) -> NoReturn:
    for line in lines:
        print(f"lucidcube: {printable(line)}", file=sys.stderr)
    sys.exit(code)
