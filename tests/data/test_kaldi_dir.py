"""Reading and writing data directories: every malformed one gets a clear error."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from espnet_prune.base.errors import InputError
from espnet_prune.base.table import read_table, write_table
from espnet_prune.cli.perturb_speed import perturb
from espnet_prune.data.kaldi_dir import read_data_dir, write_data_dir


def test_reads_relative_paths_of_its_own_folder(make_dir):
    data = read_data_dir(make_dir())
    assert list(data.wav) == ["s-0", "s-1", "s-2"]
    assert data.text["s-1"] == "WORD s-1"


def test_paths_are_found_from_where_a_link_is(make_dir, tmp_path, tone):
    """``data`` may be a link to another disk."""
    elsewhere = make_dir("elsewhere", {"a": (tone(1.0, 16000), 16000)})
    recipe = tmp_path / "recipe"
    (recipe / "downloads").mkdir(parents=True)
    (elsewhere / "a.wav").rename(recipe / "downloads/a.wav")
    (elsewhere / "wav.scp").write_text("a downloads/a.wav\n")
    (recipe / "data").symlink_to(elsewhere)
    found = read_data_dir(recipe / "data").wav["a"]
    assert found == str(recipe / "downloads/a.wav")


def test_written_directory_reads_back_the_same(make_dir, tmp_path):
    folder = make_dir()
    (folder / "segments").write_text(
        "s-0 s-0 0.25 0.5\ns-1 s-1 0.1 -1\ns-2 s-0 0 0.125\n"
    )
    data = read_data_dir(folder)
    write_data_dir(tmp_path / "copy", data)
    assert read_data_dir(tmp_path / "copy") == data
    assert (tmp_path / "copy" / "spk2utt").read_text() == "s s-0 s-1 s-2\n"


def test_texts_of_s2t_go_where_their_utterances_go(make_dir, tmp_path):
    folder = make_dir()
    (folder / "text.prev").write_text("s-0 A\ns-1 <na>\ns-2  B\n")
    data = read_data_dir(folder)
    assert data.more == {"text.prev": {"s-0": "A", "s-1": "<na>", "s-2": "B"}}
    write_data_dir(tmp_path / "copy", data)
    assert read_data_dir(tmp_path / "copy") == data
    part = data.part(["s-2"], {"s-2": "b.flac"})
    assert part.more == {"text.prev": {"s-2": "B"}} and part.wav == {"s-2": "b.flac"}
    assert (part.text, part.speakers) == ({"s-2": "WORD s-2"}, {"s-2": "s"})
    with pytest.raises(InputError, match="text.prev: is of S2T.* leave out --speed_pe"):
        perturb(data, ["0.9"])
    (folder / "text.prev").write_text("s-0 A\n")
    with pytest.raises(InputError, match="text.prev: 2 ids are only in wav.scp"):
        read_data_dir(folder)


BAD_LINES = {
    "duplicate id": (b"s-0 A\ns-1 B\ns-0 C\n", ":3: repeats the id 's-0'"),
    "blank line": (b"s-0 A\n\ns-1 B\ns-2 C\n", ":2: is a blank line"),
    "not UTF-8": (b"s-0 A\ns-1 \xe9\ns-2 C\n", ":2: is not UTF-8"),
    "NUL": (b"s-0 A\ns-1 B\ns-2 C\0\n", ":3: holds the character U+0000"),
    "escape": (b"s-0 \x1b[31mA\ns-1 B\ns-2 C\n", ":1: holds the character U+001B"),
    "NEL": ("s-0 A\x85\ns-1 B\ns-2 C\n".encode(), ":1: holds the character U+0085"),
    "BOM": ("\ufeffs-0 A\ns-1 B\ns-2 C\n".encode(), ":1: holds the character U+FEFF"),
    "Windows": (b"s-0 A\r\ns-1 B\r\ns-2 C\r\n", ":1: has a Windows line end"),
    "empty file": (b"", ": is empty"),
    "id missing": (b"s-0 A\ns-1 B\n", "1 ids are only in wav.scp (s-2)"),
    "id too many": (b"s-0 A\ns-1 B\ns-2 C\ns-3 D\n", "1 ids are only in text (s-3)"),
}


@pytest.mark.parametrize("case", BAD_LINES)
def test_bad_text_is_named(make_dir, case):
    content, message = BAD_LINES[case]
    folder = make_dir()
    (folder / "text").write_bytes(content)
    with pytest.raises(InputError) as e:
        read_data_dir(folder)
    assert message in str(e.value) and str(folder / "text") in str(e.value)


@pytest.mark.parametrize(
    "words", ["ÜBER STRAẞE", "日本 語", "नमस्ते", "<noise> (A)", "🎤"]
)
def test_other_unicode_is_fine(make_dir, words):
    folder = make_dir()
    (folder / "text").write_text(f"s-0 {words}\ns-1 B\ns-2 C\n", encoding="utf-8")
    assert read_data_dir(folder).text["s-0"] == words


@pytest.mark.parametrize("blank", ["\u00a0", "\u3000", "\u202f", "\u2028", "\t", "  "])
def test_blanks_are_blanks_and_letters_composed(make_dir, caplog, blank):
    folder = make_dir()
    text = f"s-0 A{blank}CAFE\u0301\ns-1 \u095c\u0915\ns-2 \uff23\n"
    (folder / "text").write_text(text, encoding="utf-8")
    data = read_data_dir(folder)
    # A full-width letter may be in a teacher's token list: it is trained on as it is.
    assert data.text == {"s-0": "A CAFÉ", "s-1": "\u095c\u0915", "s-2": "\uff23"}
    assert "1 transcripts were brought to single blanks" in caplog.text


def test_empty_transcript_is_kept_and_counted(make_dir, caplog):
    folder = make_dir()
    (folder / "text").write_text("s-0\ns-1 B\ns-2 \n")
    assert read_data_dir(folder).text["s-0"] == ""
    assert "2 empty transcripts" in caplog.text


@pytest.mark.parametrize("name", ["wav.scp", "text", "utt2spk"])
def test_missing_table_is_named(make_dir, name):
    folder = make_dir()
    (folder / name).unlink()
    with pytest.raises(InputError, match=f"{name}: cannot be read"):
        read_data_dir(folder)


def test_missing_directory(tmp_path):
    with pytest.raises(InputError, match="is no directory"):
        read_data_dir(tmp_path / "none")


def test_missing_audio_is_counted(make_dir):
    folder = make_dir()
    (folder / "s-1.wav").unlink()
    with pytest.raises(InputError, match=r"1 of 3 audio files .* line 2 s-1\.wav"):
        read_data_dir(folder)


BAD_TABLES = {
    ("wav.scp", "s-0\ns-1 s-1.wav\ns-2 s-2.wav\n"): "wav.scp:1: names no audio",
    ("utt2spk", "s-0 s\ns-1 s t\ns-2 s\n"): "utt2spk:2: gives 's-1' not one speaker",
    ("utt2spk", "s-0 s\ns-1\ns-2 s\n"): "utt2spk:2: gives 's-1' not one speaker",
    ("spk2utt", "s s-0 s-1\n"): "disagrees with utt2spk",
    ("segments", "s-0 s-0 0\n"): "segments:1: is not 'utterance recording start",
    ("segments", "s-0 s-0 0 1 2\n"): "segments:1: is not 'utterance recording start",
    ("segments", "s-0 s-0 a b\n"): "segments:1: is not 'utterance recording start",
    ("segments", "s-0 s-0 0.5 0.5\n"): "segments:1: goes from 0.5 s to 0.5 s",
    ("segments", "s-0 s-0 nan 1\n"): "segments:1: goes from nan s",
    ("segments", "s-0 s-0 0 inf\n"): "segments:1: is not 'utterance recording start",
    ("segments", "s-0 s-0 0 nan\n"): "segments:1: goes from 0.0 s to nan s",
    ("segments", "s-0 s-9 0 1\n"): "1 lines name recordings that wav.scp lacks",
    ("utt2speed", "s-0 fast\n"): "utt2speed:1: 'fast' is no speed",
    ("utt2speed", "s-9 0.9\n"): "utt2speed: names utterances that text lacks",
}


@pytest.mark.parametrize(("name", "content"), BAD_TABLES)
def test_bad_table_is_named(make_dir, name, content):
    folder = make_dir()
    (folder / name).write_text(content)
    with pytest.raises(InputError) as e:
        read_data_dir(folder)
    assert BAD_TABLES[name, content] in str(e.value)


_IDS = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Z")), min_size=1
).filter(lambda key: "\ufeff" not in key and key.split() == [key])
_WORDS = st.lists(st.text(string.ascii_uppercase + "ÄÖÜ'", min_size=1)).map(" ".join)


@given(table=st.dictionaries(_IDS, _WORDS, min_size=1))
def test_any_table_reads_back_sorted_by_bytes(table, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "table"
    write_table(path, table)
    assert read_table(path) == table
    lines = path.read_bytes().splitlines()
    keys = [line.split(b" ")[0] for line in path.read_bytes().split(b"\n")[:-1]]
    assert lines and keys == sorted(keys)


def test_channels_that_nothing_picks_are_named(make_dir):
    """As Kaldi has telephone speech: two speakers in the channels of one file."""
    folder = make_dir()
    (folder / "reco2file_and_channel").write_text("s-0 s A\ns-1 s B\ns-2 t A\n")
    assert len(read_data_dir(folder).text) == 3
    (folder / "wav.scp").write_text("s-0 s-0.wav\ns-1 s-0.wav\ns-2 s-2.wav\n")
    told = "s-0 and s-1 are channels of .*s-0.wav, .* -> pick one by a pipe"
    with pytest.raises(InputError, match=told):
        read_data_dir(folder)
    piped = "s-0 sox s-0.wav - remix 1 |\ns-1 sox s-0.wav - remix 2 |\ns-2 s-2.wav\n"
    (folder / "wav.scp").write_text(piped)
    assert len(read_data_dir(folder).text) == 3


def test_several_files_of_a_recording_are_no_missing_one(make_dir):
    folder = make_dir()
    (folder / "wav.scp").write_text("s-0 s-0.wav s-1.wav\ns-1 s-1.wav\ns-2 s-2.wav\n")
    with pytest.raises(InputError, match=r":1: gives 's-0' 2 files, .* by a pipe"):
        read_data_dir(folder)


def test_relative_directory_says_where_it_was_looked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=rf"paths count from {tmp_path}"):
        read_data_dir("d/train")
