"""Stage page: one HTML file with the results, the images that were misread, and the networks to try."""

from __future__ import annotations

from pathlib import Path

from quartet.base import files, params, paths, process, stage
from quartet.base.params import TRIAL
from quartet.data import splits
from quartet.evaluation import predictions

STUDY = Path("docs/study.json")


def main() -> None:
    """Write stages/page/."""
    from quartet.evaluation import recognition
    from quartet.reporting import html

    settings = params.load()
    tracked = stage.note("page", settings)
    results = predictions.read(settings.trainings)
    test = splits.load_split("test")
    predictions.check_images(results, test.labels)
    models = recognition.load(settings.trainings)
    source = results[TRIAL].record.source
    verdicts = files.read_json(STUDY)["claims"] if source.data == "mnist" and STUDY.exists() else []
    content = html.page(results, models, test.images, settings.groups, verdicts)
    stage.check(tracked)
    files.write_bytes(paths.PAGE, content)
    print(f"page: {paths.PAGE} ({source.title})")


if __name__ == "__main__":
    process.run(main)
