"""Stage 1: the corpora."""

import hashlib
import http.server
import io
import logging
import os
import shutil
import subprocess
import sys
import tarfile
import threading
from pathlib import Path

import digits_data
import numpy as np
import pytest
import soundfile
import synth_data
from torchaudio.datasets.librispeech import _CHECKSUMS

from espnet_prune.data.espeak import Voice, speak
from espnet_prune.data.kaldi_dir import read_data_dir
from espnet_prune.data.synth import SPOKEN, VARIANTS, WORDS, Recipe, make_utterance
from espnet_prune.data.table import read_table
from espnet_prune.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
SMALL = ("--train", 20, "--dev", 3, "--test", 6)


def test_synth_is_the_same_for_a_seed_whatever_nj(cli, tmp_path, monkeypatch, digests):
    for name, options in {
        "one": ("--nj", 1),
        "two": ("--nj", 2),
        "other": ("--seed", 7),
    }.items():
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        cli("synth_data", *SMALL, *options)
    one, two = digests(tmp_path / "one"), digests(tmp_path / "two")
    assert one == two
    assert len([name for name in one if name.endswith(".wav")]) == 29
    assert one.keys() != digests(tmp_path / "other").keys()


def test_synth_utterance_depends_on_nothing_before_it():
    recipes = [Recipe(1, subset, i, 0.0, 20.0) for subset in VARIANTS for i in range(6)]
    first = {r: make_utterance(r).samples.tobytes() for r in recipes}
    for recipe in np.random.default_rng(0).permutation(np.arange(len(recipes))):
        recipe = recipes[recipe]
        assert make_utterance(recipe).samples.tobytes() == first[recipe], recipe


def test_synth_voices_are_disjoint_between_sets(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cli("synth_data", *SMALL)
    variants = {}
    for name in ("train", "dev", "test"):
        data = read_data_dir(f"data/synth_{name}")
        assert all(u.startswith(s) for u, s in data.speakers.items())
        variants[name] = {s.split("_")[0] for s in data.speakers.values()}
        assert variants[name] <= set(VARIANTS[name])
        for path in data.wav.values():
            info = soundfile.info(path)
            assert info.samplerate == 16000 and 0.3 < info.duration < 10
    everything = [v for names in VARIANTS.values() for v in names]
    assert len(everything) == len(set(everything))


def test_every_synth_voice_speaks():
    for variant in (v for names in VARIANTS.values() for v in names):
        samples, fs = speak("seven", Voice(f"en+{variant}"))
        assert len(samples) > 0.2 * fs and np.abs(samples).max() > 0.02, variant


def test_no_two_synth_words_sound_the_same():
    voice = Voice("en-us+m1")
    words = sorted({word for kind in WORDS.values() for word in kind})
    spoken = [speak(SPOKEN.get(w, w.lower()), voice)[0].tobytes() for w in words]
    assert len(set(spoken)) == len(words)


def test_synth_noise_follows_the_snr_range():
    """Quiet stretches at the edges are as loud as the noise: far below at 40 dB."""
    ratios = {}
    for snr in (0.0, 40.0):
        edges, wholes = [], []
        for i in range(8):
            samples = make_utterance(Recipe(3, "train", i, snr, snr)).samples
            edges.append(np.square(samples[:600]).mean())
            wholes.append(np.square(samples).mean())
        ratios[snr] = 10 * np.log10(np.median(np.array(wholes) / np.array(edges)))
    assert ratios[0.0] < 10 < 25 < ratios[40.0]


def test_synth_is_kept_until_its_options_change(cli, tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    caplog.set_level(logging.INFO)
    small = ("--train", 2, "--dev", 1, "--test", 1)
    cli("synth_data", *small)
    assert "kept" not in caplog.text
    cli("synth_data", *small)
    assert "kept" in caplog.text
    caplog.clear()
    cli("synth_data", *small, "--snr_high", 20)
    assert "kept" not in caplog.text


@pytest.mark.parametrize(
    "options", [("--train", 0), ("--snr_low", 99), ("--seed", -1)], ids=str
)
def test_synth_bad_options(cli, tmp_path, options):
    with pytest.raises(InputError, match=options[0]):
        cli("synth_data", "--out", tmp_path, *options)


def test_missing_espeak_is_an_input_error_from_a_worker_too(cli, tmp_path, monkeypatch):
    monkeypatch.setitem(synth_data.VARIANTS, "train", ["nobody"])
    with pytest.raises(InputError, match="nobody: espeak-ng has no such voice"):
        cli("synth_data", "--out", tmp_path, *SMALL, "--nj", 2)
    assert not list(tmp_path.iterdir())


@pytest.fixture
def fsdd(tmp_path, tone):
    """A dataset in FSDD's layout: two speakers, three digits, 12 recordings each."""
    folder = tmp_path / "downloads" / digits_data.NAME / "recordings"
    folder.mkdir(parents=True)
    for digit in (0, 4, 9):
        for speaker in ("ann", "bob"):
            for index in range(12):
                samples = tone(0.05 + 0.01 * index, 8000)
                soundfile.write(
                    folder / f"{digit}_{speaker}_{index}.wav", samples, 8000
                )
    return tmp_path / "downloads"


def test_digits_use_each_recording_as_often_as_asked(fsdd):
    split = digits_data.split_recordings(fsdd / digits_data.NAME / "recordings")
    everything = [
        p for speakers in split.values() for r in speakers.values() for p in r
    ]
    assert len(everything) == len(set(everything)) == 72
    assert {p.stem[-2:] for r in split["dev"].values() for p in r} == {"_8", "_9"}
    recordings = split["test"]["ann"]
    strings = digits_data.join_strings(np.random.default_rng(0), recordings, 4)
    assert all(2 <= len(string) <= 7 for string in strings)
    uses = [path for string in strings for path in string]
    assert max(uses.count(path) for path in recordings) == 4
    assert len(uses) >= 4 * (len(recordings) - 1)


def test_digits_sets(cli, fsdd, tmp_path, monkeypatch, digests):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        cli("digits_data", "--downloads", fsdd, "--repeat_train", 1)
    assert digests(tmp_path / "a") == digests(tmp_path / "b")
    for name in ("train", "dev", "test"):
        data = read_data_dir(f"data/digits_{name}")
        assert set(" ".join(data.text.values()).split()) == {"ZERO", "FOUR", "NINE"}
        for path in data.wav.values():
            assert soundfile.info(path).samplerate == 8000


def test_digits_of_the_real_dataset(cli, corpora, tmp_path):
    if not (corpora / digits_data.NAME).is_dir():
        pytest.skip(f"no {digits_data.NAME} in {corpora}")
    # main() itself asserts that no recording is in two sets.
    repeat = [f"--repeat_{name}=1" for name in ("train", "dev", "test")]
    cli("digits_data", "--downloads", corpora, "--out", tmp_path, *repeat)
    sizes = {}
    for name in ("train", "dev", "test"):
        text = read_table(tmp_path / f"digits_{name}" / "text")
        sizes[name] = sum(len(words.split()) for words in text.values())
    # A single recording left over in a permutation is not spoken.
    for name, full in {"train": 2400, "dev": 120, "test": 480}.items():
        assert full - 6 <= sizes[name] <= full


def test_digits_from_an_archive(cli, fsdd, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    with tarfile.open(other / f"{digits_data.NAME}.tar.gz", "w:gz") as tar:
        tar.add(fsdd / digits_data.NAME, f"{digits_data.NAME}-1.0.10")
    cli("digits_data", "--downloads", other, "--out", tmp_path / "data")
    assert (other / digits_data.NAME / "recordings" / "0_ann_0.wav").exists()


def test_digits_bad_downloads(cli, fsdd, tmp_path, monkeypatch):
    monkeypatch.setattr(digits_data, "URL", (tmp_path / "none.tar.gz").as_uri())
    with pytest.raises(InputError, match="cannot be downloaded .* put the dataset's"):
        cli("digits_data", "--downloads", tmp_path / "empty", "--out", tmp_path / "d")
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / f"{digits_data.NAME}.tar.gz").write_bytes(io.BytesIO(b"x").read())
    with pytest.raises(InputError, match="cannot be unpacked"):
        cli("digits_data", "--downloads", broken, "--out", tmp_path / "d")
    recordings = fsdd / digits_data.NAME / "recordings"
    (recordings / "ten.wav").write_bytes(b"")
    with pytest.raises(InputError, match="ten.wav: is not called"):
        cli("digits_data", "--downloads", fsdd, "--out", tmp_path / "d")


def test_librispeech_subsets(cli, corpora, tmp_path):
    tiny = corpora / "librispeech_tiny"
    cli("librispeech_data", "--librispeech", tiny, "--out", tmp_path)
    data = read_data_dir(tmp_path / "librispeech_train_clean_100")
    assert len(data.text) == 32
    assert len(read_table(tmp_path / "librispeech_test_clean" / "text")) == 4
    assert data.speakers["4088-158077-0048"] == "4088-158077"
    assert (
        data.text["4088-158077-0048"] == read_table(tiny / "text")["4088-158077-0048"]
    )


def _write_chapter(tone, root, reader: str, chapter: str, utterances: int) -> None:
    folder = root / "LibriSpeech" / "train-clean-5" / reader / chapter
    folder.mkdir(parents=True)
    lines = ""
    for i in range(utterances):
        key = f"{reader}-{chapter}-{i:04d}"
        soundfile.write(folder / f"{key}.flac", tone(0.1, 16000), 16000)
        lines += f"{key} HELLO\n"
    (folder / f"{reader}-{chapter}.trans.txt").write_text(lines)


def test_librispeech_by_chapter(cli, tmp_path, tone):
    _write_chapter(tone, tmp_path, "1", "20", 3)
    _write_chapter(tone, tmp_path, "1", "30", 5)
    options = ("--librispeech", tmp_path, "--out", tmp_path / "data")
    cli("librispeech_data", *options, "--by_chapter", "train-clean-5")
    sets = {
        name: list(read_data_dir(tmp_path / "data" / f"librispeech_{name}").text)
        for name in ("train", "dev", "test")
    }
    assert sets == {
        "train": ["1-20-0000", "1-20-0001", "1-20-0002"],
        "dev": ["1-30-0000", "1-30-0001"],
        "test": ["1-30-0002", "1-30-0003", "1-30-0004"],
    }


def test_librispeech_subsets_are_combined(cli, tmp_path, tone):
    _write_chapter(tone, tmp_path, "1", "20", 1)
    subset = tmp_path / "LibriSpeech/train-clean-5"
    shutil.copytree(subset, tmp_path / "LibriSpeech/other")
    (tmp_path / "LibriSpeech/other/1").rename(tmp_path / "LibriSpeech/other/2")
    folder = tmp_path / "LibriSpeech/other/2/20"
    (folder / "1-20-0000.flac").rename(folder / "2-20-0000.flac")
    (folder / "1-20.trans.txt").unlink()
    (folder / "2-20.trans.txt").write_text("2-20-0000 HELLO\n")
    options = ("--librispeech", tmp_path, "--out", tmp_path / "data")
    cli("librispeech_data", *options, "--combine", "all=train-clean-5,other")
    names = read_data_dir(tmp_path / "data/librispeech_all").text
    assert list(names) == ["1-20-0000", "2-20-0000"]
    for wrong, told in (("all", "is no NAME"), ("all=no", "no subset 'no'")):
        with pytest.raises(InputError, match=told):
            cli("librispeech_data", *options, "--combine", wrong)


class _Resuming(http.server.BaseHTTPRequestHandler):
    """Serves ``archive`` and tells from where; ``asked`` collects that."""

    archive, asked = b"", []

    def do_GET(self):
        start = int((self.headers["Range"] or "bytes=0-")[6:].rstrip("-"))
        self.asked.append(start)
        whole = len(self.archive)
        if start >= whole:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{whole}")
            self.send_header("Content-Length", "4")
            self.end_headers()
            self.wfile.write(b"none")
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(whole - start))
        self.send_header("Content-Range", f"bytes {start}-{whole - 1}/{whole}")
        self.end_headers()
        self.wfile.write(self.archive[start:])

    def log_message(self, *_):
        pass


@pytest.fixture
def librispeech_server(tmp_path, tone):
    """A server of one small subset, as dev-clean.tar.gz; its handler and address."""
    source = tmp_path / "published"
    _write_chapter(tone, source, "1", "20", 2)
    (source / "LibriSpeech/train-clean-5").rename(source / "LibriSpeech/dev-clean")
    with tarfile.open(source / "a.tar.gz", "w:gz") as archive:
        archive.add(source / "LibriSpeech", "LibriSpeech")
    handler = type("Handler", (_Resuming,), {"asked": []})
    handler.archive = (source / "a.tar.gz").read_bytes()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield handler, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


KNOWN = _CHECKSUMS["http://www.openslr.org/resources/12/dev-clean.tar.gz"]


def test_librispeech_checksums_are_the_published_ones():
    script = (ROOT / "local/librispeech_data.sh").read_text()
    for url, digest in _CHECKSUMS.items():
        assert f"{Path(url).name.split('.')[0]}) echo {digest} ;;" in script


def test_librispeech_download_goes_on_and_is_checked(librispeech_server, tmp_path):
    handler, url = librispeech_server
    folder, tools = tmp_path / "downloads", tmp_path / "tools"
    for path in (folder, tools):
        path.mkdir()
    part = folder / "dev-clean.tar.gz.part"

    def fetch(genuine: bool) -> subprocess.CompletedProcess:
        # The small archive stands for the published one, whose digest it cannot have.
        digest = hashlib.sha256(handler.archive).hexdigest()
        asked = (
            f'read -r want name && [ "$name" = "{part}" ] && [ "$want" = "{KNOWN}" ]'
        )
        check = f'{asked} && [ "$(sha256sum <{part} | cut -c-64)" = {digest} ]\n'
        real = shutil.which("sha256sum")
        stub = f"#!/bin/sh\n{check.replace('sha256sum', real)}"
        (tools / "sha256sum").write_text(stub if genuine else "#!/bin/sh\nexit 1\n")
        (tools / "sha256sum").chmod(0o755)
        options = ["--librispeech", folder, "--download", "dev-clean", "--url", url]
        return subprocess.run(
            ["bash", "local/librispeech_data.sh", *options, "--out", tmp_path / "data"],
            cwd=ROOT,
            env=os.environ
            | {"PATH": f"{tools}:{Path(sys.executable).parent}:{os.environ['PATH']}"}
            | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
        )

    result = fetch(genuine=False)
    assert result.returncode == 2 and "is damaged, and was removed" in result.stderr
    assert not part.exists() and not (folder / "LibriSpeech").exists()
    part.write_bytes(bytes(len(handler.archive) + 5))  # too long to go on with
    result = fetch(genuine=True)
    assert result.returncode == 2 and "is damaged, and was removed" in result.stderr
    assert not part.exists() and handler.asked.pop() == len(handler.archive) + 5
    part.write_bytes(handler.archive[:100])  # of a download that was stopped
    result = fetch(genuine=True)
    assert result.returncode == 0, result.stderr
    assert handler.asked == [0, 100]
    assert len(read_data_dir(tmp_path / "data/librispeech_dev_clean").text) == 2
    assert [path.name for path in folder.iterdir()] == ["LibriSpeech"]
    assert fetch(genuine=True).returncode == 0 and handler.asked == [0, 100]


def test_librispeech_broken(cli, tmp_path, tone):
    options = ("--librispeech", tmp_path, "--out", tmp_path / "data")
    with pytest.raises(InputError, match="holds no SUBSET"):
        cli("librispeech_data", *options)
    _write_chapter(tone, tmp_path, "1", "20", 3)
    with pytest.raises(InputError, match="no subset 'test-clean'"):
        cli("librispeech_data", *options, "--sets", "test-clean")
    with pytest.raises(InputError, match="too few chapters"):
        cli("librispeech_data", *options, "--by_chapter", "train-clean-5")
    chapter = tmp_path / "LibriSpeech" / "train-clean-5" / "1" / "20"
    transcript = chapter / "1-20.trans.txt"
    lines = transcript.read_text()
    transcript.write_text(lines.replace("1-20-0001 HELLO\n", ""))
    with pytest.raises(InputError, match="no line for 1 utterances, as 1-20-0001"):
        cli("librispeech_data", *options)
    transcript.write_text(lines.replace("1-20-0001 HELLO", "1-20-0001"))
    with pytest.raises(InputError, match="no words for 1 utterances, as 1-20-0001"):
        cli("librispeech_data", *options)
    transcript.write_text(lines)
    (chapter / "1-20-0002.flac").unlink()
    with pytest.raises(InputError, match="without audio for 1 utterances"):
        cli("librispeech_data", *options)
    transcript.unlink()
    _write_chapter(tone, tmp_path, "1", "30", 1)
    with pytest.raises(InputError, match="1-20.trans.txt: cannot be read"):
        cli("librispeech_data", *options)


def test_kaldi_directories_are_copied_with_segments(cli, make_dir, tmp_path, caplog):
    train = make_dir("mine")
    (train / "segments").write_text("s-0 s-0 0 0.5\ns-1 s-1 0 0.5\ns-2 s-2 0 -1\n")
    options = ("--train", train, "--dev", train, "--out", tmp_path / "data")
    cli("kaldi_data", *options, "--test", train)
    copy = read_data_dir(tmp_path / "data" / "kaldi_train")
    assert copy == read_data_dir(train)
    assert "share 3 utterances" in caplog.text
    cli("kaldi_data", *options, "--test", train, make_dir("other"))
    assert (tmp_path / "data" / "kaldi_test_mine").is_dir()
    assert (tmp_path / "data" / "kaldi_test_other").is_dir()
    with pytest.raises(InputError, match="two are called test_mine"):
        cli("kaldi_data", *options, "--test", train, train)


def test_kaldi_copies_the_an4_of_espnets_ci(cli, corpora, tmp_path):
    mini = corpora / "mini_an4"
    roles = [x for role in ("train", "dev", "test") for x in (f"--{role}", mini)]
    cli("kaldi_data", *roles, "--out", tmp_path)
    assert len(read_data_dir(tmp_path / "kaldi_dev").text) == 7
