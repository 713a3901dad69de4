"""Make MLflow agree with the trained and evaluated models that DVC has: `make sync`, and the end of evaluate."""

from __future__ import annotations

from functools import partial

from quartet import errors, files, history, model, params, paths, tracking

ARTIFACTS = ("confusion.png", "loss.png", "per_class.csv")


def bring_up_to_date() -> bool:
    """Complete the run of every trained model; False after one warning where MLflow fails."""
    if tracking.FAILED in map(tracking.attempt, (tracking.mend_moved, tracking.close_interrupted)):
        return False
    for name in params.TRAININGS:
        if not paths.model(name).exists():
            continue
        network, description = model.load_weights(paths.model(name), name)
        epochs = history.read(name)
        folder = paths.EVALUATE / name
        evaluation = None
        if paths.metrics(name).exists():
            evaluation = tracking.Evaluation(
                metrics={f"test_{key}": value for key, value in files.read_json(paths.metrics(name)).items()},
                artifacts=[folder / artifact for artifact in ARTIFACTS] + [paths.summary(name)],
                network=model.with_scores(network),
            )
        if tracking.attempt(partial(tracking.complete, description, epochs, evaluation)) is tracking.FAILED:
            return False
    return True


def main() -> None:
    """Synchronise and say how it went."""
    if not bring_up_to_date():
        raise errors.WorkError("MLflow is not up to date; see the warning above, then run `make sync` again")
    print(f"sync: MLflow ({tracking.uri()}) agrees with stages/")


if __name__ == "__main__":
    errors.run(main)
