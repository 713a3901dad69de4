"""Stage evaluate: every trained model on the whole test set, in one process; MLflow is brought up to date beside it."""

from __future__ import annotations

from quartet.base import errors, numerics, params, paths, process, stage
from quartet.commands import pipeline_runs
from quartet.data import splits
from quartet.evaluation import predictions
from quartet.training import record


def main() -> None:
    """Evaluate all trainings of params.yaml, and write stages/evaluate/."""
    if departure := numerics.departure():
        errors.warn(f"{departure}: the results are as good as the published ones, but not the same to the byte")
    settings = params.load()
    names = settings.trainings
    width = max(map(len, names))
    test, title = splits.load_split("test"), splits.load_source().title
    with pipeline_runs.beside() as tell:
        # Imported late, at the same time as the process beside does its imports.
        import torch

        from quartet.evaluation import metrics
        from quartet.model import inference, weights
        from quartet.training import determinism

        tracked = stage.note("evaluate", settings)
        determinism.keep_freed_memory()
        images, scores = torch.from_numpy(test.images), {}
        with determinism.deterministic():
            for name in names:
                training = record.read(name)
                network = weights.load(paths.model(name), training.description)
                scores[name] = metrics.score(
                    inference.predict(network, images), test.labels, training.groups, training.class_names
                )
                accuracy, loss = (scores[name].metrics[key] for key in ("accuracy", "loss"))
                print(f"evaluate: {name:<{width}} test accuracy {accuracy:.2%}  loss {loss:.4f}  ({title})", flush=True)
                tell(name)
        stage.check(tracked)
        predictions.write(scores, test.labels)
        tell(pipeline_runs.EVALUATED)
    stage.check(tracked)  # again: waiting for MLflow's process may take seconds


if __name__ == "__main__":
    process.run(main)
