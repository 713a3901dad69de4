"""Stage evaluate: every trained model on the whole test set, in one process; MLflow is brought up to date beside it."""

from __future__ import annotations

from quartet import data, errors, numerics, params, sync


def main() -> None:
    """Evaluate all of params.TRAININGS."""
    if departure := numerics.departure():
        errors.warn(f"{departure}: the results are as good as the published ones, but not the same to the byte")
    test, data_title = data.load_split("test"), data.TITLES[data.load_manifest()["data"]]
    with sync.beside() as ready:
        from quartet import scoring, training  # seconds of imports, while the process beside takes its own

        training.keep_freed_memory()
        with training.deterministic():
            for name in params.TRAININGS:
                scoring.evaluate_one(name, test, data_title)
                ready(name)


if __name__ == "__main__":
    errors.run(main)
