"""Make the example: a simulated ice giant and a standard star, seen through adaptive optics.

    python example_data/make_example.py                      # target.fits and star.fits beside this script
    python example_data/make_example.py --truth --out DIR    # with truth.fits: what was really there

The target is a planet with a dark limb, bands, a dark spot, cloud streaks, knots of the size of a pixel, and
a moon beside it. The channels cover the flank of the methane band at 727 nm: towards the red, methane
swallows the light of the cloud deck, while haze and high clouds stay bright.

The telescope spreads this light by a point spread function with a narrow core, a plateau as wide as the
deformable mirror can correct, and a halo of uncorrected turbulence; it becomes sharper towards the red. Then
come photon and read noise, with the variance in STAT.

A reduction leaves more behind: hot and cold pixels, stripes that fade in and out and drift with wavelength,
a ghost that wanders across the disc, cosmic rays; a rotated field with corners of NaN, holes, and one channel
without any data. The star has the same point spread function; it stands off centre, between pixels, on a
background, with a few outliers.

The same seed gives the same numbers. `lucidcube.simulate` says how each part is computed.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from lucidcube.simulate import Scene, write_scene


def main(arguments: list[str] | None = None) -> None:
    """Write the example; `arguments` are those of the command line if not given."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder for the files")
    parser.add_argument("--size", type=int, default=61, help="pixels along each side (default: %(default)s)")
    parser.add_argument(
        "--nwave", type=int, default=32, help="channels, 2.5 Angstrom apart (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=11, help="of everything random (default: %(default)s)")
    parser.add_argument("--truth", action="store_true", help="write truth.fits too")
    options = parser.parse_args(arguments)
    scene = Scene(shape=(options.nwave, options.size, options.size), seed=options.seed)
    write_scene(scene, options.out, truth=options.truth)


if __name__ == "__main__":
    main()
