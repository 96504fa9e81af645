"""Transcripts that the model's tokens cannot write are refused before a training."""

import shutil

import pytest

from espnet_prune.base.errors import InputError
from espnet_prune.families.espnet.tasks import ASR
from espnet_prune.training.known_tokens import refuse_unknown_tokens
from espnet_prune.training.task import PruneASRTask


@pytest.fixture
def check(student_command, data_dir, tmp_path):
    """``check(change)``: look at the fixtures' transcripts, changed."""

    def run(change):
        text = tmp_path / "text"
        lines = (data_dir / "text").read_text().splitlines()
        pairs = (line.partition(" ") for line in lines)
        text.write_text("".join(f"{utt} {change(words)}\n" for utt, _, words in pairs))
        command = student_command(tmp_path / "run")
        command = [o.replace(f"{data_dir}/text", str(text)) for o in command]
        options = PruneASRTask.get_parser().parse_args(command)
        refuse_unknown_tokens(options, ASR)

    yield run
    shutil.rmtree(tmp_path / "run", ignore_errors=True)


def test_text_of_the_model_passes(check, caplog):
    check(lambda words: words)
    assert "none of the model" not in caplog.text


def test_text_in_lower_case_under_capitals_is_refused(check):
    told = r"text: \d+ of \d+ tokens .* none of the model's, as in .* -> write it as"
    with pytest.raises(InputError, match=told):
        check(str.lower)


def test_a_single_unknown_letter_is_warned_of(check, caplog):
    left = iter("z")
    check(lambda words: " ".join([words] * 3) + next(left, ""))
    assert "1 of " in caplog.text and "none of the model's" in caplog.text
