"""Say in one line each what is wrong with the parameters of a stage or a config."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from lucidcube.errors import did_you_mean
from lucidcube.stages.base import REGISTRY, Stage, by_word

_MESSAGES = {
    "missing": "must be given",
    "model_type": "must be a mapping of keys to values",
    "model_attributes_type": "must be a mapping of keys to values",
    "tuple_type": "must be a list",
}


def stage_problems(stage: type[Stage], error: ValidationError) -> list[str]:
    """Describe all validation errors of a stage, in one line each."""
    if stage.__dict__.get("choices"):
        return [stage_problem(e, stage.name, stage.name, e["loc"]) for e in error.errors()]
    return [problem(e, stage, e["loc"], stage.name) for e in error.errors()]


def stage_problem(error: ErrorDetails, name: str, where: str, loc: Sequence[Any]) -> str:
    """Describe a validation error of a stage, where `loc` begins with the words that choose the variant."""
    if name not in REGISTRY:
        return problem(error, Stage, (), where)
    stage = REGISTRY[name]
    variants, words = stage.variants(), len(stage.choices)
    for choice, word in zip(stage.choices, loc, strict=False):
        variants = by_word(variants, choice)[word]
    if error["type"] == "union_tag_invalid":
        return problem(error, stage, [error["ctx"]["discriminator"].strip("'")], where)
    return problem(error, variants[0], loc[words:], where)


def problem(error: ErrorDetails, model: type[BaseModel], loc: Sequence[Any], where: str = "") -> str:
    """Describe a validation error at a place within a model."""
    place = ".".join([where] * bool(where) + [str(p) for p in loc if isinstance(p, str)])
    kind, context, given = error["type"], error.get("ctx", {}), error.get("input")
    if kind == "extra_forbidden":
        hint = _of_variant(model, loc) or did_you_mean(str(loc[-1]), _fields_at(model, loc))
        return f"{place}: unknown key{hint}"
    message = _MESSAGES.get(kind, error["msg"].removeprefix("Value error, "))
    if kind in ("literal_error", "union_tag_invalid"):
        given = context.get("tag", given)
        words = re.findall(r"'([^']*)'", context.get("expected_tags") or context["expected"])
        message = f"must be one of {', '.join(words)}{did_you_mean(str(given), words, others=False)}"
    shown = (
        f" (not {given!r})" if kind not in ("missing", "value_error") and not isinstance(given, dict) else ""
    )
    return f"{place}: " * bool(place) + f"{message[0].lower()}{message[1:]}{shown}"


def _of_variant(model: type[BaseModel], loc: Sequence[Any]) -> str:
    """Say which other choices of a stage a key belongs to; nothing if there is none."""
    if not issubclass(model, Stage) or len(loc) != 1:
        return ""
    words = [
        f"{choice}: {word}"
        for choice in model.choices
        for word, variants in by_word(model.variants(), choice).items()
        if all(loc[0] in variant.model_fields for variant in variants)
    ]
    return f" here; it belongs to {' or '.join(words)}" if words else ""


def _fields_at(model: type[BaseModel], loc: Sequence[Any]) -> Mapping[str, Any]:
    """Return the fields of the innermost model that contains the place."""
    for part in loc[:-1]:
        field = model.model_fields[part]
        kinds = (field.annotation, *get_args(field.annotation))
        model = next(a for a in kinds if isinstance(a, type) and issubclass(a, BaseModel))
    return model.model_fields
