"""The confirmation of a recipe and the page about it, with trainings that only pretend."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from test_search import PLAN

from project import PARAMS
from quartet.base import files, params, paths
from quartet.data import splits
from quartet.model.network import build, pixels
from quartet.study import trained
from quartet.study.trained import Trained
from quartet.training.record import Epoch
from quartet.tuning import confirmation, search
from quartet.tuning.search import Tried

BEST = Tried(7, {"lr": 0.02, "batch_size": 20, "label_smoothing": 0.1}, (98.5, 98.7, 98.6), False, 90.0)
WORSE = Tried(3, {"lr": 0.05, "batch_size": 64, "label_smoothing": 0.2}, (97.5,), True, 30.0)
LONGER = Tried(5, {"lr": 0.03, "batch_size": 64, "label_smoothing": 0.0}, (99.0, 98.9, 99.1), False, 240.0)
TEST = splits.Split(np.zeros((50, 28, 28), dtype=np.uint8), (np.arange(50) % 10).astype(np.uint8))
POOL = splits.Split(
    np.random.default_rng(0).integers(0, 256, (500, 28, 28), dtype=np.uint8), (np.arange(500) % 10).astype(np.uint8)
)


def right(job) -> int:
    """The test images of 50 that a training is right about: more with what was found, and with the seed."""
    return 30 + (10 if job.hyperparameters.lr == 0.02 else 0) + job.seed % 10


def network(recipe):
    """What a training of a recipe might have come to."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        return build(recipe.classes, recipe.bn)


@pytest.fixture
def arms(monkeypatch):
    settings = params.load(PARAMS)

    def complete(jobs, data):
        assert data.test is TEST
        assert {job.split_seed for job in jobs} == {settings.data.seed}
        answers = [np.where(np.arange(50) < right(job), TEST.labels, (TEST.labels + 1) % 10) for job in jobs]
        histories = [[Epoch(1, 1.0, 1.0, 0.5), Epoch(2, 0.5, 0.5, right(job) / 50)] for job in jobs]
        weights = [network(job.hyperparameters).state_dict() for job in jobs]
        done = zip(histories, answers, weights, strict=True)
        return [Trained(epochs, np.zeros(0), answer.astype(np.uint8), part, "", 72) for epochs, answer, part in done], []

    monkeypatch.setattr(trained, "complete", complete)
    plan = PLAN.model_copy(update={"fresh_seeds": 5})
    return plan, confirmation.confirm(plan, settings, confirmation.arms(plan, settings, BEST, LONGER), POOL, TEST)


@pytest.fixture
def found(arms):
    plan, confirmed = arms
    shares = {"lr": 0.75, "label_smoothing": 0.2, "batch_size": 0.05}
    return confirmation.Found(
        plan,
        "fake data",
        0.1,
        [WORSE, BEST, LONGER._replace(accuracies=(98.0, 98.1, 98.2))],
        [LONGER, BEST],
        confirmed,
        shares,
    )


def test_each_recipe_is_tried_without_bn_and_with_it(arms):
    plan, confirmed = arms
    assert {name: (arm.recipe.bn, arm.recipe.lr, arm.recipe.epochs) for name, arm in confirmed.items()} == {
        "before": (False, 0.01, plan.epochs),
        "before-bn": (True, 0.01, plan.epochs),
        "found": (False, 0.02, plan.epochs),
        "found-bn": (True, 0.02, plan.epochs),
        confirmation.LONGER: (True, 0.03, plan.final_epochs),
    }


def test_accuracies_are_those_of_the_fresh_seeds(arms):
    _, confirmed = arms
    for name, arm in confirmed.items():
        expected = [
            2.0 * (30 + (10 if name.startswith("found") and name != confirmation.LONGER else 0) + seed) for seed in range(5)
        ]
        assert arm.test == pytest.approx(expected)
        assert arm.validation == pytest.approx(expected)


def test_training_accuracy_is_that_of_images_as_they_are(arms):
    settings = params.load(PARAMS)
    seen = splits.divide(POOL, None, settings.data.validation_fraction, settings.data.seed)["train"]
    for arm in arms[1].values():
        for seed, accuracy in enumerate(arm.training, start=search.FIRST_FRESH_SEED):
            logits = network(arm.recipe.model_copy(update={"seed": seed})).eval()(pixels(torch.from_numpy(seen.images)))
            assert accuracy == pytest.approx(100 * (logits.argmax(dim=1).numpy() == seen.labels).mean())


def test_missed_images_are_those_no_seed_reads_right(arms):
    for arm in arms[1].values():
        assert arm.missed == 50 - round(arm.test.max() / 2)  # each seed is right about the first ones, so the best counts


def test_a_training_that_diverged_is_right_about_nothing(arms, monkeypatch):
    plan, _ = arms
    complete = trained.complete
    monkeypatch.setattr(
        trained,
        "complete",
        lambda jobs, data: ([it._replace(diverged="the loss became nan", weights={}) for it in complete(jobs, data)[0]], []),
    )
    settings = params.load(PARAMS)
    for arm in confirmation.confirm(plan, settings, confirmation.arms(plan, settings, BEST, LONGER), POOL, TEST).values():
        assert (arm.training.max(), arm.validation.max(), arm.test.max(), arm.missed) == (0, 0, 0, 50)


def test_the_recipes_are_compared_seed_by_seed(found):
    rows = confirmation.compared(found)
    assert [(row["comparison"], row["measure"]) for row in rows] == [
        (f"{after} - {before}", measure)
        for before, after in (("before", "found"), ("before-bn", "found-bn"))
        for measure in ("validation", "test")
    ]
    for row in rows:
        assert (row["mean"], row["low"], row["high"], row["n"]) == (
            pytest.approx(20),
            pytest.approx(20),
            pytest.approx(20),
            5,
        )


def test_the_page_and_the_tables_say_the_same(found, workspace):
    confirmation.write(found, {"history.png": b"a picture"})
    page = paths.RECIPE.read_text(encoding="utf-8")
    row = next(line for line in page.splitlines() if line.startswith("| found-bn "))
    rows = [row for row in files.read_csv(paths.SWEEP_CONFIRMATION) if row["arm"] == "found-bn"]
    accuracies = [float(row["test_accuracy"]) for row in rows]
    assert [row["seed"] for row in rows] == ["200", "201", "202", "203", "204"]
    assert {row["seconds"] for row in rows} == {"72.0"}
    assert f"{np.mean(accuracies):.2f} [" in row
    assert [cell.strip() for cell in row.split("|")][4:6] == [f"{min(accuracies):.2f}", f"{max(accuracies):.2f}"]
    assert (
        "3 trials of 2 epochs, 1 of them stopped after their first training: 7 trainings, which took a core 0.1 hours."
        in page
    )
    assert "an hour on two cores buys about 60 trials" in page  # of 90, 30 and 240 seconds
    # The finalists, of 90 and 240 seconds, and five arms of five trainings.
    assert "for 0.1 hours of a core, and the recipes above for 0.5." in page
    assert re.search(r"\| lr +\| +75 % \| +-1.00 \| +0.02 \| +0.03 \|", page)  # the lower, the better
    trials = files.read_csv(paths.SWEEP_TRIALS)
    assert [row["trial"] for row in trials] == ["3", "7", "5"]
    assert trials[0]["accuracies"] == "97.5000"
    assert [row["trial"] for row in files.read_csv(paths.SWEEP_FINALISTS)] == ["5", "7"]
    assert (paths.SWEEP_FIGURES / "history.png").read_bytes() == b"a picture"


def test_the_page_begins_with_what_was_reached(found):
    headline = confirmation.page(found).split("\n\n")[1]
    said = re.fullmatch(
        r"Of 3 recipes, the best on validation images brings the network with batch norm from ([\d.]+) \[.*\] % to"
        r" ([\d.]+) \[.*\] % test accuracy in 2 epochs, the best of 3 epochs to ([\d.]+) \[.*\] % \(5 fresh seeds\).",
        headline,
    )
    expected = [found.arms[name].test.mean() for name in ("before-bn", "found-bn", confirmation.LONGER)]
    assert [float(number) for number in said.groups()] == pytest.approx(expected)


def test_optunas_plots_are_drawn(workspace):
    from test_search import Trainer

    study = search.search(PLAN, params.load(), Trainer(), workspace / "it.journal", lambda _study: None)
    drawn = confirmation.draw(study, "fake data")
    assert sorted(drawn) == ["history.png", "importance.png"]
    assert all(content.startswith(b"\x89PNG") for content in drawn.values())
    seen = confirmation.of_first_seed(study).trials
    assert {trial.state.name for trial in seen} == {"COMPLETE"}
    assert [trial.value for trial in seen] == [it.accuracies[0] for it in search.finished(study)]
    shares = confirmation.shares(study)
    assert set(shares) == set(PLAN.space)
    assert sum(shares.values()) == pytest.approx(1)
    assert max(shares, key=shares.get) == "lr"
