"""Compare the speed of lucidcube with that of other programs on the same planes.

The reference program (aopp_deconv_tool 0.1.28, numpy 1.26.4, Python 3.12) runs in an environment of its own,
whose Python is named by ``$REFERENCE_PY``; scikit-image and RedLionfish run in this process if they are
installed. Both sides use one thread and are measured alternately, so that other load affects both equally.

    export REFERENCE_PY=ref/bin/python
    python -m benchmarks.compare --work /somewhere        # kernels, peers, limits
    python -m benchmarks.compare --work /somewhere whole  # the whole run

A ratio is the time of the peer divided by ours: the median and the range over the rounds. Kernels and
packages have one thread each, so that their CPU time is their wall time; the start-up time of the reference's
commands, which is measured in each round, is subtracted. For the whole run both clocks are compared, with
start-up, on all cores; ``--blas`` are the numbers of BLAS threads that the reference is tried with. With
``--markdown PAGE``, each table replaces the one after ``<!-- compare.py NAME -->`` in a page, such as
``docs/performance.md``.
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
from .comparison import HEAD, Comparison, replace_table
from .reference_program import MIN_PLANES, Reference, make_case
from .scenes import scene

WHAT = ("reference", "textbook", "limit", "whole")


def compare(what: str, chosen: argparse.Namespace, python: str, folder: Path) -> Iterator[Comparison]:
    """Yield the comparisons of a kind as they are made."""
    rounds = chosen.rounds
    if what == "reference":
        few = folder / "few"
        make_case(few, max(chosen.planes, MIN_PLANES), chosen.side)
        yield from compare_kernels(Reference(python, few), few, chosen.planes, rounds, chosen.only)
    seen = scene(chosen.side).plane(0)
    if what == "textbook":
        yield from compare_textbook(seen.blurred, seen.psf, rounds, 100)
    if what == "limit":
        yield from compare_limit(seen.blurred, seen.psf, rounds)
    if what == "whole":
        whole = folder / "whole"
        make_case(whole, 12, chosen.side)
        for blas in chosen.blas:
            yield from compare_whole(Reference(python, whole), whole, rounds, blas)


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
    parser.add_argument(
        "--blas", nargs="*", default=["1", "2"], help="BLAS threads of the reference's whole run"
    )
    parser.add_argument("--markdown", type=Path, help="page whose tables are replaced")
    chosen = parser.parse_args()
    if unknown := {*chosen.what} - {*WHAT}:
        parser.error(f"there is no comparison {', '.join(sorted(unknown))}; choose from {', '.join(WHAT)}")
    python = os.environ.get("REFERENCE_PY", "")
    if not python and {"reference", "whole"} & {*chosen.what}:
        sys.exit(
            "set REFERENCE_PY to the Python of an environment with aopp_deconv_tool==0.1.28 numpy==1.26.4"
        )
    with threadpool_limits(1):
        for what in chosen.what:
            lines = [HEAD]
            print(HEAD)
            for comparison in compare(what, chosen, python, chosen.work.resolve()):
                lines.append(comparison.line())
                print(lines[-1], flush=True)
            if chosen.markdown is not None:
                page = replace_table(chosen.markdown.read_text(), what, "\n".join(lines))
                chosen.markdown.write_text(page)


if __name__ == "__main__":
    main()
