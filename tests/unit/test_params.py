from __future__ import annotations

import json
import math
import re
import subprocess

import pytest
import yaml
from dvc.dependency.param import read_param_file
from dvc.fs import LocalFileSystem
from pydantic import ValidationError
from ruamel.yaml import YAML

from project import PARAMS, ROOT, shipped
from quartet.base import params
from quartet.base.errors import InputError

LR, BATCH, AUGMENT = (shipped(name) for name in ("lr", "batch_size", "augment"))


@pytest.fixture
def edit(workspace):
    """Replace a text in params.yaml, which holds it, or all of it."""

    def replace(old, new):
        path = workspace / "params.yaml"
        if old is None:
            path.write_bytes(new)
        else:
            text = path.read_text(encoding="utf-8")
            assert old in text
            path.write_text(text.replace(old, new, 1), encoding="utf-8")

    return replace


@pytest.fixture
def refusal(edit):
    """The message with which load() refuses the shipped file after one replacement, or a whole other content."""

    def refuse(old, new):
        edit(old, new)
        with pytest.raises(InputError) as refused:
            params.load()
        message = str(refused.value)
        assert len(message.splitlines()) == 1
        assert message.startswith("params.yaml:")
        return message

    return refuse


def section(workspace, name):
    """A section of params.yaml: the line of its key and those indented below."""
    text = (workspace / "params.yaml").read_text(encoding="utf-8")
    (found,) = re.findall(rf"^{name}:\n(?:  .*\n)+", text, re.MULTILINE)
    return found


def test_the_tests_settings_have_the_keys_of_the_committed_ones():
    """Their values may differ: whoever uses this changes them."""
    shown = subprocess.run(["git", "show", "HEAD:params.yaml"], cwd=ROOT, capture_output=True, check=True)
    committed, ours = yaml.safe_load(shown.stdout), yaml.safe_load(PARAMS.read_bytes())
    assert ours.keys() == committed.keys()
    for section in ("data", "report"):
        assert ours[section].keys() == committed[section].keys()


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
        (AUGMENT, "augment: off", 'augment: expected true or false, found "off"'),
        (LR, "lr: 0", "lr: expected more than 0.0, found 0"),
        (LR, "lr: -1", "lr: expected more than 0.0, found -1"),
        (LR, "lr: 1.5", "lr: expected at most 1.0, found 1.5"),
        (LR, "lr: .nan", "lr: expected a finite number, found NaN"),
        (LR, "lr: .inf", "lr: expected a finite number, found Infinity"),
        (LR, "lr: abc", 'lr: expected a number, found "abc"'),
        (LR, "lr: true", "lr: expected a number, found true"),
        ("epochs: 10", "epochs: 0", "epochs: expected at least 1, found 0"),
        ("epochs: 10", "epochs: 1.5", "epochs: expected a whole number, found 1.5"),
        ("epochs: 10", "epochs: true", "epochs: expected a whole number, found true"),
        ("epochs: 10", "epochs: [1]", "epochs: expected a whole number, found [1]"),
        (BATCH, "batch_size: 0", "batch_size: expected at least 1, found 0"),
        ("seed: 0", "seed: -1", "seed: expected at least 0, found -1"),
        ("seed: 0", "seed: 4294967296", "seed: expected less than 4294967296, found 4294967296"),
        ("classes: 10", "classes: 3", "classes: expected 10 or 4, found 3"),
        ("schedule: onecycle", "schedule: cosine", "schedule: expected 'constant' or 'onecycle', found \"cosine\""),
        ("source: auto", "source: CIFAR", 'data.source: expected a name of a-z, 0-9 and -, found "CIFAR"'),
        ("fraction: 0.1", "fraction: 0", "data.validation_fraction: expected more than 0.0, found 0"),
        ("fraction: 0.1", "fraction: 1", "data.validation_fraction: expected less than 1.0, found 1"),
        ("  batch_size: 20", "  batch_size: 0", "report.batch_size: expected at least 1, found 0"),
        ("ten: {}", "ten: {classes: 9}", "variants.ten.classes: expected 10 or 4, found 9"),
        ("ten-bn: {bn: true}", "ten-bn: 3", "variants.ten-bn: expected a mapping of keys, found 3"),
        ("ten: {}", "ten:", "variants.ten: expected a mapping of keys, found nothing"),
        ("ten: {}", "ten: []", "variants.ten: expected a mapping of keys, found []"),
        ("[1, 7]", "[1, 7, 0]", GROUPS),
        ("[4, 9]", "[4]", GROUPS),
        ("[4, 9]", "[4, 9, 10]", GROUPS),
        ("  - [4, 9]", "  - [4, 9]\n  - []", GROUPS),
        ("[0, 6]\n  - [1, 7]", "[0, 6, 1, 7]\n  - []", GROUPS),
        ("  - [4, 9]", "  - [4, nine]", 'groups.3.1: expected a whole number, found "nine"'),
    ],
)
def test_a_bad_value_is_named_with_what_is_found_and_allowed(refusal, old, new, problem):
    assert f"params.yaml: {problem}" in refusal(old, new)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("epochs: 10", "epoch: 10", ["epoch: unknown key", "did you mean 'epochs'", "epochs: missing"]),
        ("  lr: 0.001", "  rl: 0.001", ["report.rl: unknown key", "did you mean 'lr'", "report.lr: missing"]),
        ("  lr: 0.001", "  lr: 0.001\n  xyzzy: 1", ["report.xyzzy: unknown key", "known: classes, bn", "schedule"]),
        ("four: {classes: 4}", "four: {class: 4}", ["variants.four.class: unknown key", "did you mean 'classes'"]),
        ("four: {classes: 4}", "four: {xyzzy: 1}", ["variants.four.xyzzy: unknown key", "known: classes, bn", "schedule"]),
        ("bn: false", "bn: false\nxyzzy: 1", ["xyzzy: unknown key", "known: ", "batch_size", "variants"]),
        ("bn: false", "", ["bn: missing; add it"]),
        ("  seed: 0\n\n#", "\n#", ["data.seed: missing; add it"]),
    ],
)
def test_an_unknown_key_is_named_with_the_nearest_known_one(refusal, old, new, words):
    """A missing one too."""
    message = refusal(old, new)
    assert [word for word in words if word not in message] == []


def test_known_keys_are_listed_once(refusal):
    """Once for each place that has others: a variant has fewer than the file."""
    message = refusal("bn: false", "bn: false\nxyzzy: 1\nxyzzz: 2")
    assert "; xyzzz: unknown key" in message
    assert message.count("known: ") == 1


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("bn: false", "<<<<<<< HEAD\nbn: false\n=======\nbn: true\n>>>>>>> other", ["line ", "not valid YAML"]),
        ("  seed: 0", "\tseed: 0", ["line ", "not valid YAML"]),
        ("bn: false", "bn: false\nbn: true", ["line 6", "key 'bn' is there twice"]),
        ("  epochs: 10", "  epochs: 10\n  epochs: 9", ["line ", "key 'epochs' is there twice"]),
        ("bn: false", "bn: [false", ["line ", "not valid YAML"]),
        ("bn: false", "bn: *other", ["line ", "not valid YAML"]),
        ("bn: false", "bn: !!python/object/apply:os.getcwd []", ["line ", "not valid YAML"]),
        ("seed: 0", "seed: !!int many", ["not valid YAML"]),
        (LR, "lr: !!float low", ["not valid YAML"]),
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
@pytest.mark.parametrize("key", ["seed: 0", LR, "bn: false", "classes: 10", "schedule: onecycle"])
def test_a_scalar_that_dvc_reads_otherwise_is_refused(refusal, key, text):
    assert plain(text) == text
    assert f'found "{text}"' in refusal(key, f"{key.split(':')[0]}: {text}")


def test_the_variants_are_the_reports_recipe_in_four_shapes(workspace):
    settings = params.load()
    recipe = {"epochs": 10, "batch_size": 20, "lr": 0.001, "schedule": "constant", "augment": False, "seed": 0}
    shapes = {"ten": (10, False), "ten-bn": (10, True), "four": (4, False), "four-bn": (4, True)}
    for name, (classes, bn) in shapes.items():
        assert settings.hyperparameters(name).model_dump(exclude_defaults=True) == {**recipe, "classes": classes, "bn": bn}
    assert tuple(settings.variants) == tuple(shapes)
    assert settings.trainings == (*shapes, "trial")


# Of each hyperparameter, another value than the shipped `report` has.
OTHER = {
    "classes": 4,
    "bn": True,
    "epochs": 3,
    "batch_size": 50,
    "lr": 0.5,
    "schedule": "onecycle",
    "augment": True,
    "seed": 7,
    "weights_seed": 8,
    "order_seed": 9,
    "weight_decay": 0.1,
    "label_smoothing": 0.2,
    "ema_decay": 0.9,
    "rotation": 20,
    "scaling": 0.3,
    "shift": 4,
    "elastic": 5,
}
ALL_OF_THEM = "{" + ", ".join(f"{key}: {json.dumps(value)}" for key, value in OTHER.items()) + "}"


@pytest.mark.parametrize("key", params.Hyperparameters.model_fields)
def test_a_variant_may_change_any_one_hyperparameter(edit, key):
    edit("  ten: {}", f"  ten: {{}}\n  other: {{{key}: {json.dumps(OTHER[key])}}}")
    settings = params.load()
    assert settings.trainings == ("ten", "other", "ten-bn", "four", "four-bn", "trial")
    report = settings.report.model_dump()
    assert report[key] != OTHER[key]
    assert settings.variants["other"].model_dump() == {**report, key: OTHER[key]}
    assert settings.variants["ten"].model_dump() == report


def test_a_variant_may_change_every_hyperparameter(edit):
    edit("ten: {}", f"ten: {ALL_OF_THEM}")
    settings = params.load()
    assert settings.hyperparameters("ten") == settings.variants["ten"]
    assert settings.variants["ten"].model_dump() == OTHER


def test_a_variant_has_from_report_what_it_does_not_change(edit):
    before = params.load()
    edit("  lr: 0.001\n", "  lr: 0.25\n")
    edit("ten-bn: {bn: true}", "ten-bn: {bn: true, lr: 0.125}")
    after = params.load()
    assert {name: variant.lr for name, variant in after.variants.items()} == {
        name: 0.125 if name == "ten-bn" else 0.25 for name in before.variants
    }
    assert after.hyperparameters("trial") == before.hyperparameters("trial")


@pytest.mark.parametrize("name", ["a", "0-9", "ten-bn-3", "trials", "trial-2", "x" * 100])
def test_a_variant_may_have_any_plain_name(edit, name):
    edit("ten: {}", f"{name}: {{}}")
    assert params.load().trainings == (name, "ten-bn", "four", "four-bn", "trial")


LETTERS = "expected a name of a-z, 0-9 and -, other than trial"


@pytest.mark.parametrize("content", ["{}", "{bn: 3}", "{xyzzy: 1}", "{1: 2}"])
@pytest.mark.parametrize(
    ("name", "key", "found"),
    [
        ("Ten", "Ten", '"Ten"'),
        ("t.en", "t.en", '"t.en"'),
        ("ten_bn", "ten_bn", '"ten_bn"'),
        ("'ten bn'", "ten bn", '"ten bn"'),
        ("../ten", "../ten", '"../ten"'),
        ("zehn-für-n", "zehn-für-n", '"zehn-für-n"'),
        ("''", "", '""'),
        ("trial", "trial", '"trial"'),
        ("10", "10", "10"),
        ("1.5", "1.5", "1.5"),
        ("9" * 30, "9" * 30, "9" * 30),
        ("null", "None", "nothing"),
    ],
)
def test_a_bad_name_of_a_variant_is_refused_in_one_line(refusal, name, key, found, content):
    problem = f"params.yaml: variants.{key}: {LETTERS}"
    message = refusal("ten: {}", f"{name}: {content}")
    assert message.startswith(problem)
    assert f", found {found}" in message.removeprefix(problem)


@pytest.mark.parametrize("name", ["true", "1"])
def test_names_that_python_takes_for_equal_are_refused_alike(refusal, name):
    assert f"params.yaml: variants.1: {LETTERS}, found {name}" in refusal("ten: {}", f"{name}: {{bn: 3}}")


@pytest.mark.parametrize(
    ("variants", "problem"),
    [
        ("variants: {}\n", "variants: expected at least one variant, found {}"),
        ("variants:\n", "variants: expected a mapping of keys, found nothing"),
        ("variants: [ten]\n", 'variants: expected a mapping of keys, found ["ten"]'),
        ("", "variants: missing; add it"),
    ],
)
def test_no_variant_at_all_is_refused(refusal, workspace, variants, problem):
    assert refusal(section(workspace, "variants"), variants) == f"params.yaml: {problem}"


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("  lr: 0.001", "  lr: -1", "report.lr: expected more than 0.0, found -1"),
        ("  lr: 0.001\n", "", "report.lr: missing; add it"),
        ("  lr: 0.001", "  lr: 0.001\n  rl: 1", "report.rl: unknown key; did you mean 'lr'?"),
        ("  lr: 0.001", "  lr: 0.001\n  1: 2", "report.1: expected the name of a parameter, found 1"),
        ("  classes: 10", "  classes: 5", "report.classes: expected 10 or 4, found 5"),
    ],
)
def test_an_error_in_report_is_told_once(refusal, old, new, problem):
    assert refusal(old, new) == f"params.yaml: {problem}"


@pytest.mark.parametrize(
    ("report", "problem"),
    [("report:\n", "report: expected a mapping of keys, found nothing"), ("", "report: missing; add it")],
)
def test_a_report_that_is_not_there_is_told_once(refusal, workspace, report, problem):
    assert refusal(section(workspace, "report"), report) == f"params.yaml: {problem}"


def test_an_error_in_report_and_in_a_variant_is_told_of_both(refusal, edit):
    edit("ten-bn: {bn: true}", "ten-bn: {lr: -1}")
    assert refusal("  lr: 0.001", "  lr: -1") == (
        "params.yaml: report.lr: expected more than 0.0, found -1; variants.ten-bn.lr: expected more than 0.0, found -1"
    )


@pytest.mark.parametrize("key", params.Hyperparameters.model_fields)
def test_the_key_of_a_hyperparameter_is_where_a_change_works(edit, workspace, key):
    edit("  ten: {}", f"  ten: {{}}\n  other: {{{key}: {json.dumps(OTHER[key])}}}")
    settings = params.load()
    assert [settings.key(name, key) for name in ("trial", "ten", "other")] == [key, f"report.{key}", f"variants.other.{key}"]
    before = {name: getattr(settings.hyperparameters(name), key) for name in settings.trainings}
    path = workspace / "params.yaml"
    shipped = path.read_text(encoding="utf-8")
    for name, value in before.items():
        changed = getattr(settings.report, key) if value == OTHER[key] else OTHER[key]
        content = place = yaml.safe_load(shipped)
        *parents, last = settings.key(name, key).split(".")
        for parent in parents:
            place = place[parent]
        assert place.get(last, params.Hyperparameters.model_fields[key].default) == value  # some may be left out
        place[last] = changed
        path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
        after = params.load()
        # What is set in one place changes the trainings that have it from there, and no other.
        together = {other for other in before if settings.key(other, key) == settings.key(name, key)}
        expected = {other: changed if other in together else had for other, had in before.items()}
        assert {other: getattr(after.hyperparameters(other), key) for other in before} == expected


def test_each_variant_has_a_colour_and_the_trial_has_none(workspace):
    settings = params.load()
    colours = [settings.colour(name) for name in settings.variants]
    assert all(re.fullmatch("#[0-9a-f]{6}", colour) for colour in colours)
    assert len(set(colours)) == len(colours)
    assert settings.colour("trial") is None


def test_colours_begin_again_after_the_last(edit):
    count = 2 * len(params.COLOURS) + 1
    edit("  ten: {}\n", "".join(f"  v{number}: {{}}\n" for number in range(count)))
    settings = params.load()
    colours = [settings.colour(f"v{number}") for number in range(count)]
    first = colours[: len(params.COLOURS)]
    assert len(set(first)) == len(first)
    assert colours == [*first, *first, first[0]]


def test_the_trial_has_the_top_level_values(workspace):
    path = workspace / "params.yaml"
    text = path.read_text(encoding="utf-8").replace("bn: false", "bn: true", 1).replace(LR, "lr: 2e-2", 1)
    path.write_text(text, encoding="utf-8")
    read = YAML(typ="safe", pure=True).load(text)
    trial = {name: value for name, value in read.items() if name not in ("data", "report", "variants", "groups")}
    assert (trial["bn"], trial["lr"]) == (True, 0.02)
    assert params.load().hyperparameters("trial").model_dump() == trial


@pytest.mark.parametrize(
    "key", ["lr", "groups", "report", "report.bn", "data.seed", "variants.ten", "variants.four.classes"]
)
def test_the_value_of_a_key_is_what_dvc_reads(workspace, key):
    assert params.load().value(key) == read_param_file(LocalFileSystem(), "params.yaml", [key], flatten=True)[key]


@pytest.mark.parametrize("key", ["no", "lr.no", "variants.no", "variants.ten.bn"])
def test_a_key_that_the_file_lacks_has_no_value(workspace, key):
    assert params.load().value(key) is None


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


def test_a_good_file_is_read_silently(workspace, capsys):
    params.load()
    assert capsys.readouterr() == ("", "")
