from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from importlib import import_module

import pytest
import yaml

from conftest import ROOT
from quartet import data, files, idx, params, paths, tracking, train, training
from quartet.params import Hyperparameters

SOURCE = ROOT / "src" / "quartet"
PACKAGE = "__init__"  # every module imports it
MODULES = sorted(path.stem for path in SOURCE.glob("*.py") if path.stem != PACKAGE)
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
SCRIPTS = {name: re.search(r"-m quartet\.(\w+)", stage.get("do", stage)["cmd"])[1] for name, stage in STAGES.items()}


# What no single module answers for.
SYSTEM_TESTS = {
    "bench",
    "fetch_faults",
    "kills",
    "mnist",
    "params_faults",
    "pipeline",
    "places",
    "reliability",
    "structure",
    "tracking_faults",
}


def tree(module):
    return ast.parse((SOURCE / f"{module}.py").read_text(encoding="utf-8"))


class Imports(ast.NodeVisitor):
    """All that a module imports, in functions too; not what only a type checker does, which cannot change a result."""

    def __init__(self, module):
        self.names = set()
        self.visit(tree(module))

    def visit_If(self, node):
        if ast.unparse(node.test) == "TYPE_CHECKING":
            for other in node.orelse:
                self.visit(other)
        else:
            self.generic_visit(node)

    def visit_Import(self, node):
        self.names |= {alias.name for alias in node.names}

    def visit_ImportFrom(self, node):
        assert node.level == 0
        self.names |= {f"{node.module}.{alias.name}" for alias in node.names}


def top_level(node):
    """The packages that a statement of a module imports."""
    if isinstance(node, ast.Import):
        return [alias.name.partition(".")[0] for alias in node.names]
    return [node.module.partition(".")[0]] if isinstance(node, ast.ImportFrom) else []


def own(module):
    """The modules of this project that a module imports."""
    parts = (name.split(".") for name in Imports(module).names)
    return {part[1] for part in parts if part[0] == "quartet"}


def closure(module):
    found, waiting = set(), {module, PACKAGE}
    while waiting:
        found |= waiting
        waiting = set().union(*map(own, waiting)) - found
    return found


def python(code, folder):
    environment = {**os.environ, "PYTHONPATH": str(SOURCE.parent), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def parameters(stage):
    """The keys that a stage tracks, once for each variant."""
    return {key.replace("${key}", name) for key in stage.get("do", stage).get("params", []) for name in params.VARIANTS}


def shipped():
    return yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))


def test_imports_are_found_wherever_they_stand():
    assert own("params") == {"paths", "errors"}
    assert "mlflow" in Imports("tracking").names
    assert "quartet.history.Epoch" not in Imports("figures").names


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_depends_on_exactly_the_modules_that_it_imports(name):
    listed = {dep for dep in STAGES[name].get("do", STAGES[name])["deps"] if dep.startswith("src/")}
    assert listed == {f"src/quartet/{module}.py" for module in closure(SCRIPTS[name])}


def test_the_package_sets_the_contract_and_does_nothing_else():
    assert [ast.unparse(node) for node in tree(PACKAGE).body][1:] == ["from quartet import numerics", "numerics.apply()"]
    assert own("numerics") == set()


@pytest.mark.parametrize("path", [*ROOT.glob("bench/*.py"), ROOT / "tests/conftest.py", ROOT / "tests/torture.py"], ids=str)
def test_a_program_imports_the_package_before_numpy_and_pytorch(path):
    """The contract is read when these are imported; a module of ours imports the package by being imported."""
    nodes = ast.parse(path.read_text(encoding="utf-8")).body
    imported = [name for node in nodes for name in top_level(node)]
    heavy = [place for place, name in enumerate(imported) if name in ("numpy", "torch", "mlflow", "project")]
    if "quartet" in imported and heavy:
        assert imported.index("quartet") < min(heavy)


def test_a_stage_is_its_script_and_writes_to_its_own_folder():
    folders = {
        "fetch": "data/raw",
        "preprocess": "data/split",
        "train": "stages/train/${key}",
        "trial": "stages/train/trial",
    }
    for name, stage in STAGES.items():
        body = stage.get("do", stage)
        assert SCRIPTS[name] == ("train" if name == "trial" else name)
        outs = [next(iter(out)) if isinstance(out, dict) else out for out in body["outs"] + body.get("metrics", [])]
        expected = folders.get(name, f"stages/{name}")
        assert all(out == expected or out.startswith((f"{expected}/", f"stages/{name}/")) for out in outs)


def test_every_training_is_evaluated_and_plotted():
    for name in params.TRAININGS:
        assert f"stages/train/{name}" in STAGES["evaluate"]["deps"]
        assert f"stages/evaluate/{name}" in STAGES["evaluate"]["outs"]
        assert f"stages/evaluate/{name}.json" in STAGES["evaluate"]["metrics"]
        assert {f"stages/train/{name}", f"stages/evaluate/{name}", f"stages/evaluate/{name}.json"} <= set(
            STAGES["plot"]["deps"]
        )
    assert list(shipped()["variants"]) == list(params.VARIANTS)
    assert STAGES["train"]["foreach"] == "${variants}"


def leaves(value, prefix=""):
    if not isinstance(value, dict):
        return {prefix}
    return {leaf for key, inner in value.items() for leaf in leaves(inner, f"{prefix}.{key}" if prefix else key)}


@pytest.mark.parametrize("name", STAGES)
def test_the_parameters_of_a_stage_exist(name):
    for key in parameters(STAGES[name]):
        value = shipped()
        for part in key.split("."):
            value = value[part]


def test_every_parameter_is_tracked_by_some_stage():
    tracked = set().union(*map(parameters, STAGES.values()))
    untracked = [leaf for leaf in leaves(shipped()) if not any(leaf == key or leaf.startswith(f"{key}.") for key in tracked)]
    assert untracked == []


def test_the_trial_tracks_its_hyperparameters_and_the_groups():
    assert parameters(STAGES["trial"]) == {*Hyperparameters.model_fields, "groups"}


class Enough(Exception):  # noqa: N818 -- it is none
    """Raised where a stage has read its parameters and begins to work."""


@pytest.fixture
def reads(workspace, monkeypatch):
    """What the stages read of params.yaml from now on, as dvc.yaml names it; the values themselves, not what holds them."""
    found: set[str] = set()
    sections = {"_Data": "data.", "_Variants": "variants."}

    def recorded(model, key):
        name = type(model).__name__
        if key in type(model).model_fields and name in ("Params", *sections) and key not in ("data", "variants"):
            found.add(sections.get(name, "") + (type(model).model_fields[key].alias or key))
        return object.__getattribute__(model, key)

    monkeypatch.setattr(params._Strict, "__getattribute__", recorded, raising=False)
    return found


def enough(*_args, **_settings):
    raise Enough


@pytest.mark.parametrize(
    ("stage", "begins"),
    [("fetch", "quartet.fetch.take_mnist"), ("preprocess", "quartet.data.save_split"), ("plot", "quartet.plot.read")],
)
def test_a_stage_tracks_exactly_the_parameters_that_it_reads(reads, tiny, monkeypatch, stage, begins):
    for part in ("train", "t10k"):
        files.write_bytes(paths.RAW / f"{part}-images-idx3-ubyte", idx.encode(tiny.images))
        files.write_bytes(paths.RAW / f"{part}-labels-idx1-ubyte", idx.encode(tiny.labels))
    files.write_record(paths.SOURCE, {"data": "sample", "sha256": {}})
    monkeypatch.setattr(begins, enough)
    with pytest.raises(Enough):
        import_module(f"quartet.{stage}").main()
    assert reads == parameters(STAGES[stage])


@pytest.mark.parametrize("name", params.TRAININGS)
def test_a_training_tracks_exactly_the_parameters_that_it_reads(reads, tiny, monkeypatch, name):
    # A trial of ten classes reads no groups, and one of four does.
    paths.PARAMS.write_text(paths.PARAMS.read_text(encoding="utf-8").replace("classes: 10", "classes: 4", 1))
    digests = {}
    for split in data.SPLITS:
        data.save_split(split, tiny)
        digests[split] = {"sha256": files.sha256(data.split_path(split))}
    files.write_record(paths.MANIFEST, {"data": "sample", "splits": digests})
    monkeypatch.setattr(training, "fit", enough)
    monkeypatch.setattr(tracking, "live", enough)
    monkeypatch.setattr(sys, "argv", ["train", name])
    with pytest.raises(Enough):
        train.main()
    stage = "trial" if name == params.TRIAL else "train"
    body = STAGES[stage].get("do", STAGES[stage])
    tracked = {key.replace("${key}", name) for key in body["params"]}
    if stage == "train" and not name.startswith("four"):
        tracked -= {"groups"}  # one list for the four of foreach
    assert reads == tracked


def test_importing_a_module_alone_works_and_does_nothing(tmp_path):
    code = f"""
import importlib, sys
for name in {MODULES}:
    for loaded in [loaded for loaded in sys.modules if loaded.startswith("quartet")]:
        del sys.modules[loaded]
    importlib.import_module("quartet." + name)
"""
    done = python(code, tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("module", ["params", "fetch", "preprocess"])
def test_a_small_stage_does_not_pay_for_pytorch(tmp_path, module):
    slow = ["torch", "mlflow", "sklearn", "scipy", "matplotlib"]
    done = python(f"import sys, quartet.{module}; print([name for name in {slow} if name in sys.modules])", tmp_path)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_only_tracking_knows_mlflow():
    users = [module for module in MODULES if any(name.split(".")[0] == "mlflow" for name in Imports(module).names)]
    assert users == ["tracking"]


def test_stages_do_not_import_each_other():
    scripts = set(SCRIPTS.values())
    # It runs all of them in one process, whose start an emulator makes slow.
    assert {module for module in MODULES if own(module) & scripts} == {"portability"}


def test_a_stage_script_stays_short():
    # fetch holds the hashes of MNIST and what can go wrong on the way to it.
    lengths = {name: len((SOURCE / f"{name}.py").read_text(encoding="utf-8").splitlines()) for name in SCRIPTS.values()}
    assert {name for name, length in lengths.items() if length > 130} <= {"fetch"}


def test_a_test_file_is_named_after_its_module():
    tested = {path.stem.removeprefix("test_") for path in (ROOT / "tests").glob("test_*.py")}
    assert tested - set(MODULES) <= SYSTEM_TESTS


def test_every_requirement_is_one_exact_version_without_an_address():
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if not re.fullmatch(r"[a-z0-9._-]+==[A-Za-z0-9.!+_-]+( ; [^#@]+)?", line)] == []
    assert [line for line in lines if "://" in line] == []
    assert "torch==2.13.0" in lines


def test_every_pin_of_the_project_is_in_the_requirements():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    pins = re.findall(r'"([a-z0-9-]+==[0-9.]+)"', text)
    assert len(pins) == 3
    assert set(pins) <= set(lines)
