"""Give damaged files of one kind to the commands, in one process with limits on time and memory.

``python fuzz.py fits|tiles|gzip|yaml|json|product SEED COUNT FOLDER`` prints a JSON object with the number of cases,
the failures, the longest CPU time in seconds, the largest memory and the most that a command added to the disk in MiB.
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import json
import lzma
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits

from lucidcube.cli.app import main

MEMORY, SECONDS = 4 << 30, 10
"""Limits of a process: its address space, of which libraries reserve more than they use, and the CPU time of a command."""
CARDS = {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CUNIT1": "deg", "CUNIT2": "deg", "CRPIX1": 1.0, "CRPIX2": 1.0,
         "CRVAL1": 10.0, "CRVAL2": 3.0, "CD1_1": -1e-5, "CD1_2": 0.0, "CD2_1": 0.0, "CD2_2": 1e-5, "CTYPE3": "AWAV",
         "CUNIT3": "Angstrom", "CRVAL3": 5000.0, "CRPIX3": 1.0, "CD3_3": 1.25, "BUNIT": "adu", "BSCALE": 1.0,
         "BZERO": 0.0, "OBJECT": "x", "EQUINOX": 2000.0, "ERRDATA": "STAT"}  # fmt: skip
VALUES = ("0", "-1", "1", "2", "7", "16", "999", "1000", "2000000000", "99999999999999999999", "1.5", "1E400", "NaN",
          "1E308", "-1E308", "1E-320", "'x'", "T", "", "'10**99999999'", "'$x^$'", "'\x1b[2J'", "'WAVE-TAB'",
          "'FREQ-LOG'", "'TABLE   '", "0.0")  # fmt: skip
METHODS = ("RICE_1", "GZIP_1", "GZIP_2", "HCOMPRESS_1", "PLIO_1")
CONFIG = """target: {input: cube.fits, stages: [rebin: {bin_step: 1 nm}, noise, artefacts, mask: {cut: 3, grow: 1.5}, \
interpolate]}
star: {input: star.fits, stages: [rebin: {bin_step: 1 nm}, normalise_psf]}
deconvolve: {method: map, n_iter: 300, mu: 0.1}
output: {path: out.fits, products: [deconvolved, residual]}
checkpoints: {codec: none}
profile: laptop
"""
TOKENS = ("&a ", "*a", "!!python/name:os.system ", "[", "]", "{", "}", ": ", "- ", "\t", "\0", "\x1b", "\u202e", ".nan",
          ".inf", "1e400", "9" * 400, "true", "null", "2020-01-01", "'", '"', "\n", "---\n", "<<: ", "~", "/dev/zero",
          "10**99999999", "é", "\ud7ff", "? ", "|\n", "%", "@", "-1", "0")  # fmt: skip


def cube(*, tiles: str | None = None) -> bytes:
    """Return a file with data and variance; `tiles` is a method of compression."""
    rng, stream, shape = np.random.default_rng(0), io.BytesIO(), (3, 24, 25)
    hdus: list[Any] = [fits.PrimaryHDU()]
    for name, level in (("DATA", 50), ("STAT", 4)):
        values = rng.normal(level, 1, shape).astype("f4" if tiles is None else "i2")
        header = fits.Header(CARDS)
        if tiles is None:
            hdus.append(fits.ImageHDU(values, header, name))
        else:
            del header["BSCALE"], header["BZERO"]
            hdus.append(fits.CompImageHDU(values, header, name, compression_type=tiles))
    fits.HDUList(hdus).writeto(stream)
    return stream.getvalue()


def damaged(rng: random.Random, content: bytes) -> bytes:
    """Return a FITS file with other values of cards, other bytes, a part that is missing, or one that is repeated."""
    made = bytearray(content)
    headers = [i for i in range(0, len(made), 80) if made[i + 8 : i + 10] == b"= "]
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        kind = rng.randrange(10)
        headers = [place for place in headers if place + 80 <= len(made)] or [0]
        made += bytes(max(0, 80 - len(made)))
        if kind < 5:
            place = rng.choice(headers)
            value = rng.choice(VALUES)
            made[place + 10 : place + 80] = f"{value:>20}".ljust(70).encode()[:70]
        elif kind < 7:
            made[rng.randrange(len(made))] = rng.randrange(256)
        elif kind == 7:
            place = rng.choice(headers)
            made[place + rng.randrange(80)] = rng.randrange(256)
        elif kind == 8:
            del made[rng.randrange(len(made)) :]
            made += bytes(80)
        else:
            block = rng.randrange(len(made) // 2880 + 1) * 2880
            made[block:block] = made[block : block + 2880]
    return bytes(made)


def fits_cases(rng: random.Random) -> Iterator[tuple[str, bytes]]:
    content = cube()
    while True:
        yield "cube.fits", damaged(rng, content)


def tile_cases(rng: random.Random) -> Iterator[tuple[str, bytes]]:
    contents = [cube(tiles=method) for method in METHODS]
    while True:
        yield "cube.fits", damaged(rng, rng.choice(contents))


def gzip_cases(rng: random.Random) -> Iterator[tuple[str, bytes]]:
    """Yield compressed files, damaged before or after compression, and small ones that expand."""
    content = cube()
    while True:
        compress: Callable[[bytes], bytes] = rng.choice([gzip.compress, bz2.compress, lzma.compress])
        inside = damaged(rng, content) if rng.randrange(2) else content
        if rng.randrange(8) == 0:
            inside = rng.choice([b"", content]) + bytes(rng.choice([1 << 20, 1 << 25]))
        made = bytearray(compress(inside))
        for _ in range(rng.choice([0, 1, 2])):
            made[rng.randrange(len(made))] = rng.randrange(256)
        yield "cube.fits.gz", bytes(made)


def text_cases(rng: random.Random, text: str, name: str) -> Iterator[tuple[str, bytes]]:
    while True:
        made = text
        for _ in range(rng.choice([1, 2, 3, 6])):
            place = rng.randrange(len(made) + 1)
            end = min(len(made), place + rng.choice([0, 0, 1, 3, 10]))
            made = made[:place] + rng.choice(TOKENS) * rng.choice([1, 1, 1, 30]) + made[end:]
        yield name, made.encode("utf-8", "surrogatepass")


def product_cases(rng: random.Random) -> Iterator[tuple[str, bytes]]:
    """Yield products whose bytes, or whose record of the run, are damaged."""
    from hostile.odd_products import make_product, with_provenance

    folder = Path(tempfile.mkdtemp())
    with contextlib.redirect_stdout(io.StringIO()):
        product = make_product(folder)
    content = product.read_bytes()
    with fits.open(product) as hdus:
        record = dict(zip(*(hdus["PROVENANCE"].data[n] for n in ("KEY", "VALUE")), strict=True))
    values = text_cases(rng, str(record["config"]), "")
    while True:
        if rng.randrange(2):
            yield "made.fits", damaged(rng, content)
        else:
            key = rng.choice([*record, "config", "config"]) if rng.randrange(4) else "\x1b"
            made = with_provenance(product, folder / "odd.fits", {key: next(values)[1].replace(b"\0", b"")})
            yield "made.fits", made.read_bytes()


KINDS: dict[str, Callable[[random.Random], Iterator[tuple[str, bytes]]]] = {
    "fits": fits_cases,
    "tiles": tile_cases,
    "gzip": gzip_cases,
    "yaml": lambda rng: text_cases(rng, CONFIG, "run.yaml"),
    "json": lambda rng: text_cases(rng, json.dumps({"target": "cube.fits", "mask": {"cut": [[0, 3.0]]}, "star": None}), "run.yaml"),
    "product": product_cases,
}  # fmt: skip


def commands(kind: str, path: Path) -> list[list[str]]:
    """Return the commands that read a file."""
    name = str(path)
    if kind in ("yaml", "json"):
        return [["config", "check", name], ["config", "show", name, "--origin"]]
    if kind == "product":
        return [["config", "from", name], ["report", name], ["info", name]]
    return [
        ["info", name],
        ["rebin", name, "--bin-step", "0.2nm", "-o", f"{path.parent}/o.fits", "--overwrite", "-q"],
    ]


def _hangs(*_: object) -> None:
    raise TimeoutError(f"more than {SECONDS} s")


def failure(arguments: list[str]) -> str:
    """Run a command; return what is wrong with how it ended, or nothing."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main(arguments)
    except SystemExit as done:
        code = done.code if isinstance(done.code, int) else 1
    except BaseException as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__}: {error} at {frame.filename}:{frame.lineno}"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    text = out.getvalue() + err.getvalue()
    if code not in (0, 2) or "Traceback" in text:
        return f"exit code {code}: {err.getvalue()[-300:]}"
    odd = {c for c in text if not c.isprintable() and c != "\n"}
    return f"control characters {odd!r}" if odd else ""


def on_disk(folder: Path) -> int:
    """Return the number of bytes in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def run(kind: str, seed: int, count: int, folder: Path) -> dict[str, Any]:
    """Run the commands on a number of damaged files, and return what happened."""
    cases = KINDS[kind](random.Random(f"{kind} {seed}"))
    failures, longest, disk = [], 0.0, 0.0
    for number in range(count):
        name, content = next(cases)
        (folder / name).write_bytes(content)
        for arguments in commands(kind, folder / name):
            start, before = time.process_time(), on_disk(folder)
            if wrong := failure(arguments):
                (folder / f"failed-{seed}-{number}-{name}").write_bytes(content)
                failures.append(f"{kind} {seed}, case {number}, {arguments[0]}: {wrong}")
            longest = max(longest, time.process_time() - start)
            disk = max(disk, (on_disk(folder) - before) / (1 << 20))
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return {"cases": count, "failures": failures, "seconds": longest, "memory": memory, "disk": disk}


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    signal.signal(signal.SIGPROF, _hangs)
    tempfile.tempdir = sys.argv[4]
    print(json.dumps(run(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))))
