"""params.yaml: read once, checked whole, before any work."""

from __future__ import annotations

import difflib
import itertools
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    field_validator,
    model_validator,
)

from quartet.base import paths
from quartet.base.errors import InputError

Groups = tuple[tuple[int, ...], ...]

TRIAL = paths.TRIAL
NAME = re.compile(r"[a-z0-9-]+")
A_NAME = f"a name of a-z, 0-9 and -, other than {TRIAL}"

# Colours for the variants in a figure, and for all variants in MLflow; repeated if there are more than eight.
COLOURS = ("#2b6cb0", "#dd6b20", "#38a169", "#805ad5", "#d53f8c", "#319795", "#b7791f", "#718096")

SHOWN = 100  # characters of a bad value that a message shows

Seed = Annotated[int, Field(ge=0, lt=2**32)]


Model = TypeVar("Model", bound="Strict")


class Strict(BaseModel):
    """A part of a file of settings: every key is known, of its type, and never changed."""

    model_config = ConfigDict(
        strict=True,
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
    )


class Hyperparameters(Strict):
    """All that a training depends on besides its data, its class groups and its code.

    `seed` sets the initial weights and the order of images, with their augmentation, unless one of them has its own. What
    has a default may be left out.
    """

    classes: Literal[10, 4]
    bn: bool
    epochs: int = Field(ge=1, le=1000)
    batch_size: int = Field(ge=1, le=60_000)
    lr: float = Field(gt=0, le=1)
    schedule: Literal["constant", "onecycle"]
    augment: bool
    seed: Seed
    weights_seed: Seed | None = None
    order_seed: Seed | None = None
    weight_decay: float = Field(default=0.0, ge=0, le=1)
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    ema_decay: float = Field(default=0.0, ge=0, lt=1)
    rotation: float = Field(default=10.0, ge=0, le=180)
    scaling: float = Field(default=0.1, ge=0, lt=1)
    shift: float = Field(default=2.0, ge=0, le=14)
    elastic: float = Field(default=0.0, ge=0, le=14)

    def sizes(self) -> dict[str, float]:
        """Return how much augmentation changes an image at most."""
        return {"rotation": self.rotation, "scaling": self.scaling, "shift": self.shift, "elastic": self.elastic}

    def seeds(self) -> dict[str, int]:
        """Return the seed of the initial weights and that of the order of images."""
        own = {"weights_seed": self.weights_seed, "order_seed": self.order_seed}
        return {name: self.seed if value is None else value for name, value in own.items()}


class _Data(Strict):
    source: Annotated[str, Field(pattern=f"^{NAME.pattern}$")]  # which are known, quartet.data.catalogue says
    validation_fraction: float = Field(gt=0, lt=1)
    seed: Seed


def _variant_name(name: str) -> str:
    if not NAME.fullmatch(name) or name == TRIAL:
        raise ValueError(A_NAME)
    return name


class Params(Hyperparameters):
    """The whole of params.yaml: the trial's settings at the top level, then the sections.

    In the file a variant holds what it changes of `report`; here, all its hyperparameters.
    """

    data: _Data
    groups: list[list[int]]
    report: Hyperparameters
    variants: dict[Annotated[str, AfterValidator(_variant_name)], Hyperparameters] = Field(min_length=1)

    _content: dict[str, Any] = PrivateAttr(default_factory=dict)  # the file's content as it was read

    @model_validator(mode="before")
    @classmethod
    def _complete_variants(cls, content: Any) -> Any:
        """Give each variant the settings of `report` that it does not change."""
        report, variants = content.get("report"), content.get("variants")
        if not (isinstance(report, dict) and isinstance(variants, dict)):
            return content
        whole = {name: {**report, **changes} if isinstance(changes, dict) else changes for name, changes in variants.items()}
        return {**content, "variants": whole}

    @field_validator("groups")
    @classmethod
    def _each_digit_once(cls, groups: list[list[int]]) -> list[list[int]]:
        digits = sorted(digit for group in groups for digit in group)
        if len(groups) != 4 or not all(groups) or digits != list(range(10)):
            raise ValueError("four non-empty lists that use each digit 0 to 9 exactly once")
        return groups

    @property
    def trainings(self) -> tuple[str, ...]:
        """Return the names of all trainings: the variants in their order, then the trial."""
        return (*self.variants, TRIAL)

    def hyperparameters(self, training: str) -> Hyperparameters:
        """Return the hyperparameters of one of the trainings."""
        if training == TRIAL:
            return Hyperparameters(**{name: getattr(self, name) for name in Hyperparameters.model_fields})
        return self.variants[training]

    def key(self, training: str, hyperparameter: str) -> str:
        """Return the key by which params.yaml sets a hyperparameter of a training, as `dvc exp run -S` names it."""
        if training == TRIAL:
            return hyperparameter
        own = f"variants.{training}.{hyperparameter}"
        return f"report.{hyperparameter}" if self.value(own) is None else own

    def value(self, key: str) -> Any:
        """Return what the file has under a key, with dots between keys of nested mappings; None if there is no such key."""
        found: Any = self._content
        for part in key.split("."):
            found = found.get(part) if isinstance(found, dict) else None
        return found

    def class_groups(self, classes: int) -> Groups:
        """Return the digits that each class merges: ten groups of one digit, or the four groups."""
        if classes == 10:
            return tuple((digit,) for digit in range(10))
        return tuple(tuple(group) for group in self.groups)

    def colour(self, training: str) -> str | None:
        """Return the colour of a variant, as #rrggbb; None for the trial, whose runs are many."""
        return None if training == TRIAL else COLOURS[list(self.variants).index(training) % len(COLOURS)]


class _Yaml12Loader(yaml.SafeLoader):
    """PyYAML reading plain scalars as YAML 1.2 does, and so as DVC does.

    By YAML 1.1, PyYAML's own, `yes` is true and `1e-3` a string; DVC reads a string and a float. A key that is there twice
    is an error, as it is for DVC.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: list[Any] = []
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    problem=f"key '{key}' is there twice", problem_mark=key_node.start_mark
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
    """Read and check params.yaml; InputError as `read` and `checked`."""
    content = read(path)
    settings = checked(Params, content, f"{path}")
    settings._content.update(content)
    return settings


def read(path: Path) -> dict[str, Any]:
    """Read a file of settings as DVC reads it.

    Raises InputError, in one line, if it is missing, unreadable or not a mapping in YAML.
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
        # The others come from tags that do not fit their values, huge numbers, and deep nesting.
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}:" if mark else ""
        problem = " ".join(str(getattr(error, "problem", None) or error).split())
        raise InputError(f"{path}:{where} not valid YAML: {problem}; correct that line") from None
    if not isinstance(content, dict):
        raise InputError(
            f"{path}: expected a mapping of keys, found {_found(content)}; `git checkout {path}` brings it back"
        )
    return content


def checked(model: type[Model], content: dict[str, Any], where: str) -> Model:
    """Check settings against a model of them.

    Raises InputError, in one line that begins with `where`, for every key that is unknown, missing, of the wrong type or
    out of range: the key, what was found and what is allowed.
    """
    try:
        return model.model_validate(content)
    except ValidationError as error:
        problems = [problem for problem in error.errors() if _of_the_file(problem["loc"], content)]
        raise InputError(f"{where}: " + "; ".join(_known_once(_explain(problem, model) for problem in problems))) from None


def _found(value: Any) -> str:
    if value is None:
        return "nothing"
    try:
        # Only the beginning: with aliases, a few lines of YAML can expand to billions of items.
        parts = json.JSONEncoder(ensure_ascii=False, default=str).iterencode(value)
        text = "".join(itertools.islice(parts, SHOWN + 1))
    except ValueError:
        return "a value that holds itself"
    except TypeError:
        return "a mapping whose keys are not names"
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


def _of_the_file(location: tuple[str | int, ...], content: Any) -> bool:
    """Tell whether a problem is where the file says it, and not in what a variant has from `report`."""
    if location[0] != "variants" or len(location) < 3 or location[2] == "[key]":
        return True
    return location[2] in content["variants"].get(location[1], ())  # pydantic spells some bad names differently


def _explain(problem: Any, model: type[BaseModel]) -> str:
    """Write a pydantic error as `key: expected …, found …`."""
    location, kind, context = problem["loc"], problem["type"], problem.get("ctx", {})
    key = ".".join(map(str, location[:2] if location[0] == "variants" and location[2:] == ("[key]",) else location))
    if kind == "extra_forbidden":
        known = _known_keys(model, location[:-1])
        close = difflib.get_close_matches(str(location[-1]), known, n=1, cutoff=0.5)
        return f"{key}: unknown key; " + (f"did you mean '{close[0]}'?" if close else f"known: {', '.join(known)}")
    if kind == "missing":
        return f"{key}: missing; add it"
    expected = {
        "bool_type": "true or false",
        "int_type": "a whole number",
        "float_type": "a number",
        "finite_number": "a finite number",
        "string_type": A_NAME,
        "string_pattern_mismatch": "a name of a-z, 0-9 and -",
        "list_type": "a list",
        "model_type": "a mapping of keys",
        "dict_type": "a mapping of keys",
        "too_short": "at least one variant",
        "invalid_key": "the name of a parameter",
        "literal_error": str(context.get("expected")),
        "greater_than": f"more than {context.get('gt')}",
        "greater_than_equal": f"at least {context.get('ge')}",
        "less_than": f"less than {context.get('lt')}",
        "less_than_equal": f"at most {context.get('le')}",
        "value_error": str(context.get("error")),
    }.get(kind, problem["msg"])
    return f"{key}: expected {expected}, found {_found(problem['input'])}"


def _known_once(explained: Iterable[str]) -> Iterator[str]:
    """Yield what explains each error, with a list of known keys only the first time: many keys make a long line."""
    told: set[str] = set()
    for text in explained:
        head, _, names = text.partition("; known: ")
        yield head if names in told else text
        told.update([names] if names else [])


def _known_keys(model: type[BaseModel], location: tuple[str | int, ...]) -> list[str]:
    found: Any = model
    if location and location[0] == "variants":
        found = Hyperparameters
    elif location:
        found = model.model_fields[str(location[0])].annotation
    return list(found.model_fields)
