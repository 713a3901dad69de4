"""Compare docs/reliability.md with the tests that it names."""

from __future__ import annotations

import ast
import re

import pytest

from project import ROOT

PAGE = (ROOT / "docs/reliability.md").read_text(encoding="utf-8")
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in PAGE.splitlines()
    if line.startswith("| ") and not line.startswith("| fault")
]
FAULT_TESTS = sorted(path.name for path in (ROOT / "tests/faults").glob("test_*.py"))


def named_tests(file: str) -> set[str]:
    (path,) = (ROOT / "tests").rglob(file)
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


def test_every_row_is_complete():
    """A fault, what you see, what is kept, and a test."""
    assert len(ROWS) > 50
    assert all(len(row) == 4 and all(row) for row in ROWS)


@pytest.mark.parametrize("named", sorted({row[3] for row in ROWS}))
def test_a_test_that_a_row_names_exists(named):
    found = re.fullmatch(r"`(test_\w+\.py)::(test_\w+)`", named)
    assert found
    assert found[2] in named_tests(found[1])


@pytest.mark.parametrize("file", FAULT_TESTS)
def test_every_test_of_a_fault_is_in_a_row(file):
    named = {row[3] for row in ROWS}
    assert {test for test in named_tests(file) if f"`{file}::{test}`" not in named} == set()


def test_a_message_that_a_row_quotes_is_in_the_code_or_in_a_test():
    """Commands and file names apart, what stands as code in the second column is a part of a message."""
    texts = "".join(
        path.read_text(encoding="utf-8") for folder in ("src", "tests") for path in (ROOT / folder).rglob("*.py")
    )
    quoted = {quote for row in ROWS for quote in re.findall(r"`([^`]+)`", row[1])}
    messages = {
        quote for quote in quoted if " " in quote and not quote.startswith(("git ", "rm ", "dvc ", "make ", "data."))
    }
    assert len(messages) > 15
    assert {message for message in messages if message not in texts} == set()
