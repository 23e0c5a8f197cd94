"""Define what a stage is: a frozen, validated set of parameters that maps a cube to a lazy cube."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Annotated, Any, ClassVar, Self, Union, get_args

import xarray as xr
from astropy import units
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from lucidcube.cube import DATA, HISTORY, PSF, PSF_PLANE, WAVELENGTH, X, Y, block_sizes, require
from lucidcube.errors import ConfigError
from lucidcube.io.header_cards import quantity_of
from lucidcube.lift.windows import planes_read

REGISTRY: dict[str, type[Stage]] = {}
"""The stages by name."""

NOISE_IS_ESTIMATED = "the cube has no variance: the noise is estimated from each plane"
"""Warning of stages that need a variance and have none."""

_VARIANTS: dict[str, list[type[Stage]]] = {}


def parameter(default: Any, unit: str, text: str, **constraints: Any) -> Any:
    """Declare a field of a stage.

    The default is immutable, or ``...`` for a parameter that must be given. The unit is ``"m"``, ``"pixel"``,
    ``"standard deviations"``, ... or ``""`` for a pure number or a word. Help, documentation and templates
    show the text. The constraints are those of `pydantic.Field`: ``gt``, ``ge``, ``lt``, ``le``, ...
    """
    return Field(default, description=text, json_schema_extra={"unit": unit}, **constraints)


def _si_value(value: Any) -> Any:
    """Convert text such as ``1 nm`` or ``2 GHz`` to a number in SI units; return anything else as it is."""
    if not isinstance(value, str):
        return value
    try:
        quantity = quantity_of(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{value!r} is not a number with a unit, such as '1 nm'") from error
    for unit in (units.m, units.Hz, units.m / units.s, units.dimensionless_unscaled):
        if quantity.unit.is_equivalent(unit):
            return float(quantity.to_value(unit))
    raise ValueError(f"{value!r} is neither a wavelength, a frequency nor a velocity")


SpectralWidth = Annotated[float, BeforeValidator(_si_value, json_schema_input_type=float | str)]
"""A width on the spectral axis in SI units; text such as ``"1 nm"`` is accepted."""


def _kinds(annotation: Any) -> set[Any]:
    """Return a type and all that it is made of."""
    return {annotation}.union(*map(_kinds, get_args(annotation)))


def _has_bool(value: Any) -> bool:
    return isinstance(value, bool) or (isinstance(value, list | tuple) and any(map(_has_bool, value)))


class Parameters(BaseModel):
    """Base class of everything that the user can set: frozen, and unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _no_bool_as_number(cls, values: Any) -> Any:
        """Refuse true and false where a number is meant, for which pydantic takes 1 and 0."""
        for name, value in values.items() if isinstance(values, Mapping) else ():
            field = cls.model_fields.get(name) if isinstance(name, str) else None
            kinds = set() if field is None else _kinds(field.annotation)
            if kinds & {int, float} and bool not in kinds and _has_bool(value):
                raise ValueError(f"{name}: true and false are no numbers")
        return values


class Stage(Parameters, ABC):
    """Base class of the stages; defining a subclass with a `name` registers it.

    A stage that offers several methods (or models) with parameters of their own is a base class that lists
    in `choices` the fields that choose between them. Each method is a subclass without a `name`, which
    narrows these fields to one word, ``method: Literal["ssa"]``; only the default method also has this word
    as its default. Calling the base class, ``Interpolate(method="ssa", window=5)``, creates an instance of
    the chosen subclass.
    """

    name: ClassVar[str]
    """Name in configs and on the command line."""
    version: ClassVar[int] = 1
    """Number to increase when the results for the same parameters change, to invalidate old checkpoints."""
    choices: ClassVar[tuple[str, ...]] = ()
    """Names of the fields that choose a variant."""
    requires: ClassVar[tuple[str, ...]] = (DATA,)
    """Variables that the cube must have."""
    optional: ClassVar[tuple[str, ...]] = ()
    """Variables that are used if the cube has them."""
    prepared_by: ClassVar[tuple[str, ...]] = ()
    """Names of stages of which one must come before, unless the data of the file are like their results."""
    produces: ClassVar[tuple[str, ...]] = (DATA,)
    """Variables that are added or changed."""
    drops: ClassVar[tuple[str, ...]] = ()
    """Variables that are removed, because they are not valid for the result."""
    copies: ClassVar[float]
    """Float32 planes in memory per plane of a block, input and output included."""
    scratch: ClassVar[float] = 0
    """Additional float32 planes in memory while the kernel works on one plane."""
    together_copies: ClassVar[float] = 0
    """Additional float32 planes in memory per plane of a block whose planes are computed together."""
    halo: ClassVar[int] = 0
    """Planes on either side of a group that a stage needs which works on windows of planes."""
    tag: ClassVar[str]
    """Suffix that is added to the name of a file."""
    files: ClassVar[tuple[str, ...]] = (DATA,)
    """Variables that are each read from a file when the stage is run as a command."""

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        if "name" in cls.__dict__:
            REGISTRY[cls.name], _VARIANTS[cls.name] = cls, []
        elif hasattr(cls, "name"):  # otherwise it is a base class of stages
            _VARIANTS[cls.name].append(cls)

    def __new__(cls, **values: Any) -> Self:
        """Create an instance of the chosen variant, which pydantic then initialises with the same values.

        ConfigError is raised if a parameter is unknown or has an invalid value, with one line for each.
        pydantic calls this without values for the stages in a config, which it has validated before.
        """
        from lucidcube.stages.problems import stage_problems  # which imports this module

        try:
            if cls.__dict__.get("choices"):
                return super().__new__(type(cls.parse(values)))
            if values:
                cls.model_validate(values)
            return super().__new__(cls)
        except ValidationError as error:
            raise ConfigError(*stage_problems(cls, error)) from None

    @classmethod
    def variants(cls) -> Sequence[type[Stage]]:
        """Return the classes that an instance of this stage can have."""
        return _VARIANTS[cls.name] or [cls]

    @classmethod
    def union(cls) -> Any:
        """Return the type of this stage for pydantic: a union of the variants, discriminated by the choices.

        A choice that is not given is taken from the variant that has a default for it.
        """
        fields = [(key, v.model_fields[key]) for v in cls.variants() for key in cls.choices]
        usual = {key: field.default for key, field in fields if not field.is_required()}
        return Annotated[
            _union(cls.variants(), cls.choices),
            BeforeValidator(lambda values: {**usual, **values} if isinstance(values, Mapping) else values),
        ]

    @classmethod
    def parse(cls, values: Any) -> Self:
        """Return the stage with these parameters, an instance of the variant that they choose.

        pydantic.ValidationError is raised if a parameter is unknown or has an invalid value.
        """
        return _adapter(cls).validate_python(values)

    @abstractmethod
    def apply(self, cube: xr.Dataset) -> xr.Dataset:
        """Return the result for a cube that has the required variables; lazy if the cube is."""

    def __call__(self, cube: xr.Dataset) -> xr.Dataset:
        """Apply the stage to a cube; nothing is computed if the data are dask arrays.

        CubeError is raised if a variable is missing, or if the grid of the cube does not suit the parameters.
        """
        require(cube, self.requires, self.name)
        made = self.apply(cube)
        made = made.drop_vars([v for v in self.drops if v in made.variables])
        made.attrs[HISTORY] = [*made.attrs.get(HISTORY, []), {"stage": self.name, **self.flat()}]
        return made

    @property
    def computes_together(self) -> bool:
        """Whether the planes of a block can be computed together with an array library."""
        return self.together_copies > 0

    def halo_of(self, cube: xr.Dataset) -> int:
        """Return the planes on either side of a group that are needed of this cube; 0 without windows."""
        return self.halo

    def working_bytes(self, before: xr.Dataset, after: xr.Dataset) -> int:
        """Return the bytes of memory needed to compute one block, given the lazy cubes around the stage."""
        planes, halo = max(block_sizes(after)), self.halo_of(before)
        if halo:
            planes = planes_read(planes, before.sizes[WAVELENGTH], halo)
        pixels = (self.copies * planes + self.scratch) * before.sizes[Y] * before.sizes[X]
        return int(4 * (pixels + 2 * planes * self._excess_of_psf(before)))

    def _excess_of_psf(self, cube: xr.Dataset) -> int:
        """Return the number of pixels by which the PSF, if it is required, is larger than a plane."""
        if PSF not in self.requires:
            return 0
        return max(0, math.prod(cube.sizes[n] for n in PSF_PLANE) - cube.sizes[Y] * cube.sizes[X])

    def together_bytes(self, before: xr.Dataset, after: xr.Dataset) -> int:
        """Return the bytes of memory that a block needs in addition if its planes are computed together.

        The memory of the device is not part of them.
        """
        pixels = self.together_copies * before.sizes[Y] * before.sizes[X] + 2 * self._excess_of_psf(before)
        return int(4 * max(block_sizes(after)) * pixels)

    def check(self, cube: xr.Dataset) -> None:
        """Raise CubeError if the stage cannot give a meaningful result for this cube; do nothing by default.

        This is called before the computation starts. Small parts of the cube may be computed here.
        """

    def warnings(self, cube: xr.Dataset) -> Iterator[str]:
        """Yield warnings about applying the stage to this cube; the default yields none.

        A few planes may be computed. If they show that the result would mean nothing, CubeError is raised.
        """
        return iter(())

    def findings(self, cube: xr.Dataset) -> Iterator[str]:
        """Yield warnings about the result, which has been computed; the default yields none.

        Numbers per plane may be read as a whole, and a few planes of the other variables.
        """
        return iter(())

    def file_tag(self) -> str:
        """Return the suffix that is added to the name of a file with these parameters."""
        return self.tag

    def flat(self) -> dict[str, Any]:
        """Return the parameters as plain data, from which `parse` makes the same stage."""
        return {name: _plain(value) for name, value in self.model_dump(mode="json").items()}

    def fingerprint(self) -> dict[str, Any]:
        """Return the name, the version and the parameters, on which the result depends."""
        return {"stage": self.name, "version": self.version, "parameters": self.flat()}


def by_word(variants: Sequence[type[Stage]], choice: str) -> dict[str, list[type[Stage]]]:
    """Group variants by the word that they have for a choice."""
    groups: dict[str, list[type[Stage]]] = {}
    for variant in variants:
        (word,) = get_args(variant.model_fields[choice].annotation)
        groups.setdefault(word, []).append(variant)
    return groups


def _union(variants: Sequence[type[Stage]], choices: Sequence[str]) -> Any:
    if not choices:
        return variants[0]
    members = [_union(group, choices[1:]) for group in by_word(variants, choices[0]).values()]
    return Annotated[Union[tuple(members)], Field(discriminator=choices[0])]  # noqa: UP007


@cache
def _adapter(stage: type[Stage]) -> TypeAdapter[Any]:
    return TypeAdapter(stage.union())


def _plain(value: Any) -> Any:
    """Return a value that JSON can represent, with infinity and NaN as words, which validation accepts."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
