"""What the pages have from the code is what the code says."""

import dataclasses
import re
from dataclasses import dataclass

from pages import ROOT

from espnet_prune.base.marks import renewed
from espnet_prune.cli import pages
from espnet_prune.config.sections import SECTIONS
from espnet_prune.families.registry import KINDS
from espnet_prune.report import supported
from espnet_prune.report.option_tables import option_table, told


def test_pages_are_those_of_the_code(monkeypatch):
    made = pages.parts()
    marks = set()
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        text = page.read_text()
        assert text == renewed(text, made), "run: python3 -m espnet_prune.cli.pages"
        marks |= set(re.findall("<!-- made: (.*) -->", text))
    assert marks == made.keys() | {"results"}
    assert made["speech encoders"] == "`hubert`, `wav2vec2`, `wavlm`"
    page = (ROOT / "docs/supported.md").read_text()
    for kind in KINDS.values():
        assert f"## Encoder: `{kind.name}`" in page
        assert {*re.findall(r"`(\w+)`", page)} >= kind.rules.required.keys()
    monkeypatch.setitem(kind.rules.required, "new_option", (("a", False), "of a test"))
    assert "| `new_option` | `a` or `false` | of a test |" in supported.listed()


def test_a_program_puts_the_parts_into_the_pages(tmp_path):
    page = tmp_path / "mine.md"
    begin, end = "<!-- made: gates -->", "<!-- end -->"
    empty = f"{begin}\n{end}\nkept\n{begin}\n{end}\n"
    assert renewed(empty, {"gates": "x"}) == empty.replace(
        f"{begin}\n", f"{begin}\n\nx\n\n"
    )
    page.write_text(f"# Mine\n{begin}\nstale\n{end}\nmore {begin}\n")
    pages.main(["--docs", str(tmp_path), "--readme", str(page)])
    made = page.read_text()
    assert made.startswith(f"# Mine\n{begin}\n\n| key | default | meaning |\n")
    assert made.endswith(f"|\n\n{end}\nmore {begin}\n") and "stale" not in made


def test_a_table_has_all_options_and_their_defaults():
    @dataclass(frozen=True)
    class Options:
        """Options of a test.

        Args:
            one: the first; it is
                long, ``so``.
            two, three: others.

        Raises:
            OptionError: never.
        """

        one: str = "a"
        two: float | None = None
        three: bool = False

    rows = option_table(Options).splitlines()[2:]
    assert rows == [
        "| `one` | `a` | the first; it is long, `so` |",
        "| `two`, `three` | none, false | others |",
    ]
    for options in SECTIONS.values():
        names = [name for names, _ in told(options) for name in names]
        assert names == [field.name for field in dataclasses.fields(options)]
