from __future__ import annotations

import math
import shutil
import subprocess
import sys

import pytest
import torch
import yaml

import bench
import double
import pipeline
import usual
from project import ROOT
from quartet.base.params import Hyperparameters
from quartet.training import determinism, loop


@pytest.mark.computes
@pytest.mark.parametrize("bn", [False, True])
def test_the_usual_loop_and_ours_have_the_same_loss(bn):
    random = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (410, 28, 28), dtype=torch.uint8, generator=random)
    train = loop.Examples(images, torch.randint(0, 10, (410,), generator=random))
    recipe = Hyperparameters(
        classes=10, bn=bn, epochs=1, batch_size=20, lr=0.001, schedule="constant", augment=False, seed=3
    )
    with double.precision():
        _, [epoch] = loop.fit(recipe, train, train)
    order = torch.randperm(410, generator=torch.Generator().manual_seed(3)).tolist()
    sizes = torch.tensor([20.0] * 20 + [10.0])
    with determinism.deterministic():
        losses = usual.train(usual.Images(*train), 10, bn, 3, order, dtype=torch.float64)
    theirs = (losses * sizes).sum().item() / 410
    # In float64 the loops stay together; the history holds six significant digits.
    assert epoch.train_loss == pytest.approx(theirs, rel=6e-6)


@pytest.mark.parametrize(
    ("value", "least", "target", "verdict"),
    [
        (1.5, False, "≤ 1.5 ×", "yes"),
        (1.51, False, "≤ 1.5 ×", "**no**"),
        (1.5, True, "≥ 1.5 ×", "yes"),
        (1.49, True, "≥ 1.5 ×", "**no**"),
        (math.nan, True, "≥ 1.5 ×", "–"),
    ],
)
def test_a_figure_is_held_against_its_target(value, least, target, verdict):
    row = bench.Row("step", value, 1.5, bench.RATIO, "why", least)
    assert row.cells() == ("step", f"{value} ×", target, verdict)


def test_the_details_are_notes_below_the_table():
    rows = [bench.Row(what, 1.0, 2.0, bench.RATIO, f"why {what}") for what in ("one", "two")]
    table, notes = bench.markdown(rows).split("\n\n")
    assert [line.split("|")[2].strip() for line in table.splitlines()[2:]] == ["one", "two"]
    assert notes == "1. why one\n2. why two"


@pytest.mark.computes
@pytest.mark.parametrize("bn", [False, True])
def test_the_bare_operations_are_those_of_a_step(bn):
    """They leave no graph of gradients behind."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        bench.operations(bn)()
    names = [event.key for event in profile.key_averages()]
    assert "aten::convolution_backward" in names
    assert ("aten::native_batch_norm_backward" in names) == bn
    assert "aten::max_pool2d_with_indices_backward" in names
    assert "aten::nll_loss_backward" in names
    assert "aten::addcdiv_" in names


def test_stages_without_code_keep_their_names_outputs_and_order():
    ours = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))
    bare = bench.without_code(ours)
    assert list(bare["stages"]) == list(ours["stages"])
    assert bare["stages"]["train"]["foreach"] == "${variants}"
    evaluate = bare["stages"]["evaluate"]
    assert evaluate["metrics"] == ours["stages"]["evaluate"]["metrics"]
    assert evaluate["deps"] == ["data/split/manifest.json", "data/split/test.safetensors", "stages/train"]
    assert "python" not in yaml.safe_dump(bare)


def test_stages_without_code_run_in_an_empty_folder(tmp_path):
    bare = bench.without_code(yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8")))
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump(bare), encoding="utf-8")
    shutil.copy(ROOT / "params.yaml", tmp_path)
    for command in (["init", "-q", "--no-scm"], ["repro", "-q"]):
        subprocess.run([sys.executable, "-m", "dvc", *command], cwd=tmp_path, check=True)
    assert (tmp_path / "stages/page/index.html").read_text() == "{}\n"


@pytest.mark.parametrize(
    ("spans", "cores", "seconds"),
    [([3, 3, 2, 2, 2], 2, 6), ([4, 3, 3], 2, 6), ([4, 3, 3], 1, 10), ([4, 3, 3], 8, 4)],
)
def test_the_shortest_time_of_work_on_several_cores(spans, cores, seconds):
    assert pipeline.shortest(spans, cores) == seconds
