from __future__ import annotations

import re

import numpy as np
import pytest

import plot
from project import KINDS
from quartet.base import files, params, paths
from quartet.base.errors import InputError
from quartet.data import catalogue, splits
from quartet.evaluation import predictions
from quartet.reporting import figures, gallery
from trained import described, leave, place, scored


def prepare(tiny, data="sample"):
    """What training and evaluating leave of the models of params.yaml, right on all images of `tiny` but the first."""
    splits.save_all(dict.fromkeys(splits.SPLITS, tiny), catalogue.DATA_SETS[data].source)
    digits = tiny.labels
    settings, scores = params.load(), {}
    for name in settings.trainings:
        training = described(name, settings.hyperparameters(name), data)
        leave(training)
        right = [place(digit, training) for digit in digits]
        scores[name] = scored(training, digits, [right[0] - 1 if right[0] else 1, *right[1:]])
    predictions.write(scores, digits)


def set_variants(*lines):
    """Have params.yaml list these variants, one a line."""
    text = paths.PARAMS.read_text(encoding="utf-8")
    changed = re.sub(r"(?m)^variants:\n(?:  .*\n)+", "variants:\n" + "".join(f"  {line}\n" for line in lines), text)
    paths.PARAMS.write_text(changed, encoding="utf-8")
    assert list(params.load().variants) == [line.partition(":")[0] for line in lines]


def page():
    return paths.RESULTS.read_text(encoding="utf-8")


@pytest.fixture
def stages(workspace, tiny):
    prepare(tiny)


@pytest.fixture
def matrices(monkeypatch):
    """The confusion matrices that are drawn, by title and panel; the figures themselves are not."""
    found = {}

    def noted(title, _data_title, class_names, chosen, _note):
        found[title.partition(":")[0]] = (list(class_names), dict(chosen))
        return b"a picture"

    for kind in ("losses", "accuracies", "mistakes"):
        monkeypatch.setattr(figures, kind, lambda *_, **__: b"a picture")
    monkeypatch.setattr(figures, "confusions", noted)
    return found


def test_the_matrices_drawn_are_those_of_the_metrics(stages, tiny, matrices):
    plot.main()
    first = int(tiny.labels[0])
    expected = np.diag([21] * 10)
    expected[first, first] -= 1
    expected[first, first - 1 if first else 1] += 1
    names, panels = matrices["Ten classes"]
    assert names == list("0123456789")
    for matrix in panels.values():
        np.testing.assert_array_equal(matrix, expected)
    metrics = files.read_json(paths.SCORES)
    assert matrices["Trial"][1] == {name: metrics[name]["confusion"] for name in ("ten", "trial")}
    drawn = [matrix for title, (_, panels) in matrices.items() if title != "Trial" for matrix in panels.values()]
    assert drawn == [metrics[name]["confusion"] for name in params.load().variants]


def content():
    """All that plot makes."""
    plot.main()
    return {path.relative_to(paths.PLOT).as_posix(): path.read_bytes() for path in paths.PLOT.rglob("*.*")}


def test_the_figures_and_the_page_are_the_same_bytes_twice(stages):
    set_variants("ten: {}")
    assert content() == content()


def test_the_page_links_all_figures(stages):
    first = content()
    assert set(first) == {
        *(f"figures/{kind}-{group}.png" for kind in KINDS for group in ("ten", "four", "trial")),
        "results.md",
    }
    assert all(first[name].startswith(b"\x89PNG") for name in first if name != "results.md")
    text = first["results.md"].decode()
    assert text.startswith("# Results on UCI digits sample, not MNIST\n")
    assert "Beside the report" not in text
    linked = re.findall(r"!\[.*\]\((.*)\)", text)
    assert linked == [f"figures/{kind}-{group}.png" for kind in KINDS for group in ("ten", "four", "trial")]


def test_the_page_of_mnist_compares(workspace, tiny, matrices):
    prepare(tiny, "mnist")
    plot.main()
    assert page().startswith("# Results on MNIST\n")
    assert "not compar" not in page()


def test_a_trial_of_four_classes_is_drawn_with_its_own(workspace, tiny, matrices):
    text = paths.PARAMS.read_text(encoding="utf-8")
    paths.PARAMS.write_text(text.replace("classes: 10", "classes: 4", 1), encoding="utf-8")
    prepare(tiny)
    plot.main()
    names, panels = matrices["Trial"]
    assert names == ["0·6", "1·7", "2·3·5·8", "4·9"]
    assert np.shape(panels["trial"]) == (4, 4)
    assert np.sum(panels["trial"], axis=1).tolist() == [42, 42, 84, 42]


def test_every_training_of_the_parameters_is_drawn(stages):
    results = predictions.read(params.load().trainings)
    drawn = {result.record.name for group in gallery.groups(results) for result in group.panels.values()}
    assert drawn == set(params.load().trainings)


def test_a_variant_that_is_added_is_drawn_and_in_the_tables(workspace, tiny, matrices):
    set_variants(
        "ten: {}", "ten-bn: {bn: true}", "four: {classes: 4}", "fast: {lr: 0.01}", "four-fast: {classes: 4, lr: 0.01}"
    )
    prepare(tiny)
    plot.main()
    assert {title: list(panels) for title, (_, panels) in matrices.items()} == {
        "Ten classes": ["ten", "ten-bn", "fast"],
        "Four classes": ["four", "four-fast"],
        "Trial": ["ten", "trial"],
    }
    for question in (
        "lr 0.001 → 0.01: ten → fast ",
        "lr 0.001 → 0.01: four → four-fast ",
        "training by group, lr 0.001 → 0.01: ten* → four-fast ",
    ):
        assert page().count(question) == 1
    assert len(re.findall(r"(?m)^\| four-fast ", page())) == 1 + 1  # the results and the layers


def test_a_variant_that_is_removed_is_gone(stages, matrices):
    # What it left is there, as DVC leaves it until evaluate has run again.
    set_variants("ten: {}", "four: {classes: 4}", "four-bn: {classes: 4, bn: true}")
    plot.main()
    assert list(matrices["Ten classes"][1]) == ["ten"]
    assert list(matrices["Four classes"][1]) == ["without batch norm", "with batch norm"]
    assert "ten-bn" not in page()


@pytest.mark.parametrize("line", ["four: {classes: 4}", "wide: {batch_size: 50}"])
def test_one_variant_is_enough(workspace, tiny, line):
    set_variants(line)
    prepare(tiny)
    plot.main()
    group = "four" if line.startswith("four") else "ten"
    assert {path.name for path in paths.FIGURES.iterdir()} == {
        f"{kind}-{of}.png" for kind in KINDS for of in (group, "trial")
    }
    compared = "the trial's settings: wide → trial " if group == "ten" else "There are no two trainings to compare."
    assert compared in page()


def test_a_missing_file_is_named(stages):
    paths.SCORES.unlink()
    with pytest.raises(InputError, match=r"stages/evaluate/scores\.json: missing; `dvc repro` makes it"):
        plot.main()
    assert not paths.PLOT.exists()


@pytest.mark.parametrize(
    "file", ["evaluate/predictions.csv", "evaluate/scores.json", "evaluate/history.csv", "train/four/summary.json"]
)
def test_what_is_damaged_is_refused(stages, file):
    path = paths.TRAIN.parent / file
    content = path.read_text(encoding="utf-8")
    middle = content.index("0")
    path.write_text(f"{content[:middle]}1{content[middle + 1 :]}", encoding="utf-8")
    stage = "train@four" if "summary" in file else "evaluate"
    with pytest.raises(InputError, match=rf"stages/{file}: .*SHA-256.*: damaged; .*--single-item {stage}`"):
        plot.main()
    assert not paths.PLOT.exists()


def test_a_variant_that_was_not_evaluated_is_named(stages):
    set_variants("ten: {}", "new: {lr: 0.1}")
    with pytest.raises(InputError, match=r"predictions\.csv: expected the training 'new', found none; `dvc repro`"):
        plot.main()
