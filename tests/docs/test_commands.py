"""Commands in the documentation: run.sh takes them, and so do the programs."""

import argparse
import importlib
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
from espnet2.tasks.asr import ASRTask
from pages import PAGES, ROOT, code_in_text, commands

from espnet_prune.config.options import make_options
from espnet_prune.config.sections import SECTIONS
from espnet_prune.training.task import PruneASRTask

# Those of ESPnet's asr.sh that the pages use.
ASR_SH = {"--python", "--stage", "--stop_stage", "--asr_config", "--asr_exp"}
ASR_SH |= {"--inference_asr_model", "--asr_args", "--skip_packing", "--use_lm"}
ASR_SH |= {"--use_lightning", "--num_splits_asr", "--use_streaming"}
# Nothing of ours.
PLAIN = ("cd", "cp", "export", "pip", "source", ".")
# No stage lies there: run.sh checks all options, and ends.
NOWHERE = ("--stage", "99", "--stop_stage", "99")


def parser_of(module: str) -> argparse.ArgumentParser:
    """The program's parser, content without what it requires: pages leave out much."""
    parser = importlib.import_module(module).get_parser()
    parser.allow_abbrev = False  # a page spells options out
    for action in parser._actions:
        action.required = False
    return parser


def program_takes(module: str, words: list[str]) -> None:
    if not words:
        assert importlib.util.find_spec(module), module
    elif module == "espnet_prune.cli.prune_train":
        args, rest = parser_of(module).parse_known_args(words)
        for section, kind in SECTIONS.items():
            make_options(kind, section, getattr(args, section))
        PruneASRTask.get_parser().parse_args(rest)
    else:
        parser_of(module).parse_args(words)


def data_program_takes(corpus: str, words: list[str]) -> None:
    if corpus == "librispeech":  # its shell script takes one option more
        (at,) = [i for i, word in enumerate(words) if word == "--download"] or [None]
        words = words if at is None else words[:at] + words[at + 2 :]
    path = ROOT / f"local/{corpus}_data.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    program_takes(path.stem, words)


# Options of run.sh that hold options of other programs.
NESTED = {
    "--prune_args": "espnet_prune.cli.prune_train",
    "--finetune_args": "espnet_prune.cli.prune_train",
    "--measure_args": "espnet_prune.cli.measure",
    "--distil_args": "espnet_prune.cli.ssl_train",
    "--format_args": "espnet_prune.cli.format_audio",
}


def recipe_takes(script: Path, words: list[str]) -> None:
    # A stand-in for the reader's own ESPnet checkout and models.
    words = [
        re.sub(r"^(/path/of/|exp/|conf/my_)\S+", "/bin/true", word) for word in words
    ]
    call = ["bash", str(script), *words, *NOWHERE]
    result = subprocess.run(call, capture_output=True, text=True, timeout=60)
    if "--help" in words:
        assert result.returncode == 0, result.stderr
    else:
        assert "no stage lies there" in result.stderr, result.stderr
    given = dict(zip(words[::2], words[1::2], strict=False))
    for option, program in NESTED.items():
        if option in given:
            program_takes(program, given[option].split())
    if "--asr_args" in given:
        ASRTask.get_parser().parse_args(given["--asr_args"].split())
    if "--data_args" in given:
        in_egs2 = script.parent != ROOT
        corpus = "librispeech" if in_egs2 else given["--corpus"]
        data_program_takes(corpus, given["--data_args"].split())
    for pair in filter(None, given.get("--executor_args", "").split(",")):
        assert re.fullmatch(r"\w+=\w+", pair), pair


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_each_command_is_taken(page):
    for folder, words in commands(page):
        program, arguments = words[0], words[1:]
        if program.endswith("/run.sh") and "--python" in words:  # ESPnet's
            assert {w for w in words if w.startswith("--")} <= ASR_SH, words
        elif program == "tests/run.sh":
            for word in arguments:
                assert word == "--quick" or (ROOT / word).exists(), words
        elif program.endswith("run.sh"):
            recipe_takes(ROOT / folder / program, arguments)
        elif words[:3] == ["python3", "-m", "espnet_prune"]:
            assert words[3] == "-m" and words[4].startswith("espnet2.bin."), words
        elif program == "espnet-prune":
            verb = words[1].replace("-", "_")
            program_takes(f"espnet_prune.cli.{verb}", words[2:])
        elif words[:2] == ["python3", "-m"]:
            program_takes(words[2], words[3:])
        elif program == "python3":
            assert (ROOT / arguments[0]).exists(), words
        else:
            assert program in PLAIN or re.fullmatch(r"\w+=\S*", program), words


def test_options_that_the_text_names_exist():
    listed = (
        (ROOT / "run.sh").read_text()
        + (ROOT / "local/ssl.sh").read_text()
        + (ROOT / "tests/run.sh").read_text()
    )
    known = set(re.findall(r"^  (--\w+) ", listed, re.MULTILINE)) | ASR_SH
    for program in sorted((ROOT / "espnet_prune/cli").glob("*.py")):
        module = importlib.import_module(f"espnet_prune.cli.{program.stem}")
        if hasattr(module, "get_parser"):
            known |= module.get_parser()._option_string_actions.keys()
    known |= PruneASRTask.get_parser()._option_string_actions.keys()
    for corpus in (ROOT / "local").glob("*_data.py"):
        known |= set(re.findall(r'"(--\w+)"', corpus.read_text()))
    for page in PAGES:
        for code in code_in_text(page):
            if code.startswith("-"):
                assert set(re.findall(r"--\w+", code)) <= known, f"{page.name}: {code}"
