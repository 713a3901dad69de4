"""Stage plot: the report's figures and the results tables, for all trained models."""

from __future__ import annotations

from quartet.base import files, params, paths, process, stage
from quartet.data import splits
from quartet.evaluation import predictions
from quartet.reporting import gallery, tables


def main() -> None:
    """Write stages/plot/."""
    settings = params.load()
    tracked = stage.note("plot", settings)
    results = predictions.read(settings.trainings)
    source = results[params.TRIAL].record.source
    test = splits.load_split("test")
    predictions.check_images(results, test.labels)
    pictures = gallery.draw_all(results, test.images, source.title)
    links = [(paths.FIGURES / name).relative_to(paths.PLOT).as_posix() for name in pictures]
    page = tables.page(results, source.title, settings.groups, links, comparable=source.data == "mnist")
    stage.check(tracked)
    for name, picture in pictures.items():
        files.write_bytes(paths.FIGURES / name, picture)
    files.write_bytes(paths.RESULTS, page.encode())
    print(f"plot: {paths.RESULTS}, and the figures in {paths.FIGURES}/ ({source.title})")


if __name__ == "__main__":
    process.run(main)
