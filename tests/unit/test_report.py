from __future__ import annotations

import pytest

from quartet.evaluation.report import REPORT
from quartet.model import network
from trained import SHIPPED


def test_every_model_of_the_report_is_a_variant():
    assert set(REPORT) <= set(SHIPPED.variants)


@pytest.mark.parametrize("name", REPORT)
def test_a_variant_with_a_reported_name_has_its_settings(name):
    expected = SHIPPED.report.model_dump() | {"classes": 10 if name.startswith("ten") else 4, "bn": name.endswith("-bn")}
    assert SHIPPED.variants[name].model_dump() == expected


@pytest.mark.parametrize(("name", "classes"), [("ten", 10), ("four", 4)])
def test_the_reported_parameters_are_the_networks(name, classes):
    built = network.build(classes, bn=False)
    assert REPORT[name].trainable == sum(parameter.numel() for parameter in built.parameters())


def test_the_figures_are_the_reports():
    # Typed from the report a second time: losses, then accuracies in percent.
    figures = {name: reported[1:] for name, reported in REPORT.items()}
    assert figures == {
        "ten": (0.0624, 0.0731, 93.08, 97.70, 97.93),
        "ten-bn": (0.0354, 0.0532, 97.2, 98.48, 98.33),
        "four": (0.0278, 0.0327, 96.52, 99.00, 98.94),
        "four-bn": (0.0191, 0.0344, 98.03, 99.00, 99.18),
    }
