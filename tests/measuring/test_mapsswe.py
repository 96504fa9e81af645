import shutil

import pytest

from espnet_prune.measuring import mapsswe as module
from espnet_prune.measuring.mapsswe import mapsswe
from espnet_prune.measuring.scoring import score_set


@pytest.fixture
def scored(tmp_path):
    """``scored(name, wrong)``: directory of a system that errs in some utterances."""
    keys = [f"spk-u{i:03}" for i in range(60)]
    reference = tmp_path / "ref"
    reference.write_text("".join(f"{key} A B C D\n" for key in keys))

    def make(name, wrong):
        out = tmp_path / name
        out.mkdir()
        hyps = ("A B X D" if i in wrong else "A B C D" for i in range(60))
        lines = (f"{key} {hyp}\n" for key, hyp in zip(keys, hyps, strict=True))
        (out / "text").write_text("".join(lines))
        score_set(reference, out / "text", {})
        return out / "score_wer"

    return make


@pytest.mark.skipif(
    not (shutil.which("sc_stats") or shutil.which("sctk")), reason="SCTK not installed"
)
def test_p_value_of_sctk(scored):
    many, few, same = scored("a", set(range(30))), scored("b", {3}), scored("c", {7})
    assert mapsswe(many, few) <= 0.001
    assert mapsswe(few, many) <= 0.001
    assert mapsswe(few, same) > 0.5


@pytest.mark.parametrize("there", [(), ("sclite",), ("sc_stats",)])
def test_without_all_of_sctk_there_is_none(scored, monkeypatch, there):
    monkeypatch.setattr(module.shutil, "which", {name: name for name in there}.get)
    assert mapsswe(scored("a", {1}), scored("b", {2})) is None


# What sc_stats prints: the better system and p, or ~ where none is.
CELL = "|    MP     ||  ours   |             |  {}   ||       MP        |"


@pytest.mark.parametrize(
    ("cell", "p"),
    [
        ("theirs    0.017   * ", 0.017),
        ("~    0.842", 0.842),
        ("ours <0.001 ***", 0.001),
    ],
)
def test_cell_of_sctk_is_read(cell, p):
    assert float(module._CELL.search(CELL.format(cell))[2]) == p
