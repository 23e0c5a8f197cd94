"""Make the example: a simulated ice giant and a standard star, seen through adaptive optics.

    python example_data/make_example.py                      # target.fits and star.fits beside this script
    python example_data/make_example.py --truth --out DIR    # with truth.fits, the true scene

The target is a planet with a dark limb, bands, a dark spot, cloud streaks, knots of the size of a pixel, and
a moon beside it. The channels cover the methane band at 727 nm, in which methane absorbs the light of the
cloud deck, while haze and high clouds stay bright.

The telescope blurs the scene by a point spread function with a narrow core, a plateau as wide as the
deformable mirror can correct, and a halo of uncorrected turbulence; it becomes sharper towards the red.
Photon and read noise are added, and STAT holds their variance.

The cubes also contain what a reduction leaves behind: hot and cold pixels, stripes that vary and drift with
wavelength, a ghost that moves across the disc, cosmic rays, a rotated field with corners of NaN, holes, and
one channel without any data. The star has the same point spread function. It lies off centre, between
pixels, on a background, with a few outliers.

The same seed gives the same numbers. `lucidcube.simulate` documents how each part is computed.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from lucidcube.simulate import Scene, write_scene


def main(arguments: list[str] | None = None) -> None:
    """Write the example. By default the arguments are those of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder to write to")
    parser.add_argument("--size", type=int, default=61, help="pixels along each side (default: %(default)s)")
    parser.add_argument(
        "--nwave", type=int, default=64, help="channels, 5 Angstrom apart (default: %(default)s)"
    )
    parser.add_argument(
        "--seed", type=int, default=11, help="seed of the random numbers (default: %(default)s)"
    )
    parser.add_argument("--truth", action="store_true", help="also write truth.fits")
    options = parser.parse_args(arguments)
    write_scene(scene(options.size, options.nwave, options.seed), options.out, truth=options.truth)


def scene(size: int = 61, nwave: int = 64, seed: int = 11) -> Scene:
    """Return the scene; without arguments, that of the committed files."""
    shape = (nwave, size, size)
    return Scene(shape=shape, wavelength_step=0.5e-9, seed=seed, gain=4.0, read_noise=25.0)


if __name__ == "__main__":
    main()
