"""What stands in the pages of the documentation: blocks, commands, code in the text."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# The archive has commands of its day.
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES.remove(ROOT / "docs/results-archive.md")
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)


def blocks(page: Path, language: str) -> list[str]:
    return [text for name, text in BLOCK.findall(page.read_text()) if name == language]


def code_in_text(page: Path) -> list[str]:
    """What stands between backticks in prose and tables, line ends as blanks."""
    text = BLOCK.sub("", page.read_text())
    return [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", text)]


def commands(page: Path) -> Iterator[tuple[str, list[str]]]:
    """The directory and the words of each command, without ``...`` at its end."""
    scripts = [block.replace("\\\n", " ") for block in blocks(page, "sh")]
    scripts += [
        code
        for code in code_in_text(page)
        if re.match(r"\./run\.sh|tests/run\.sh|python3 -m ", code)
    ]
    for script in scripts:
        folder = "."
        for line in script.splitlines():
            lexer = shlex.shlex(line, posix=True, punctuation_chars=";")
            lexer.whitespace_split = True
            words: list[str] = []
            for word in [*lexer, ";"]:
                if word not in (";", "..."):
                    words.append(word)
                elif words and word == ";":
                    if words[0] == "cd":
                        folder = words[1]
                    yield folder, words
                    words = []
