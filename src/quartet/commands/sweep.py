"""`make sweep`: search for a recipe by validation accuracy, then confirm it on fresh seeds and the test set."""

from __future__ import annotations

import json
import subprocess
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from quartet.base import params, paths, process
from quartet.base.errors import InputError, WorkError
from quartet.base.params import Hyperparameters, Params
from quartet.data import idx, splits
from quartet.study import design, engine, trained
from quartet.study.claims import POINTS
from quartet.study.design import Job, Sweep
from quartet.study.trained import Data, Trained
from quartet.study.wording import span
from quartet.tuning import confirmation, search, trials
from quartet.tuning.search import Score, Tried

if TYPE_CHECKING:
    from optuna import Study

EXPERIMENT = "recipe"  # DVC's name for what was found


def in_words(changes: Mapping[str, object]) -> str:
    """Write what a trial changes, as `dvc exp run -S` takes it."""
    return " ".join(f"{name}={json.dumps(value)}" for name, value in changes.items())


def make_trials(plan: Sweep, settings: Params, data: Data, key: str, title: str) -> Study:
    """Make the trials of the search of this digest that are missing; say what each came to, here and in MLflow."""
    journal = journal_of(key)
    said = {it.number for it in search.finished(search.opened(journal))}
    print(f"sweep: {plan.trials} trials, {min(len(said), plan.trials)} of them done before", flush=True)

    def tell(study: Study) -> None:
        tried = search.finished(study)
        for it in tried:
            if it.number not in said:
                seeds = f"{len(it.accuracies)} of {plan.seeds} seeds" if it.stopped else f"{plan.seeds} seeds"
                print(f"sweep: trial {it.number}: {it.mean:.2f} % ({seeds}) {in_words(it.changes)}", flush=True)
                said.add(it.number)
        trials.log_trials(key, title, tried)

    return search.search(plan, settings, partial(train, settings, data), journal, tell)


def journal_of(key: str) -> Path:
    """Return where the trials of the search of this digest are kept."""
    return paths.project_root() / paths.TRAININGS / f"sweep-{key[:12]}.journal"


def train(settings: Params, data: Data, recipes: Sequence[Hyperparameters], step: int) -> list[Score]:
    """Train each recipe with the seed of a step, which sets the validation images too."""
    jobs = at_seed(settings, dict(enumerate(recipes)), step)
    results = trained.complete(jobs, data, quiet=True)[0] if jobs else []
    return [Score(training.val_accuracy, training.seconds) for training in results]


def at_seed(settings: Params, recipes: Mapping[int, Hyperparameters], step: int) -> list[Job]:
    """List the trainings of these recipes with the seed of a step."""
    seed = search.FIRST_SEED + step
    return search.jobs({str(number): recipe for number, recipe in recipes.items()}, settings, seed, seed)


def train_longer(plan: Sweep, settings: Params, data: Data, chosen: Sequence[Tried]) -> list[Tried]:
    """Train the best trials for longer; return them with what they came to, the best first."""
    recipes = {it.number: plan.recipe(settings, {**it.changes, "epochs": plan.final_epochs}) for it in chosen}
    jobs = [job for step in range(plan.seeds) for job in at_seed(settings, recipes, step)]
    done: dict[str, list[Trained]] = defaultdict(list)
    for job, training in zip(jobs, trained.complete(jobs, data)[0], strict=True):
        done[job.arm].append(training)
    longer = [
        it._replace(
            accuracies=[training.val_accuracy for training in done[str(it.number)]],
            seconds=sum(training.seconds for training in done[str(it.number)]),
        )
        for it in chosen
    ]
    for it in longer:
        print(f"sweep: trial {it.number}, {plan.final_epochs} epochs: {it.mean:.2f} %", flush=True)
    return search.best(longer, len(longer))


def save_experiment(recipe: Hyperparameters) -> None:
    """Train the trial with a recipe, and its own seeds, as an experiment of DVC's; params.yaml stays as it is."""
    changes = in_words(recipe.model_dump(exclude={"seed", "weights_seed", "order_seed"}))
    options = [word for change in changes.split() for word in ("-S", change)]
    if EXPERIMENT in dvc("exp", "list", "--name-only").split():
        dvc("exp", "remove", EXPERIMENT)
    dvc("exp", "run", "--temp", "--name", EXPERIMENT, *options, paths.TRIAL)
    print(f"sweep: `dvc exp apply {EXPERIMENT}` makes it the trial", flush=True)


def dvc(*words: str) -> str:
    """Return what a command of DVC's prints; WorkError, with DVC's own reason, if it fails."""
    done = subprocess.run(["dvc", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        reasons = [line for line in done.stderr.splitlines() if line.startswith("ERROR: ")]
        reason = reasons[0].removeprefix("ERROR: ") if reasons else f"status {done.returncode}"
        raise WorkError(f"dvc {' '.join(words)}: {reason}; then `make sweep` again: it trains nothing twice")
    return done.stdout


def main(arguments: Sequence[str]) -> None:
    """Search for the trial's recipe, confirm it on fresh seeds and the test set, and write stages/sweep/."""
    process.Parser(prog="quartet sweep", description=main.__doc__).parse_args(arguments)
    settings = params.load()
    study = design.load(settings)
    if not (plan := study.sweep):
        raise InputError(f"{paths.STUDY_PARAMS}: sweep: missing; `git checkout {paths.STUDY_PARAMS}` brings it back")
    # The pipeline's validation images are kept for the confirmation.
    data, title = Data(splits.load_split("train"), None, settings.data.validation_fraction), splits.load_source().title
    key = search.digest(plan, settings, trained.code_digest(), splits.load_manifest()["splits"]["train"]["sha256"])
    with search.alone(journal_of(key)), engine.cluster():
        searched = make_trials(plan, settings, data, key, title)
        tried = search.finished(searched)
        (found, *_) = chosen = search.best(tried, plan.finalists)
        finalists = train_longer(plan, settings, data, chosen)
        recipes = confirmation.arms(plan, settings, found, finalists[0])
        # All is chosen: only now is the test set read.
        idx.check()
        pool, test = (splits.Split(*pair) for pair in idx.read_sets(paths.RAW))
        arms = confirmation.confirm(plan, settings, recipes, pool, test)
    shares = confirmation.shares(searched)
    came_to = confirmation.Found(plan, title, study.margin, tried, finalists, arms, shares)
    confirmation.write(came_to, confirmation.draw(searched, title))
    for row in confirmation.compared(came_to):
        print(f"sweep: {row['comparison']}, {row['measure']}: {span(row, POINTS)} points, {row['verdict']}", flush=True)
    print(f"sweep: {paths.RECIPE}, and the figures in {paths.SWEEP_FIGURES}/ ({title})", flush=True)
    trials.log_search(
        key, title, tried, {f"{name}_test_accuracy_mean": float(arm.test.mean()) for name, arm in arms.items()}
    )
    save_experiment(recipes["found-bn"])
