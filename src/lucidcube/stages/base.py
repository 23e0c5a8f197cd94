"""What a stage is: a frozen, validated set of parameters that can be called, cube in, lazy cube out."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Union, get_args, get_origin

import xarray as xr
from astropy import units
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from lucidcube.cube import DATA, HISTORY, X, Y, block_sizes, require


def parameter(default: Any = ..., *, unit: str, text: str, **constraints: Any) -> Any:
    """A field of a stage: its default, its unit and one sentence on what it does.

    Parameters
    ----------
    default
        Leave it out for a parameter that must be given.
    unit
        ``"m"``, ``"pixel"``, ``"standard deviations"``, ... or ``""`` for a bare number or word.
    text
        What it does, as shown in help, docs and templates.
    constraints
        As for `pydantic.Field`: ``gt``, ``ge``, ``lt``, ``le``, ``min_length``, ...
    """
    if not isinstance(default, (str, int, float, bool, tuple, type(None), type(...), BaseModel)):
        raise TypeError(f"the default of a parameter must be immutable, not {default!r}")
    return Field(default, description=text, json_schema_extra={"unit": unit}, **constraints)


def _metres(value: Any) -> Any:
    """Length or frequency in SI units, of a number or of text such as ``1 nm`` or ``2 GHz``."""
    if isinstance(value, str):
        try:
            quantity = units.Quantity(value)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{value!r} is not a number with a unit, such as '1 nm'") from error
        for unit in (units.m, units.Hz, units.m / units.s):
            if quantity.unit.is_equivalent(unit):
                return float(quantity.to_value(unit))
        if quantity.unit == units.dimensionless_unscaled:
            return float(quantity.value)
        raise ValueError(f"{value!r} is neither a wavelength, a frequency nor a velocity")
    return value


SpectralWidth = Annotated[float, BeforeValidator(_metres)]
"""A width on the spectral axis in SI units; text such as ``"1 nm"`` is understood."""


class Parameters(BaseModel):
    """Base of everything that the user can set: frozen, and nothing unknown is let in."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=True)


class Variant(Parameters):
    """One way of doing a stage's work, with the parameters that only this way has.

    A subclass names itself by a literal field (``method: Literal["linear"] = "linear"``), the same
    field in all the ways of one choice; in a config its parameters stand beside the stage's own.
    """


class Stage(Parameters, ABC):
    """A step of a track. A subclass is registered by being defined.

    Attributes
    ----------
    name
        What it is called in configs and on the command line.
    version
        Raised when the same parameters give other numbers; old checkpoints are then not reused.
    requires
        Variables that the cube must have.
    optional
        Variables used if the cube has them.
    produces
        Variables that are made or changed.
    drops
        Variables that no longer hold afterwards.
    copies
        Planes of float32 alive per plane of a block while it is worked on, input and output counted.
    scratch
        Planes of float32 that the kernel needs besides, while it works on one plane.
    tag
        What the stage adds to the name of a file.
    files
        Variables that come from a file each when the stage is a command.
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1
    requires: ClassVar[tuple[str, ...]] = (DATA,)
    optional: ClassVar[tuple[str, ...]] = ()
    produces: ClassVar[tuple[str, ...]] = (DATA,)
    drops: ClassVar[tuple[str, ...]] = ()
    copies: ClassVar[float]
    scratch: ClassVar[float] = 0
    tag: ClassVar[str]
    files: ClassVar[tuple[str, ...]] = (DATA,)

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        if "name" in cls.__dict__:
            REGISTRY[cls.name] = cls

    @abstractmethod
    def apply(self, cube: xr.Dataset) -> xr.Dataset:
        """The stage's work on a cube that has what it requires; lazy if the cube is."""

    def __call__(self, cube: xr.Dataset) -> xr.Dataset:
        """Apply the stage.

        Parameters
        ----------
        cube
            With the variables that the stage requires.

        Returns
        -------
        xarray.Dataset
            A new cube; nothing is computed if the data are dask arrays.

        Raises
        ------
        CubeError
            If the cube lacks something, or its grid does not suit the parameters.
        """
        require(cube, self.requires, self.name)
        made = self.apply(cube)
        made = made.drop_vars([v for v in self.drops if v in made.variables])
        made.attrs[HISTORY] = [*made.attrs.get(HISTORY, []), {"stage": self.name, **self.flat()}]
        return made

    def working_bytes(self, before: xr.Dataset, after: xr.Dataset) -> int:
        """Bytes alive while one block is worked on.

        Parameters
        ----------
        before, after
            The lazy cubes around the stage.
        """
        pixels = before.sizes[Y] * before.sizes[X]
        return int((self.copies * max(block_sizes(after)) + self.scratch) * pixels * 4)

    def check(self, cube: xr.Dataset) -> None:
        """Look at the data before the work begins; nothing by default.

        Parameters
        ----------
        cube
            With what the stage requires; may be computed here, a little at a time.

        Raises
        ------
        CubeError
            If the stage cannot do anything sensible with it.
        """

    def warnings(self, cube: xr.Dataset) -> Iterator[str]:
        """What the user should know before this stage works on such a cube; nothing by default."""
        return iter(())

    def file_tag(self) -> str:
        """What the stage adds to the name of a file, with these parameters."""
        return self.tag

    def flat(self) -> dict[str, Any]:
        """The parameters as a user writes them: those of the chosen variants beside the stage's own."""
        values = self.model_dump(mode="json")
        for key in self.choices():
            values |= {**values.pop(key)}
        return {name: _plain(value) for name, value in values.items()}

    def fingerprint(self) -> dict[str, Any]:
        """All of the stage that its result depends on."""
        return {"stage": self.name, "version": self.version, "parameters": self.flat()}

    @classmethod
    def choices(cls) -> dict[str, dict[str, type[Variant]]]:
        """For each field that chooses between variants, the variants by their literal name."""
        found = {}
        for key, field in cls.model_fields.items():
            members = _members(field.annotation)
            if members and all(isinstance(m, type) and issubclass(m, Variant) for m in members):
                found[key] = {get_args(m.model_fields[key].annotation)[0]: m for m in members}
        return found

    @model_validator(mode="before")
    @classmethod
    def _gather_variants(cls, values: Any) -> Any:
        """Move the parameters of the chosen variants from beside the stage's own into the variant."""
        if not isinstance(values, Mapping):
            return values
        values = dict(values)
        for key, members in cls.choices().items():
            chosen = values.get(key, getattr(cls.model_fields[key].default, key, None))
            if isinstance(chosen, str) and chosen in members:
                names = members[chosen].model_fields.keys() - {key}
                values[key] = {key: chosen} | {n: values.pop(n) for n in list(values) if n in names}
            elif isinstance(chosen, str):
                # The name is wrong: say that, and not that the parameters beside it are unknown too.
                theirs = {n for member in members.values() for n in member.model_fields}
                values = {n: v for n, v in values.items() if n not in theirs} | {key: {key: chosen}}
        return values

    @classmethod
    def settings(cls, chosen: Mapping[str, str] | None = None) -> dict[str, Any]:
        """Every field that a user may set, by name, for the chosen (or default) variants."""
        fields: dict[str, Any] = {}
        for key, field in cls.model_fields.items():
            members = cls.choices().get(key)
            if members is None:
                fields[key] = field
                continue
            name = (chosen or {}).get(key, getattr(field.default, key))
            fields |= members.get(name, type(field.default)).model_fields
        return fields


REGISTRY: dict[str, type[Stage]] = {}
"""Every stage by name."""


def _plain(value: Any) -> Any:
    """As JSON can hold it: what is not finite becomes a word, which validation understands."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _members(annotation: Any) -> tuple[Any, ...]:
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    if get_origin(annotation) is Union or type(annotation).__name__ == "UnionType":
        return get_args(annotation)
    return (annotation,) if isinstance(annotation, type) else ()
