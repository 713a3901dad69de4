from __future__ import annotations

import math

import pytest
import yaml
from pydantic import ValidationError
from ruamel.yaml import YAML

from quartet import params
from quartet.errors import InputError


@pytest.fixture
def refusal(workspace):
    """The message with which load() refuses the shipped file after one replacement, or a whole other content."""

    def refuse(old, new):
        path = workspace / "params.yaml"
        if old is None:
            path.write_bytes(new)
        else:
            text = path.read_text(encoding="utf-8")
            assert old in text
            path.write_text(text.replace(old, new, 1), encoding="utf-8")
        with pytest.raises(InputError) as refused:
            params.load()
        message = str(refused.value)
        assert len(message.splitlines()) == 1
        assert message.startswith("params.yaml:")
        return message

    return refuse


def test_the_shipped_file_loads(workspace):
    settings = params.load()
    assert settings.groups == [[0, 6], [1, 7], [2, 3, 5, 8], [4, 9]]
    assert (settings.report.epochs, settings.report.batch_size, settings.report.lr) == (10, 20, 0.001)


GROUPS = "groups: expected four non-empty lists that use each digit 0 to 9 exactly once, found [["


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("bn: false", "bn: yes", 'bn: expected true or false, found "yes"'),
        ("bn: false", "bn: 1", "bn: expected true or false, found 1"),
        ("bn: false", "bn:", "bn: expected true or false, found nothing"),
        ("augment: false", "augment: off", 'augment: expected true or false, found "off"'),
        ("lr: 0.01", "lr: 0", "lr: expected more than 0.0, found 0"),
        ("lr: 0.01", "lr: -1", "lr: expected more than 0.0, found -1"),
        ("lr: 0.01", "lr: 1.5", "lr: expected at most 1.0, found 1.5"),
        ("lr: 0.01", "lr: .nan", "lr: expected a finite number, found NaN"),
        ("lr: 0.01", "lr: .inf", "lr: expected a finite number, found Infinity"),
        ("lr: 0.01", "lr: abc", 'lr: expected a number, found "abc"'),
        ("lr: 0.01", "lr: true", "lr: expected a number, found true"),
        ("epochs: 10", "epochs: 0", "epochs: expected at least 1, found 0"),
        ("epochs: 10", "epochs: 1.5", "epochs: expected a whole number, found 1.5"),
        ("epochs: 10", "epochs: true", "epochs: expected a whole number, found true"),
        ("epochs: 10", "epochs: [1]", "epochs: expected a whole number, found [1]"),
        ("batch_size: 64", "batch_size: 0", "batch_size: expected at least 1, found 0"),
        ("seed: 0", "seed: -1", "seed: expected at least 0, found -1"),
        ("seed: 0", "seed: 4294967296", "seed: expected less than 4294967296, found 4294967296"),
        ("classes: 10", "classes: 3", "classes: expected 10 or 4, found 3"),
        ("schedule: onecycle", "schedule: cosine", "schedule: expected 'constant' or 'onecycle', found \"cosine\""),
        ("source: auto", "source: cifar", "data.source: expected 'auto', 'mnist' or 'sample', found \"cifar\""),
        ("fraction: 0.1", "fraction: 0", "data.validation_fraction: expected more than 0.0, found 0"),
        ("fraction: 0.1", "fraction: 1", "data.validation_fraction: expected less than 1.0, found 1"),
        ("  batch_size: 20", "  batch_size: 0", "report.batch_size: expected at least 1, found 0"),
        ("ten: {classes: 10", "ten: {classes: 9", "variants.ten.classes: expected 10 or 4, found 9"),
        ("ten-bn: {classes: 10, bn: true}", "ten-bn: 3", "variants.ten-bn: expected a mapping of keys, found 3"),
        ("[1, 7]", "[1, 7, 0]", GROUPS),
        ("[4, 9]", "[4]", GROUPS),
        ("[4, 9]", "[4, 9, 10]", GROUPS),
        ("  - [4, 9]", "  - [4, 9]\n  - []", GROUPS),
        ("[0, 6]\n  - [1, 7]", "[0, 6, 1, 7]\n  - []", GROUPS),
        ("  - [4, 9]", "  - [4, nine]", 'groups.3.1: expected a whole number, found "nine"'),
    ],
)
def test_a_bad_value_is_named_with_what_was_found_and_what_is_allowed(refusal, old, new, problem):
    assert f"params.yaml: {problem}" in refusal(old, new)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("epochs: 10", "epoch: 10", ["epoch: unknown key", "did you mean 'epochs'", "epochs: missing"]),
        ("  lr: 0.001", "  rl: 0.001", ["report.rl: unknown key", "did you mean 'lr'", "report.lr: missing"]),
        ("ten-bn: {", "ten_bn: {", ["variants.ten_bn: unknown key", "did you mean 'ten-bn'"]),
        ("four: {classes: 4, bn: false}", "four: {classes: 4, batchnorm: false}", ["variants.four.batchnorm", "bn"]),
        ("bn: false", "bn: false\nxyzzy: 1", ["xyzzy: unknown key", "known: ", "batch_size", "variants"]),
        ("bn: false", "", ["bn: missing; add it"]),
        ("  seed: 0\n\n#", "\n#", ["data.seed: missing; add it"]),
    ],
)
def test_an_unknown_or_missing_key_is_named_with_the_nearest_known_one(refusal, old, new, words):
    message = refusal(old, new)
    assert [word for word in words if word not in message] == []


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("bn: false", "<<<<<<< HEAD\nbn: false\n=======\nbn: true\n>>>>>>> other", ["line ", "not valid YAML"]),
        ("  seed: 0", "\tseed: 0", ["line ", "not valid YAML"]),
        ("bn: false", "bn: false\nbn: true", ["line 6", "key 'bn' stands twice"]),
        ("  epochs: 10", "  epochs: 10\n  epochs: 9", ["line ", "key 'epochs' stands twice"]),
        ("bn: false", "bn: [false", ["line ", "not valid YAML"]),
        ("bn: false", "bn: *other", ["line ", "not valid YAML"]),
        ("bn: false", "bn: !!python/object/apply:os.getcwd []", ["line ", "not valid YAML"]),
        ("seed: 0", "seed: !!int many", ["not valid YAML"]),
        ("lr: 0.01", "lr: !!float low", ["not valid YAML"]),
        ("bn: false", "bn: !!bool perhaps", ["not valid YAML"]),
        ("bn: false", "bn: !!timestamp today", ["not valid YAML"]),
        ("seed: 0", "seed: !!int [0]", ["not valid YAML"]),
        ("seed: 0", f"seed: {'9' * 5000}", ["not valid YAML"]),
        (None, b"", ["found nothing"]),
        (None, b"# only a comment\n", ["found nothing"]),
        (None, b"- bn\n", ['found ["bn"]']),
        (None, b"text", ['found "text"']),
        (None, b"bn: \xff\n", ["not UTF-8"]),
        (None, b"bn: \x00\n", ["not valid YAML"]),
        (None, b"[" * 20_000, ["not valid YAML"]),
    ],
)
def test_a_file_that_is_no_mapping_of_yaml_is_refused(refusal, old, new, words):
    message = refusal(old, new)
    assert [word for word in words if word not in message] == []


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"nowhere\.yaml: missing"):
        params.load(tmp_path / "nowhere.yaml")


SCALARS = """
    yes no on off y n Yes ON True TRUE true False FALSE tRUE null ~ Null NULL nULL none
    1e-3 1E3 1e+3 1e5 1.5e3 .5 5. 1. -.5 +.5 1.0 0.001 1.2.3 1e .e5 e5
    0 -0 +1 -1 010 08 4294967296 12:30 1:30:45 190:20:30 1,000
    .inf -.inf +.INF .nan .NaN inf nan 'a' '1' "1" '' + - .
""".replace(" - ", " ").split()

# Read as text here and as numbers, dates or not at all by DVC. Every parameter wants a number, a boolean or one of a few
# names, so all of them are refused with what was found, and none can mean one thing here and another to DVC.
REFUSED = ["0x10", "0o10", "0b11", "1_000", "0_1", "1.2_3", "685_230.15", "2020-01-01", "2001-12-14t21:59:43.10-05:00", "="]


def plain(text):
    return yaml.load(f"key: {text}\n", params._Yaml12Loader)["key"]


@pytest.mark.parametrize("text", ["", *SCALARS])
def test_a_plain_scalar_is_read_as_dvc_reads_it(text):
    expected = YAML(typ="safe", pure=True).load(f"key: {text}\n")["key"]
    found = plain(text)
    assert type(found) is type(expected)
    assert found == expected or (math.isnan(found) and math.isnan(expected))


@pytest.mark.parametrize("text", REFUSED)
@pytest.mark.parametrize("key", ["seed: 0", "lr: 0.01", "bn: false", "classes: 10", "schedule: onecycle"])
def test_a_scalar_that_dvc_reads_otherwise_is_refused(refusal, key, text):
    assert plain(text) == text
    assert f'found "{text}"' in refusal(key, f"{key.split(':')[0]}: {text}")


def test_the_variants_are_the_reports_recipe_in_four_shapes(workspace):
    settings = params.load()
    recipe = {"epochs": 10, "batch_size": 20, "lr": 0.001, "schedule": "constant", "augment": False, "seed": 0}
    shapes = {"ten": (10, False), "ten-bn": (10, True), "four": (4, False), "four-bn": (4, True)}
    for name, (classes, bn) in shapes.items():
        assert settings.hyperparameters(name).model_dump() == {**recipe, "classes": classes, "bn": bn}
    assert (*shapes, "trial") == params.TRAININGS


def test_the_trial_has_the_top_level_values(workspace):
    path = workspace / "params.yaml"
    text = path.read_text(encoding="utf-8").replace("bn: false", "bn: true", 1).replace("lr: 0.01", "lr: 2e-2", 1)
    path.write_text(text, encoding="utf-8")
    expected = {"classes": 10, "bn": True, "epochs": 10, "batch_size": 64, "lr": 0.02, "schedule": "onecycle"}
    assert params.load().hyperparameters("trial").model_dump() == {**expected, "augment": False, "seed": 0}


def test_parameters_cannot_be_changed(workspace):
    settings = params.load()
    with pytest.raises(ValidationError, match="frozen"):
        settings.bn = True
    with pytest.raises(ValidationError, match="frozen"):
        settings.report.lr = 0.5
    with pytest.raises(ValidationError, match="frozen"):
        settings.hyperparameters("ten").epochs = 1


def test_the_classes_are_the_digits_or_the_four_groups(workspace):
    settings = params.load()
    assert settings.class_groups(10) == ((0,), (1,), (2,), (3,), (4,), (5,), (6,), (7,), (8,), (9,))
    assert settings.class_groups(4) == ((0, 6), (1, 7), (2, 3, 5, 8), (4, 9))


def test_the_check_is_silent_on_a_good_file(workspace, capsys):
    params.main()
    assert capsys.readouterr() == ("", "")
