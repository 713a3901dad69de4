from __future__ import annotations

import shutil

import pytest
import yaml

from project import ROOT
from quartet.base import params, paths
from quartet.base.errors import InputError
from quartet.study import design


@pytest.fixture
def write(workspace):
    """Write study/params.yaml with changes, and load it."""

    def load(**changes):
        content = yaml.safe_load((ROOT / "study/params.yaml").read_text(encoding="utf-8")) | changes
        paths.STUDY_PARAMS.parent.mkdir(exist_ok=True)
        paths.STUDY_PARAMS.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
        return design.load(params.load())

    return load


def test_the_published_study_is_that_of_the_plan(workspace):
    shutil.copytree(ROOT / "study", "study", ignore=shutil.ignore_patterns("trainings"))
    settings = params.load()
    study = design.load(settings)
    jobs = design.jobs(study, settings)
    assert len(jobs) == 4 * 20 + 2 * 5 * 10 + 3 * 10
    arms = [job for job in jobs if job.question == design.ARMS]
    assert jobs[: len(arms)] == arms  # first of all
    for name, variant in settings.variants.items():
        mine = [job for job in arms if job.arm == name]
        assert [job.seed for job in mine] == [job.hyperparameters.seed for job in mine] == list(range(20))
        assert {job.hyperparameters.model_copy(update={"seed": 0}) for job in mine} == {variant}
    rates = [job for job in jobs if job.question == design.RATES]
    assert {job.hyperparameters.epochs for job in rates} == {5}
    assert {job.arm for job in rates} >= {"ten at 0.001", "ten-bn at 0.1"}
    assert {(job.hyperparameters.bn, job.hyperparameters.lr) for job in rates if job.arm == "ten-bn at 0.1"} == {(True, 0.1)}
    assert study.margin == 0.1


def test_of_a_source_one_thing_alone_varies(write):
    settings = params.load()
    jobs = design.jobs(write(), settings)
    for question, varied in ((design.WEIGHTS, 0), (design.ORDER, 1), (design.SPLIT, 2)):
        mine = [job for job in jobs if job.question == question]
        seeds = [(*job.hyperparameters.seeds().values(), job.split_seed) for job in mine]
        assert [values[varied] for values in seeds] == list(range(10))
        assert {values[place] for values in seeds for place in range(3) if place != varied} == {0}


def test_an_arm_of_ones_own_and_a_contrast(write):
    study = write(
        arms={"ten": "ten", "ten-bn": "ten-bn", "mine": {"bn": True, "lr": 0.003}}, contrasts={"mine": ["ten", "mine"]}
    )
    settings = params.load()
    assert study.hyperparameters("mine", settings) == settings.report.model_copy(update={"bn": True, "lr": 0.003})


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"seeds": 1}, "study/params.yaml: seeds: expected at least 2, found 1"),
        ({"margin": 0}, "study/params.yaml: margin: expected more than 0.0, found 0"),
        ({"seedz": 1}, "study/params.yaml: seedz: unknown key; did you mean 'seeds'?"),
        ({"arms": {"ten": "nine"}}, "study/params.yaml: arms.ten: expected a variant of params.yaml (ten, ten-bn, four"),
        ({"arms": {"ten": 3}}, "study/params.yaml: arms.ten: expected a variant of params.yaml (ten, ten-bn, four"),
        ({"arms": {"ten": "ten", "x": {"lr": 2}}}, "study/params.yaml: arms.x: lr: expected at most 1.0, found 2"),
        ({"arms": {"Ten!": "ten"}}, "study/params.yaml: arms.Ten!.[key]: expected a name of a-z, 0-9 and -"),
        ({"contrasts": {"a": ["ten"]}}, "study/params.yaml: contrasts.a: expected"),
        ({"contrasts": {"a": ["ten", "x"]}}, "study/params.yaml: contrasts.a: expected arms of this file (ten, ten-bn"),
        ({"sources": {"arm": "x", "seeds": 2}}, "study/params.yaml: sources.arm: expected arms of this file"),
    ],
)
def test_a_bad_setting_is_one_line_that_names_it(write, changes, problem):
    with pytest.raises(InputError) as refused:
        write(**changes)
    assert str(refused.value).startswith(problem)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"trials": 0}, "sweep.trials: expected at least 1, found 0"),
        ({"space": {}}, "sweep.space: expected "),
        ({"space": {"lr": []}}, "sweep.space.lr: expected a list, or a mapping with low and high, found []"),
        ({"space": {"lr": 0.1}}, "sweep.space.lr: expected a list, or a mapping with low and high, found 0.1"),
        ({"space": {"lr": {"low": 0.1}}}, "sweep.space.lr: high: missing"),
        (
            {"space": {"lr": {"low": 0.2, "high": 0.1}}},
            "sweep.space.lr: expected low below high, and above 0 with log, found",
        ),
        ({"space": {"shift": {"low": 0.0, "high": 1.0, "log": True}}}, "sweep.space.shift: expected low below high, and"),
        ({"space": {"lr": {"low": 0.1, "high": 2.0}}}, "sweep: lr: expected at most 1.0, found 2.0"),
        ({"space": {"lrr": [0.1]}}, "sweep: lrr: unknown key; did you mean 'lr'?"),
        ({"before": {"augment": 1}}, "sweep: augment: expected true or false, found 1"),
        ({"space": {"epochs": [1, 2]}}, "sweep.space.epochs: expected other settings; this one is the same in all trials"),
    ],
)
def test_a_bad_setting_of_the_sweep_is_named(write, changes, problem):
    shipped = yaml.safe_load((ROOT / "study/params.yaml").read_text(encoding="utf-8"))["sweep"]
    with pytest.raises(InputError) as refused:
        write(sweep=shipped | changes)
    assert str(refused.value).startswith(f"study/params.yaml: {problem}")
    assert "\n" not in str(refused.value)


def test_a_study_without_a_sweep_is_one(write):
    assert write().sweep
    content = yaml.safe_load(paths.STUDY_PARAMS.read_text(encoding="utf-8"))
    del content["sweep"]
    paths.STUDY_PARAMS.write_text(yaml.safe_dump(content), encoding="utf-8")
    assert design.load(params.load()).sweep is None


def test_without_the_file_it_is_named(workspace):
    with pytest.raises(InputError, match=r"study/params\.yaml: missing; .* `git checkout study/params.yaml`"):
        design.load(params.load())
