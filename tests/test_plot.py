from __future__ import annotations

import numpy as np
import pytest

from quartet import data, files, history, params, paths, plot
from quartet.errors import InputError
from quartet.history import Epoch

GROUPS = {10: [[digit] for digit in range(10)], 4: [[0, 6], [1, 7], [2, 3, 5, 8], [4, 9]]}


@pytest.fixture
def stages(workspace, tiny):
    """What training and evaluating leave of five models that are right on all images but the first."""
    for name in params.TRAININGS:
        groups = GROUPS[4 if name.startswith("four") else 10]
        names = data.class_names(groups)
        actual = [names[place] for place in data.merge(tiny.labels, groups)]
        predicted = [names[names.index(actual[0]) - 1], *actual[1:]]
        rows = zip(tiny.labels.tolist(), actual, predicted, strict=True)
        files.write_csv(
            paths.EVALUATE / name / "predictions.csv",
            [{"image": n, "digit": digit, "actual": a, "predicted": p} for n, (digit, a, p) in enumerate(rows)],
        )
        files.write_json(paths.metrics(name), {"loss": 0.1, "accuracy": 209 / 210, "macro_f1": 0.99})
        files.write_digests(paths.digests(name), [paths.metrics(name), paths.EVALUATE / name / "predictions.csv"])
        history.write(name, [Epoch(1, 0.9, 0.8, 0.7), Epoch(2, 0.5, 0.6, 0.8)])
        files.write_record(
            paths.summary(name),
            {
                "data": "sample",
                "groups": groups,
                "hyperparameters": {"seed": 0},
                "parameters": {"trainable": 4470, "non_trainable": 0},
                "history_sha256": files.sha256(paths.history(name)),
            },
        )


def test_what_the_stages_before_left_is_read(stages, tiny):
    found = plot.read("four")
    assert found.digits.tolist() == tiny.labels.tolist()
    assert found.correct.tolist() == [False] + [True] * 209
    assert found.epochs[-1] == Epoch(2, 0.5, 0.6, 0.8)


def test_a_confusion_matrix_counts_predictions_by_class(stages, tiny):
    matrix = plot.matrix(plot.read("ten"))
    first = int(tiny.labels[0])
    expected = np.diag([21] * 10)
    expected[first, first] -= 1
    expected[first, first - 1] += 1
    np.testing.assert_array_equal(matrix, expected)


def test_the_figures_and_the_page_are_the_same_bytes_twice(stages):
    def content():
        plot.main()
        return {path.name: path.read_bytes() for path in paths.PLOT.iterdir()}

    first = content()
    figures = {f"{kind}-{pair}.png" for kind in ("loss", "accuracy", "confusion") for pair in ("ten", "four", "trial")}
    assert set(first) == {*figures, "results.md"}
    assert all(first[name].startswith(b"\x89PNG") for name in figures)
    page = first["results.md"].decode()
    assert page.startswith("# Results on UCI digits sample, not MNIST\n")
    assert "they do not compare" in page
    assert content() == first


def test_the_page_of_mnist_compares(stages):
    for name in params.TRAININGS:
        files.write_record(paths.summary(name), {**history.read_summary(name), "data": "mnist"})
    plot.main()
    page = paths.RESULTS.read_text(encoding="utf-8")
    assert page.startswith("# Results on MNIST\n")
    assert "not compar" not in page


def test_a_trial_of_four_classes_is_drawn_with_its_own(stages):
    for path in ("train/{}/summary.json", "evaluate/{}/predictions.csv"):
        source, target = (paths.TRAIN.parent / path.format(name) for name in ("four", "trial"))
        target.write_bytes(source.read_bytes())
    files.write_digests(paths.digests("trial"), [paths.metrics("trial"), target])
    plot.main()
    assert plot.matrix(plot.read("trial")).shape == (4, 4)


def test_every_pair_of_variants_is_drawn():
    drawn = [training for _, panels in plot.PAIRS.values() for training in panels.values()]
    assert sorted(drawn) == sorted(params.TRAININGS)


def test_a_missing_file_is_named(stages):
    paths.metrics("four").unlink()
    with pytest.raises(InputError, match=r"stages/evaluate/four\.json: missing; `dvc repro` makes it"):
        plot.main()
    assert not paths.PLOT.exists()


@pytest.mark.parametrize("file", ["evaluate/four/predictions.csv", "evaluate/four.json", "train/four/summary.json"])
def test_what_is_damaged_is_refused(stages, file):
    path = paths.TRAIN.parent / file
    content = path.read_text(encoding="utf-8")
    place = content.index("0")
    path.write_text(f"{content[:place]}1{content[place + 1 :]}", encoding="utf-8")
    stage = "train@four" if "summary" in file else "evaluate"
    with pytest.raises(InputError, match=rf"stages/{file}: .*SHA-256.*: damaged; .*--single-item {stage}`"):
        plot.main()
    assert not paths.PLOT.exists()
