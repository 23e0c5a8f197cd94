"""Compare the speed of lucidcube with that of other programs on the same planes.

The reference program (aopp_deconv_tool 0.1.28, numpy 1.26.4, Python 3.12) runs in an environment of its own,
whose Python is named by ``$REFERENCE_PY``; scikit-image and RedLionfish run in this process if they are
installed. Both sides use one thread and are measured alternately, so that other load affects both equally.

    export REFERENCE_PY=ref/bin/python
    python -m benchmarks.compare --work /somewhere        # kernels, peers, limits
    python -m benchmarks.compare --work /somewhere whole  # the whole run

A ratio is the CPU time of the peer divided by ours: the median and the range over the rounds. The start-up
time of the reference's commands, which is measured in each round, is subtracted. For the whole run it is the
ratio of wall times, including start-up.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from threadpoolctl import threadpool_limits

from .against_limit import compare_limit
from .against_reference import compare_kernels, compare_whole
from .against_textbook import compare_textbook
from .comparison import HEAD, Comparison
from .reference_program import MIN_PLANES, Reference, make_case
from .scenes import scene

WHAT = ("reference", "textbook", "limit", "whole")


def compare(chosen: argparse.Namespace, python: str, folder: Path) -> Iterator[Comparison]:
    """Yield the requested comparisons as they are made."""
    rounds = chosen.rounds
    if "reference" in chosen.what:
        few = folder / "few"
        make_case(few, max(chosen.planes, MIN_PLANES), chosen.side)
        yield from compare_kernels(Reference(python, few), few, chosen.planes, rounds, chosen.only)
    seen = scene(chosen.side).plane(0)
    if "textbook" in chosen.what:
        yield from compare_textbook(seen.blurred, seen.psf, rounds, 100)
    if "limit" in chosen.what:
        yield from compare_limit(seen.blurred, seen.psf, rounds)
    if "whole" in chosen.what:
        whole = folder / "whole"
        make_case(whole, 12, chosen.side)
        yield compare_whole(Reference(python, whole), whole, rounds)


def main() -> None:
    """Parse the command line, make the comparisons and print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.compare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", nargs="*", default=[*WHAT[:3]], help=" ".join(WHAT))
    parser.add_argument("--work", type=Path, required=True, help="folder for scratch files")
    parser.add_argument("--planes", type=int, default=2, help="planes for each stage; the whole run has 12")
    parser.add_argument("--side", type=int, default=341)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="*", default=[], help="rows of the reference table")
    chosen = parser.parse_args()
    if unknown := {*chosen.what} - {*WHAT}:
        parser.error(f"there is no comparison {', '.join(sorted(unknown))}; choose from {', '.join(WHAT)}")
    python = os.environ.get("REFERENCE_PY", "")
    if not python and {"reference", "whole"} & {*chosen.what}:
        sys.exit(
            "set REFERENCE_PY to the Python of an environment with aopp_deconv_tool==0.1.28 numpy==1.26.4"
        )
    print(HEAD)
    with threadpool_limits(1):
        for comparison in compare(chosen, python, chosen.work.resolve()):
            print(comparison.line(), flush=True)


if __name__ == "__main__":
    main()
