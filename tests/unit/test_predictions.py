from __future__ import annotations

import hashlib
import shutil
from contextlib import contextmanager

import numpy as np
import pytest
import torch

import evaluate
from quartet.base import files, params, paths
from quartet.base.errors import InputError
from quartet.base.numerics import rounded
from quartet.commands import pipeline_runs
from quartet.data import catalogue, splits
from quartet.evaluation import predictions
from quartet.model import network, weights
from quartet.training.record import Epoch
from trained import EPOCHS, described, leave, place, scored, settings

pytestmark = pytest.mark.computes

DIGITS = [3, 0, 6, 9, 1, 7, 2, 8, 4, 5, 3]
EVALUATED = (paths.SCORES, paths.HISTORY, paths.PREDICTIONS, paths.CONFUSION)
DATA = {"four": "UCI digits sample, not MNIST", "ten-bn": "MNIST", "trial": "UCI digits sample, not MNIST"}


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """A folder with what `write` leaves of three trainings, and their scores by name; their answers are random."""
    random = np.random.default_rng(0)
    trainings = {
        "four": described("four", settings(classes=4)),
        "ten-bn": described("ten-bn", settings(bn=True), "mnist"),
        "trial": described("trial", settings(lr=0.01)),
    }
    folder, scores = tmp_path_factory.mktemp("evaluated"), {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for number, (name, training) in enumerate(trainings.items()):
            leave(training, [*EPOCHS, Epoch(3, 0.0001, 1 / 3, 0.5 + number / 7)])
            scores[name] = scored(training, DIGITS, random.integers(len(training.groups), size=len(DIGITS)).tolist())
        predictions.write(scores, np.array(DIGITS, dtype=np.uint8))
    return folder, scores


@pytest.fixture
def written(workspace, evaluated):
    """The scores of three trainings, by name, that `write` has written here."""
    folder, scores = evaluated
    shutil.copytree(folder, workspace, dirs_exist_ok=True)
    return scores


def left():
    return {path.name: path.read_bytes() for path in paths.EVALUATE.iterdir()}


def test_what_is_written_is_read_as_it_was(written):
    found = predictions.read(list(written))
    assert list(found) == list(written)
    for number, (name, score) in enumerate(written.items()):
        result = found[name]
        assert result.metrics == score.metrics
        assert result.digits.tolist() == DIGITS
        assert result.labels.tolist() == score.labels.tolist()
        assert result.predicted.tolist() == score.predicted.tolist()
        assert result.correct.tolist() == [a == b for a, b in zip(score.labels, score.predicted, strict=True)]
        assert result.epochs == [*EPOCHS, Epoch(3, 0.0001, 1 / 3, 0.5 + number / 7)]
    assert found["ten-bn"].parameters == {"trainable": 4526, "non_trainable": 56}
    assert sum(layer["trainable"] for layer in found["ten-bn"].layers) == 4526
    assert found["ten-bn"].record == described("ten-bn", settings(bn=True), "mnist")
    assert predictions.read_metrics() == {name: score.metrics for name, score in written.items()}


def test_only_what_is_asked_for_is_read(written):
    assert list(predictions.read(["trial", "four"])) == ["trial", "four"]
    assert predictions.read([]) == {}


def test_each_line_names_its_training_and_its_classes(written):
    rows = files.read_csv(paths.PREDICTIONS)
    assert [row["training"] for row in rows] == [name for name in written for _ in DIGITS]
    for name, score in written.items():
        names = {"four": ["0·6", "1·7", "2·3·5·8", "4·9"]}.get(name, list("0123456789"))
        mine = [row for row in rows if row["training"] == name]
        assert [row["image"] for row in mine] == [str(number) for number in range(len(DIGITS))]
        assert [row["digit"] for row in mine] == [str(digit) for digit in DIGITS]
        assert all(row["digit"] in row["actual"] for row in mine)
        assert [(int(row["label"]), row["actual"]) for row in mine] == [(label, names[label]) for label in score.labels]
        guesses = [(int(row["prediction"]), row["predicted"]) for row in mine]
        assert guesses == [(guess, names[guess]) for guess in score.predicted]


def test_the_histories_are_those_of_the_trainings(written):
    rows = files.read_csv(paths.HISTORY)
    expected = [
        {"training": name, "data": DATA[name], **row} for name in written for row in files.read_csv(paths.history(name))
    ]
    assert rows == expected


def test_each_pair_of_classes_has_its_number_of_images(written):
    rows = files.read_csv(paths.CONFUSION)
    predictions_of = files.read_csv(paths.PREDICTIONS)
    assert {row["training"]: row["data"] for row in rows} == DATA
    for name, score in written.items():
        mine = [row for row in rows if row["training"] == name]
        counts = [
            sum(
                (answer["training"], answer["actual"], answer["predicted"]) == (name, row["actual"], row["predicted"])
                for answer in predictions_of
            )
            for row in mine
        ]
        assert [int(row["images"]) for row in mine] == counts
        assert sum(counts) == len(DIGITS)
        assert len(mine) == len(score.metrics["confusion"]) ** 2


def test_predictions_for_other_images_are_refused(written):
    found = predictions.read(list(written))
    predictions.check_images(found, np.array(DIGITS, dtype=np.uint8))
    for others in (DIGITS[:-1], DIGITS[::-1]):
        with pytest.raises(InputError, match=r"predictions\.csv: not of the images in data/split/; `dvc repro`"):
            predictions.check_images(found, np.array(others, dtype=np.uint8))


def test_the_trainings_keep_their_order(written):
    assert list(files.read_json(paths.SCORES)) == list(written)
    again = dict(reversed(written.items()))
    predictions.write(again, np.array(DIGITS, dtype=np.uint8))
    assert list(files.read_json(paths.SCORES)) == list(again)


def test_each_file_is_described_by_its_sha256(written):
    described = files.read_record(paths.DIGESTS, "evaluate")
    files_of = [*EVALUATED, *map(paths.model, written)]
    assert described == {path.as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files_of}
    assert set(left()) == {path.name for path in (*EVALUATED, paths.METRICS, paths.DIGESTS)}


def test_dvc_has_one_number_of_each_training_to_show(written):
    accuracies = {name: {"accuracy": score.metrics["accuracy"]} for name, score in written.items()}
    assert list(files.read_json(paths.METRICS).items()) == list(accuracies.items())


def test_other_weights_are_not_those_that_were_evaluated(written):
    assert all(map(predictions.is_evaluated, written))
    paths.model("trial").write_bytes(b"trained again")
    assert [name for name in written if not predictions.is_evaluated(name)] == ["trial"]
    predictions.write({name: score for name, score in written.items() if name != "four"}, np.array(DIGITS, dtype=np.uint8))
    assert [name for name in written if not predictions.is_evaluated(name)] == ["four"]


def test_metrics_that_are_a_list_are_refused(written):
    for content in ([], {"ten": []}, 3):
        files.write_json(paths.SCORES, content)
        files.write_digests(paths.DIGESTS, predictions.WRITTEN)
        with pytest.raises(InputError, match=r"scores\.json: expected the metrics of each training; .*evaluate`"):
            predictions.read_metrics()


def test_half_written_files_are_removed_and_others_are_kept(written):
    before = left()
    for path in (*EVALUATED, paths.DIGESTS):
        path.with_name(f".{path.name}.a1_b2c3d.part").write_bytes(b"half")  # eight characters, as tempfile chooses them
    notes = dict.fromkeys(("notes.txt", ".notes.part", "scores.json.part"), b"mine")
    for name, content in notes.items():
        (paths.EVALUATE / name).write_bytes(content)
    predictions.write(written, np.array(DIGITS, dtype=np.uint8))
    assert left() == {**before, **notes}


def flipped(content):
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


DAMAGE = {
    "one bit": flipped,
    "cut": lambda content: content[: len(content) // 2],
    "last bytes": lambda content: content[:-2],
    "empty": lambda _: b"",
    "not text": lambda _: b"\xff\xfe\x00",
    "another mapping": lambda _: b"{}\n",
}
READ = {
    **dict.fromkeys(EVALUATED, "evaluate"),
    paths.DIGESTS: "evaluate",
    paths.history("ten-bn"): "train@ten-bn",
    paths.summary("ten-bn"): "train@ten-bn",
    paths.provenance("trial"): "trial",
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
@pytest.mark.parametrize(("path", "stage"), READ.items(), ids=str)
def test_a_damaged_file_is_refused_and_named(written, path, stage, damage):
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError) as refused:
        predictions.read(list(written))
    message = str(refused.value)
    assert message.startswith(f"{path}: ")
    assert f"--single-item {stage}`" in message or message.endswith("; delete it and run `dvc repro`")


@pytest.mark.parametrize("path", READ, ids=str)
def test_a_missing_file_is_named(written, path):
    path.unlink()
    with pytest.raises(InputError) as refused:
        predictions.read(list(written))
    assert str(refused.value) == f"{path}: missing; `dvc repro` makes it"


@pytest.mark.parametrize("path", [*EVALUATED, paths.DIGESTS], ids=str)
def test_metrics_are_not_read_beside_damage(written, path):
    path.write_bytes(flipped(path.read_bytes()))
    with pytest.raises(InputError, match=r"damaged|not JSON"):
        predictions.read_metrics()


@pytest.fixture
def told(monkeypatch):
    """What evaluate tells the process beside it, which does not run, and whether its files were written by then."""
    words = []

    @contextmanager
    def beside():
        yield lambda word: words.append((word, paths.DIGESTS.exists()))

    monkeypatch.setattr(pipeline_runs, "beside", beside)
    return words


@pytest.fixture
def networks(workspace, tiny, told):
    """Networks that have learned nothing, one for each training, and `tiny` as the test set."""
    splits.save_all({"train": tiny, "validation": tiny, "test": tiny}, catalogue.SAMPLE.source)
    found = {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        loaded = params.load()
        for name in loaded.trainings:
            training = described(name, loaded.hyperparameters(name))
            found[name] = network.build(len(training.groups), training.hyperparameters.bn).eval()
            leave(training)
            weights.save(paths.model(name), found[name], training.description)
    return found


def test_every_model_is_evaluated_on_every_test_image(networks, tiny, told, capsys):
    evaluate.main()
    printed = capsys.readouterr().out
    metrics, rows = files.read_json(paths.SCORES), files.read_csv(paths.PREDICTIONS)
    assert list(metrics) == list(networks)
    for name, model in networks.items():
        training = described(name, params.load().hyperparameters(name))
        with torch.inference_mode():
            logits = model(torch.from_numpy(tiny.images)[:, None] / 255)
        guesses = logits.argmax(dim=1).tolist()
        truth = [place(digit, training) for digit in tiny.labels]
        mine = [row for row in rows if row["training"] == name]
        assert [row["image"] for row in mine] == [str(number) for number in range(210)]
        assert [row["digit"] for row in mine] == [str(digit) for digit in tiny.labels]
        assert [int(row["label"]) for row in mine] == truth
        assert [int(row["prediction"]) for row in mine] == guesses
        assert metrics[name]["accuracy"] == rounded(np.mean(np.array(guesses) == np.array(truth)))
        assert [row["images"] for row in metrics[name]["classes"]] == [21 * len(group) for group in training.groups]
        assert f"evaluate: {name:<7} test accuracy {metrics[name]['accuracy']:.2%}" in printed
    assert told == [*((name, False) for name in networks), (pipeline_runs.EVALUATED, True)]


def test_the_same_models_leave_the_same_bytes(networks):
    evaluate.main()
    first = left()
    assert set(first) == {path.name for path in (*EVALUATED, paths.METRICS, paths.DIGESTS)}
    evaluate.main()
    assert left() == first


def test_a_missing_model_is_named_and_nothing_is_written(networks, told):
    *others, last = networks
    paths.model(last).unlink()
    with pytest.raises(InputError, match=rf"stages/train/{last}/model\.safetensors: missing; `dvc repro` makes it"):
        evaluate.main()
    assert not paths.EVALUATE.exists()
    assert [word for word, _ in told] == others


def test_a_removed_variant_is_not_evaluated(networks):
    first = next(iter(params.load().variants))
    text = paths.PARAMS.read_text(encoding="utf-8")
    paths.PARAMS.write_text(text.replace(f"\n  {first}: {{}}\n", "\n"), encoding="utf-8")
    evaluate.main()
    assert list(files.read_json(paths.SCORES)) == [name for name in networks if name != first]
    for path in (paths.HISTORY, paths.PREDICTIONS):
        assert first not in {row["training"] for row in files.read_csv(path)}
