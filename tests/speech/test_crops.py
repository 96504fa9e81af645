"""Audio of any kind becomes crops."""

import numpy as np
import pytest
import soundfile

from espnet_prune.base.errors import InputError
from espnet_prune.base.table import read_table
from espnet_prune.cli import ssl_audio


def test_audio_of_any_kind_becomes_crops(audio, crops, caplog):
    lengths = read_table(crops / "train/utt2num_samples")
    lengths |= read_table(crops / "valid/utt2num_samples")
    assert all(8000 <= int(n) <= 24000 for n in lengths.values())
    assert sum(map(int, lengths.values())) == 16000 * sum(1 + i % 3 for i in range(24))
    first = next(iter(read_table(crops / "train/wav.scp").values()))
    info = soundfile.info(first)
    assert info.samplerate == 16000 and info.channels == 1
    with caplog.at_level("INFO"):
        ssl_audio.main(["--audio", str(audio), "--out", str(crops), "--seconds", "1"])
    assert "made before" in caplog.text


def test_recordings_of_the_same_last_name_are_kept_apart(tmp_path):
    scp = {}
    for i in range(4):
        file = tmp_path / f"s{i % 2}" / f"{i // 2}.wav"
        file.parent.mkdir(exist_ok=True)
        soundfile.write(
            file, 0.1 * np.random.default_rng(i).standard_normal(9000), 16000
        )
        scp[f"sp0.9-{i}"] = str(file)
    (tmp_path / "wav.scp").write_text("".join(f"{k} {v}\n" for k, v in scp.items()))
    for name in ("wav.scp", "s0", "s1"):
        out = tmp_path / f"out_{name}"
        ssl_audio.main(["--audio", str(tmp_path / name), "--out", str(out)])
        lengths = read_table(out / "train/utt2num_samples")
        lengths |= read_table(out / "valid/utt2num_samples")
        assert len(lengths) == (4 if name == "wav.scp" else 2)
    soundfile.write(tmp_path / "s0/0.flac", np.ones(9000), 16000)
    with pytest.raises(InputError, match="both would be called so"):
        ssl_audio.main(["--audio", str(tmp_path / "s0"), "--out", str(tmp_path / "x")])
