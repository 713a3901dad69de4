from __future__ import annotations

import numpy as np
import pytest

from project import PARAMS, ROOT
from quartet.base import files, params, paths
from quartet.base.errors import InputError
from quartet.commands import recipes
from quartet.study import design, outcomes, trained
from quartet.study.design import Job
from quartet.training.record import Epoch
from trained import described, settings

IMAGES = {"train": "0" * 64, "validation": "1" * 64, "test": "2" * 64}
DIGITS = np.arange(10, dtype=np.uint8)
PLAIN, NORMED = [0.90, 0.91, 0.92, 0.95], [0.95, 0.93, 0.96, 0.97]


def study(arms, diverged=(), answers=DIGITS):
    """Write what a study's trainings came to: the last validation accuracy of each seed by arm. Return its fingerprints."""
    jobs, results, fingerprints = [], [], []
    for arm, accuracies in arms.items():
        for seed, accuracy in enumerate(accuracies):
            groups = tuple((digit,) for digit in range(10))
            jobs.append(Job(design.ARMS, arm, seed, settings(), groups, 0))
            why = "its loss was nan" if (arm, seed) in diverged else ""
            epochs = [] if why else [Epoch(1, 1.0, 1.0, 0.1), Epoch(2, 1.0, 1.0, accuracy)]
            results.append(trained.Trained(epochs, DIGITS, answers, {}, why))
            fingerprints.append(f"{arm} {seed}")
    outcomes.write(jobs, fingerprints, results, DIGITS, "sample")


def test_the_last_accuracies_of_each_seed_are_compared(workspace):
    study({"plain": PLAIN, "normed": NORMED})
    found = recipes.compare("plain 0", "normed 3")
    assert (found.n, found.above) == (4, 1)
    assert found.mean == pytest.approx(np.mean([5, 2, 4, 2]))
    assert 2 <= found.low < found.mean < found.high <= 5
    assert recipes.compare("normed 0", "plain 0").mean == -found.mean


def test_what_the_test_images_say_changes_nothing(workspace):
    study({"plain": PLAIN, "normed": NORMED})
    found = recipes.compare("plain 0", "normed 0")
    study({"plain": PLAIN, "normed": NORMED}, answers=DIGITS[::-1].copy())
    assert recipes.compare("plain 0", "normed 0") == found


def test_a_training_that_diverged_has_no_right_answer(workspace):
    study({"plain": PLAIN, "normed": NORMED}, diverged={("normed", 1)})
    assert recipes.compare("plain 0", "normed 0").mean == pytest.approx(np.mean([5, -91, 4, 2]))


def test_without_both_in_two_arms_nothing_is_said(workspace):
    assert recipes.compare("plain 0", "normed 0") is None
    study({"plain": PLAIN, "normed": NORMED})
    for before, after in (("plain 0", "plain 1"), ("plain 0", "other"), ("other", "plain 0"), ("", "")):
        assert recipes.compare(before, after) is None


def test_a_damaged_study_is_named(workspace):
    study({"plain": PLAIN, "normed": NORMED})
    paths.STUDY_EPOCHS.write_text(paths.STUDY_EPOCHS.read_text().replace("0.95", "0.99"))
    with pytest.raises(InputError, match=r"^stages/study/epochs\.csv: .*study/dvc\.yaml:trainings"):
        recipes.compare("plain 0", "normed 0")


@pytest.mark.parametrize("name", ["ten", "four-bn"])
def test_a_study_knows_the_pipelines_own_trainings(name, workspace, monkeypatch):
    """Its first seed is that of params.yaml, so the fingerprint of a variant is one of the study's."""
    (workspace / "study").mkdir()
    (workspace / paths.STUDY_PARAMS).write_bytes((ROOT / paths.STUDY_PARAMS).read_bytes())
    shipped = params.load(PARAMS)
    jobs = design.jobs(design.load(shipped), shipped)
    (first,) = [job for job in jobs if (job.question, job.arm, job.seed) == (design.ARMS, name, shipped.report.seed)]
    expected = files.content_digest(trained.describe(first, IMAGES, trained.code_digest()))
    assert recipes.fingerprint(described(name, shipped.variants[name]), IMAGES) == expected
