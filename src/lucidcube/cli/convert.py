"""Choose what `lucidcube convert` does by what it is given."""

from collections.abc import Callable, Sequence
from pathlib import Path

from lucidcube.errors import UserError
from lucidcube.io.output_path import INPUT, expanded, new_file_problems
from lucidcube.io.pictures import SUFFIXES, in_folder, pictures_to_fits
from lucidcube.io.specifier import parse_specifier
from lucidcube.io.zarr_cubes import Given, fits_to_zarr, is_zarr, zarr_to_fits
from lucidcube.runner.lock import WAIT, product_locked


def convert_files(
    inputs: Sequence[str], output: Path, given: Given, *, overwrite: bool, message: Callable[[str], None]
) -> None:
    """Convert files; see `lucidcube.cli.file_commands.convert`."""
    output = expanded(output)
    start, step, unit = given
    first = expanded(inputs[0])
    pictures = first.suffix.lower() in SUFFIXES or (first.is_dir() and not is_zarr(first))
    if pictures:
        files = [*_pictures(inputs)]
        _check(output, files, overwrite)
        waves = {"wave_start": start, "wave_step": step, "wave_unit": unit}
        with product_locked(output, WAIT):
            pictures_to_fits(files, output, overwrite=overwrite, **waves)  # type: ignore[arg-type]
        return
    if len(inputs) > 1:
        raise UserError(f"several inputs must be pictures ({', '.join(SUFFIXES)}): {inputs[0]} is none")
    if is_zarr(first):
        if given != (None, None, None):
            raise UserError("the wavelengths of a zarr store are its own: leave out --wave-start, ...")
        _check(output, [], overwrite)
        with product_locked(output, WAIT):
            zarr_to_fits(first, output, overwrite=overwrite)
        return
    if output.suffix != ".zarr":
        raise UserError(f"{output}: a FITS file is converted to a zarr store; give a name that ends in .zarr")
    source = parse_specifier(inputs[0]).file.resolve()
    if output.resolve() in (source, *source.parents):
        raise UserError(f"{output} is or contains the input; give another name")
    fits_to_zarr(parse_specifier(inputs[0]), output, given=given, overwrite=overwrite, message=message)


def _pictures(inputs: Sequence[str]) -> list[Path]:
    files: list[Path] = []
    for text in inputs:
        path = expanded(text)
        found = in_folder(path) if path.is_dir() else [path]
        if not found:
            raise UserError(f"{path} holds no pictures ({', '.join(SUFFIXES)})")
        if not path.exists():
            raise UserError(f"there is no file {path}")
        files += found
    return files


def _check(output: Path, inputs: Sequence[Path], overwrite: bool) -> None:
    """Refuse an output that is not the name of a FITS file, or that exists."""
    if output.suffix.lower() not in (".fits", ".fit", ".fts"):
        raise UserError(f"{output}: give the name of a FITS file, which ends in .fits")
    if problems := [*new_file_problems(output, dict.fromkeys(inputs, INPUT), overwrite, "--overwrite")]:
        raise UserError(*problems)
