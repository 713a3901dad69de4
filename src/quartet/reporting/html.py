"""Write the page of results: one HTML file that needs nothing else, with the trained networks in it."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.ticker import LogLocator, MaxNLocator
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from quartet.base.params import COLOURS, TRIAL
from quartet.data import idx
from quartet.evaluation import recognition
from quartet.evaluation.predictions import Result
from quartet.evaluation.recognition import Model
from quartet.evaluation.report import SOURCE
from quartet.reporting import gallery, tables

TEMPLATE = Path(__file__).parent / "template"
ABREAST = 32  # images side by side in the one picture that holds them
MOST_IMAGES = 2_000  # on the page; if more are wrong, EACH of every cell
EACH = 12  # right images of every class, for comparison
GREY = "#8a94a3"  # the trial's curves: it has no colour of its own
WIDTH, HEIGHT, LEFT, BOTTOM, EDGE = 440, 250, 52, 24, 8  # of a chart, in its own units

Images = NDArray[np.uint8]


class Shown(NamedTuple):
    """The images that the page has: their places in the test set, and those of each model's cells by place in that list."""

    places: list[int]
    cells: dict[str, dict[str, list[int]]]
    partial: bool


def network(model: nn.Sequential) -> dict[str, Any]:
    """Describe a network's layers for the page, with its values as base64 of little-endian float32, in their order."""
    layers, values = [], []
    for layer in model:
        described: dict[str, Any] = {"type": type(layer).__name__}
        if isinstance(layer, nn.Conv2d):
            described |= {"filters": layer.out_channels, "kernel": layer.kernel_size[0]}
            described |= {"stride": layer.stride[0], "padding": layer.padding[0]}
        elif isinstance(layer, nn.BatchNorm2d):
            described["eps"] = layer.eps
        elif isinstance(layer, (nn.MaxPool2d, nn.AvgPool2d)):
            described["size"] = layer.kernel_size
        elif isinstance(layer, nn.Linear):
            described["classes"] = layer.out_features
        layers.append(described)
        state = layer.state_dict()
        values += [state[key].numpy().ravel() for key in ("weight", "bias", "running_mean", "running_var") if key in state]
    content = np.concatenate(values).astype("<f4").tobytes()
    return {"layers": layers, "weights": base64.b64encode(content).decode()}


def choose_images(results: Mapping[str, Result]) -> Shown:
    """Choose the test images that the page has: all wrong answers if they fit, and some right ones of each class."""
    wrong = np.unique(np.concatenate([np.flatnonzero(~result.correct) for result in results.values()]))
    partial = len(wrong) > MOST_IMAGES
    by_cell: dict[str, dict[str, list[int]]] = {}
    for name, result in results.items():
        cells = by_cell[name] = {}
        for place, (actual, predicted) in enumerate(zip(result.labels.tolist(), result.predicted.tolist(), strict=True)):
            cell = cells.setdefault(f"{actual},{predicted}", [])
            if len(cell) < EACH or (actual != predicted and not partial):
                cell.append(place)
    places = sorted({place for cells in by_cell.values() for cell in cells.values() for place in cell})
    number = {place: at for at, place in enumerate(places)}
    numbered = {
        name: {key: [number[place] for place in cell] for key, cell in cells.items()} for name, cells in by_cell.items()
    }
    return Shown(places, numbered, partial)


def sprite(images: Images) -> str:
    """Put images uint8 [n, 28, 28] into one picture, ABREAST in each row: base64 of a PNG."""
    rows = -(-len(images) // ABREAST)
    sheet = np.zeros((rows, ABREAST, idx.SIDE, idx.SIDE), dtype=np.uint8)
    sheet.reshape(-1, idx.SIDE, idx.SIDE)[: len(images)] = images
    content = io.BytesIO()
    whole = sheet.transpose(0, 2, 1, 3).reshape(rows * idx.SIDE, ABREAST * idx.SIDE)
    Image.fromarray(whole).save(content, "PNG", optimize=True)
    return base64.b64encode(content.getvalue()).decode()


def charts(results: Mapping[str, Result]) -> Iterable[dict[str, Any]]:
    """Draw losses and validation accuracy of each group of models, as coordinates for SVG."""
    colours = {name: COLOURS[place % len(COLOURS)] for place, name in enumerate(name for name in results if name != TRIAL)}
    for group in gallery.groups(results):
        names = [result.record.name for result in group.panels.values()]
        losses = {
            (name, kind): [getattr(epoch, f"{kind}_loss") for epoch in results[name].epochs]
            for name in names
            for kind in ("train", "val")
        }
        curves = [
            (f"{name}, {'training' if kind == 'train' else 'validation'}", values, colours.get(name, GREY), kind == "val")
            for (name, kind), values in losses.items()
        ]
        yield _chart(f"{group.title}: loss (logarithmic)", curves, math.log10, "{:.4f}")
        accuracies = [
            (name, [100 * epoch.val_accuracy for epoch in results[name].epochs], colours.get(name, GREY), False)
            for name in names
        ]
        yield _chart(f"{group.title}: validation accuracy, %", accuracies, float, "{:.2f}")


def _chart(title: str, curves: Sequence[tuple[str, Sequence[float], str, bool]], scale: Any, form: str) -> dict[str, Any]:
    every = [value for _, values, _, _ in curves for value in values if math.isfinite(value) and value > 0]
    low, high = scale(min(every)), scale(max(every))
    span = (high - low) or 1.0
    epochs = max(len(values) for _, values, _, _ in curves)
    step = (WIDTH - LEFT - EDGE) / epochs

    def y(value: float) -> float:
        return round(EDGE + (HEIGHT - BOTTOM - EDGE) * (high - scale(value)) / span, 1)

    def x(epoch: int) -> float:
        return round(LEFT + step * (epoch + 0.5), 1)

    locator = MaxNLocator(6) if scale is float else LogLocator(subs=(1, 2, 5))
    marks = [float(mark) for mark in locator.tick_values(min(every), max(every))]
    return {
        "title": title,
        "width": WIDTH,
        "height": HEIGHT,
        "left": LEFT,
        "right": WIDTH - EDGE,
        "top": EDGE,
        "bottom": HEIGHT - BOTTOM,
        "ticks": [{"y": y(mark), "text": f"{mark:g}"} for mark in marks if low <= scale(mark) <= high],
        "curves": [
            {
                "name": name,
                "colour": colour,
                "dashed": dashed,
                "points": " ".join(
                    f"{x(epoch)},{y(value)}" for epoch, value in enumerate(values) if math.isfinite(value) and value > 0
                ),
            }
            for name, values, colour, dashed in curves
        ],
        "epochs": [
            {
                "x": round(LEFT + step * epoch, 1),
                "width": round(step, 1),
                "middle": x(epoch),
                "text": epoch + 1 if epochs <= 15 or epoch % (epochs // 10) == 0 else "",
                "said": f"epoch {epoch + 1}: "
                + ", ".join(f"{name} {form.format(values[epoch])}" for name, values, _, _ in curves if epoch < len(values)),
            }
            for epoch in range(epochs)
        ],
    }


def matrices(results: Mapping[str, Result]) -> list[dict[str, Any]]:
    """Return each model's confusion matrix, with the share that each error has of the largest."""
    found = []
    for name, result in results.items():
        counts = np.array(result.metrics["confusion"])
        errors = counts * (1 - np.eye(len(counts), dtype=counts.dtype))
        shares = np.round(errors / max(errors.max(), 1), 2)
        found.append(
            {
                "name": name,
                "classes": result.record.class_names,
                "counts": counts.tolist(),
                "shares": shares.tolist(),
                "wrong": int(errors.sum()),
            }
        )
    return found


def diagram(results: Mapping[str, Result]) -> list[dict[str, Any]]:
    """Return a box for each layer: its side is that of its output, its width grows with the filters."""
    boxes = [{"name": "image", "shape": "28×28×1", "count": "", "added": False, "width": 60, "height": 56}]
    for row in tables.layers(results)[:-1]:
        counts = [value for key, value in row.items() if key not in ("layer", "output")]
        having = list(dict.fromkeys(value for value in counts if value != "–"))
        sizes = [int(size) for size in row["output"].split(" or ")[0].split("×")]
        side, filters = (sizes[0], sizes[-1]) if len(sizes) == 3 else (1, sizes[0])
        boxes.append(
            {
                "name": row["layer"],
                "shape": row["output"],
                "count": "" if having == ["0"] else " or ".join(having),
                "added": "–" in counts,
                "width": 4 + 2 * side + 2 * filters,
                "height": 4 + 2 * side,
            }
        )
    return boxes


def page(
    results: Mapping[str, Result],
    models: Mapping[str, Model],
    images: Images,
    groups: Sequence[Sequence[int]],
    verdicts: Sequence[Mapping[str, Any]],
) -> bytes:
    """Write the page about trained models, whose answers are for these test images uint8 [n, 28, 28].

    `verdicts` are the study's claims as docs/study.json has them; none if the data are not the study's.
    """
    first = next(iter(results.values())).record
    shown = choose_images(results)
    chosen = recognition.best(models) if recognition.of_ten_classes(models) else next(iter(models))
    data = {
        "models": {
            name: {"classes": model.training.class_names, **network(model.network)} for name, model in models.items()
        },
        "labels": first.source.classes,
        "chosen": chosen,
        "cells": shown.cells,
        "tiles": [[place, int(next(iter(results.values())).digits[place])] for place in shown.places],
        "abreast": ABREAST,
    }
    environment = Environment(
        loader=FileSystemLoader(TEMPLATE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False}
    text = environment.get_template("page.html").render(
        title=first.source.title,
        comparable=first.source.data == "mnist",
        digits=all(map(str.isdigit, first.source.classes)),
        names=list(results),
        images=len(images),
        measured=tables.measured(results),
        meaning=tables.MEASURED,
        compared=tables.paired(results, groups),
        verdicts=verdicts,
        charts=list(charts(results)),
        matrices=matrices(results),
        partial=shown.partial,
        diagram=diagram(results),
        reported=tables.beside_report(results),
        source=SOURCE,
        sprite=sprite(images[shown.places]),
        data=data,
        style=Markup((TEMPLATE / "page.css").read_text(encoding="utf-8")),  # noqa: S704 -- ours
        script=Markup("\n".join((TEMPLATE / name).read_text(encoding="utf-8") for name in ("networks.js", "page.js"))),  # noqa: S704
    )
    return text.encode()
