"""What all tests here prune and distil by."""

from pathlib import Path

from espnet_prune.cli import ssl_train


def train(dense: Path, crops: Path, out: Path, recipe: str, *options: object) -> None:
    """``ssl_train`` with a recipe of the project on crops of ``ssl_audio``."""
    argv = ["--dense", dense, "--output_dir", out]
    argv += ["--recipe", f"conf/ssl/{recipe}.yaml"]
    argv += ["--train", crops / "train", "--valid", crops / "valid", *options]
    ssl_train.main([str(x) for x in argv])
