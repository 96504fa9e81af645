"""Where a report finds the training of the dense model."""

from left import options

from espnet_prune.cli import report


def test_training_of_a_dense_model_from_elsewhere_is_shown(full):
    (full / "dense/checkpoint.pth").rename(full / "their.pth")
    options_there = options(full, f"--dense_training={full / 'their'}")
    report.main(options_there)
    text = (full / "out/report.md").read_text()
    assert "their/checkpoint.pth (stage 11)" in text and "dense/checkp" not in text
    (full / "their").mkdir()
    (full / "their.pth").rename(full / "their/checkpoint.pth")
    report.main(options_there)
    text = (full / "out/report.md").read_text()
    assert "Dense training (their)" in text and "(stage 11)" not in text
