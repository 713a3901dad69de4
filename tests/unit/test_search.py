"""The search for a recipe, with trainings that only pretend."""

from __future__ import annotations

import math
import signal
import subprocess
import sys

import numpy as np
import pytest

from project import ROOT
from quartet.base import params
from quartet.base.errors import InputError
from quartet.study import design
from quartet.study.design import Sweep
from quartet.tuning import search

optuna = pytest.importorskip("optuna", reason="needs what `make setup-all` installs")

PLAN = Sweep(
    seed=0,
    trials=24,
    at_once=4,
    seeds=3,
    epochs=2,
    finalists=2,
    final_epochs=3,
    fresh_seeds=2,
    base={"bn": True},
    before={"lr": 0.01},
    space={
        "lr": {"low": 0.001, "high": 0.1, "log": True},
        "batch_size": [20, 64],
        "label_smoothing": {"low": 0.0, "high": 0.2},
    },
)


class Killed(BaseException):
    """Ends a search where a kill would."""


class Trainer:
    """Says that accuracy is highest at a learning rate of 0.01 without label smoothing; is killed after some trainings."""

    def __init__(self, left=math.inf):
        self.left, self.done = left, []

    def __call__(self, recipes, step):
        for recipe in recipes:
            if self.left == 0:
                raise Killed
            self.left -= 1
            self.done.append((recipe, step))
        scores = [99 - math.log10(recipe.lr / 0.01) ** 2 - recipe.label_smoothing + step / 10 for recipe in recipes]
        return [search.Score(score, seconds=2) for score in scores]


@pytest.fixture
def settings(workspace):
    return params.load()


@pytest.fixture
def run(settings, tmp_path):
    def make(train=None, name="it", plan=PLAN, on_round=lambda _study: None):
        return search.finished(search.search(plan, settings, train or Trainer(), tmp_path / f"{name}.journal", on_round))

    return make


def trials(found):
    """All of them, and how long each took: two seconds a training, whenever that was."""
    assert [it.seconds for it in found] == [2 * len(it.accuracies) for it in found]
    return found


def test_the_same_seed_gives_the_same_trials(run):
    first = trials(run())
    assert [it.number for it in first] == list(range(24))
    assert trials(run(name="again")) == first
    other = trials(run(name="other", plan=PLAN.model_copy(update={"seed": 1})))
    assert not {str(it.changes) for it in other} & {str(it.changes) for it in first}


def test_a_search_that_is_over_trains_nothing(run):
    before, train = run(), Trainer()
    assert run(train) == before
    assert train.done == []


def test_more_trials_go_on_after_those_that_were_made(run):
    few = trials(run(plan=PLAN.model_copy(update={"trials": 16})))
    assert trials(run()) == trials(run(name="whole"))
    assert trials(run())[:16] == few


@pytest.mark.parametrize("after", [0, 1, 3, 4, 5, 11, 12, 13, 40, 47])
def test_a_kill_in_a_training_changes_no_trial(run, after):
    expected = trials(run(name="whole"))
    with pytest.raises(Killed):
        run(Trainer(after))
    assert trials(run()) == expected


@pytest.mark.parametrize("place", [0, 1, 5, 23])
@pytest.mark.parametrize("late", [False, True])
def test_a_kill_while_trials_are_kept_changes_none(run, monkeypatch, place, late):
    """Before a trial is in the journal and after it."""
    expected = trials(run(name="whole"))
    real, calls = optuna.study.Study.add_trial, []

    def dying(study, trial):
        if study.study_name == search.SWEEP:
            calls.append(trial)
        if len(calls) > place and late:
            real(study, trial)
        if len(calls) > place:
            raise Killed
        real(study, trial)

    monkeypatch.setattr(optuna.study.Study, "add_trial", dying)
    with pytest.raises(Killed):
        run()
    monkeypatch.setattr(optuna.study.Study, "add_trial", real)
    assert trials(run()) == expected


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path[:0] = ["{tests}", "{tests}/unit"]
from test_search import PLAN, Trainer
from quartet.base import params
from quartet.base.errors import InputError
from quartet.study import design
from quartet.tuning import search
train = Trainer()
def dying(recipes, step):
    if len(train.done) > 30:
        os.kill(os.getpid(), signal.SIGKILL)
    return train(recipes, step)
search.search(PLAN, params.load(), dying, Path("it.journal"), lambda study: None)
"""


def test_a_search_whose_process_is_killed_goes_on(run, workspace):
    expected = trials(run(name="whole"))
    code = KILLED.format(tests=ROOT / "tests")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], cwd=workspace, capture_output=True, text=True, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    train = Trainer()
    assert trials(run(train)) == expected
    assert len(train.done) == sum(len(it.accuracies) for it in expected) - 2 * PLAN.at_once * PLAN.seeds  # two rounds


def test_a_hopeless_trial_is_stopped_early(run):
    found = run()
    stopped = [it for it in found if it.stopped]
    assert 0 < len(stopped) < len(found)
    for it in found:
        before = [other for other in found if not other.stopped and other.number < it.number // PLAN.at_once * PLAN.at_once]
        hopeless = len(before) >= search.STARTUP and it.accuracies[0] < np.median([other.accuracies[0] for other in before])
        assert it.stopped == hopeless
        assert len(it.accuracies) == (1 if hopeless else PLAN.seeds)


def test_the_best_are_those_of_the_highest_mean(run):
    found = run()
    first, second = search.best(found, 2)
    assert first.mean >= second.mean >= max(it.mean for it in found if not it.stopped and it not in (first, second))
    assert not first.stopped
    assert 0.005 < first.changes["lr"] < 0.02


def test_each_trial_is_trained_with_what_it_says(run, settings):
    train = Trainer()
    found = run(train)
    for it in found:
        recipe = PLAN.recipe(settings, it.changes)
        assert (recipe.bn, recipe.epochs) == (True, 2)
        assert [step for done, step in train.done if done == recipe] == list(range(len(it.accuracies)))
        for name in ("lr", "label_smoothing"):
            assert it.changes[name] == float(f"{it.changes[name]:.2g}")


def test_a_round_is_told_once(run):
    told = []
    run(on_round=lambda study: told.append(len(search.finished(study))))
    assert told == [4, 8, 12, 16, 20, 24]


@pytest.mark.parametrize("name", ["trials", "finalists", "final_epochs", "fresh_seeds", "before"])
def test_the_digest_is_not_of_what_follows_from_the_trials(settings, name):
    other = PLAN.model_copy(update={name: {"lr": 0.02} if name == "before" else 99})
    assert search.digest(other, settings, "code", "images") == search.digest(PLAN, settings, "code", "images")


OTHERS = {
    "seed": 1,
    "at_once": 5,
    "seeds": 2,
    "epochs": 9,
    "base": {"bn": False},
    "space": dict(reversed(PLAN.space.items())),  # in another order
}


@pytest.mark.parametrize("name", OTHERS)
def test_the_digest_is_of_what_the_trials_follow_from(settings, name):
    other = PLAN.model_copy(update={name: OTHERS[name]})
    assert search.digest(other, settings, "code", "images") != search.digest(PLAN, settings, "code", "images")


def test_the_digest_is_of_settings_code_and_images(settings, monkeypatch):
    report = settings.report.model_copy(update={"rotation": 11.0})
    changed = [
        settings.model_copy(update={"report": report}),
        settings.model_copy(update={"groups": settings.groups[::-1]}),
        settings.model_copy(update={"data": settings.data.model_copy(update={"validation_fraction": 0.2})}),
    ]
    found = [search.digest(PLAN, other, "code", "images") for other in (settings, *changed)]
    found += [search.digest(PLAN, settings, "other", "images"), search.digest(PLAN, settings, "code", "other")]
    monkeypatch.setattr(search, "version", lambda _name: "another one")
    found.append(search.digest(PLAN, settings, "code", "images"))
    assert len(set(found)) == len(found)


def test_numbers_of_a_list_are_tried_as_they_are(run):
    """0.999 is not rounded to 1, at which nothing can be trained."""
    space = {"ema_decay": [0.995, 0.999], "label_smoothing": {"low": 0.0123, "high": 0.0126}}
    found = run(plan=PLAN.model_copy(update={"space": space, "trials": 8}))
    assert {it.changes["ema_decay"] for it in found} == {0.995, 0.999}
    assert {it.changes["label_smoothing"] for it in found} <= {0.0123, 0.0126}  # neither end has two digits


def test_the_shipped_space_can_be_searched(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    settings = params.load()
    plan = design.load(settings).sweep.model_copy(update={"trials": 60})
    found = search.finished(search.search(plan, settings, Trainer(), tmp_path / "it.journal", lambda _study: None))
    tried = {name: {it.changes[name] for it in found} for name in plan.space}
    for name, choice in plan.choices().items():
        if isinstance(choice, list):
            assert tried[name] == set(choice)
        else:
            assert choice.low <= min(tried[name]) < max(tried[name]) <= choice.high


def test_fewer_trials_than_were_made_are_the_first_ones(run):
    assert run()[:8] == run(plan=PLAN.model_copy(update={"trials": 8}))


@pytest.mark.parametrize("left", [0.3, 0.7, 0.99])
def test_a_damaged_journal_is_named(run, tmp_path, left):
    run()
    journal = tmp_path / "it.journal"
    content = journal.read_bytes()
    journal.write_bytes(content[: int(left * len(content))] + b"{\n")
    with pytest.raises(InputError, match=rf"{journal}: damaged .*; delete it and run `make sweep`"):
        run()


def test_a_second_search_at_once_is_refused(tmp_path):
    journal = tmp_path / "it.journal"
    with search.alone(journal):
        code = (
            f"from pathlib import Path; from quartet.tuning import search\nwith search.alone(Path({str(journal)!r})): pass"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert f"{tmp_path}/it.lock: another `make sweep` works at this search; wait until it ends" in done.stderr
    with search.alone(journal):
        pass
