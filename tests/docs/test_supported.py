"""What the pages say can be pruned is what the registry says."""

import re

from pages import ROOT

from espnet_prune.cli import supported
from espnet_prune.families.registry import KINDS

PAGE = ROOT / "docs/supported.md"


def test_the_page_is_that_of_the_registry(monkeypatch):
    page = PAGE.read_text()
    assert page == supported.renewed(page), f"run: {supported.BEGIN}"
    for kind in KINDS.values():
        assert f"## Encoder: `{kind.name}`" in page
        assert {*re.findall(r"`(\w+)`", page)} >= kind.rules.required.keys()
    monkeypatch.setitem(kind.rules.required, "new_option", (("a", False), "of a test"))
    assert "| `new_option` | `a` or `false` | of a test |" in supported.renewed(page)


def test_a_program_puts_the_list_into_the_page(tmp_path, monkeypatch):
    copy = tmp_path / "supported.md"
    copy.write_text(f"# Mine\n{supported.BEGIN}\nstale\n{supported.END}\nmore\n")
    monkeypatch.setattr("sys.argv", ["supported", "--page", str(copy)])
    supported.main()
    made = copy.read_text()
    assert made.startswith("# Mine\n") and made.endswith(f"{supported.END}\nmore\n")
    assert supported.listed() in made and "stale" not in made


def test_the_page_of_own_models_names_the_same_encoders():
    (told,) = re.findall(
        r"Its encoder must be one of([^;]*)\]\(supported.md\)",
        (ROOT / "docs/prune-your-model.md").read_text(),
    )
    assert re.findall(r"`(\w+)`", told) == list(KINDS)
