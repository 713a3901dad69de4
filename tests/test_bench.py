from __future__ import annotations

import pytest
import torch

import bench
import usual
from quartet import training
from quartet.params import Hyperparameters


@pytest.mark.parametrize("bn", [False, True])
def test_the_usual_loop_and_ours_have_the_same_loss(bn):
    random = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (1010, 28, 28), dtype=torch.uint8, generator=random)
    train = training.Examples(images, torch.randint(0, 10, (1010,), generator=random))
    recipe = Hyperparameters(
        classes=10, bn=bn, epochs=1, batch_size=20, lr=0.001, schedule="constant", augment=False, seed=3
    )
    _, [epoch] = training.fit(recipe, train, train)
    order = torch.randperm(1010, generator=torch.Generator().manual_seed(3)).tolist()
    sizes = torch.tensor([20.0] * 50 + [10.0])
    with training.deterministic():
        losses = usual.train(usual.Images(*train), 10, bn, 3, order, memory_format=torch.channels_last)
    theirs = (losses * sizes).sum().item() / 1010
    assert epoch.train_loss == pytest.approx(theirs, rel=1e-6)


def test_a_figure_is_held_against_its_target():
    assert bench.Row("step", "", ratio=1.5, limit=1.5).met
    assert not bench.Row("step", "", ratio=1.6, limit=1.5).met
    assert bench.Row("rate", "", ratio=3.5, limit=3, least=True).met
    assert not bench.Row("rate", "", ratio=2.5, limit=3, least=True).met


def test_the_table_goes_between_the_markers_alone(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text("a\n<!-- bench:begin -->\nold\n<!-- bench:end -->\nb\n")
    bench.into_readme("new\n", readme)
    assert readme.read_text() == "a\n<!-- bench:begin -->\nnew\n<!-- bench:end -->\nb\n"
