"""study/params.yaml: which trainings a study consists of, and what is compared."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, NamedTuple

from pydantic import Field

from quartet.base import params, paths
from quartet.base.errors import InputError
from quartet.base.params import Groups, Hyperparameters, Params, Strict

# What a training is for.
ARMS, RATES, WEIGHTS, ORDER, SPLIT, SWEEP = "arms", "rates", "weights", "order", "split", "sweep"

Name = Annotated[str, Field(pattern=f"^{params.NAME.pattern}$")]
Count = Annotated[int, Field(ge=2, le=10_000)]


class Job(NamedTuple):
    """A training of the study: what it is for, whose it is, the seed that varies, and all that its result follows from."""

    question: str
    arm: str
    seed: int
    hyperparameters: Hyperparameters
    groups: Groups
    split_seed: int


class Rates(Strict):
    """Learning rates to try with two arms, the one without batch norm first."""

    arms: list[Name] = Field(min_length=2, max_length=2)
    values: list[Annotated[float, Field(gt=0, le=1)]] = Field(min_length=2)
    epochs: int = Field(ge=1, le=1000)
    seeds: Count


class Sources(Strict):
    """The arm whose initial weights, order of images and split are varied, one at a time."""

    arm: Name
    seeds: Count


class Range(Strict):
    """Numbers from `low` to `high` to choose from, evenly, or with `log` evenly in their logarithms."""

    low: float
    high: float
    log: bool = False


class Sweep(Strict):
    """A search for a recipe: what a trial may be, how many there are, and how the best of them are found and confirmed.

    `base` has what all trials change of params.yaml's `report`, and `before` what the recipe found by hand changes of that.
    `space` has for each hyperparameter a list, or a mapping as Range has it.
    """

    seed: int = Field(ge=0, lt=2**31)
    trials: int = Field(ge=1, le=100_000)
    at_once: int = Field(ge=1, le=1000)
    seeds: int = Field(ge=1, le=100)
    epochs: int = Field(ge=1, le=1000)
    finalists: int = Field(ge=1, le=100)
    final_epochs: int = Field(ge=1, le=1000)
    fresh_seeds: Count
    base: dict[str, Any]
    before: dict[str, Any]
    space: dict[str, Any] = Field(min_length=1)

    def choices(self) -> dict[str, list[Any] | Range]:
        """Return what each hyperparameter is chosen from. InputError if it is neither a list nor a range."""
        return {name: self._choice(f"{paths.STUDY_PARAMS}: sweep.space.{name}", found) for name, found in self.space.items()}

    @staticmethod
    def _choice(where: str, found: Any) -> list[Any] | Range:
        if isinstance(found, list) and found:
            return found
        if not isinstance(found, dict):
            raise InputError(f"{where}: expected a list, or a mapping with low and high, found {json.dumps(found)}")
        choice = params.checked(Range, found, where)
        if choice.low >= choice.high or (choice.log and choice.low <= 0):
            raise InputError(f"{where}: expected low below high, and above 0 with log, found {json.dumps(found)}")
        return choice

    def recipe(self, settings: Params, changes: Mapping[str, Any]) -> Hyperparameters:
        """Return the hyperparameters of a trial that was given these, with the seed of params.yaml's `report`."""
        whole = {**settings.report.model_dump(), "epochs": self.epochs, **self.base, **changes}
        return params.checked(Hyperparameters, whole, f"{paths.STUDY_PARAMS}: sweep")

    def check(self, settings: Params) -> None:
        """Raise InputError, which names the key, for a recipe that cannot be trained."""
        if set_elsewhere := sorted(set(self.space) & {"classes", "bn", "epochs", "seed", "weights_seed", "order_seed"}):
            raise InputError(
                f"{paths.STUDY_PARAMS}: sweep.space.{set_elsewhere[0]}: expected other settings; this one is the same in all"
                " trials"
            )
        self.recipe(settings, self.before)
        for name, choice in self.choices().items():
            for value in (choice.low, choice.high) if isinstance(choice, Range) else choice:
                self.recipe(settings, {name: value})


class Study(Strict):
    """The whole of study/params.yaml."""

    seeds: Count
    margin: float = Field(gt=0, le=100)
    arms: dict[Name, Any] = Field(min_length=1)
    contrasts: dict[Name, Annotated[list[str], Field(min_length=2, max_length=2)]]
    rates: Rates
    sources: Sources
    sweep: Sweep | None = None

    def hyperparameters(self, arm: str, settings: Params) -> Hyperparameters:
        """Return the hyperparameters of an arm, with the seed of params.yaml. InputError if they are not valid."""
        meant = self.arms[arm]
        if isinstance(meant, dict):
            where = f"{paths.STUDY_PARAMS}: arms.{arm}"
            return params.checked(Hyperparameters, {**settings.report.model_dump(), **meant}, where)
        if meant not in settings.variants:
            raise InputError(
                f"{paths.STUDY_PARAMS}: arms.{arm}: expected a variant of {paths.PARAMS} ({', '.join(settings.variants)}),"
                f" or what the arm changes of its `report`, found '{meant}'"
            )
        return settings.variants[meant]


def load(settings: Params) -> Study:
    """Read and check study/params.yaml, with the settings of params.yaml; InputError names the key."""
    study = params.checked(Study, params.read(paths.STUDY_PARAMS), f"{paths.STUDY_PARAMS}")
    for arm in study.arms:
        study.hyperparameters(arm, settings)
    if study.sweep:
        study.sweep.check(settings)
    named = {f"contrasts.{name}": pair for name, pair in study.contrasts.items()}
    for key, arms in {**named, "rates.arms": study.rates.arms, "sources.arm": [study.sources.arm]}.items():
        if missing := [arm for arm in arms if arm not in study.arms]:
            raise InputError(
                f"{paths.STUDY_PARAMS}: {key}: expected arms of this file ({', '.join(study.arms)}), found '{missing[0]}'"
            )
    return study


def at_rate(arm: str, lr: float) -> str:
    """Name an arm at a learning rate."""
    return f"{arm} at {lr:g}"


def jobs(study: Study, settings: Params) -> Sequence[Job]:
    """List the trainings of a study, the arms first, seed by seed."""
    return list(_jobs(study, settings))


def _jobs(study: Study, settings: Params) -> Iterator[Job]:
    base = {arm: study.hyperparameters(arm, settings) for arm in study.arms}
    here = settings.data.seed

    def job(question: str, name: str, number: int, hyperparameters: Hyperparameters, split_seed: int = here) -> Job:
        return Job(question, name, number, hyperparameters, settings.class_groups(hyperparameters.classes), split_seed)

    for seed in range(study.seeds):
        for arm in study.arms:
            yield job(ARMS, arm, seed, _changed(base[arm], seed=seed))
    for seed in range(study.rates.seeds):
        for lr in study.rates.values:
            for arm in study.rates.arms:
                tried = _changed(base[arm], seed=seed, lr=lr, epochs=study.rates.epochs)
                yield job(RATES, at_rate(arm, lr), seed, tried)
    source = study.sources.arm
    for seed in range(study.sources.seeds):
        yield job(WEIGHTS, source, seed, _changed(base[source], weights_seed=seed))
        yield job(ORDER, source, seed, _changed(base[source], order_seed=seed))
        yield job(SPLIT, source, seed, base[source], seed)


def _changed(hyperparameters: Hyperparameters, **changes: object) -> Hyperparameters:
    return hyperparameters.model_copy(update=changes)
