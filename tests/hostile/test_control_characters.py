"""Control characters in files, names and configs never reach the terminal, a log or a page as they are."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from astropy.io import fits

from commands import call
from hostile.odd_products import ODD, make_product, with_provenance
from lucidcube.config.show import one_line
from lucidcube.errors import printable_lines
from lucidcube.io.yaml_text import parse_yaml

NAME = "\x1b[31m\u009b\u202eodd $x^$ 星\n.fits"


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a small product."""
    return make_product(tmp_path_factory.mktemp("run"))


def clean(*texts: str) -> bool:
    """Return whether texts have no control characters but line breaks."""
    return all(text == printable_lines(text) for text in texts)


@pytest.mark.parametrize("name", [NAME, "\udcff.fits"])
def test_names_of_files(product: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    path = tmp_path / name
    shutil.copy(product.with_name("target.fits"), path)
    for arguments in (
        ("info", path), ("info", path, "--json"), ("config", "new", "no-star", path), ("view", path, "--white"),
        ("rebin", path, "--bin-step", "2nm", "-v"), ("info", tmp_path / f"no{name}"), ("run", tmp_path / f"no{name}"),
    ):  # fmt: skip
        code, out, err = call(capsys, *arguments)
        assert clean(out, err), arguments
        assert code == (2 if str(arguments[1]).startswith(f"{tmp_path}/no") else 0), err
    logs = [*tmp_path.glob("*.log")]
    assert logs
    assert all(clean(log.read_text()) for log in logs)


@pytest.mark.parametrize("text", ["\x1b[2J", "\x9b2J", "\u202eabc", "a\nb", "\x7f", "\udcff", "\u2028"])
def test_values_of_a_config(text: str) -> None:
    assert clean(one_line(text))
    assert "\n" not in one_line(text)
    assert text == "\udcff" or parse_yaml(one_line(text)) == text


def test_keys_and_values_of_a_config(
    product: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "\x1b[31mrun\n.yaml"
    target = json.dumps(str(product.with_name("target.fits")))
    path.write_text(f'target: {{input: {target}}}\noutput: {{path: "\\e[31m\\u202eo.fits"}}\nstar: null\n')
    for arguments in (("config", "show", path, "--origin"), ("config", "check", path), ("plan", path)):
        _, out, err = call(capsys, *arguments)
        assert clean(out, err), arguments
    path.write_text(
        f'target: {{input: {target}}}\n"\\e[31mx\\x9b": 1\ndeconvolve: {{"\\u202ey": "\\e[2J"}}\n'
    )
    code, out, err = call(capsys, "config", "check", path, "--set", "deconvolve.method=\x1b[2J")
    assert code == 2
    assert clean(out, err)


def test_labels_of_regions(product: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    regions = tmp_path / "\x1b[31mx.reg"
    regions.write_text(
        f"image\ncircle(3,3,2) # text={{{ODD[:-2]}}}\ncircle({ODD[:-2]})\nsquircle\x1b[2J(1,2)\n"
    )
    config = tmp_path / "run.yaml"
    config.write_text(
        f"target: {{input: {product.with_name('target.fits')}, stages: [noise, artefacts, "
        f"mask: {{const_regions: [{json.dumps(str(regions))}]}}]}}\n"
        f"output: {{path: {tmp_path}/o.fits}}\nprofile: synchronous\n"
    )
    code, out, err = call(capsys, "run", config)
    assert code == 2
    assert clean(out, err)


def test_names_of_extensions(product: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = product.with_name("target.fits").read_bytes()
    with fits.open(product.with_name("target.fits")) as hdus:
        name = hdus[1].name
    place = content.index(b"EXTNAME")
    path = tmp_path / "cube.fits"
    for odd in (b"\x1b[31m", b"\x9b31m", b"\x07\x08"):
        card = (b"EXTNAME = '" + odd + b"'").ljust(80)
        path.write_bytes(content[:place] + card + content[place + 80 :])
        for arguments in (("info", path), ("info", path, "--json"), ("view", path, "--hdu", name)):
            _, out, err = call(capsys, *arguments)
            assert clean(out, err)


def test_the_provenance_of_a_product(
    product: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = {"target": {"input": ODD}, ODD: ODD, "deconvolve": {"method": ODD}}
    crafted = with_provenance(
        product,
        tmp_path / "crafted.fits",
        {"config": json.dumps(config).encode(), "target.file": ODD.encode("ascii", "backslashreplace"),
         "version": b"\x1b[31m"},
    )  # fmt: skip
    for arguments in (("config", "from", crafted), ("info", crafted), ("report", crafted), ("view", crafted)):
        _, out, err = call(capsys, *arguments)
        assert clean(out, err), arguments
    for page in (*tmp_path.glob("*.html"), *tmp_path.glob("*.json")):
        assert clean(page.read_text()), page
