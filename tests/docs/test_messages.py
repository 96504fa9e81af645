"""Messages that the documentation explains are messages of the code."""

import ast
import re

import pytest
from espnet2.tasks.asr import encoder_choices
from pages import ROOT

PYTHON = [*ROOT.glob("espnet_prune/**/*.py"), *ROOT.glob("local/*.py")]
SHELL = [ROOT / "run.sh", ROOT / "path.sh", *ROOT.glob("local/*.sh")]
TROUBLE = (ROOT / "docs/troubleshooting.md").read_text()
REPORT = (ROOT / "docs/report.md").read_text()


def strings(source: str) -> list[str]:
    """Texts in Python code; what an f-string fills in is ``...``, as in the pages."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.append(node.value)
        elif isinstance(node, ast.JoinedStr):
            parts = (getattr(part, "value", None) for part in node.values)
            found.append("".join(p if isinstance(p, str) else "..." for p in parts))
    return found


@pytest.fixture(scope="module")
def messages() -> str:
    """All texts of all sources, one a line."""
    lines = [line for path in SHELL for line in path.read_text().splitlines()]
    for path in PYTHON:
        lines += [" ".join(text.split()) for text in strings(path.read_text())]
    with pytest.raises(ValueError) as of_espnet:  # it is met where ours is not imported
        encoder_choices.get_class("unknown")
    lines.append(str(of_espnet.value))
    return "\n".join(lines)


def headings() -> list[str]:
    """Of troubleshooting: what a message says; in brackets is where."""
    lines = re.findall(r"^### (.*)", TROUBLE, re.MULTILINE)
    return [m for line in lines for m in re.findall(r"(?<!\()`(.+?)`", line)]


def rows_of_the_report() -> list[str]:
    (table,) = re.findall(r"^\| it says \|.*?\n\n", REPORT, re.S | re.M)
    return re.findall(r"^\| `(.+?)` \|", table, re.MULTILINE)


def test_there_are_messages_to_look_for():
    assert len(headings()) > 25 and len(rows_of_the_report()) == 4


@pytest.mark.parametrize("message", [*headings(), *rows_of_the_report()])
def test_message_is_one_of_the_code(messages, message):
    assert message in messages
