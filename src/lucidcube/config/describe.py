"""What the registry says about the stages: help, Markdown, a JSON schema, and a commented config."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from lucidcube.config.schema import DECONVOLVE, Checkpoints, Config, Input, Output
from lucidcube.stages.base import REGISTRY, Stage

TEMPLATE_TRACKS = {
    "target": ("example_data/target.fits{DATA}", ("rebin", "artefacts", "mask", "interpolate")),
    "star": ("example_data/star.fits{DATA}", ("rebin", "normalise_psf", "fit_psf")),
}


def stage_text(cls: type[Stage]) -> str:
    """One stage in plain text: what it does, and every parameter with default and unit."""
    lines = [f"{cls.name}: {inspect.cleandoc(cls.__doc__ or '')}", ""]
    lines.append(f"needs {', '.join(cls.requires)}; makes {', '.join(cls.produces)}")
    for title, fields in _groups(cls):
        lines += ["", f"{title}:"]
        for name, field in fields.items():
            lines.append(f"  {name} = {_default(field)}{_unit(field, ' [{}]')}")
            lines += textwrap.wrap(
                field.description or "", 96, initial_indent="      ", subsequent_indent="      "
            )
    return "\n".join(lines)


def summary() -> str:
    """Every stage on a line."""
    return "\n".join(f"{name:14} {_first_line(cls)}" for name, cls in REGISTRY.items())


def settings_help(cls: type[Stage]) -> dict[str, str]:
    """Every parameter of a stage with a line of help, those of all variants included."""
    lines: dict[str, str] = {}
    for key, members in cls.choices().items():
        usual = getattr(cls.model_fields[key].default, key)
        lines[key] = f"{cls.model_fields[key].description}: {', '.join(members)} (default {usual})"
    for title, fields in _groups(cls):
        only = f" (only {title.split(' - ')[0].removesuffix(' (default)')})" if title != "parameters" else ""
        for name, field in fields.items():
            text = f"{_short(field)}{_unit(field, ' [{}]')} (default {_default(field)}){only}"
            lines[name] = f"{lines[name]}; or {text}" if name in lines else text
    return lines


def stages_markdown() -> str:
    """The page `docs/stages.md`."""
    parts = [
        "# Stages\n\nMade from the stages themselves by `lucidcube stages --markdown`; do not edit.\n",
        "| stage | what it does | makes |\n|---|---|---|",
    ]
    for name, cls in REGISTRY.items():
        parts[-1] += (
            f"\n| [{name}](#{name}) | {_first_line(cls)} | {', '.join(f'`{v}`' for v in cls.produces)} |"
        )
    for name, cls in REGISTRY.items():
        parts.append(f"\n## {name}\n\n{inspect.cleandoc(cls.__doc__ or '')}")
        for title, fields in _groups(cls):
            parts.append(
                f"\n{title[0].upper()}{title[1:]}:\n\n| name | default | unit | meaning |\n|---|---|---|---|"
            )
            parts[-1] += "".join(
                f"\n| `{n}` | `{_default(f)}` | {_unit(f, '{}')} | {_cell(f.description)} |"
                for n, f in fields.items()
            )
    return "\n".join(parts) + "\n"


def template() -> str:
    """A config with every parameter, commented, at its default."""
    lines = ["# Every parameter of lucidcube at its default. Made by `lucidcube config template`.", ""]
    for track, (path, stages) in TEMPLATE_TRACKS.items():
        lines += [f"{track}:", f"  input: {path}"]
        for name, field in Input.model_fields.items():
            if name != "input":
                lines.append(f"  # {name}: {_short(field)}")
        lines.append("  stages:")
        for name in stages:
            lines += [f"    # {_first_line(REGISTRY[name])}", f"    - {name}:"]
            lines += [f"        {line}" for line in _commented(REGISTRY[name])]
    lines += ["", f"# {_first_line(REGISTRY[DECONVOLVE])}", f"{DECONVOLVE}:"]
    lines += [f"  {line}" for line in _commented(REGISTRY[DECONVOLVE])]
    for key, model in (("output", Output), ("checkpoints", Checkpoints)):
        lines += ["", f"{key}:"]
        for name, field in model.model_fields.items():
            lines += [f"  {line}" for line in _entry(name, field)]
    lines += ["", *_entry("profile", Config.model_fields["profile"])]
    return "\n".join(lines) + "\n"


def schema() -> dict[str, Any]:
    """JSON schema of a config, for editors."""
    stages = {name: cls.model_json_schema() for name, cls in REGISTRY.items()}
    definitions: dict[str, Any] = {}
    flat = {}
    for name, cls in REGISTRY.items():
        own = stages[name]
        definitions |= own.pop("$defs", {})
        variants = cls.choices()
        own["properties"] = {k: v for k, v in own["properties"].items() if k not in variants}
        for key, members in variants.items():
            own["properties"][key] = {"enum": list(members)}
            for member in members.values():
                inner = member.model_json_schema()
                definitions |= inner.pop("$defs", {})
                own["properties"] |= {k: v for k, v in inner["properties"].items() if k != key}
        flat[name] = own
    inside = [n for n in flat if n != DECONVOLVE]
    item = {
        "anyOf": [
            {"enum": inside},
            *({"type": "object", "properties": {n: flat[n]}, "required": [n]} for n in inside),
        ]
    }
    track = Input.model_json_schema()
    track["properties"]["stages"] = {"type": "array", "items": item}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "lucidcube config",
        "type": "object",
        "additionalProperties": False,
        "required": ["target"],
        "properties": {
            "target": track,
            "star": track,
            DECONVOLVE: flat[DECONVOLVE],
            "output": Output.model_json_schema(),
            "checkpoints": Checkpoints.model_json_schema(),
            "profile": {"type": "string", "default": Config.model_fields["profile"].default},
        },
        "$defs": definitions,
    }


def _groups(cls: type[Stage]) -> Iterator[tuple[str, Mapping[str, FieldInfo]]]:
    """The parameters of a stage, then those of each variant."""
    choices = cls.choices()
    own = {n: f for n, f in cls.model_fields.items() if n not in choices}
    if own:
        yield "parameters", own
    for key, members in choices.items():
        usual = getattr(cls.model_fields[key].default, key)
        for name, member in members.items():
            fields = {n: f for n, f in member.model_fields.items() if n != key}
            note = " (default)" if name == usual else ""
            yield f"with {key}: {name}{note} - {_first_line(member)}", fields


def _commented(cls: type[Stage]) -> Iterator[str]:
    """YAML lines of one stage."""
    choices = cls.choices()
    for name, field in cls.model_fields.items():
        if name not in choices:
            yield from _entry(name, field)
            continue
        usual = getattr(field.default, name)
        yield from _comment(f"{field.description}: {', '.join(choices[name])}")
        yield f"{name}: {usual}"
        for inner, inner_field in choices[name][usual].model_fields.items():
            if inner != name:
                yield from _entry(inner, inner_field)


def _entry(name: str, field: FieldInfo) -> Iterator[str]:
    yield from _comment(f"{field.description}{_unit(field, ' [{}]')}")
    yield f"{name}: {_default(field)}"


def _comment(text: str) -> list[str]:
    return textwrap.wrap(text, 92, initial_indent="# ", subsequent_indent="# ")


def _short(field: FieldInfo) -> str:
    return " ".join((field.description or "").split())


def _default(field: FieldInfo) -> str:
    """The default as YAML on one line."""
    if field.is_required():
        return "(must be given)"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    plain = _plain(value)
    text = yaml.safe_dump(plain, default_flow_style=True, width=10_000).strip()
    return text.removesuffix("...").strip()


def _plain(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return value


def _unit(field: FieldInfo, form: str) -> str:
    extra = field.json_schema_extra
    unit = extra.get("unit", "") if isinstance(extra, dict) else ""
    return form.format(unit) if unit else ""


def _first_line(thing: type) -> str:
    return inspect.cleandoc(thing.__doc__ or "").split("\n\n")[0].replace("\n", " ")


def _cell(text: str | None) -> str:
    return " ".join((text or "").split()).replace("|", "\\|")
