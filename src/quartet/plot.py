"""Stage plot: the report's figures and the results tables, for all trained models."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.stats.contingency import crosstab

from quartet import data, errors, figures, files, history, params, paths, results

PAIRS = {
    "ten": ("Ten classes", {"without batch norm": "ten", "with batch norm": "ten-bn"}),
    "four": ("Four classes", {"without batch norm": "four", "with batch norm": "four-bn"}),
    "trial": ("Trial", {"trial": "trial"}),
}


def read(name: str) -> results.Result:
    """What the stages before left of one training; InputError where any of it is missing or damaged."""
    files.check_digests(paths.digests(name), "evaluate")
    rows = files.read_csv(paths.EVALUATE / name / "predictions.csv")
    return results.Result(
        summary=history.read_summary(name),
        epochs=history.read(name),
        metrics=files.read_json(paths.metrics(name)),
        digits=np.array([int(row["digit"]) for row in rows]),
        actual=np.array([row["actual"] for row in rows]),
        predicted=np.array([row["predicted"] for row in rows]),
    )


def matrix(result: results.Result) -> NDArray[np.int64]:
    """The confusion matrix of a trained model's predictions: rows true, columns predicted."""
    names = data.class_names(result.summary["groups"])
    counts: NDArray[np.int64] = crosstab(result.actual, result.predicted, levels=(names, names)).count
    return counts


def main() -> None:
    """Write stages/plot/."""
    groups = params.load().groups
    everything = {name: read(name) for name in params.TRAININGS}
    source = everything["ten"].summary["data"]
    title = data.TITLES[source]
    for file, (name, panels) in PAIRS.items():
        chosen = {panel: everything[training] for panel, training in panels.items()}
        epochs = {panel: result.epochs for panel, result in chosen.items()}
        classes = data.class_names(next(iter(chosen.values())).summary["groups"])
        confusions = {panel: matrix(result) for panel, result in chosen.items()}
        files.write_bytes(paths.PLOT / f"loss-{file}.png", figures.losses(f"{name}: loss", title, epochs))
        files.write_bytes(
            paths.PLOT / f"accuracy-{file}.png", figures.accuracies(f"{name}: validation accuracy", title, epochs)
        )
        files.write_bytes(
            paths.PLOT / f"confusion-{file}.png",
            figures.confusions(f"{name}: confusion on the test set", title, classes, confusions),
        )
    page = results.page(everything, title, groups, comparable=source == "mnist")
    files.write_bytes(paths.RESULTS, page.encode())
    print(f"plot: {paths.RESULTS} and the figures beside it ({title})")


if __name__ == "__main__":
    errors.run(main)
