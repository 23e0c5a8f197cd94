"""The package: its public names, and the cost of importing it."""

import subprocess
import sys

import pytest

import lucidcube
import lucidcube.runner.pipeline
import lucidcube.stages
from lucidcube.stages.base import REGISTRY


def test_importing_the_package_imports_nothing_heavy() -> None:
    heavy = {"astropy", "dask", "numba", "numpy", "pydantic", "scipy", "xarray", "zarr"}
    program = f"import sys, lucidcube; print(*({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_every_name_can_be_imported() -> None:
    for name in lucidcube.__all__:
        assert callable(getattr(lucidcube, name)), name
    assert {*lucidcube.__all__} <= {*dir(lucidcube)}
    assert lucidcube.run is lucidcube.runner.pipeline.run


def test_all_stages_are_offered() -> None:
    assert {cls.__name__ for cls in REGISTRY.values()} == {*lucidcube.stages.__all__}
    for cls in REGISTRY.values():
        assert getattr(lucidcube, cls.__name__) is cls


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'lucidcube' has no attribute 'blur'"):
        lucidcube.blur  # noqa: B018


def test_the_package_declares_its_types() -> None:
    program = "import importlib.resources; print(importlib.resources.files('lucidcube').joinpath('py.typed').is_file())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"
