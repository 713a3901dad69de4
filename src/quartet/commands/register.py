"""`quartet register`: the trained models in MLflow's registry, and which of them is the champion."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from quartet.base import errors, files, params, paths, process
from quartet.base.errors import InputError, WorkError
from quartet.commands import pipeline_runs
from quartet.data import splits
from quartet.evaluation import comparison, predictions
from quartet.tracking import attempts, registry, store
from quartet.tracking.registry import Version

if TYPE_CHECKING:
    from quartet.evaluation.recognition import Model
    from quartet.study.statistics import Contrast

ALPHA = 0.05
RECIPE = "recipe"  # tag of a version: the fingerprint by which a study knows its training
CARD = """\
A convolutional network of {parameters:,} trained values that reads {what}, trained as `{variant}` on {data}.

- Test accuracy: {test:.2f} % of {images:,} images (95% Wilson interval {low:.2f} to {high:.2f}); on validation {val:.2f} %.
- Input: `float32 [batch, 1, 28, 28]`, one digit in each image, centred, light on dark, pixels from 0 to 1.
- Output: a score from 0 to 1 for each class: {classes}. The scores do not add up to 1.
- Limits: it has seen digits of {data} alone. Whatever an image shows, a letter or nothing, it names a digit.
- Do not use it where a misread digit can do harm, as on cheques, forms or meters, without a person who checks.
- Settings: {settings}.
"""


def registered_name(data: str, classes: int) -> str:
    """Name the registered model of a data set and a number of classes: `mnist-ten`."""
    return f"{data}-{splits.IN_WORDS[classes]}"


def card(model: Model, test: Mapping[str, Any], images: int) -> str:
    """Describe a model for those who consider using it, in Markdown."""
    training = model.training
    right = np.arange(images) < round(test["accuracy"] * images)
    low, high = comparison.interval(right)
    names = training.class_names
    return CARD.format(
        parameters=sum(parameter.numel() for parameter in model.network.parameters()),
        what="handwritten digits" if len(names) == 10 else f"which of {len(names)} groups a handwritten digit is in",
        variant=training.name,
        data=training.source.title,
        test=100 * test["accuracy"],
        low=low,
        high=high,
        images=images,
        val=100 * model.val_accuracy,
        classes=", ".join(names),
        settings=", ".join(
            f"{key} {value}" for key, value in training.hyperparameters.model_dump(exclude_defaults=True).items()
        ),
    )


def tags(model: Model, test: Mapping[str, Any], images: Mapping[str, str]) -> dict[str, str]:
    """Return the tags of a model's version; `images` has the SHA-256 of each split."""
    from quartet.commands import recipes

    training = model.training
    return {
        "variant": training.name,
        "data": training.source.title,
        "classes": ", ".join(training.class_names),
        "validation": training.splits["validation"],
        RECIPE: recipes.fingerprint(training, images),
        "val_accuracy": f"{model.val_accuracy:.6g}",
        "test_accuracy": f"{test['accuracy']:.6g}",
    }


def verdict_of_study(contrast: Contrast) -> tuple[bool, str]:
    """Tell whether a challenger's recipe is better than the champion's over the seeds of a study, and say why."""
    return contrast.low > 0, (
        f"over {contrast.n} seeds its recipe has {contrast.mean:+.2f} points of validation accuracy"
        f" (95% interval {contrast.low:+.2f} to {contrast.high:+.2f})"
    )


def verdict(before: NDArray[np.bool_], after: NDArray[np.bool_]) -> tuple[bool, str]:
    """Tell whether a challenger is better than the champion on the same validation images, and say why.

    Each array tells for each image whether the model answered it right.
    """
    change = comparison.change(before, after)
    what = (
        f"of {len(before):,} validation images it gets {change.gained} right that the champion does not, and"
        f" {change.lost} the other way round (p = {change.p:#.2g})"
    )
    better = change.gained > change.lost and change.p < ALPHA
    return better, what


def attempt(action: Callable[[], Any]) -> Any:
    """Return what the action returns; WorkError if MLflow fails, after its warning."""
    found = attempts.attempt(action)
    if found is attempts.FAILED:
        raise WorkError("MLflow is not up to date; see the warning above, then run `quartet register` again")
    return found


def register_all(models: Mapping[str, Model]) -> dict[str, Version]:
    """Register each trained model, if it is not registered yet; return their versions by training."""
    scores, described = predictions.read_metrics(), splits.load_manifest()["splits"]
    digests = {split: it["sha256"] for split, it in described.items()}
    found = {}
    for name, model in models.items():
        registered = registered_name(model.training.source.data, len(model.training.groups))
        weights = files.sha256(paths.model(name))
        found[name] = attempt(
            partial(
                registry.register,
                registered,
                model.training.source.title,
                weights,
                tags(model, scores[name], digests),
                card(model, scores[name], described["test"]["images"]),
            )
        )
        if found[name] is None:
            raise WorkError(f"MLflow ({store.uri()}) has no model of {name}; `make sync` logs it")
    return found


def correct(model: Model, validation: splits.Split) -> NDArray[np.bool_]:
    """Tell for each validation image whether a model is right."""
    from quartet.evaluation import recognition

    answers = recognition.scores(model, validation.images).argmax(axis=1)
    return np.asarray(answers == splits.merge(validation.labels, model.training.groups))


def choose(models: Mapping[str, Model], versions: Mapping[str, Version], validation: splits.Split) -> None:
    """Let the best of the trained models, by validation accuracy, challenge the champion; say what came of it."""
    from quartet.commands import recipes

    name = max(models, key=lambda training: models[training].val_accuracy)
    challenger, registered = versions[name], versions[name].name
    champion = attempt(partial(registry.champion, registered))
    title = f"{registered}: version {challenger.number} ({name})"
    if champion is None:
        attempt(partial(registry.crown, challenger))
        tell(f"{title} is the champion: there was none")
        return
    if champion.number == challenger.number:
        tell(f"{title} stays the champion: no other is better on validation")
        return
    mine = models[name].training.splits["validation"]
    if champion.tags.get("validation") != mine:
        tell(
            f"{registered}: version {champion.number} ({champion.tags.get('variant')}) stays the champion: it was validated"
            f" on other images, so nobody can compare; `quartet register --force {name}` decides"
        )
        return
    contrast = recipes.compare(*(version.tags.get(RECIPE, "") for version in (champion, challenger)))
    if contrast:
        better, why = verdict_of_study(contrast)
    else:
        local = next((other for other in models if versions[other].number == champion.number), None)
        before = correct(models[local], validation) if local else loaded(champion, models[name], validation)
        better, why = verdict(before, correct(models[name], validation))
    if better:
        attempt(partial(registry.crown, challenger))
        tell(f"{title} is the champion, not version {champion.number} ({champion.tags['variant']}) any more: {why}")
    else:
        tell(f"{registered}: version {champion.number} ({champion.tags['variant']}) stays the champion; {name}: {why}")


def loaded(champion: Version, other: Model, validation: splits.Split) -> NDArray[np.bool_]:
    """Tell for each validation image whether a registered model, of the same classes as another, is right."""
    scores, _ = attempt(partial(registry.load, champion.uri))
    labels = splits.merge(validation.labels, other.training.groups)
    return np.asarray(scores(validation.images).argmax(axis=1) == labels)


def tell(message: str) -> None:
    """Print a message, in lines that fit a terminal of 80 columns."""
    for line in textwrap.wrap(f"register: {message}", 80, subsequent_indent="  ", break_long_words=False):
        errors.tell(line)


def main(arguments: Sequence[str]) -> None:
    """Register the trained models in MLflow; the alias `champion` moves to a model that is better on validation."""
    parser = process.Parser(prog="quartet register", description=main.__doc__)
    parser.add_argument("--force", metavar="TRAINING", help="make this training's model the champion, better or not")
    parser.add_argument("--rollback", metavar="MODEL", help="make the champion before this one the champion again")
    options = parser.parse_args(arguments)
    if options.rollback:
        version = attempt(partial(registry.roll_back, options.rollback))
        if version is None:
            raise InputError(f"--rollback: {options.rollback} had no champion before this one that is still there")
        tell(f"{version.name}: version {version.number} ({version.tags.get('variant')}) is the champion again")
        return
    from quartet.evaluation import recognition

    names = params.load().trainings
    if options.force and options.force not in names:
        raise InputError(f"--force: expected one of {', '.join(names)}, found '{options.force}'")
    models = recognition.load(names)
    if not pipeline_runs.bring_up_to_date(names):
        raise WorkError("MLflow is not up to date; see the warning above, then run `quartet register` again")
    versions = register_all(models)
    if options.force:
        attempt(partial(registry.crown, versions[options.force]))
        version = versions[options.force]
        tell(f"{version.name}: version {version.number} ({options.force}) is the champion, as you say")
        return
    validation = splits.load_split("validation")
    for registered in dict.fromkeys(version.name for version in versions.values()):
        chosen = {name: model for name, model in models.items() if versions[name].name == registered}
        choose(chosen, versions, validation)
