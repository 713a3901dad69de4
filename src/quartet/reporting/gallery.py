"""Choose what the figures of stage plot show: which trainings together, in which order, under which titles."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from quartet.base.params import TRIAL
from quartet.data import splits
from quartet.evaluation import comparison
from quartet.evaluation.predictions import Result
from quartet.reporting import figures


class Group(NamedTuple):
    """What is drawn together: a word for the names of the files, a title, a note, and the trained models by panel."""

    word: str
    title: str
    note: str
    panels: dict[str, Result]


def groups(results: Mapping[str, Result]) -> Iterator[Group]:
    """Yield the variants of as many classes, for each number of classes, then the trial beside its variant.

    Two variants that differ in batch norm alone are told apart by that, others by their names.
    """
    variants = comparison.variants(results)
    for classes in dict.fromkeys(settings.classes for settings in variants.values()):
        word = splits.IN_WORDS[classes]
        chosen = {name: results[name] for name, settings in variants.items() if settings.classes == classes}
        settings = [variants[name] for name in chosen]
        if len(settings) == 2 and settings[0].model_copy(update={"bn": not settings[0].bn}) == settings[1]:
            chosen = {
                "with batch norm" if result.record.hyperparameters.bn else "without batch norm": result
                for result in chosen.values()
            }
        yield Group(word, f"{word.capitalize()} classes", "", chosen)
    if TRIAL in results:
        compared = comparison.trial(results)
        if compared is None:
            yield Group(TRIAL, "Trial", "no variant has as many classes", {TRIAL: results[TRIAL]})
        else:
            other, changes = compared
            unbroken = [f"{key}\N{NO-BREAK SPACE}{new}" for key, (_, new) in changes.items()]
            note = f"unlike {other}: {', '.join(unbroken)}" if changes else f"with the settings of {other}"
            yield Group(TRIAL, "Trial", note, {other: results[other], TRIAL: results[TRIAL]})


def draw_all(results: Mapping[str, Result], images: NDArray[np.uint8], data_title: str) -> dict[str, bytes]:
    """Draw all trained models, whose answers are for these images uint8 [n, 28, 28].

    Returns PNGs by the names of their files, in the report's order.
    """
    chosen = list(groups(results))
    names = {group.word: next(iter(group.panels.values())).record.class_names for group in chosen}
    drawn = {}
    for word, title, note, panels in chosen:
        epochs = {panel: result.epochs for panel, result in panels.items()}
        beside = {name: epochs.pop(name) for name in list(epochs) if word == TRIAL and name != TRIAL}
        drawn[f"loss-{word}.png"] = figures.losses(f"{title}: loss", data_title, epochs, beside, note)
    for word, title, note, panels in chosen:
        epochs = {panel: result.epochs for panel, result in panels.items()}
        drawn[f"accuracy-{word}.png"] = figures.accuracies(f"{title}: validation accuracy", data_title, epochs, note)
    for word, title, note, panels in chosen:
        matrices = {panel: result.metrics["confusion"] for panel, result in panels.items()}
        heading = f"{title}: confusion on the test set"
        drawn[f"confusion-{word}.png"] = figures.confusions(heading, data_title, names[word], matrices, note)
    for word, title, note, panels in chosen:
        answers = {panel: (result.labels, result.predicted) for panel, result in panels.items()}
        heading = f"{title}: misclassified test images"
        drawn[f"mistakes-{word}.png"] = figures.mistakes(heading, data_title, names[word], answers, images, note=note)
    return drawn
