from __future__ import annotations

import ast
import dataclasses
import shutil
from pathlib import Path

import pytest

from project import ROOT, shipped
from quartet.base import files, params, paths
from quartet.base.errors import InputError
from quartet.base.params import Hyperparameters
from quartet.base.stage import Tracked
from quartet.data import catalogue, splits
from quartet.training import record
from quartet.training.record import Epoch, TrainingRecord

HEADER = b"epoch,train_loss,val_loss,val_accuracy\n"
EPOCHS = [Epoch(1, 0.1 + 0.2, 1 / 3, 0.9), Epoch(2, 1e-17, 2.5, 1.0)]
MANIFEST = {**catalogue.SAMPLE.source.record, "splits": {name: {"sha256": name} for name in splits.SPLITS}}
LAYERS = [{"layer": "conv1", "trainable": 5, "non_trainable": 0}, {"layer": "norm1", "trainable": 2, "non_trainable": 3}]
TRACKED = Tracked("train@ten", {"params.yaml": {"variants.ten": {}}}, {"src/train.py": "md5 of it", "gone": None})
AUGMENT = shipped("augment")
SETTINGS = {"classes": 10, "bn": False, "epochs": 2, "batch_size": 20, "lr": 0.001, "schedule": "constant", "seed": 0}
RECORD = TrainingRecord(
    name="ten",
    hyperparameters=Hyperparameters(**SETTINGS, augment=False),
    groups=((0, 6), (1, 7), (2, 3, 5, 8), (4, 9)),
    source=catalogue.SAMPLE.source,
    splits={"train": "one", "validation": "two"},
    code="code",
)
OTHERS = {
    "name": ["four", "trial"],
    "hyperparameters": [
        RECORD.hyperparameters.model_copy(update=change)
        for change in (
            {"classes": 4},
            {"bn": True},
            {"epochs": 3},
            {"batch_size": 21},
            {"lr": 0.0011},
            {"schedule": "onecycle"},
            {"augment": True},
            {"seed": 1},
            {"weights_seed": 1},
            {"order_seed": 1},
            {"weight_decay": 0.1},
            {"label_smoothing": 0.1},
            {"ema_decay": 0.9},
            {"rotation": 11},
            {"scaling": 0.2},
            {"shift": 3},
            {"elastic": 1},
        )
    ],
    "groups": [((0, 6), (1, 7), (3, 2, 5, 8), (4, 9)), ((1, 7), (0, 6), (2, 3, 5, 8), (4, 9))],
    "source": [catalogue.MNIST.source, catalogue.SAMPLE.source._replace(title="another")],
    "splits": [{"train": "one", "validation": "another"}, {"train": "two", "validation": "one"}],
    "code": ["another"],
}


def named(name):
    return dataclasses.replace(RECORD, name=name)


def described(name, manifest=MANIFEST):
    return record.describe(name, params.load(), manifest)


def fingerprint(name="ten", manifest=MANIFEST):
    return described(name, manifest).fingerprint


@pytest.fixture
def edit(workspace):
    def replace(old, new):
        path = workspace / "params.yaml"
        text = path.read_text(encoding="utf-8")
        assert old in text
        path.write_text(text.replace(old, new, 1), encoding="utf-8")

    return replace


def test_a_history_is_read_back_bit_for_bit(workspace):
    record.write(named("ten-bn"), EPOCHS, LAYERS, TRACKED)
    assert record.read_history("ten-bn") == EPOCHS


def test_the_file_is_a_line_for_each_epoch(workspace):
    record.write(RECORD, EPOCHS, LAYERS, TRACKED)
    assert paths.history("ten").read_text(encoding="utf-8").splitlines() == [
        "epoch,train_loss,val_loss,val_accuracy",
        "1,0.30000000000000004,0.3333333333333333,0.9",
        "2,1e-17,2.5,1.0",
    ]


def test_a_summary_is_the_description_the_layers_and_their_sums(workspace):
    record.write(RECORD, EPOCHS, LAYERS, TRACKED)
    assert record.read_summary("ten") == {
        **RECORD.description,
        "layers": LAYERS,
        "parameters": {"trainable": 7, "non_trainable": 3},
        "history_sha256": files.sha256(paths.history("ten")),
    }


def test_only_the_provenance_has_the_code(workspace):
    names = ("history.csv", "provenance.json", "summary.json")
    written = []
    for code in ("one", "two"):
        record.write(dataclasses.replace(RECORD, code=code), EPOCHS, LAYERS, TRACKED)
        assert sorted(path.name for path in (paths.TRAIN / "ten").iterdir()) == list(names)
        written.append([(paths.TRAIN / "ten" / name).read_bytes() for name in names])
    assert [old == new for old, new in zip(*written, strict=True)] == [True, False, True]


def test_the_provenance_has_what_dvc_tracked(workspace):
    record.write(RECORD, EPOCHS, LAYERS, TRACKED)
    provenance = files.read_record(paths.provenance("ten"), "train@ten")
    assert provenance == {**RECORD.provenance, "dvc": {"params": TRACKED.params, "deps": TRACKED.deps}}
    assert record.read("ten") == RECORD


def test_a_record_is_read_back_as_it_was_written(workspace):
    for name in params.load().trainings:
        whole = described(name)
        record.write(whole, EPOCHS, LAYERS, TRACKED)
        assert record.read(name) == whole
        assert record.read(name).fingerprint == whole.fingerprint


def test_a_provenance_belongs_to_the_summary_beside_it(workspace):
    record.write(RECORD, EPOCHS, LAYERS, TRACKED)
    assert record.read("ten") == RECORD
    for field, (other, *_) in OTHERS.items():
        changed = dataclasses.replace(RECORD, **{field: other})
        files.write_record(paths.provenance("ten"), changed.provenance)
        if field == "code":
            assert record.read("ten") == changed
        else:
            with pytest.raises(InputError, match=r"provenance\.json: not of the training .* --single-item train@ten`"):
                record.read("ten")


@pytest.mark.parametrize(("name", "stage"), [("ten", "train@ten"), ("trial", "trial")])
@pytest.mark.parametrize("file", [paths.provenance, paths.summary])
def test_a_missing_or_damaged_record_is_named(workspace, file, name, stage):
    record.write(named(name), EPOCHS, LAYERS, TRACKED)
    content = file(name).read_text(encoding="utf-8")
    file(name).write_text(content.replace('"bn": false', '"bn": true '), encoding="utf-8")
    with pytest.raises(InputError, match=rf"{file(name)}: not the content .* --single-item {stage}`"):
        record.read(name)
    file(name).unlink()
    with pytest.raises(InputError, match=rf"{file(name)}: missing; `dvc repro` makes it"):
        record.read(name)


def test_a_missing_history_is_named(workspace):
    with pytest.raises(InputError, match=r"stages/train/ten/history\.csv: missing"):
        record.read_history("ten")


@pytest.mark.parametrize("content", [b"", b"epoch,train_loss\n1,0.5\n", b"\xff", HEADER + b"1,0.5,0.5,0.6\n"])
@pytest.mark.parametrize(("name", "stage"), [("ten", "train@ten"), ("trial", "trial")])
def test_a_history_of_another_summary_is_named(workspace, content, name, stage):
    """The message names the stage that makes it."""
    record.write(named(name), [Epoch(1, 0.5, 0.5, 0.5)], LAYERS, TRACKED)
    files.write_bytes(paths.history(name), content)
    with pytest.raises(InputError, match=rf"history\.csv: .*dvc repro --force --single-item {stage}`|not CSV"):
        record.read_history(name)


def test_what_a_killed_training_left_half_written_is_removed(workspace):
    record.write(RECORD, EPOCHS, LAYERS, TRACKED)
    record.write(named("four"), EPOCHS, LAYERS, TRACKED)
    before = sorted(paths.TRAIN.rglob("*"))
    for path in [*paths.TRAIN.rglob("*.*"), paths.model("ten")]:
        path.with_name(f".{path.name}.k3pt_9ab.part").write_bytes(b"half")
    record.remove_parts("ten")
    four = [path.with_name(f".{path.name}.k3pt_9ab.part") for path in (paths.TRAIN / "four").glob("[!.]*")]
    assert len(four) == 3
    assert sorted(paths.TRAIN.rglob("*")) == sorted([*before, *four])


def test_parameters_groups_and_data_describe_a_training(workspace):
    found = described("four-bn")
    recipe = {"epochs": 10, "batch_size": 20, "lr": 0.001, "schedule": "constant", "augment": False, "seed": 0}
    assert found.description == {
        "variant": "four-bn",
        "hyperparameters": {**recipe, "classes": 4, "bn": True},
        "groups": [[0, 6], [1, 7], [2, 3, 5, 8], [4, 9]],
        **catalogue.SAMPLE.source.record,
        "splits": {"train": "train", "validation": "validation"},
    }
    assert found.provenance == {**found.description, "code": record.code_digest()}


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(TrainingRecord)])
def test_a_record_is_frozen_and_any_other_value_is_another_one(field):
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(RECORD, field, OTHERS[field][0])
    others = [dataclasses.replace(RECORD, **{field: other}) for other in OTHERS[field]]
    assert RECORD not in others
    assert len({RECORD.fingerprint, *(other.fingerprint for other in others)}) == 1 + len(others)


def test_every_hyperparameter_counts():
    changed = [
        name
        for name in Hyperparameters.model_fields
        for other in OTHERS["hyperparameters"]
        if getattr(other, name) != getattr(RECORD.hyperparameters, name)
    ]
    assert changed == list(Hyperparameters.model_fields)


def test_a_fingerprint_is_the_same_for_equal_records():
    again = dataclasses.replace(
        RECORD,
        hyperparameters=RECORD.hyperparameters.model_copy(),
        splits=dict(reversed(RECORD.splits.items())),
    )
    assert again.fingerprint == RECORD.fingerprint


def test_a_fingerprint_is_the_trainings_own(workspace):
    assert fingerprint() == fingerprint()
    trainings = params.load().trainings
    assert len({fingerprint(name) for name in trainings}) == len(trainings) > 1


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("ten", "  lr: 0.001", "  lr: 0.002"),
        ("ten", "  seed: 0\n\n# The variants", "  seed: 1\n\n# The variants"),
        ("ten", "ten: {}", "ten: {lr: 0.002}"),
        ("four", "[0, 6]\n  - [1, 7]", "[0, 7]\n  - [1, 6]"),
        ("trial", "bn: false", "bn: true"),
        ("trial", AUGMENT, "augment: true" if AUGMENT == "augment: false" else "augment: false"),
    ],
)
def test_a_fingerprint_changes_with_what_the_training_depends_on(edit, name, old, new):
    before = fingerprint(name)
    edit(old, new)
    assert fingerprint(name) != before


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("ten", "bn: false", "bn: true"),
        ("trial", "  lr: 0.001", "  lr: 0.002"),
        ("four", "ten: {}", "ten: {lr: 0.002}"),
        ("ten", "ten: {}", "ten: {lr: 0.001}"),
        ("ten", "[0, 6]\n  - [1, 7]", "[0, 7]\n  - [1, 6]"),
    ],
)
def test_a_fingerprint_stays_where_others_change(edit, name, old, new):
    before = fingerprint(name)
    edit(old, new)
    assert fingerprint(name) == before


def test_a_fingerprint_changes_with_the_training_images_alone(workspace):
    before = fingerprint()
    for split in splits.SPLITS:
        other = {**MANIFEST, "splits": {**MANIFEST["splits"], split: {"sha256": "another"}}}
        assert (fingerprint(manifest=other) == before) == (split == "test")


@pytest.fixture
def source(tmp_path):
    """A copy of src/."""
    return Path(shutil.copytree(ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__")))


class Imports(ast.NodeVisitor):
    """The names that a module imports, in functions too, but for those that only a type checker imports."""

    def __init__(self, path):
        self.names = set()
        self.visit(ast.parse(path.read_text(encoding="utf-8")))

    def visit_If(self, node):
        for part in node.orelse if ast.unparse(node.test) == "TYPE_CHECKING" else (*node.body, *node.orelse):
            self.visit(part)

    def visit_Import(self, node):
        self.names |= {alias.name for alias in node.names}

    def visit_ImportFrom(self, node):
        self.names |= {f"{node.module}.{alias.name}" for alias in node.names}


def reached(source, script):
    """The files below `source` that a script's imports load, it among them, without the tracking package's."""
    found, waiting = set(), {source / script}
    while waiting:
        path = waiting.pop()
        found.add(path)
        for name in Imports(path).names:
            parts = name.split(".")
            places = [source.joinpath(*parts[:count]) for count in range(1, len(parts) + 1)]
            modules = [place for folder in places for place in (folder.with_suffix(".py"), folder / "__init__.py")]
            waiting |= {place for place in modules if place.exists() and "tracking" not in place.parts} - found
    return {path.relative_to(source).as_posix() for path in found}


def test_the_code_is_what_a_training_imports_and_no_more(source):
    before = record.code_digest(source)
    assert before == record.code_digest()
    covered = set()
    for path in source.rglob("*.py"):
        content = path.read_bytes()
        path.write_bytes(content + b"#")
        if record.code_digest(source) != before:
            covered.add(path.relative_to(source).as_posix())
        path.write_bytes(content)
    assert record.code_digest(source) == before
    assert covered == reached(source, "train.py")
    assert {"quartet/__init__.py", "quartet/training/loop.py", "quartet/base/numerics.py"} < covered


@pytest.mark.parametrize("kind", ["quartet/tracking", "quartet/commands", "quartet/reporting", "quartet/data/download.py"])
def test_code_that_changes_no_result_does_not_count(source, kind):
    before = record.code_digest(source)
    place = source / kind
    changed = [place] if place.is_file() else [*place.glob("*.py"), place / "new.py"]
    assert changed
    for path in changed:
        path.write_bytes(b"changed")
    assert record.code_digest(source) == before


def test_code_files_of_one_name_are_told_apart(source):
    before = record.code_digest(source)
    first, second = (source / "quartet" / package / "__init__.py" for package in ("model", "training"))
    one, two = first.read_bytes(), second.read_bytes()
    assert one != two
    first.write_bytes(two)
    second.write_bytes(one)
    assert record.code_digest(source) != before


def test_a_code_file_counts_by_its_path_and_content(tmp_path):
    digests = set()
    for number, (path, content) in enumerate(
        [("model/one.py", "1"), ("training/one.py", "1"), ("training/two.py", "1"), ("training/two.py", "2")]
    ):
        files.write_bytes(tmp_path / str(number) / "quartet" / path, content.encode())
        digests.add(record.code_digest(tmp_path / str(number)))
    assert len(digests) == 4


def test_the_code_counts_wherever_it_is(source, tmp_path):
    before = record.code_digest(source)
    assert record.code_digest(source.rename(tmp_path / "elsewhere")) == before


def test_pytorchs_version_counts_and_its_build_does_not(monkeypatch):
    digests = []
    for version in ("2.13.0", "2.13.0+cpu", "2.13.0+cu130", "2.13.1+cpu"):
        monkeypatch.setattr(record, "version", {"torch": version}.__getitem__)
        digests.append(record.code_digest())
    assert digests[0] == digests[1] == digests[2] != digests[3]
