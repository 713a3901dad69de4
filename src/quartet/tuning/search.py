"""The search for a recipe: Optuna chooses what is tried, and accuracy on validation images decides."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from filelock import FileLock, Timeout

from quartet.base import files
from quartet.base.errors import InputError
from quartet.base.params import Hyperparameters, Params
from quartet.study.design import SWEEP, Job, Range, Sweep

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import BaseTrial, FrozenTrial, Trial

FIRST_SEED, FIRST_FRESH_SEED = 100, 200  # nothing else here is trained with these seeds
STARTUP = 10  # trials that must be over before one is chosen by what they came to, or stopped early
DIGITS = 2  # significant ones of a number that is tried


class Score(NamedTuple):
    """What a training came to: its validation accuracy in percent, and how many seconds it took."""

    accuracy: float
    seconds: float


# Trains recipes with the seed of that place, 0 and up.
Train = Callable[[Sequence[Hyperparameters], int], Sequence[Score]]


class Tried(NamedTuple):
    """A trial that is over: what it changed, and its validation accuracy in percent for each seed that it was trained with.

    `stopped` says that it was not trained with all of them, `seconds` for how long one core worked at it.
    """

    number: int
    changes: Mapping[str, Any]
    accuracies: Sequence[float]
    stopped: bool
    seconds: float

    @property
    def mean(self) -> float:
        """Return the mean accuracy in percent."""
        return sum(self.accuracies) / len(self.accuracies)


def search(sweep: Sweep, settings: Params, train: Train, journal: Path, on_round: Callable[[Study], None]) -> Study:
    """Make the trials of a search that the journal does not have yet, in rounds; return all of them.

    A search with the same settings makes the same trials, on however many processors and however often it was killed: a
    round follows from those before it and from seeds of its own, and its trials are kept when all of them are over.
    `on_round` is called after each round. InputError if Optuna is not installed.
    """
    study = opened(journal)
    while (over := len(study.get_trials(deepcopy=False))) < sweep.trials:
        first = over // sweep.at_once * sweep.at_once
        last = min(first + sweep.at_once, sweep.trials)
        done = _round(study, sweep, settings, range(first, last), train)
        study.add_trials(done[over - first :])  # the first ones are there if a kill came just now
        on_round(study)
    return in_memory(study, sweep.trials)


def in_memory(study: Study, count: int) -> Study:
    """Return a search of its own with the first trials of another one."""
    import optuna

    copy = optuna.create_study(direction="maximize", pruner=optuna.pruners.MedianPruner(n_startup_trials=STARTUP))
    copy.add_trials(study.get_trials(deepcopy=False)[:count])
    return copy


@contextmanager
def alone(journal: Path) -> Iterator[None]:
    """Let the block work with a journal; InputError if another process does."""
    journal.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(journal.with_suffix(".lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise InputError(f"{lock.lock_file}: another `make sweep` works at this search; wait until it ends") from None
    try:
        yield
    finally:
        lock.release()


def opened(journal: Path) -> Study:
    """Open the search that a journal keeps, or begin it.

    InputError if Optuna is not installed, or if the journal is damaged, as by a full disk.
    """
    try:
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend
    except ImportError:
        raise InputError("Optuna is not installed; `make sweep` installs it") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        storage = JournalStorage(JournalFileBackend(str(journal)))
        return optuna.create_study(storage=storage, study_name=SWEEP, direction="maximize", load_if_exists=True)
    except (ValueError, KeyError) as error:
        raise InputError(
            f"{journal}: damaged ({error}); delete it and run `make sweep`: trainings that are kept are not repeated"
        ) from None


def finished(study: Study) -> list[Tried]:
    """List the trials of a search, in their order."""
    return [
        Tried(
            trial.number,
            changes(trial),
            [trial.intermediate_values[step] for step in sorted(trial.intermediate_values)],
            trial.state.name == "PRUNED",
            trial.user_attrs["seconds"],
        )
        for trial in study.get_trials(deepcopy=False)
    ]


def best(tried: Sequence[Tried], count: int) -> list[Tried]:
    """Return the best of the trials that were trained with all seeds, the best first."""
    return sorted((it for it in tried if not it.stopped), key=lambda it: (-it.mean, it.number))[:count]


def digest(sweep: Sweep, settings: Params, code: str, images: str) -> str:
    """Return the SHA-256 of all that a search's trials follow from but their number.

    `code` is the digest of the code that trains, `images` that of the images that are divided.
    """
    return files.content_digest(
        {
            "sweep": sweep.model_dump(include={"seed", "at_once", "seeds", "epochs", "base", "space"}),
            "order": list(sweep.space),  # in which Optuna draws them
            "report": settings.report.model_dump(),
            "groups": [list(group) for group in settings.groups],
            "fraction": settings.data.validation_fraction,
            "code": [code, files.sha256(Path(__file__)), version("optuna")],
            "images": images,
        }
    )


def changes(trial: BaseTrial) -> dict[str, Any]:
    """Return what a trial changes; a number from a range has DIGITS significant digits, but stays in its range."""
    from optuna.distributions import FloatDistribution

    found = dict(trial.params)
    for name, choice in trial.distributions.items():
        if isinstance(choice, FloatDistribution):
            found[name] = min(max(float(f"{found[name]:.{DIGITS}g}"), choice.low), choice.high)
    return found


def jobs(recipes: Mapping[str, Hyperparameters], settings: Params, seed: int, split_seed: int) -> list[Job]:
    """List one training of each recipe, by name."""
    return [
        Job(SWEEP, name, seed, recipe.model_copy(update={"seed": seed}), settings.class_groups(recipe.classes), split_seed)
        for name, recipe in recipes.items()
    ]


def _round(study: Study, sweep: Sweep, settings: Params, numbers: Sequence[int], train: Train) -> list[FrozenTrial]:
    """Make the trials of these numbers, which follow from those before them.

    They are trained seed by seed, and one whose first accuracy is below the median of those before it is stopped then. None
    of them is over before all are, so none is stopped because of another one of them.
    """
    import optuna

    # In memory: a trial that a kill left half chosen in the journal would be chosen otherwise the next time.
    memory = in_memory(study, numbers[0])
    trials = [_chosen(memory, sweep, number) for number in numbers]
    going = trials
    for step in range(sweep.seeds):
        scores = train([sweep.recipe(settings, changes(trial)) for trial in going], step)
        for trial, score in zip(going, scores, strict=True):
            trial.set_user_attr("seconds", round(trial.user_attrs.get("seconds", 0) + score.seconds, 3))
            trial.report(score.accuracy, step)
        if step == 0 < sweep.seeds - 1:  # all have the same images here; later ones differ in how hard their images are
            going = [trial for trial in going if not trial.should_prune()]
    for trial in trials:
        if trial in going:
            memory.tell(trial, float(np.mean(list(memory.trials[trial.number].intermediate_values.values()))))
        else:
            memory.tell(trial, state=optuna.trial.TrialState.PRUNED)
    return memory.trials[numbers[0] :]


def _chosen(study: Study, sweep: Sweep, number: int) -> Trial:
    """Choose what the trial of that number is."""
    from optuna.samplers import TPESampler

    seed = int(np.random.SeedSequence((sweep.seed, number)).generate_state(1)[0])
    study.sampler = TPESampler(seed=seed, n_startup_trials=STARTUP, multivariate=True, constant_liar=True)
    trial = study.ask()
    for name, choice in sweep.choices().items():
        if isinstance(choice, Range):
            trial.suggest_float(name, choice.low, choice.high, log=choice.log)
        else:
            trial.suggest_categorical(name, choice)
    return trial
