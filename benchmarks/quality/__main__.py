"""Run methods on scenes, compare the results with the truth, and print and write tables.

python -m benchmarks.quality --out SCRATCH                       # everything: half an hour on two cores
python -m benchmarks.quality --out SCRATCH --scenes planet_small --methods not_deconvolved lucidcube_map
python -m benchmarks.quality --out SCRATCH --fast                # small scenes, two minutes
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from . import method, report
from .scenes import SCENES

ROOT = Path(__file__).parents[2]
PAGE, PICTURES = ROOT / "docs" / "quality.md", ROOT / "docs" / "images"
SCORES = Path(__file__).parent / "scores.json"
FAST = 0.4
ONE_THREAD = {
    **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1"),
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
}


def main(arguments: list[str] | None = None) -> None:
    given = _parser().parse_args(arguments)
    out, scenes, methods = (
        given.out.resolve(),
        given.scenes or list(SCENES),
        _all_methods() if given.methods is None else given.methods,
    )
    if unknown := set(methods) - set(method.names()):
        sys.exit(f"no method is called {', '.join(sorted(unknown))}: there are {', '.join(method.names())}")
    pythons = dict(item.split("=", 1) for item in given.python)
    todo = [s for s in scenes if given.again or not (out / "prepared" / s / "inputs.fits").exists()]
    with ThreadPoolExecutor(given.jobs) as pool:
        size = str(FAST if given.fast else 1.0)
        list(pool.map(lambda s: _call(sys.executable, "prepare", str(out), s, size), todo))
        list(
            pool.map(lambda m: _call(pythons.get(m, sys.executable), "worker", m, str(out), *scenes), methods)
        )
        list(pool.map(lambda s: _call(sys.executable, "score", str(out), s), scenes))
    collected = {s: json.loads((out / "scores" / f"{s}.json").read_text()) for s in scenes}
    saved = SCORES if given.docs else out / "scores.json"
    report.save(collected, saved)
    text = report.markdown(json.loads(saved.read_text()))
    print(text)
    if given.docs:
        report.insert(text, PAGE)
        for scene in scenes:
            (PICTURES / f"quality-{scene}.png").write_bytes((out / "pictures" / f"{scene}.png").read_bytes())


def _all_methods() -> list[str]:
    """Return all methods, the slow ones last."""
    return sorted(method.names(), key=lambda name: hasattr(method.load(name), "PLANES"))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.quality",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for scenes, results and scores")
    parser.add_argument("--scenes", nargs="+", choices=list(SCENES), metavar="NAME", help="default: all")
    parser.add_argument(
        "--methods",
        nargs="*",
        metavar="NAME",
        help="default: all; without a name, only the results that are in the folder are compared and shown",
    )
    parser.add_argument("--fast", action="store_true", help="small scenes with few planes")
    parser.add_argument("--again", action="store_true", help="make scenes again that are in the folder")
    parser.add_argument("--jobs", type=int, default=2, help="number of methods at a time")
    parser.add_argument(
        "--python",
        action="append",
        default=[],
        metavar="METHOD=PATH",
        help="Python in which a method is installed",
    )
    parser.add_argument(
        "--docs", action="store_true", help="write the tables and pictures into docs/quality.md"
    )
    return parser


def _call(python: str, module: str, *arguments: str) -> None:
    """Run a module of this package as a process of its own with one thread, and say what it does."""
    print(f"{module} {' '.join(Path(a).name for a in arguments)}", file=sys.stderr, flush=True)
    done: Any = subprocess.run(
        [python, "-m", f"{__package__}.{module}", *arguments],
        env={
            **os.environ,
            "PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
            **ONE_THREAD,
        },
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        print(f"{module} {arguments}: {done.stderr[-2000:]}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
