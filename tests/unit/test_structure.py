from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from functools import cache
from importlib import import_module

import pytest
import yaml

from project import PARAMS, ROOT
from quartet.base import files, params, paths
from quartet.base.params import Hyperparameters
from quartet.commands import cli
from quartet.data import catalogue, idx, splits
from quartet.study import trained
from quartet.tracking import runs
from quartet.training import loop

SOURCE = ROOT / "src"
SCRIPTS = sorted(path.stem for path in SOURCE.glob("*.py"))
MODULES = sorted(
    path.relative_to(SOURCE).with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__")
    for path in SOURCE.glob("quartet/**/*.py")
    if path.stem != "__main__"
)
PACKAGES = sorted(path.name for path in SOURCE.glob("quartet/*") if (path / "__init__.py").exists())
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
BODIES = {name: stage.get("do", stage) for name, stage in STAGES.items()}
STUDY = yaml.safe_load((ROOT / "study/dvc.yaml").read_text(encoding="utf-8"))["stages"]
VARIANTS = tuple(yaml.safe_load(PARAMS.read_text(encoding="utf-8"))["variants"])
TRAININGS = (*VARIANTS, params.TRIAL)

# A package imports only those before it, and those on its own line.
FLOORS = (
    {"base"},
    {"data", "model"},
    {"training"},
    {"evaluation"},
    {"reporting", "tracking"},
    {"study"},
    {"tuning"},
    {"commands"},
)

# What no module of src/ answers for.
OTHER_UNITS = {"bench", "documents", "reliability", "structure"}
TEST_FILES = sorted((ROOT / "tests").rglob("test_*.py"))


def file_of(module):
    """The file of a module or of a script, by its name."""
    path = SOURCE.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


class Imports(ast.NodeVisitor):
    """All that a module imports, in functions too; not what only a type checker does, which cannot change a result."""

    def __init__(self, module):
        self.names = set()
        self.visit(ast.parse(file_of(module).read_text(encoding="utf-8")))

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


@cache
def own(module):
    """The modules of this project that a module imports, with the packages that hold them."""
    found = set()
    for name in Imports(module).names:
        parts = name.split(".")
        while parts and ".".join(parts) not in MODULES:
            parts.pop()  # a name in a module
        found |= {".".join(parts[:place]) for place in range(1, len(parts) + 1)}
    return found


def closure(module):
    found, waiting = set(), {module}
    while waiting:
        found |= waiting
        waiting = set().union(*map(own, waiting)) - found
    return found


def floor(module):
    package = module.split(".")[1]
    return next(place for place, packages in enumerate(FLOORS) if package in packages)


def script_of(stage):
    return re.fullmatch(r"python src/(\w+)\.py( \$\{key\}| trial)?", BODIES[stage]["cmd"])[1]


def top_level(node):
    """The packages that a statement of a module imports."""
    if isinstance(node, ast.Import):
        return [alias.name.partition(".")[0] for alias in node.names]
    return [node.module.partition(".")[0]] if isinstance(node, ast.ImportFrom) else []


def python(code, folder):
    environment = {**os.environ, "PYTHONPATH": str(SOURCE), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def parameters(stage, name=""):
    """The keys that a stage tracks."""
    return {key.replace("${key}", name) for key in BODIES[stage].get("params", [])}


def shipped():
    return yaml.safe_load(PARAMS.read_text(encoding="utf-8"))


def test_imports_are_found_wherever_they_are():
    assert own("quartet.base.params") == {"quartet", "quartet.base", "quartet.base.paths", "quartet.base.errors"}
    assert "quartet.model.weights" in own("evaluate")
    assert "mlflow" in Imports("quartet.tracking.store").names
    assert "quartet.training.record.Epoch" not in Imports("quartet.reporting.figures").names


def code_of(body):
    """The files of code that a stage depends on; a folder stands for all modules in it."""
    listed = [ROOT / dep for dep in body["deps"] if dep.startswith("src/")]
    return sorted(file for dep in listed for file in (dep.rglob("*.py") if dep.is_dir() else [dep]))


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_depends_on_exactly_the_code_that_it_imports(name):
    assert code_of(BODIES[name]) == sorted(map(file_of, closure(script_of(name))))


def test_the_study_depends_on_the_code_of_its_results():
    """Of its trainings, what makes them and their tables; all else may be edited without training again."""
    assert code_of(STUDY["claims"]) == sorted(map(file_of, closure("study")))
    made_by = {*trained.CODE, *(f"quartet/study/{name}.py" for name in ("design", "outcomes", "trained"))}
    assert code_of(STUDY["trainings"]) == sorted(SOURCE / path for path in made_by)
    # What else a training imports computes nothing, or is in its fingerprint by its values.
    rest = {file_of(module).relative_to(SOURCE).as_posix() for module in closure("quartet.training.loop")} - {*trained.CODE}
    assert rest == {
        *(f"quartet/{package}/__init__.py" for package in ("base", "data", "model", "training")),
        *(f"quartet/base/{name}.py" for name in ("errors", "files", "params", "paths", "redaction", "stage")),
        "quartet/data/splits.py",
        "quartet/training/record.py",
    }


def test_the_study_has_no_metrics_of_dvcs():
    """An unbuilt study would fail to load in everyone's `dvc metrics show`."""
    assert all(not {"metrics", "plots"} & body.keys() for body in STUDY.values())
    assert "plots" not in yaml.safe_load((ROOT / "study/dvc.yaml").read_text(encoding="utf-8"))


def test_touching_downloads_figures_or_commands_trains_nothing():
    for stage in ("train", "trial", "preprocess"):
        folders = {file_of(module).parent.name for module in closure(script_of(stage))}
        assert not folders & {"commands", "reporting", "evaluation"}
        assert "quartet.data.download" not in closure(script_of(stage))
        assert "quartet.data.sources" not in closure(script_of(stage))


@pytest.mark.parametrize("module", [module for module in MODULES if "." in module])
def test_imports_go_one_way(module):
    above = {other for other in own(module) if "." in other and floor(other) > floor(module)}
    assert above == set()
    # Of two packages on one floor, neither imports the other.
    beside = {other for other in own(module) if "." in other and floor(other) == floor(module)}
    assert {other.split(".")[1] for other in beside} <= {module.split(".")[1]}


def test_no_module_imports_itself_by_way_of_others():
    for module in MODULES:
        reached = set().union(*(closure(other) for other in own(module))) if own(module) else set()
        assert module not in reached or file_of(module).name == "__init__.py"


def test_every_package_has_its_floor():
    assert set().union(*FLOORS) == set(PACKAGES)


def test_nothing_imports_a_script():
    for module in [*MODULES, *SCRIPTS]:
        assert not {name.partition(".")[0] for name in Imports(module).names} & set(SCRIPTS)


@pytest.mark.parametrize(
    ("package", "rooms"),
    [
        ("mlflow", {"study.nested", "tracking", "tuning.trials"}),
        ("ray", {"study.engine"}),
        ("optuna", {"tuning.confirmation", "tuning.search"}),
        ("fastapi", {"commands.serve"}),
        ("dvc", {"base.stage", "commands.audit", "commands.clean", "commands.repro"}),
    ],
)
def test_few_rooms_know_a_tool(package, rooms):
    users = [module for module in MODULES if any(name.split(".")[0] == package for name in Imports(module).names)]
    found = {next((room for room in rooms if user.startswith(f"quartet.{room}")), user) for user in users}
    assert found == rooms


def test_module_names_are_no_near_twins():
    """Each name is used once; a script may share its word with the package that does its work."""
    names = [module.split(".")[-1] for module in MODULES]
    assert len(names) == len(set(names))
    twins = {(one, other) for one in names for other in names if one != other and other.startswith(one)}
    # The student's report and what we report; the network and MLflow's models; the command and what evaluate leaves.
    assert twins == {("report", "reporting"), ("model", "models"), ("predict", "predictions")}


def test_the_package_sets_the_contract_and_does_nothing_else():
    body = ast.parse(file_of("quartet").read_text(encoding="utf-8")).body
    assert [ast.unparse(node) for node in body][1:] == [
        "import time",
        "STARTED = time.time_ns()",
        "from quartet.base import numerics",
        "numerics.apply()",
    ]
    assert own("quartet.base.numerics") == set()
    for package in PACKAGES:
        assert len(ast.parse(file_of(f"quartet.{package}").read_text(encoding="utf-8")).body) == 1


@pytest.mark.parametrize(
    "path", [*ROOT.glob("bench/*.py"), *SOURCE.glob("*.py"), ROOT / "tests/conftest.py", ROOT / "tests/torture.py"], ids=str
)
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
    assert sorted({*map(script_of, STAGES), "study"}) == SCRIPTS
    for name, body in BODIES.items():
        assert script_of(name) == ("train" if name == "trial" else name)
        outs = [next(iter(out)) if isinstance(out, dict) else out for out in body["outs"] + body.get("metrics", [])]
        assert all(out.startswith(f"{folders.get(name, f'stages/{name}')}/") for out in outs)


def test_dvc_yaml_is_a_map_of_one_page():
    text = (ROOT / "dvc.yaml").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 130
    said = re.sub("(?m)#.*|^ *desc: .*", "", text)  # "MNIST's four files" are no variant
    assert [name for name in VARIANTS if re.search(rf"\b{name}\b", said)] == []
    assert not re.search(r"[$](?![{])|PYTHONPATH|&&|[|;]", "".join(body["cmd"] for body in BODIES.values()))


def test_the_variants_are_listed_in_params_yaml_alone():
    """A name of two words cannot be there by chance; the report's own numbers have its models' names."""
    looked_at = [
        *SOURCE.rglob("*.py"),
        *ROOT.glob("bench/*"),
        ROOT / "Makefile",
        ROOT / "dvc.yaml",
        *ROOT.glob(".dvc/plots/*"),
    ]
    places = {path.name for path in looked_at if path.is_file() and "ten-bn" in path.read_text(encoding="utf-8")}
    assert places == {"claims.py", "report.py"}
    assert STAGES["train"]["foreach"] == "${variants}"


def leaves(value, prefix=""):
    if not isinstance(value, dict):
        return {prefix}
    return {leaf for key, inner in value.items() for leaf in leaves(inner, f"{prefix}.{key}" if prefix else key)}


@pytest.mark.parametrize("stage", STAGES)
def test_the_parameters_of_a_stage_exist(stage):
    for key in set().union(*(parameters(stage, name) for name in VARIANTS)):
        value = shipped()
        for part in key.split("."):
            value = value[part]


def test_every_parameter_is_tracked_by_some_stage():
    tracked = set().union(*(parameters(stage, name) for stage in STAGES for name in VARIANTS))
    untracked = [leaf for leaf in leaves(shipped()) if not any(leaf == key or leaf.startswith(f"{key}.") for key in tracked)]
    assert untracked == []


def test_the_trial_tracks_its_hyperparameters_and_the_groups():
    assert parameters("trial") == {*Hyperparameters.model_fields, "groups"}


class Enough(Exception):  # noqa: N818 -- it is none
    """Raised where a stage has read its parameters and begins to work."""


@pytest.fixture
def reads(workspace, monkeypatch):
    """What the stages read of params.yaml from now on, as dvc.yaml names it; the values themselves, not what holds them."""
    found: set[str] = set()

    def recorded(model, key):
        name = type(model).__name__
        if key in type(model).model_fields and key != "data" and name in ("Params", "_Data"):
            found.add(f"data.{key}" if name == "_Data" else key)
        return object.__getattribute__(model, key)

    monkeypatch.setattr(params.Strict, "__getattribute__", recorded, raising=False)
    return found


def enough(*_args, **_settings):
    raise Enough


@pytest.mark.parametrize(
    ("stage", "begins"),
    [
        ("fetch", "quartet.data.sources.take"),
        ("preprocess", "quartet.data.splits.save_split"),
        ("evaluate", "quartet.data.splits.load_split"),
        ("plot", "quartet.reporting.gallery.draw_all"),
        ("page", "quartet.reporting.html.page"),
    ],
)
def test_a_stage_tracks_exactly_the_parameters_that_it_reads(reads, tiny, monkeypatch, stage, begins):
    for name, array in zip(idx.FILES, (tiny.images, tiny.labels) * 2, strict=True):
        files.write_bytes(paths.RAW / name, idx.encode(array))
    idx.record(catalogue.SAMPLE.source)
    monkeypatch.setattr(begins, enough)
    if stage in ("plot", "page"):
        splits.save_all(dict.fromkeys(splits.SPLITS, tiny), catalogue.SAMPLE.source)
        monkeypatch.setattr("quartet.evaluation.predictions.read", lambda names: enough() if not names else Nothing())
        monkeypatch.setattr("quartet.reporting.gallery.draw_all", lambda *_: {})
        monkeypatch.setattr("quartet.evaluation.predictions.check_images", lambda *_: None)
        monkeypatch.setattr("quartet.evaluation.recognition.load", lambda *_: {})
        monkeypatch.setattr("quartet.reporting.tables.page", enough)
    with pytest.raises(Enough):
        import_module(stage).main()
    assert reads == parameters(stage)


class Nothing(dict):
    """Results of which all is the same: a record of the sample."""

    def __missing__(self, name):
        return self

    record = property(lambda self: self)
    source = catalogue.SAMPLE.source


@pytest.mark.parametrize("name", TRAININGS)
def test_a_training_tracks_exactly_the_parameters_that_it_reads(reads, tiny, monkeypatch, name):
    # A trial of ten classes reads no groups, and one of four does.
    paths.PARAMS.write_text(paths.PARAMS.read_text(encoding="utf-8").replace("classes: 10", "classes: 4", 1))
    splits.save_all(dict.fromkeys(splits.SPLITS, tiny), catalogue.SAMPLE.source)
    monkeypatch.setattr(loop, "fit", enough)
    monkeypatch.setattr(runs, "live", enough)
    monkeypatch.setattr(sys, "argv", ["train", name])
    with pytest.raises(Enough):
        import_module("train").main()
    if name == params.TRIAL:
        # It reads the names of the variants, to know its own, and nothing of them.
        assert reads - {"variants"} == parameters("trial")
    else:
        tracked = parameters("train", name) - {"report"}  # a variant has what it does not change from there
        if params.load().hyperparameters(name).classes == 10:
            tracked -= {"groups"}  # one list for all of foreach
        assert {f"variants.{name}" if key == "variants" else key for key in reads} == tracked


def test_importing_a_module_alone_works_and_does_nothing(tmp_path):
    code = f"""
import importlib, sys
for name in {[*MODULES, *SCRIPTS]}:
    for loaded in [loaded for loaded in sys.modules if loaded.startswith("quartet")]:
        del sys.modules[loaded]
    importlib.import_module(name)
"""
    done = python(code, tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("module", "slow"),
    [
        ("fetch", ["torch", "mlflow", "sklearn", "scipy", "matplotlib"]),
        ("preprocess", ["torch", "mlflow", "sklearn", "scipy", "matplotlib", "pooch"]),
        ("plot", ["torch", "mlflow", "sklearn"]),
        ("evaluate", ["torch", "mlflow", "sklearn", "matplotlib"]),  # it starts a process before it imports them
        ("quartet.commands.cli", ["torch", "mlflow", "dvc", "numpy"]),
    ],
)
def test_a_program_does_not_import_what_it_does_not_need(tmp_path, module, slow):
    done = python(f"import sys, {module}; print([name for name in {slow} if name in sys.modules])", tmp_path)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_every_checkout_ends_its_lines_alike(tmp_path):
    """Whatever git's settings are: the code's fingerprint would be another one."""

    def git(*arguments):
        subprocess.run(["git", "-c", "user.name=test", "-c", "user.email=test@localhost", *arguments], check=True)

    git("init", "-q", tmp_path / "made")
    shutil.copy(ROOT / ".gitattributes", tmp_path / "made")
    (tmp_path / "made/code.py").write_bytes(b"one\ntwo\n")
    git("-C", tmp_path / "made", "add", "-A")
    git("-C", tmp_path / "made", "commit", "-qm", "Start")
    git("-c", "core.autocrlf=true", "clone", "-q", tmp_path / "made", tmp_path / "checkout")
    assert (tmp_path / "checkout/code.py").read_bytes() == b"one\ntwo\n"


def test_any_shell_understands_the_command_of_a_stage():
    """DVC runs it by the user's login shell, which may be tcsh or fish."""
    for name, stage in yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"].items():
        command = stage.get("do", stage)["cmd"].replace("${key}", "ten")
        assert re.fullmatch(r"python src/\w+\.py( \w+)?", command), name


def test_a_stage_script_fits_on_one_screen():
    lengths = {name: len(file_of(name).read_text(encoding="utf-8").splitlines()) for name in SCRIPTS}
    assert {name: length for name, length in lengths.items() if length > 60} == {}


def test_a_unit_test_file_is_named_after_its_module_or_package():
    tested = {path.stem.removeprefix("test_") for path in TEST_FILES if path.parent.name == "unit"}
    known = {part for module in MODULES for part in module.split(".")} | set(SCRIPTS)
    assert tested - known == OTHER_UNITS


def test_a_test_file_has_a_folder_and_a_name_of_its_own():
    """The name is enough to find it."""
    folders = {path.parent.relative_to(ROOT / "tests").as_posix() for path in TEST_FILES}
    assert folders == {"unit", "faults", "pipeline", "team"}
    assert len({path.name for path in TEST_FILES}) == len(TEST_FILES)


@pytest.mark.parametrize("path", TEST_FILES, ids=lambda path: path.name)
def test_the_names_of_tests_are_short_and_used_once(path):
    """Of two with one name in a file, pytest runs the last alone."""
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    names = [node.name for node in nodes if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")]
    assert [name for name in names if len(name) > 60] == []
    assert len(set(names)) == len(names)


def test_every_command_is_a_module():
    modules = {module.split(".")[-1] for module in MODULES if module.startswith("quartet.commands.")}
    assert set(cli.COMMANDS) == modules - {"cli", "outputs", "pipeline_runs", "recipes"}


def test_every_target_of_make_has_one_rule_and_says_what_it_does():
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    (phony,) = re.findall(r"(?m)^\.PHONY: (.+)$", text)
    rules = re.findall(r"(?m)^([a-z-]+):.*## \S", text)
    assert sorted(rules) == sorted(phony.split())


def pinned() -> list[str]:
    """The lines of all files of requirements."""
    files = [ROOT / folder / "requirements.txt" for folder in (".", "study", "team", "tests/team")]
    return [line for path in files for line in path.read_text(encoding="utf-8").splitlines()]


def test_every_requirement_is_one_exact_version():
    """Without an address."""
    lines = pinned()
    assert [line for line in lines if not re.fullmatch(r"[a-z0-9._-]+==[A-Za-z0-9.!+_-]+( ; [^#@]+)?", line)] == []
    assert [line for line in lines if "://" in line] == []
    assert "torch==2.13.0" in lines


def test_every_pin_of_the_project_is_in_the_requirements():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    pins = re.findall(r'"([a-z0-9-]+==[0-9.]+)"', text)
    assert len(pins) == 8
    assert set(pins) <= set(pinned())
