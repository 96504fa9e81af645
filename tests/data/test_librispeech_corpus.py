"""Stage 1: LibriSpeech's subsets, from a folder or downloaded."""

import hashlib
import http.server
import os
import shutil
import subprocess
import sys
import tarfile
import threading
from pathlib import Path

import pytest
import soundfile
from torchaudio.datasets.librispeech import _CHECKSUMS

from espnet_prune.base.errors import InputError
from espnet_prune.base.table import read_table
from espnet_prune.data.kaldi_dir import read_data_dir

ROOT = Path(__file__).resolve().parents[2]


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
