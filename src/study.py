"""Stages trainings and claims of study/dvc.yaml: train many seeds, and say what they show; write stages/study/."""

from __future__ import annotations

import sys

from quartet.base import params, paths, process, stage
from quartet.base.errors import InputError
from quartet.data import catalogue, idx, splits
from quartet.study import design, outcomes

PIPELINE = "study/dvc.yaml"


def trainings() -> None:
    """Do the trainings that are not there yet, and write what all of them came to."""
    from quartet.study import trained

    settings = params.load()
    study = design.load(settings)
    source = idx.check().data
    pool, test = (splits.Split(*pair) for pair in idx.read_sets(paths.RAW))
    tracked = stage.note("trainings", settings, PIPELINE)
    data = trained.Data(pool, test, settings.data.validation_fraction)
    jobs = design.jobs(study, settings)
    results, fingerprints = trained.complete(jobs, data)
    stage.check(tracked)
    outcomes.write(jobs, fingerprints, results, test.labels, source)


def claims() -> None:
    """Compute the statistics, draw the figures, write the verdicts, and bring MLflow up to date."""
    from quartet.study import findings, nested, verdicts

    settings = params.load()
    study = design.load(settings)
    idx.check()
    _, test = idx.read_sets(paths.RAW)
    found = outcomes.read(study, settings.class_groups(4), test[1])
    tracked = stage.note("claims", settings, PIPELINE)
    results = findings.find(found)
    pictures = verdicts.draw_all(found, results)
    page = verdicts.page(found, results, list(pictures))
    stage.check(tracked)
    verdicts.write(results, pictures, page)
    print(f"study: {paths.CLAIMS}, and the figures in {paths.STUDY_FIGURES}/ ({catalogue.title(found.data)})")
    nested.bring_up_to_date()


def main() -> None:
    """Run the stage that the command line names."""
    stages = {"trainings": trainings, "claims": claims}
    if len(sys.argv) != 2 or sys.argv[1] not in stages:
        raise InputError(f"study: expected one of {', '.join(stages)}, found '{' '.join(sys.argv[1:])}'")
    stages[sys.argv[1]]()


if __name__ == "__main__":
    process.run(main)
