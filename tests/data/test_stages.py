"""Stages 2 to 4: speed perturbation, formatting, filtering."""

import os
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from espnet_prune.base.errors import InputError
from espnet_prune.base.files import fingerprint
from espnet_prune.base.table import read_table
from espnet_prune.data import sound_file, sources
from espnet_prune.data.audio import audio_digest
from espnet_prune.data.formatting import Job, Part, format_part, format_utterance, split
from espnet_prune.data.kaldi_dir import Segment, read_data_dir

FORMAT = "espnet_prune.cli.format_audio"
FILTER = "espnet_prune.cli.filter_data"
SPEED = "espnet_prune.cli.perturb_speed"


def test_format_writes_what_espnet_reads(
    cli, make_dir, tmp_path, monkeypatch, caplog, tone
):
    audio = {
        "s-8k": (tone(0.5, 8000), 8000),
        "s-stereo": (np.stack([tone(0.5, 16000)] * 2, 1), 16000),
        "s-0": (tone(1.0, 16000), 16000),
    }
    make_dir("in", audio)
    monkeypatch.chdir(tmp_path)
    with caplog.at_level("INFO"):
        cli(FORMAT, "--in", "in", "--out", "dump/x")
    assert read_table("dump/x/utt2num_samples") == {
        "s-0": "16000", "s-8k": "8000", "s-stereo": "8000"
    }  # fmt: skip
    assert open("dump/x/feats_type").read() == "raw\n"
    assert open("dump/x/audio_format").read() == "flac\n"
    for path in read_table("dump/x/wav.scp").values():
        assert path.startswith("dump/x/data/")
        info = soundfile.info(path)
        assert (info.samplerate, info.channels) == (16000, 1)
        assert (info.format, info.subtype) == ("FLAC", "PCM_16")
    assert read_data_dir("dump/x").text["s-0"] == "WORD s-0"
    assert "resampled 1 from 8000 to 16000 Hz" in caplog.text
    assert "averaged 1 to one channel" in caplog.text


def test_format_is_the_same_whatever_nj(
    cli, make_dir, tmp_path, monkeypatch, digests, tone
):
    make_dir("in", {f"s-{i:02d}": (tone(0.2, 8000, 100 + i), 8000) for i in range(20)})
    monkeypatch.chdir(tmp_path)
    for nj in (1, 3):
        cli(FORMAT, "--in", "in", "--out", "out", "--nj", nj)
        os.rename("out", f"out{nj}")
    assert digests(tmp_path / "out1") == digests(tmp_path / "out3")


def test_format_redoes_only_what_failed(cli, make_dir, tmp_path, tone, caplog):
    names = [f"s-{i}" for i in range(5)]
    folder = make_dir("in", {name: (tone(0.2, 16000), 16000) for name in names})
    good = (folder / "s-2.wav").read_bytes()
    (folder / "s-2.wav").write_bytes(b"garbage")
    options = ("--in", folder, "--out", tmp_path / "out", "--nj", 5)

    def written(root):
        return {p.name: p.stat().st_mtime_ns for p in root.glob("data/*/*.flac")}

    with pytest.raises(InputError, match=r"s-2\.wav"):
        cli(FORMAT, *options)
    before = written(tmp_path / ".out.work")
    assert len(before) == 4
    cli(FORMAT, *options, "--skip_bad")
    assert list(read_data_dir(tmp_path / "out").text) == [
        n for n in names if n != "s-2"
    ]
    assert written(tmp_path / "out") == before
    (folder / "s-2.wav").write_bytes(good)
    caplog.clear()
    with caplog.at_level("INFO"):
        cli(FORMAT, *options)
    assert sorted(read_data_dir(tmp_path / "out").text) == names
    assert not list(tmp_path.glob(".out*")) and "were done" not in caplog.text


def test_format_is_not_repeated_unless_something_changed(
    cli, make_dir, tmp_path, tone, caplog
):
    folder = make_dir("in", {"s-1": (tone(0.2, 16000), 16000)})
    options, out = ("--in", folder, "--out", tmp_path / "out"), tmp_path / "out"
    (file,) = cli(FORMAT, *options) or out.glob("data/*/*.flac")
    made = file.stat().st_mtime_ns
    with caplog.at_level("INFO"):
        cli(FORMAT, *options)
    assert file.stat().st_mtime_ns == made and "made before" in caplog.text
    soundfile.write(folder / "s-1.wav", tone(0.3, 16000), 16000)
    cli(FORMAT, *options)
    assert read_table(out / "utt2num_samples") == {"s-1": "4800"}


def test_other_audio_of_the_same_size_and_date_is_seen(
    cli, make_dir, tmp_path, tone, caplog, monkeypatch
):
    folder, out = make_dir(), tmp_path / "out"
    options, other = ("--in", folder, "--out", out), tmp_path / "other.wav"
    read = []
    monkeypatch.setattr(
        sources, "fingerprint", lambda file: read.append(file) or fingerprint(file)
    )

    def run(again):
        caplog.clear()
        read.clear()
        with caplog.at_level("INFO"):
            cli(FORMAT, *options)
        assert ("made before" in caplog.text) != again
        return sorted(Path(f).name for f in read), audio_digest(out / "wav.scp")

    names, first = run(True)
    assert names == ["s-0.wav", "s-1.wav", "s-2.wav"]
    assert run(False) == ([], first)  # nothing is read
    soundfile.write(other, -tone(1.0, 16000), 16000)
    dates = (folder / "s-1.wav").stat()
    os.utime(other, ns=(dates.st_atime_ns, dates.st_mtime_ns))
    shutil.copy2(other, folder / "s-1.wav")
    assert (folder / "s-1.wav").stat().st_mtime_ns == dates.st_mtime_ns
    names, second = run(True)
    assert names == ["s-1.wav"] and second != first
    (folder / "s-2.wav").touch()  # the same contents
    assert run(False) == (["s-2.wav"], second)
    assert run(False) == ([], second)
    monkeypatch.setattr("espnet_prune.cli.format_audio.__version__", "0.0.0")
    assert run(True) == ([], second)


def test_format_is_the_same_as_an_array_of_jobs(
    cli, make_dir, tmp_path, monkeypatch, digests, tone, jobs_here
):
    make_dir("in", {f"s-{i:02d}": (tone(0.2, 8000, 100 + i), 8000) for i in range(4)})
    monkeypatch.chdir(tmp_path)
    options = ("--in", "in", "--out", "out", "--nj", 2)
    cli(FORMAT, *options)
    os.rename("out", "processes")
    cli(FORMAT, *options, "--executor", "slurm", "--executor_args", "partition=cpu")
    assert digests(tmp_path / "out") == digests(tmp_path / "processes")
    assert jobs_here == [{"slurm_partition": "cpu", "slurm_array_parallelism": 2}]
    with pytest.raises(InputError, match="is no KEY=VALUE"):
        cli(FORMAT, *options, "--executor", "slurm", "--executor_args", "cpu")


def test_format_honours_segments(cli, make_dir, tmp_path, tone):
    folder = make_dir("in", {"r": (tone(2.0, 16000), 16000)})
    (folder / "segments").write_text("u1 r 0.5 1.25\nu2 r 1 -1\n")
    (folder / "text").write_text("u1 A\nu2 B\n")
    (folder / "utt2spk").write_text("u1 s\nu2 s\n")
    cli(FORMAT, "--in", folder, "--out", tmp_path / "out")
    samples = read_table(tmp_path / "out" / "utt2num_samples")
    assert samples == {"u1": "12000", "u2": "16000"}
    assert not (tmp_path / "out" / "segments").exists()


def test_command_runs_once_for_all_its_segments_and_gets_no_input(
    cli, make_dir, tmp_path, tone
):
    folder = make_dir("in", {"r": (tone(2.0, 16000), 16000)})
    calls = tmp_path / "calls"
    # The first "cat" would wait for what someone types.
    command = f"cat; echo x >> {calls}; cat {folder}/r.wav"
    (folder / "wav.scp").write_text(f"q {folder}/r.wav\nr {command} |\n")
    names = [f"u{i:03d}" for i in range(250)]  # more than go into a part
    stretches = {name: f"r {i / 200} {i / 200 + 0.5}" for i, name in enumerate(names)}
    stretches["u100"] = "q 0 1"
    for table, line in (
        ("segments", "{0} {1}\n"), ("text", "{0} A\n"), ("utt2spk", "{0} s\n")
    ):  # fmt: skip
        lines = [line.format(name, stretches[name]) for name in names]
        (folder / table).write_text("".join(lines))
    cli(FORMAT, "--in", folder, "--out", tmp_path / "out", "--nj", 2)
    assert calls.read_text() == "x\n"
    samples = read_table(tmp_path / "out" / "utt2num_samples")
    failing = f"q {folder}/r.wav\nr echo x >> {calls}; exit 3 |\n"
    (folder / "wav.scp").write_text(failing)
    calls.unlink()
    with pytest.raises(InputError, match="249 of 250 utterances cannot be read"):
        cli(FORMAT, "--in", folder, "--out", tmp_path / "failing", "--nj", 2)
    assert calls.read_text() == "x\n"  # one that fails runs once, too
    assert [*samples] == names
    assert samples["u100"] == "16000" and samples["u249"] == "8000"


@pytest.mark.parametrize("piped", [True, False])
def test_mp3_without_its_length_is_decoded_once_for_all_its_segments(
    tmp_path, tone, monkeypatch, piped
):
    decode, calls = sound_file._read_to_the_end, []

    def counting(*args):
        calls.append(args)
        return decode(*args)

    monkeypatch.setattr(sound_file, "_read_to_the_end", counting)
    values = []
    for name in "ab":
        path = tmp_path / f"{name}.mp3"
        soundfile.write(path, tone(5.0, 44100), 44100)
        whole = path.read_bytes()
        path.write_bytes(whole[whole.index(whole[:2], 4) :])  # no header
        values.append(f"cat {path} |" if piped else str(path))

    def job(i, folder):  # recordings take turns
        path = str(folder / f"{i}.flac")
        segment = Segment("", 0.5 * i, 0.5 * i + 1)
        return Job(f"u{i}", values[i % 2], segment, 1.0, 16000, path)

    (tmp_path / "alone").mkdir()
    alone = [format_utterance(job(i, tmp_path / "alone")) for i in range(8)]
    assert {one.samples for one in alone} == {16000} and not alone[0].error
    calls.clear()
    (part,) = split([job(i, tmp_path) for i in range(8)], 8)
    together = format_part(Part(part, tmp_path / "result.json"))
    assert sorted(together, key=lambda one: one.utterance) == alone
    assert len(calls) == 2
    for i in range(8):
        file = tmp_path / "alone" / f"{i}.flac"
        assert file.read_bytes() == (tmp_path / f"{i}.flac").read_bytes()


def test_what_a_command_gives_is_formatted_anew(cli, make_dir, tmp_path, tone):
    """It may give something else; what is made of the set sees that, and only that."""
    folder = make_dir("in", {"s": (tone(1.0, 16000), 16000)})
    (folder / "wav.scp").write_text(f"s cat {folder}/s.wav |\n")
    seen = []
    for seconds in (1.0, 1.0, 2.0):
        soundfile.write(folder / "s.wav", tone(seconds, 16000), 16000)
        cli(FORMAT, "--in", folder, "--out", tmp_path / "out")
        samples = read_table(tmp_path / "out" / "utt2num_samples")
        assert samples == {"s": str(int(16000 * seconds))}
        seen.append(audio_digest(tmp_path / "out" / "wav.scp"))
    assert seen[0] == seen[1] != seen[2]


def test_other_audio_of_the_same_length_is_seen(cli, make_dir, tmp_path, tone):
    folder = make_dir()
    seen = []
    for loudness in (1.0, 0.5):
        for path in folder.glob("*.wav"):
            soundfile.write(path, loudness * tone(1.0, 16000), 16000)
        cli(FORMAT, "--in", folder, "--out", tmp_path / "org")
        cli(FILTER, "--in", tmp_path / "org", "--out", tmp_path / "kept")
        seen.append(audio_digest(tmp_path / "kept" / "wav.scp"))
        # Earlier code knows a set by what it was made of: its trainings resume.
        marks = [tmp_path / name / ".made_of" for name in ("org", "kept")]
        assert marks[0].read_text() == marks[1].read_text()
    assert seen[0] != seen[1]


MARKED = {
    "s-0": "<noise> A [LAUGHTER], B",
    "s-1": "(uh huh) [breath]<noise>",
    "s-2": "C(D) <E [wh]at",  # no marks: within words, or open
}


def test_marks_are_kept_dropped_or_refused(cli, make_dir, tmp_path, caplog):
    folder, out = make_dir(), tmp_path / "out"
    (folder / "text").write_text("".join(f"{u} {w}\n" for u, w in MARKED.items()))
    dropped = {"s-0": "A B", "s-1": "", "s-2": MARKED["s-2"]}
    for options, text, done in (
        ((), MARKED, "kept as words"),
        (("--marks", "drop"), dropped, "dropped"),
        (("--marks", "keep"), MARKED, "kept as words"),
    ):
        caplog.clear()
        with caplog.at_level("INFO"):
            cli(FORMAT, "--in", folder, "--out", out, *options)
        assert read_table(out / "text") == text
        assert (
            f"text: 4 marks in 2 transcripts are {done} (line 1: <noise>; line 2: ("
            in caplog.text
        )
    told = r"x/text:2: 1 transcripts hold marks \(line 2: .* -> take them out"
    (folder / "text").write_text(f"s-0 A\ns-1 {MARKED['s-1']}\ns-2 B\n")
    with pytest.raises(InputError, match=told):
        cli(FORMAT, "--in", folder, "--out", out, "--marks", "refuse")
    for name in ("text.prev", "text.ctc"):
        (folder / name).write_text("s-0 <na>\ns-1 <na>\ns-2 <na>\n")
    with pytest.raises(InputError, match="symbols look like marks"):
        cli(FORMAT, "--in", folder, "--out", out, "--marks", "drop")


def test_what_goes_beyond_full_scale_is_scaled_and_told(
    cli, make_dir, tmp_path, tone, caplog
):
    folder = make_dir()
    soundfile.write(folder / "s-1.wav", 3 * tone(1.0, 16000), 16000, subtype="FLOAT")
    loud = (3 * tone(1.0, 16000)).clip(-1, 1)  # as a recorder writes it in 16 bits
    soundfile.write(folder / "s-2.wav", loud, 16000)
    cli(FORMAT, "--in", folder, "--out", tmp_path / "out")
    told = "full scale: 1 utterances were"
    assert f"{told} beyond, and scaled down: s-1" in caplog.text
    assert f"{told} cut off at it, as they stay: s-2" in caplog.text
    path = read_table(tmp_path / "out" / "wav.scp")["s-1"]
    samples, _ = soundfile.read(path)
    assert (abs(samples) > 0.999).mean() < 0.05


@pytest.mark.parametrize("nj", [1, 2])
def test_bad_audio_stops_unless_skipped(cli, make_dir, tmp_path, caplog, nj):
    folder = make_dir()
    (folder / "s-0.wav").write_bytes(b"garbage")
    (folder / "s-2.wav").write_bytes(b"")
    out = tmp_path / "out"
    with pytest.raises(InputError, match=r"2 of 3 utterances .*s-0\.wav.*s-2\.wav"):
        cli(FORMAT, "--in", folder, "--out", out, "--nj", nj)
    assert not out.exists()
    cli(FORMAT, "--in", folder, "--out", out, "--skip_bad", "--nj", nj)
    assert list(read_data_dir(out).text) == ["s-1"]
    assert "dropped 2 unreadable" in caplog.text
    caplog.clear()  # what was dropped is tried again: it may have been mended
    cli(FORMAT, "--in", folder, "--out", out, "--skip_bad", "--nj", nj)
    assert "dropped 2 unreadable" in caplog.text
    (folder / "s-1.wav").write_bytes(b"")
    with pytest.raises(InputError, match="3 of 3 utterances"):
        cli(FORMAT, "--in", folder, "--out", out, "--skip_bad")
    assert list(read_data_dir(out).text) == ["s-1"]


def test_killed_format_leaves_no_half_directory(cli, make_dir, tmp_path):
    folder, out = make_dir("in"), tmp_path / "out"
    (folder / "wav.scp").write_text("s-0 s-0.wav\ns-1 sleep 3 |\ns-2 s-2.wav\n")
    child = os.fork()
    if child == 0:
        try:
            cli(FORMAT, "--in", folder, "--out", out)
        finally:
            os._exit(1)
    deadline = time.monotonic() + 20
    while not list(tmp_path.glob(".out.work/data/000/s-0.flac")):
        assert time.monotonic() < deadline, "the run never began to write"
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert not out.exists()
    (folder / "wav.scp").write_text("s-0 s-0.wav\ns-1 s-1.wav\ns-2 s-2.wav\n")
    cli(FORMAT, "--in", folder, "--out", out)
    assert len(read_data_dir(out).text) == 3


def test_format_refuses_what_cannot_be_written(cli, make_dir, tmp_path):
    folder = make_dir()
    with pytest.raises(InputError, match="is the directory to read"):
        cli(FORMAT, "--in", folder, "--out", folder)
    with pytest.raises(InputError, match="no sampling rate"):
        cli(FORMAT, "--in", folder, "--out", tmp_path / "out", "--fs", 0)
    for name in ("wav.scp", "text", "utt2spk"):
        path = folder / name
        path.write_text(path.read_text().replace("s-0 ", "s/0 ", 1))
    with pytest.raises(InputError, match="1 ids cannot be file names, .* s/0 ->"):
        cli(FORMAT, "--in", folder, "--out", tmp_path / "out")
    for name in ("wav.scp", "text", "utt2spk"):
        path = folder / name
        path.write_text(path.read_text().replace("s/0 ", "語" * 90 + " ", 1))
    with pytest.raises(InputError, match="1 ids cannot be file names"):
        cli(FORMAT, "--in", folder, "--out", tmp_path / "out")


def test_file_that_cannot_be_written_is_named_and_the_rest_stays(
    cli, make_dir, tmp_path, monkeypatch
):
    """As on a full disk: nothing is dropped as bad, and the next run goes on."""
    folder, real = make_dir(), soundfile.SoundFile

    def opened(path, *args, **options):
        full = "w" in args and "s-1" in path
        return real("/dev/full" if full else path, *args, **options)

    monkeypatch.setattr(soundfile, "SoundFile", opened)
    with pytest.raises(InputError, match="s-1.flac: cannot be written .*disk full"):
        cli(FORMAT, "--in", folder, "--out", tmp_path / "out", "--skip_bad")
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr(soundfile, "SoundFile", real)
    cli(FORMAT, "--in", folder, "--out", tmp_path / "out")
    assert len(read_table(tmp_path / "out" / "wav.scp")) == 3


def test_speed_perturbed_durations(cli, make_dir, tmp_path):
    folder = make_dir("in")
    cli(SPEED, "--in", folder, "--out", tmp_path / "sp", "--factors", "0.9 1.0 1.1")
    cli(FORMAT, "--in", tmp_path / "sp", "--out", tmp_path / "out")
    samples = read_table(tmp_path / "out" / "utt2num_samples")
    assert len(samples) == 9
    assert samples["s-0"] == "16000"
    assert int(samples["sp0.9-s-0"]) == pytest.approx(16000 / 0.9, abs=2)
    assert int(samples["sp1.1-s-0"]) == pytest.approx(16000 / 1.1, abs=2)
    data = read_data_dir(tmp_path / "out")
    assert data.speakers["sp0.9-s-0"] == "sp0.9-s"
    assert data.text["sp0.9-s-0"] == "WORD s-0"


def test_speed_with_segments(cli, make_dir, tmp_path, tone):
    folder = make_dir("in", {"s": (tone(2.0, 16000), 16000)})
    (folder / "segments").write_text("s s 0.5 1.5\n")
    cli(SPEED, "--in", folder, "--out", tmp_path / "sp", "--factors", "0.8")
    cli(FORMAT, "--in", tmp_path / "sp", "--out", tmp_path / "out")
    samples = read_table(tmp_path / "out" / "utt2num_samples")
    assert samples == {"sp0.8-s": "20000"}


@pytest.mark.parametrize("factors", ["", "fast", "0", "1.0 1.0", "0.9 -1", "nan"])
def test_bad_factors(cli, make_dir, tmp_path, factors):
    with pytest.raises(InputError, match="--factors"):
        cli(SPEED, "--in", make_dir(), "--out", tmp_path / "sp", "--factors", factors)


def test_speed_twice_is_refused(cli, make_dir, tmp_path):
    cli(SPEED, "--in", make_dir(), "--out", tmp_path / "sp")
    with pytest.raises(InputError, match="perturbed already"):
        cli(SPEED, "--in", tmp_path / "sp", "--out", tmp_path / "sp2")


def test_kaldis_perturbed_set_is_refused_by_its_ids(cli, make_dir, tmp_path, tone):
    audio = {name: (tone(1.0, 16000), 16000) for name in ("sp0.9-a", "sp1.1-a", "a")}
    with pytest.raises(InputError, match="sp0.9-a is perturbed already"):
        cli(SPEED, "--in", make_dir("in", audio), "--out", tmp_path / "sp")
    audio = {"sp1-001": (tone(1.0, 16000), 16000)}  # of speaker 1
    cli(SPEED, "--in", make_dir("other", audio), "--out", tmp_path / "sp")
    assert len(read_table(tmp_path / "sp" / "text")) == 3


@pytest.fixture
def formatted(cli, make_dir, tmp_path, tone):
    seconds = {"s-short": 0.05, "s-long": 3.0, "s-empty": 1.0, "s-ok": 1.0}
    audio = {u: (tone(s, 16000), 16000) for u, s in seconds.items()}
    folder = make_dir("in", audio)
    text = (folder / "text").read_text().replace("s-empty WORD s-empty", "s-empty")
    (folder / "text").write_text(text)
    cli(FORMAT, "--in", folder, "--out", tmp_path / "org")
    return tmp_path / "org"


def test_filter_drops_and_counts(cli, formatted, tmp_path, caplog):
    with caplog.at_level("INFO"):
        cli(FILTER, "--in", formatted, "--out", tmp_path / "out", "--max_seconds", 2)
    data = read_data_dir(tmp_path / "out")
    assert list(data.text) == list(data.wav) == list(data.speakers) == ["s-ok"]
    assert read_table(tmp_path / "out" / "utt2num_samples") == {"s-ok": "16000"}
    assert (tmp_path / "out" / "feats_type").read_text() == "raw\n"
    assert "kept 1 of 4 (1 too short, 1 too long, 1 without words)" in caplog.text
    assert "75 % of the utterances dropped" in caplog.text


def test_filter_that_leaves_nothing_is_an_error(cli, formatted, tmp_path):
    with pytest.raises(InputError, match=r"no utterance is left \(4 too short"):
        cli(FILTER, "--in", formatted, "--out", tmp_path / "out", "--min_seconds", 5)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", ["s-ok many\n", "s-ok 16000\n"])
def test_filter_checks_utt2num_samples(cli, formatted, tmp_path, content):
    (formatted / "utt2num_samples").write_text(content)
    with pytest.raises(InputError, match="utt2num_samples: .* run stage 3 again"):
        cli(FILTER, "--in", formatted, "--out", tmp_path / "out")
