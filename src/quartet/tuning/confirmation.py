"""The recipe that a search found: its confirmation on fresh seeds, and the page that says what came of it."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from quartet.base import files, paths
from quartet.base.params import Hyperparameters, Params
from quartet.data import splits
from quartet.data.splits import Split
from quartet.model.network import build
from quartet.reporting import figures, tables
from quartet.study import claims, statistics, trained
from quartet.study.claims import POINTS
from quartet.study.design import Sweep
from quartet.study.trained import Data, Trained
from quartet.study.wording import span
from quartet.training import loop
from quartet.training.loop import Examples
from quartet.tuning import search
from quartet.tuning.search import Tried

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from optuna import Study

LONGER = "found-bn-long"  # the arm that is trained for as long as the finalists
PAIRS = (("before", "found"), ("before-bn", "found-bn"))  # what is compared
LEFT = ("arm", "comparison", "setting", "verdict")


class Arm(NamedTuple):
    """A recipe, and of its trainings, one for each fresh seed, the accuracies in percent and how many seconds they took.

    `training` is that on the training images as they are, without augmentation; `missed` is the number of test images that
    all of its networks read wrong.
    """

    recipe: Hyperparameters
    training: NDArray[np.float64]
    validation: NDArray[np.float64]
    test: NDArray[np.float64]
    seconds: NDArray[np.float64]
    missed: int


class Found(NamedTuple):
    """All that a search came to: its trials, the best of them trained for longer, and the recipes that were confirmed.

    `shares` has the importance of each setting, which add up to 1, `margin` the points that matter.
    """

    plan: Sweep
    title: str
    margin: float
    tried: Sequence[Tried]
    finalists: Sequence[Tried]
    arms: Mapping[str, Arm]
    shares: Mapping[str, float]


def arms(plan: Sweep, settings: Params, found: Tried, longer: Tried) -> dict[str, Hyperparameters]:
    """Name the recipes that are confirmed: the one before and the one found, each also with batch norm, and for longer."""
    return {
        "before": plan.recipe(settings, {**plan.before, "bn": False}),
        "before-bn": plan.recipe(settings, {**plan.before, "bn": True}),
        "found": plan.recipe(settings, {**found.changes, "bn": False}),
        "found-bn": plan.recipe(settings, {**found.changes, "bn": True}),
        LONGER: plan.recipe(settings, {**longer.changes, "bn": True, "epochs": plan.final_epochs}),
    }


def confirm(
    plan: Sweep, settings: Params, recipes: Mapping[str, Hyperparameters], pool: Split, test: Split
) -> dict[str, Arm]:
    """Train each recipe with the fresh seeds, on the pipeline's own split of `pool`, and try it on the test set."""
    from tqdm import tqdm

    seeds = range(search.FIRST_FRESH_SEED, search.FIRST_FRESH_SEED + plan.fresh_seeds)
    jobs = [job for seed in seeds for job in search.jobs(recipes, settings, seed, settings.data.seed)]
    data = Data(pool, test, settings.data.validation_fraction)
    results, _ = trained.complete(jobs, data)
    training = data.divided(settings.data.seed)["train"]
    confirmed = {}
    for name, recipe in recipes.items():
        own = [result for job, result in zip(jobs, results, strict=True) if job.arm == name]
        groups = settings.class_groups(recipe.classes)
        seen, labels = loop.examples(training, groups), splits.merge(test.labels, groups)
        shown = tqdm(own, desc=f"{name}, accuracy on training images", unit="network", disable=None)
        right = np.array([np.zeros(len(labels), bool) if result.diverged else result.test == labels for result in own])
        confirmed[name] = Arm(
            recipe,
            100 * np.array([_accuracy(result, recipe, seen) for result in shown]),
            np.array([result.val_accuracy for result in own]),
            100 * right.mean(axis=1),
            np.array([result.seconds for result in own]),
            int((~right).all(axis=0).sum()),
        )
    return confirmed


def _accuracy(result: Trained, recipe: Hyperparameters, examples: Examples) -> float:
    """Return the accuracy of a training's network, 0 to 1; 0 if the training diverged."""
    if result.diverged:
        return 0.0
    network = build(recipe.classes, recipe.bn)
    network.load_state_dict(result.weights)
    return loop.evaluate(network, examples)[1]


def compared(found: Found) -> list[dict[str, Any]]:
    """Compare the recipe found with the one before, seed by seed: on validation, which decides, and on test."""
    rows = []
    for before, after in PAIRS:
        for measure in ("validation", "test"):
            old, new = (getattr(found.arms[name], measure) for name in (before, after))
            contrast = statistics.contrast(new, old, found.margin)
            verdict = claims.verdict(contrast, contrast.p, found.margin)
            rows.append({"comparison": f"{after} - {before}", "measure": measure, "verdict": verdict, **contrast._asdict()})
    return rows


def of_first_seed(study: Study) -> Study:
    """Return a search with its first seed's accuracy as what a trial came to: those that were stopped have it too."""
    import optuna

    seen = optuna.create_study(direction="maximize")
    for it in study.get_trials(deepcopy=False):
        value = it.intermediate_values[0]
        seen.add_trial(optuna.trial.create_trial(params=it.params, distributions=it.distributions, value=value))
    return seen


def shares(study: Study) -> dict[str, float]:
    """Return the importance of each setting for the first seed's accuracy; they add up to 1.

    By functional ANOVA (Hutter and others, 2014, https://proceedings.mlr.press/v32/hutter14.html), without interactions.
    """
    from optuna import importance

    evaluator = importance.FanovaImportanceEvaluator(seed=0)
    return dict(importance.get_param_importances(of_first_seed(study), evaluator=evaluator))


def draw(study: Study, title: str) -> dict[str, bytes]:
    """Draw Optuna's plots of a search, its history and the importance of each setting: PNGs by the names of their files."""
    import matplotlib.pyplot as plt
    from optuna import importance
    from optuna.exceptions import ExperimentalWarning
    from optuna.visualization import matplotlib as plots

    evaluator = importance.FanovaImportanceEvaluator(seed=0)
    drawn = {}
    with figures.style(), warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)  # the pinned version draws them
        history = plots.plot_optimization_history(study, target_name="a trial")
        history.set_title(f"Mean validation accuracy in percent, trials with all seeds\ndata: {title}")
        for line in history.get_lines():  # the best so far, which stays until there is a better one
            line.set_drawstyle("steps-post")
        history.set_ylabel("")
        history.legend(loc="best")
        shared = plots.plot_param_importances(of_first_seed(study), evaluator=evaluator)
        shared.set_title("", loc="left")  # Optuna's
        shared.set_title(f"Importance for the accuracy of a first training\ndata: {title}")
        shared.set(xlabel="", ylabel="")
        if legend := shared.get_legend():
            legend.remove()
        for name, panel in (("history", history), ("importance", shared)):
            content = io.BytesIO()
            figure = cast("Figure", panel.get_figure())
            figure.savefig(content, format="png", dpi=150, bbox_inches="tight", metadata={"Software": None})
            plt.close(figure)
            drawn[f"{name}.png"] = content.getvalue()
    return drawn


def write(found: Found, pictures: Mapping[str, bytes]) -> None:
    """Write stages/sweep/, the page about it last."""
    shown = page(found)
    paths.RECIPE.unlink(missing_ok=True)
    files.write_csv(paths.SWEEP_TRIALS, [_row(it) for it in found.tried])
    files.write_csv(paths.SWEEP_FINALISTS, [_row(it) for it in found.finalists])
    rows = [
        {
            "arm": name,
            "seed": search.FIRST_FRESH_SEED + place,
            "train_accuracy": f"{training:.4f}",
            "val_accuracy": f"{validation:.4f}",
            "test_accuracy": f"{test:.2f}",
            "seconds": f"{seconds:.1f}",
        }
        for name, arm in found.arms.items()
        for place, (training, validation, test, seconds) in enumerate(
            zip(arm.training, arm.validation, arm.test, arm.seconds, strict=True)
        )
    ]
    files.write_csv(paths.SWEEP_CONFIRMATION, rows)
    for name, content in pictures.items():
        files.write_bytes(paths.SWEEP_FIGURES / name, content)
    files.write_bytes(paths.RECIPE, shown.encode())


def _row(it: Tried) -> dict[str, Any]:
    return {
        "trial": it.number,
        "mean": f"{it.mean:.4f}",
        "stopped": str(it.stopped).lower(),
        "accuracies": " ".join(f"{accuracy:.4f}" for accuracy in it.accuracies),
        **it.changes,
        "seconds": f"{it.seconds:.1f}",
    }


def page(found: Found) -> str:
    """Write what the search did and found, in Markdown."""
    plan, trainings = found.plan, sum(len(it.accuracies) for it in found.tried)
    hours, longer, confirmed = (
        float(np.sum([it.seconds for it in group])) / 3600 for group in (found.tried, found.finalists, found.arms.values())
    )
    stopped = sum(it.stopped for it in found.tried)
    return "\n\n".join(
        [
            f"# The recipe that the search found ({found.title})",
            _headline(found),
            _arms(found),
            f"Means over {plan.fresh_seeds} seeds after the last epoch; in brackets, 95% intervals of the mean. The search"
            " used neither these seeds nor these validation images. `before` is the recipe that was found by hand, `found`"
            " the best trial; `-bn` is with batch norm, which all trials had. The training accuracy is that of the images"
            " without augmentation. Missed by all are the test images that the networks of all seeds read wrong. A training"
            " that diverges counts as one without a right answer.",
            _comparisons(found),
            f"**holds**: p is below 0.05, and the whole interval is above {found.margin:g} points.",
            "## The search",
            f"{len(found.tried)} trials of {plan.epochs} epochs, {stopped} of them stopped after their first training:"
            f" {trainings:,} trainings, which took a core {hours:.1f} hours. So an hour on two cores buys about"
            f" {2 * len(found.tried) / hours:.0f} trials. Then the best {len(found.finalists)} were trained for"
            f" {plan.final_epochs} epochs with {plan.seeds} seeds, for {longer:.1f} hours of a core, and the recipes above"
            f" for {confirmed:.1f}.",
            _settings(found),
            "The importance is by functional ANOVA, the correlation that of ranks (Spearman's): above 0, higher values went"
            " with higher accuracies. Both are of the first training of all trials; the search tries more often what was"
            " good before.",
            f"![The trials with all seeds]({paths.SWEEP_FIGURES.name}/history.png)",
            f"![The importance of each setting]({paths.SWEEP_FIGURES.name}/importance.png)\n",
        ]
    )


def _headline(found: Found) -> str:
    before, short, longer = (found.arms[name] for name in ("before-bn", "found-bn", LONGER))
    old, new, last = (span(statistics.summary(arm.test)._asdict(), POINTS, sign="") for arm in (before, short, longer))
    return (
        f"Of {len(found.tried)} recipes, the best on validation images brings the network with batch norm from {old} % to"
        f" {new} % test accuracy in {short.recipe.epochs} epochs, the best of {longer.recipe.epochs} epochs to {last} %"
        f" ({found.plan.fresh_seeds} fresh seeds)."
    )


def _arms(found: Found) -> str:
    return tables.table(
        [
            {
                "arm": name,
                "epochs": str(arm.recipe.epochs),
                "test acc. % [95%]": span(statistics.summary(arm.test)._asdict(), POINTS, sign=""),
                "min": f"{arm.test.min():.2f}",
                "max": f"{arm.test.max():.2f}",
                "val acc. %": f"{arm.validation.mean():.2f}",
                "train acc. %": f"{arm.training.mean():.2f}",
                "missed by all": f"{arm.missed:,}",
            }
            for name, arm in found.arms.items()
        ],
        LEFT,
    )


def _comparisons(found: Found) -> str:
    return tables.table(
        [
            {
                "comparison": f"{row['comparison']}, {row['measure']}",
                "difference [95%]": span(row, POINTS),
                "p": f"{row['p']:#.2g}",
                "verdict": f"**{row['verdict']}**",
            }
            for row in compared(found)
        ],
        LEFT,
    )


def _settings(found: Found) -> str:
    best, longer = search.best(found.tried, 1)[0], found.finalists[0]
    return tables.table(
        [
            {
                "setting": name,
                "importance": f"{100 * share:.0f} %",
                "correlation": _correlation(found.tried, name),
                f"best of {found.plan.epochs} epochs": str(best.changes[name]),
                f"best of {found.plan.final_epochs} epochs": str(longer.changes[name]),
            }
            for name, share in found.shares.items()
        ],
        LEFT,
    )


def _correlation(tried: Sequence[Tried], name: str) -> str:
    values, accuracies = [it.changes[name] for it in tried], [it.accuracies[0] for it in tried]
    if isinstance(values[0], str) or len(set(values)) < 2 or len(set(accuracies)) < 2:
        return "–"
    return f"{stats.spearmanr(values, accuracies).statistic:+.2f}"
