from __future__ import annotations

import pytest

from quartet import model, params
from quartet.report import REPORT


def test_every_variant_is_reported():
    assert set(REPORT) == set(params.VARIANTS)


@pytest.mark.parametrize(("name", "classes"), [("ten", 10), ("four", 4)])
def test_the_reported_parameters_are_the_networks(name, classes):
    network = model.build(classes, bn=False)
    assert REPORT[name].trainable == sum(parameter.numel() for parameter in network.parameters())


def test_the_figures_are_the_reports():
    # Typed from the report a second time: losses, then accuracies in percent.
    figures = {name: reported[1:] for name, reported in REPORT.items()}
    assert figures == {
        "ten": (0.0624, 0.0731, 93.08, 97.70, 97.93),
        "ten-bn": (0.0354, 0.0532, 97.2, 98.48, 98.33),
        "four": (0.0278, 0.0327, 96.52, 99.00, 98.94),
        "four-bn": (0.0191, 0.0344, 98.03, 99.00, 99.18),
    }
