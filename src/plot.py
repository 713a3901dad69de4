"""Stage plot: the report's figures and the results tables, for all trained models."""

from __future__ import annotations

from quartet.base import files, params, paths, process
from quartet.data import splits
from quartet.evaluation import predictions
from quartet.reporting import figures, tables


def main() -> None:
    """Write stages/plot/."""
    settings = params.load()
    results = predictions.read(settings.trainings)
    source = results[params.TRIAL].record.data
    title = splits.TITLES[source]
    for name, picture in figures.draw_all(results, title).items():
        files.write_bytes(paths.FIGURES / name, picture)
    page = tables.page(results, title, settings.groups, comparable=source == "mnist")
    files.write_bytes(paths.RESULTS, page.encode())
    print(f"plot: {paths.RESULTS}, and the figures in {paths.FIGURES}/ ({title})")


if __name__ == "__main__":
    process.run(main)
