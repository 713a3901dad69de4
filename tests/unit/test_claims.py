from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pytest

from project import ROOT
from quartet.base import params
from quartet.study import claims, design, findings, verdicts, wording
from quartet.study.claims import CLAIMS, FAILS, HOLDS, UNDECIDED
from quartet.study.outcomes import Arm, Outcome, Outcomes
from quartet.study.statistics import Contrast
from quartet.training.record import Epoch
from trained import SHIPPED

TEN = tuple((digit,) for digit in range(10))
DIGITS = np.arange(200, dtype=np.uint8) % 10


def planned():
    """The rows of the plan's table, by claim."""
    text = (ROOT / "docs/study-plan.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("| ")]
    assert rows[0][:3] == ["claim", "section", "the report says"]
    return {row[0]: row for row in rows[1:]}


def test_the_claims_are_those_of_the_plan():
    rows = planned()
    assert list(rows) == [*(claim.name for claim in CLAIMS), "scaling"]
    for claim in CLAIMS:
        _, section, says, _, _, n, margin = rows[claim.name]
        assert section == claim.section
        assert len(re.findall(r"\w+", says)) <= 15
        words = re.findall(r'"(.+?)"', says)
        assert all(word in claim.says for part in words for word in part.split(" … ")) or says == claim.says
        assert float(margin) == claim.margin
        assert n == ("10" if claim.name == "rates" else "20")


def numbers(**changes):
    return Contrast(n=20, mean=0.2, low=0.15, high=0.25, p=0.0, above=1.0, equivalent=1.0, needed=5)._replace(**changes)


@pytest.mark.parametrize(
    ("contrast", "p", "margin", "verdict"),
    [
        (numbers(), 0.049, 0.1, HOLDS),
        (numbers(), 0.05, 0.1, UNDECIDED),  # not sure
        (numbers(low=0.1), 0.001, 0.1, UNDECIDED),  # the interval reaches the margin
        (numbers(low=0.001), 0.001, 0, HOLDS),  # the direction alone
        (numbers(low=-0.3, high=-0.01), 0.001, 0.1, FAILS),  # the other way round
        (numbers(low=-0.3, high=-0.01), 0.2, 0.1, UNDECIDED),
        (numbers(low=-0.05, high=0.05, equivalent=0.049), 1.0, 0.1, FAILS),  # no difference that matters
        (numbers(low=-0.05, high=0.05, equivalent=0.05), 1.0, 0.1, UNDECIDED),
    ],
)
def test_the_verdict_follows_the_plan(contrast, p, margin, verdict):
    assert claims.verdict(contrast, p, margin) == verdict
    claim = CLAIMS[0]._replace(margin=margin)
    judged = claims.Judged(claim, contrast, p, verdict, None)
    said = wording.sentence(judged)
    assert ("chance" in said) == (verdict == UNDECIDED and p >= claims.ALPHA)
    assert ("the other way round" in said) == (verdict == FAILS and contrast.high < 0)


def outcome(arm, seed, *, right, epochs, diverged=""):
    """A training that answers this share of the test images right, the first ones, and the rest one digit too high."""
    groups = SHIPPED.class_groups(4 if arm.startswith("four") else 10)
    labels = np.array([next(place for place, group in enumerate(groups) if digit in group) for digit in DIGITS])
    predicted = np.where(np.arange(len(DIGITS)) < round(right * len(DIGITS)), labels, (labels + 1) % len(groups))
    return Outcome(seed, epochs, predicted.astype(np.uint8), diverged)


def history(gap, *, accuracies=(0.9, 0.96, 0.98), train=0.1):
    """Epochs with these validation accuracies; the gap between the losses grows to `gap` in the last."""
    return [
        Epoch(number, train + 0.1 * (3 - number), train + 0.1 * (3 - number) + gap * number / 3, accuracy)
        for number, accuracy in enumerate(accuracies, start=1)
    ]


def study(**changes):
    content = params.read(ROOT / "study/params.yaml") | changes
    return params.checked(design.Study, content, "study")


@pytest.fixture(scope="module")
def planted():
    """Ten seeds: batch norm gains 2 points with ten classes and none with four, and makes the gap larger."""
    random = np.random.default_rng(0)
    shares = {"ten": 0.9, "ten-bn": 0.92, "four": 0.95, "four-bn": 0.95}
    arms = {}
    for arm, right in shares.items():
        groups = SHIPPED.class_groups(4 if arm.startswith("four") else 10)
        gap = 0.02 if arm == "ten-bn" else 0.01
        made = [
            outcome(arm, seed, right=right + 0.005 * (seed % 2), epochs=history(gap + random.normal(0, 0.0001)))
            for seed in range(10)
        ]
        arms[arm] = Arm(made, groups, DIGITS)
    by_rate = {}
    for lr in (0.001, 0.1):
        for arm, right in (("ten", 0.9 if lr == 0.001 else 0.1), ("ten-bn", 0.9)):
            name = design.at_rate(arm, lr)
            lost = "became nan" if right == 0.1 else ""
            epochs = history(0.01)[: 1 if lost else 3]
            made = [outcome(name, seed, right=right, epochs=epochs, diverged=lost) for seed in range(10)]
            by_rate[name] = Arm(made, TEN, DIGITS)
    sources = {name: {"ten": arms["ten"]} for name in (design.WEIGHTS, design.ORDER, design.SPLIT)}
    rates = {"arms": ["ten", "ten-bn"], "values": [0.001, 0.1], "epochs": 3, "seeds": 10}
    settings = study(seeds=10, rates=rates, contrasts={"mine": ["four", "ten"]})
    return Outcomes(settings, SHIPPED.class_groups(4), "mnist", {design.ARMS: arms, design.RATES: by_rate, **sources})


def test_what_was_planted_is_found(planted):
    judged = {found.claim.name: found for found in claims.judge(planted)}
    verdict_of = {name: found.verdict for name, found in judged.items()}
    assert judged["gain-ten"].contrast.mean == pytest.approx(2)
    assert verdict_of["gain-ten"] == HOLDS
    assert verdict_of["gain-four"] == FAILS  # equal
    assert verdict_of["train-loss-ten"] == FAILS
    assert verdict_of["overfit"] == FAILS  # the gap is larger with batch norm
    assert verdict_of["diverge"] == HOLDS  # it grows from epoch to epoch
    assert verdict_of["converge"] == FAILS
    assert judged["each-epoch"].contrast.mean == pytest.approx(0.1)  # all epochs rise
    assert verdict_of["faster"] == FAILS  # both in the third epoch
    assert judged["rates"].contrast.mean == pytest.approx(90 - 10 - 0)
    assert verdict_of["rates"] == HOLDS
    assert [found.over_images is not None for found in judged.values()].count(True) == 3
    low, high = judged["gain-ten"].over_images
    assert low < 2 < high


def test_a_claim_whose_arm_was_taken_out_is_left_out(planted):
    fewer = {**planted.arms, design.ARMS: {"ten": planted.arm("ten")}}
    judged = claims.judge(Outcomes(planted.study, planted.groups, "mnist", fewer))
    assert [found.claim.name for found in judged] == ["diverge", "each-epoch", "rates"]


def test_first_fast_counts_epochs(planted):
    def arm(*accuracies):
        return Arm([outcome("ten", 0, right=1, epochs=history(0, accuracies=accuracies))], TEN, DIGITS)

    assert claims.first_fast(arm(0.9, 0.97, 0.96)).tolist() == [2]
    assert claims.first_fast(arm(0.9, 0.91, 0.92)).tolist() == [4]  # one more than trained


def test_after_a_divergence_chance_is_counted(planted):
    arm = planted.arms[design.RATES][design.at_rate("ten", 0.1)]
    longer = Arm([*arm.outcomes, outcome("ten", 10, right=0.9, epochs=history(0.01))], TEN, DIGITS)
    assert longer.diverged == 10
    assert longer.epochs("val_loss")[0].tolist() == pytest.approx([history(0.01)[0].val_loss, np.log(10), np.log(10)])
    assert longer.epochs("val_accuracy")[0].tolist() == [0.9, 0.1, 0.1]


def test_merging_counts_the_group_of_an_answer(planted):
    arm = planted.arm("ten")
    groups = SHIPPED.class_groups(4)
    place = {digit: number for number, group in enumerate(groups) for digit in group}
    expected = [
        place[int(guess)] == place[int(digit)] for guess, digit in zip(arm.outcomes[0].predicted, DIGITS, strict=True)
    ]
    assert arm.merged(groups)[0].tolist() == expected


def test_the_page_says_what_was_found(planted):
    results = findings.find(planted)
    page = verdicts.page(planted, results, ["seeds.png"])
    assert page.startswith("# What 10 seeds say about the report's claims\n")
    head = page.partition("\n## ")[0]
    assert re.search(r"\| ten +\| +90\.25 \[\S+, \S+\] +\| +\S+ +\| +0\.1000 / 0\.\d{4} \|", head)
    assert "\n- What training by group adds to merging the answers of ten classes afterwards is " in head
    counts = Counter(judged.verdict for judged in results.judged)
    assert f"Of 14 claims of the report, {counts['holds']} hold, {counts['does not hold'] + 1} do not hold, " in head
    assert "- **gain-ten** holds. Batch norm's gain in test accuracy with ten classes is +2.00 [+2.00, +2.00] points" in page
    assert "- **overfit** does not hold. " in page
    assert re.search(r"\| +0\.1 \| +10\.00 \[10\.00, 10\.00\], 10 diverged \| +90\.00", page)
    assert "| mine " in page
    assert "interaction" in page
    assert "say nothing about it" not in page
    assert all(line in page for line in ("![seeds](figures/seeds.png)", "## Where the spread comes from"))
    other = Outcomes(planted.study, planted.groups, "sample", planted.arms)
    assert "On UCI digits sample, not MNIST the verdicts say nothing about it." in verdicts.page(other, results, [])


def test_the_tables_hold_the_numbers_of_the_page(planted):
    tables = findings.find(planted).tables
    assert [row["claim"] for row in tables["claims"]] == [*(claim.name for claim in CLAIMS), "scaling"]
    assert {row["measure"] for row in tables["arms"]} == set(findings.measures(planted.arm("ten")))
    (ten,) = [row for row in tables["arms"] if (row["arm"], row["measure"]) == ("ten", "test_accuracy")]
    assert (ten["n"], ten["mean"], ten["min"], ten["max"]) == (10, 90.25, 90.0, 90.5)
    mine, interaction = tables["contrasts"]
    assert (mine["mean"], mine["p_holm"]) == (-5.0, mine["p"])  # a family of its own
    assert interaction["mean"] == pytest.approx(2)
    assert [row["varies"] for row in tables["sources"]] == ["weights", "order", "split", "weights and order"]


def test_the_figures_show_every_seed(planted, drawn):
    results = findings.find(planted)
    assert list(verdicts.draw_all(planted, results)) == ["paired.png", "seeds.png", "gap.png", "rates.png", "best.png"]
    titles = [figure.get_suptitle().splitlines()[0] for figure in drawn]
    by_title = dict(zip(titles, drawn, strict=True))
    dots = [line for line in by_title["Test accuracy of each seed"].axes[0].lines if len(line.get_xdata()) == 10]
    assert [line.get_ydata().tolist() for line in dots] == [
        arm.accuracy.tolist() for arm in planted.arms[design.ARMS].values()
    ]
    crosses = [line for line in by_title["Test accuracy by learning rate"].axes[0].lines if line.get_marker() == "x"]
    assert sum(len(line.get_xdata()) for line in crosses) == 10
    assert all("data: MNIST" in figure.get_suptitle() for figure in drawn)
