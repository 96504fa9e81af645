"""What ESPnet prints later reaches the terminal of that time."""

from espnet2.tasks.asr import ASRTask

import espnet_prune.base.quiet  # noqa: F401  (imported ESPnet with stdout muted)


def test_a_config_is_printed_although_espnet_was_imported_muted(capsys):
    ASRTask.print_config()
    assert "encoder: rnn" in capsys.readouterr().out
