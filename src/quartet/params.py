"""params.yaml: read once, checked whole, before any work."""

from __future__ import annotations

import difflib
import itertools
import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from quartet import paths
from quartet.errors import InputError

Groups = tuple[tuple[int, ...], ...]

TRIAL = "trial"
VARIANTS = ("ten", "ten-bn", "four", "four-bn")
TRAININGS = (*VARIANTS, TRIAL)

SHOWN = 100  # characters of a refused value that its message shows

Seed = Annotated[int, Field(ge=0, lt=2**32)]


class _Strict(BaseModel):
    model_config = ConfigDict(
        strict=True,
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
    )


class _Recipe(_Strict):
    epochs: int = Field(ge=1, le=1000)
    batch_size: int = Field(ge=1, le=60_000)
    lr: float = Field(gt=0, le=1)
    schedule: Literal["constant", "onecycle"]
    augment: bool
    seed: Seed


class _Shape(_Strict):
    classes: Literal[10, 4]
    bn: bool


class Hyperparameters(_Recipe, _Shape):
    """All that a training depends on besides its data, its class groups and its code."""


class _Data(_Strict):
    source: Literal["auto", "mnist", "sample"]
    validation_fraction: float = Field(gt=0, lt=1)
    seed: Seed


class _Variants(_Strict):
    ten: _Shape
    ten_bn: _Shape = Field(alias="ten-bn")
    four: _Shape
    four_bn: _Shape = Field(alias="four-bn")


class Params(Hyperparameters):
    """The whole of params.yaml: the trial's knobs at the top level, then the sections."""

    data: _Data
    groups: list[list[int]]
    report: _Recipe
    variants: _Variants

    @field_validator("groups")
    @classmethod
    def _each_digit_once(cls, groups: list[list[int]]) -> list[list[int]]:
        digits = sorted(digit for group in groups for digit in group)
        if len(groups) != 4 or not all(groups) or digits != list(range(10)):
            raise ValueError("four non-empty lists that use each digit 0 to 9 exactly once")
        return groups

    def hyperparameters(self, training: str) -> Hyperparameters:
        """The hyperparameters of one of TRAININGS: the trial's own, or the report's with the variant's shape."""
        if training == TRIAL:
            return Hyperparameters(**{name: getattr(self, name) for name in Hyperparameters.model_fields})
        shape: _Shape = getattr(self.variants, training.replace("-", "_"))
        return Hyperparameters(**self.report.model_dump(), **shape.model_dump())

    def class_groups(self, classes: int) -> Groups:
        """The digits that each class merges: ten groups of one digit, or the four groups."""
        if classes == 10:
            return tuple((digit,) for digit in range(10))
        return tuple(tuple(group) for group in self.groups)


class _Yaml12Loader(yaml.SafeLoader):
    """PyYAML reading plain scalars as YAML 1.2 does, and so as DVC does.

    By YAML 1.1, PyYAML's own, `yes` is true and `1e-3` a string; DVC reads a string and a float. A key that stands twice
    is an error, as it is for DVC.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: list[Any] = []
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    problem=f"key '{key}' stands twice", problem_mark=key_node.start_mark
                )
            seen.append(key)
        return super().construct_mapping(node, deep)


# https://yaml.org/spec/1.2.2/#1032-tag-resolution (core schema), without octal and hexadecimal integers.
_Yaml12Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("int", r"[-+]?[0-9]+", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", "-+.0123456789"),
    ("float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", "-+."),
):
    _Yaml12Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), list(_first))
_Yaml12Loader.add_constructor("tag:yaml.org,2002:int", lambda _loader, node: int(node.value))


def load(path: Path = paths.PARAMS) -> Params:
    """Read and check params.yaml.

    Raises InputError, in one line, for a missing or unreadable file and for every key that is unknown, missing, of the
    wrong type or out of range: the key, what was found and what is allowed.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _Yaml12Loader)  # noqa: S506 -- a SafeLoader
    except FileNotFoundError:
        raise InputError(f"{path}: missing; run in the project's root, or `git checkout {path}`") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: not UTF-8 text; `git checkout {path}` brings it back") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}; expected a file of YAML") from None
    except (yaml.YAMLError, ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        # All but the first come of tags that do not fit their values, endless numbers and endless nesting.
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}:" if mark else ""
        problem = " ".join(str(getattr(error, "problem", None) or error).split())
        raise InputError(f"{path}:{where} not valid YAML: {problem}; mend that line") from None
    if not isinstance(content, dict):
        raise InputError(
            f"{path}: expected a mapping of keys, found {_found(content)}; `git checkout {path}` brings it back"
        )
    try:
        return Params.model_validate(content)
    except ValidationError as error:
        raise InputError(f"{path}: " + "; ".join(_explain(problem) for problem in error.errors())) from None


def _found(value: Any) -> str:
    if value is None:
        return "nothing"
    try:
        # Only its beginning: with aliases, a few lines of YAML hold a value of billions of items.
        parts = json.JSONEncoder(ensure_ascii=False, default=str).iterencode(value)
        text = "".join(itertools.islice(parts, SHOWN + 1))
    except ValueError:
        return "a value that holds itself"
    except TypeError:
        return "a mapping whose keys are no names"
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


def _explain(problem: Any) -> str:
    """One pydantic error as `key: expected …, found …`."""
    location, kind, context = problem["loc"], problem["type"], problem.get("ctx", {})
    key = ".".join(str(part) for part in location)
    if kind == "extra_forbidden":
        known = _known_keys(location[:-1])
        close = difflib.get_close_matches(str(location[-1]), known, n=1, cutoff=0.5)
        return f"{key}: unknown key; " + (f"did you mean '{close[0]}'?" if close else f"known: {', '.join(known)}")
    if kind == "missing":
        return f"{key}: missing; add it"
    expected = {
        "bool_type": "true or false",
        "int_type": "a whole number",
        "float_type": "a number",
        "finite_number": "a finite number",
        "list_type": "a list",
        "model_type": "a mapping of keys",
        "invalid_key": "the name of a parameter",
        "literal_error": str(context.get("expected")),
        "greater_than": f"more than {context.get('gt')}",
        "greater_than_equal": f"at least {context.get('ge')}",
        "less_than": f"less than {context.get('lt')}",
        "less_than_equal": f"at most {context.get('le')}",
        "value_error": str(context.get("error")),
    }.get(kind, problem["msg"])
    return f"{key}: expected {expected}, found {_found(problem['input'])}"


def _known_keys(location: tuple[str | int, ...]) -> list[str]:
    model: Any = Params
    for part in location:
        fields = {field.alias or name: field.annotation for name, field in model.model_fields.items()}
        model = fields[str(part)]
    return [field.alias or name for name, field in model.model_fields.items()]


def main() -> None:
    """Check params.yaml and say nothing when it is good."""
    load()


if __name__ == "__main__":
    from quartet import errors

    errors.run(main)
