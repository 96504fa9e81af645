"""Stage 15: what is decoded, by ESPnet's search or greedily, and what is kept of it."""

import argparse
import re
import shutil
import sys
from pathlib import Path

import kaldiio
import numpy as np
import pytest
import soundfile
import torch
import yaml

import espnet_prune
from espnet_prune.base.errors import InputError
from espnet_prune.base.files import read_yaml
from espnet_prune.base.table import read_table
from espnet_prune.cli import decode
from espnet_prune.measuring import memory
from espnet_prune.serving.greedy import GreedyDecoder
from espnet_prune.serving.load import load

CODE = "from espnet_prune.base.files import code_version; print(code_version())"


@pytest.fixture
def run(dense, data_dir, tmp_path, monkeypatch):
    """``run(search, **options)``: decode as stage 15 does, into ``out``."""

    def main(search=None, **options):
        config = tmp_path / "decode.yaml"
        config.write_text(yaml.safe_dump(search or {"beam_size": 1}))
        options = {
            "config": dense / "config.yaml",
            "model": dense / "model.pth",
            "data": data_dir,
            "inference_config": config,
            "out": tmp_path / "out",
            "nj": 1,
        } | options
        pairs = [str(x) for name, value in options.items() for x in (name, value)]
        pairs[::2] = [f"--{name}" for name in pairs[::2]]
        monkeypatch.setattr(sys, "argv", ["decode", *pairs])
        decode.main()

    return main


@pytest.fixture
def talkative(dense, tmp_path):
    """Weights of a model that does not say nothing but blank, as random ones do."""
    weights = torch.load(dense / "model.pth")
    weights["ctc.ctc_lo.bias"][0] -= 5
    torch.save(weights, tmp_path / "model.pth")
    return tmp_path / "model.pth"


# --- hypotheses are kept as long as what they were made of is the same ---------------


@pytest.fixture
def audio(tmp_path):
    """A set of two utterances, ``a`` and ``b``, in files of their own."""
    folder = tmp_path / "set"
    folder.mkdir()
    for name in "ab":
        soundfile.write(folder / f"{name}.wav", np.zeros(1600), 16000)
    return write(folder, {name: folder / f"{name}.wav" for name in "ab"})


def write(folder, sources):
    lines = [f"{name} {value}\n" for name, value in sources.items()]
    (folder / "wav.scp").write_text("".join(lines))
    return folder


@pytest.fixture
def decodes(audio, run, monkeypatch):
    """``decodes(**options)``: whether ESPnet is started."""
    started = []

    def shards(commands, *_, **__):
        started.append(commands)
        for command in commands:
            out = Path(command[command.index("--output_dir") + 1], "1best_recog")
            out.mkdir(parents=True)
            for table in decode.TABLES:
                (out / table).write_text("a A\nb B\n")

    monkeypatch.setattr(decode, "run_shards", shards)

    def starts(**options):
        started.clear()
        run(**{"data": audio} | options)
        return bool(started)

    assert starts()
    assert not starts() and not starts(nj=2)
    return starts


def test_other_audio_of_the_same_name_and_length_is_decoded(audio, decodes):
    soundfile.write(audio / "b.wav", np.full(1600, 0.5), 16000)
    assert decodes() and not decodes()
    # Only what it holds counts.
    shutil.copy(audio / "b.wav", audio / "c.wav")
    (audio / "c.wav").replace(audio / "b.wav")
    assert not decodes()
    (audio / "b.wav").unlink()
    with pytest.raises(InputError, match=r"wav.scp: .*b.wav cannot be read"):
        decodes()


def test_utterance_for_which_there_is_no_memory_is_refused_by_name(audio, decodes):
    samples = audio / "utt2num_samples"
    samples.write_text("a 1600\nb 160000000\n")
    told = rf"{samples}: b lasts 10000 s, for which attention takes about \d+.\d GB"
    with pytest.raises(InputError, match=told):
        decodes()
    samples.write_text("a 1600\nb 1600\n")
    assert decodes()


def test_utterances_decoded_at_once_share_the_memory(
    audio, decodes, dense, monkeypatch
):
    decodes()
    (audio / "utt2num_samples").write_text("a 16000000\nb 16000000\n")
    model = argparse.Namespace(**read_yaml(dense / "config.yaml"))
    one = memory.attention_bytes(model, 1000)
    monkeypatch.setattr(memory, "available_bytes", lambda: 1.5 * one)
    decodes(nj=1)
    with pytest.raises(InputError, match=r"\(2 at once\): there are .* fewer parts"):
        decodes(nj=2)


def test_audio_in_an_archive_is_seen(audio, decodes, tmp_path):
    def archive(level):
        samples = {name: (16000, np.full(1600, level, np.int16)) for name in "ab"}
        ark, scp = tmp_path / "audio.ark", audio / "wav.scp"
        kaldiio.save_ark(str(ark), samples, scp=str(scp))

    (audio / "audio_format").write_text("wav.ark\n")
    archive(0)
    assert decodes() and not decodes()
    before = (audio / "wav.scp").read_bytes()
    archive(9)
    assert (audio / "wav.scp").read_bytes() == before
    assert decodes() and not decodes()


def test_audio_from_a_command_is_never_the_same(audio, decodes, caplog):
    write(audio, {name: f"cat {audio}/{name}.wav |" for name in "ab"})
    with caplog.at_level("INFO"):
        assert decodes() and decodes()
    assert "wav.scp: commands give audio" in caplog.text


def test_another_model_is_decoded(dense, decodes, tmp_path):
    weights = torch.load(dense / "model.pth")
    torch.save({k: v + 1 for k, v in weights.items()}, tmp_path / "model.pth")
    other = {"model": tmp_path / "model.pth"}
    assert decodes(**other) and not decodes(**other)
    config = yaml.safe_load((dense / "config.yaml").read_text())
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config | {"seed": 77}))
    other["config"] = tmp_path / "config.yaml"
    assert decodes(**other) and not decodes(**other)


def test_other_code_decodes_anew(decodes, monkeypatch):
    monkeypatch.setattr(decode, "code_version", lambda: "another")
    assert decodes() and not decodes()


def test_code_is_told_by_its_version_and_its_sources(python, tmp_path):
    package = Path(espnet_prune.__file__).parent
    shutil.copytree(package, tmp_path / "espnet_prune")

    def version():
        result = python("-P", "-c", CODE, path=str(tmp_path))
        assert result.returncode == 0, result.stderr
        return result.stdout

    first = version()
    assert version() == first and f"torch={torch.__version__.split('+')[0]}" in first
    deep = tmp_path / "espnet_prune/families/parts.py"
    deep.write_text(deep.read_text() + "\n")
    assert version() != first


# --- what is refused before ESPnet is started ----------------------------------------


def test_weights_that_hold_more_are_refused_before_espnet_runs_them(run, tmp_path):
    torch.save({"more": argparse.Namespace()}, tmp_path / "found.pth")
    with pytest.raises(InputError, match="found.pth: holds more than tensors"):
        run(model=tmp_path / "found.pth")


def test_language_model_that_holds_more_is_refused_before_espnet_runs_it(
    dense, run, tmp_path
):
    torch.save({"more": argparse.Namespace()}, tmp_path / "lm.pth")
    with pytest.raises(InputError, match="lm.pth: holds more than tensors"):
        run({"lm_file": str(tmp_path / "lm.pth"), "lm_weight": 0.3})
    model = dense / "config.yaml", dense / "model.pth"
    with pytest.raises(InputError, match="lm.pth: holds more than tensors"):
        espnet_prune.load(*model, lm_file=str(tmp_path / "lm.pth"))


def test_audio_of_another_rate_is_refused(dense, run, tmp_path):
    config = yaml.safe_load((dense / "config.yaml").read_text())
    config["frontend_conf"] = (config["frontend_conf"] or {}) | {"fs": "8k"}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(InputError, match="holds audio of 16000 Hz, but .* 8000 Hz"):
        run(config=tmp_path / "config.yaml")


def test_utterances_too_short_for_a_window_are_not_given_to_espnet(tmp_path):
    samples = tmp_path / "utt2num_samples"
    assert decode.without_too_short(["a", "b"], samples) == ["a", "b"]
    samples.write_text("a 512\nb 513\n")
    assert decode.without_too_short(["a", "b"], samples) == ["b"]
    samples.write_text("a 512\nb 5\n")
    with pytest.raises(InputError, match="every utterance"):
        decode.without_too_short(["a", "b"], samples)


def test_language_model_of_other_tokens_is_refused(tmp_path):
    config, weights = tmp_path / "lm.yaml", tmp_path / "lm.pth"
    torch.save({}, weights)
    options = {"lm_train_config": str(config), "lm_file": str(weights)}

    def check(*tokens):
        model = argparse.Namespace(token_list=list(tokens))
        decode.check_lm(options, model, "decode.yaml")

    with pytest.raises(InputError, match="lm_train_config .* does not exist"):
        check("a")
    config.write_text("token_list: [a, b]\n")
    check("a", "b")
    with pytest.raises(InputError, match="other tokens"):
        check("a", "c")


# --- what ESPnet, or greedy decoding, makes of it ------------------------------------


def test_utterance_without_a_hypothesis_counts_as_an_empty_one(tmp_path, caplog):
    jobs = [tmp_path / f"output.{n}" for n in (1, 2)]
    for job, key in zip(jobs, ("a", "c"), strict=True):
        (job / "1best_recog").mkdir(parents=True)
        for table in decode.TABLES:
            (job / "1best_recog" / table).write_text(f"{key} X Y\n")
    decode.merge(jobs, tmp_path, ["a", "b", "c"])
    assert (tmp_path / "text").read_text() == "a X Y\nb\nc X Y\n"
    assert "1 utterances gave no hypothesis: b" in caplog.text
    assert not any(job.exists() for job in jobs)


def test_log_of_a_failed_decoding_is_still_there(run, tmp_path, monkeypatch):
    # What is run does not matter here, only that it fails.
    monkeypatch.setattr(decode.sys, "executable", "false")
    with pytest.raises(InputError) as error:
        run()
    log = str(error.value).split(": this job failed")[0]
    assert (tmp_path / log).exists()
    assert not (tmp_path / "out" / "text").exists()


def test_greedy_decoding_leaves_espnets_files(
    dense, talkative, data_dir, run, tmp_path
):
    run({"ctc_greedy": True}, model=talkative)
    decoder = GreedyDecoder(load(dense / "config.yaml", talkative).asr_model)
    ids = read_table(tmp_path / "out/token_int")
    scp = read_table(data_dir / "wav.scp")
    assert list(ids) == list(scp) and any(ids.values())
    for key, path in scp.items():
        samples = torch.from_numpy(soundfile.read(path, dtype="float32")[0])
        assert ids[key] == " ".join(map(str, decoder(samples)[0]))
    text = read_table(tmp_path / "out/text")
    assert all(bool(text[key].strip()) == bool(ids[key]) for key in scp)


@pytest.mark.slow  # ESPnet's streaming program, started as stage 15 does
def test_streaming_decoding_leaves_espnets_files(make_dense, data_dir, run, tmp_path):
    """Of parts longer than some utterances, too."""
    sizes = {"output_size": 16, "attention_heads": 2, "linear_units": 24}
    sizes |= {"num_blocks": 2, "block_size": 8, "hop_size": 3, "look_ahead": 2}
    folder = make_dense(encoder="contextual_block_transformer", encoder_conf=sizes)
    model = {"config": folder / "config.yaml", "model": folder / "model.pth"}
    search = {"sim_chunk_length": 8000, "beam_size": 2, "lm_weight": 0.0}
    run(search | {"disable_repetition_detection": True}, **model)
    scores = read_table(tmp_path / "out/score")
    decoder = load(*model.values(), **search, disable_repetition_detection=True)
    for key, path in read_table(data_dir / "wav.scp").items():
        found = decoder(soundfile.read(path, dtype="float32")[0])[0]
        assert str(found[3].score) == scores[key]
    with pytest.raises(InputError, match=r"^\S+/config.yaml: .* does not stream"):
        run(search)


@pytest.mark.slow  # one part and several, each in processes
def test_outputs_are_the_same_whatever_the_number_of_parts(talkative, run, tmp_path):
    whole, parts = tmp_path / "1", tmp_path / "3"
    for out in (whole, parts):
        run({"beam_size": 2}, model=talkative, out=out, nj=out.name)
    assert len(set((whole / "text").read_text().split())) > 12
    for table in ("text", "token", "token_int"):
        assert (whole / table).read_bytes() == (parts / table).read_bytes(), table
    # Batches of other utterances may round otherwise.
    one, three = (
        [float(x) for x in re.findall(r"-\d+\.\d+", (folder / "score").read_text())]
        for folder in (whole, parts)
    )
    assert len(one) == 12 and three == pytest.approx(one, rel=1e-5)


def test_progress_counts_parts_that_wait_for_a_core_as_none(tmp_path):
    begun, waiting = tmp_path / "asr_inference.1.log", tmp_path / "asr_inference.2.log"
    begun.write_text("best hypo: LEFT\nbest hypo: \n")
    assert decode.count_decoded([begun, waiting]) == 2


def write_lm(folder, tokens, favourite):
    """A language model of ESPnet's that says one token, whatever came before."""
    from espnet2.tasks.lm import LMTask

    (folder / "tokens.txt").write_text("\n".join(tokens) + "\n")
    command = ["--token_list", str(folder / "tokens.txt"), "--output_dir", str(folder)]
    args = LMTask.get_parser().parse_args(command)
    args.lm_conf = {"nlayers": 1, "unit": 4}
    state = LMTask.build_model(args).state_dict()
    state["lm.decoder.weight"].zero_()
    state["lm.decoder.bias"].zero_()[tokens.index(favourite)] = 8.0
    torch.save(state, folder / "lm.pth")
    config = {k: v for k, v in vars(args).items() if k != "config"}
    (folder / "lm.yaml").write_text(yaml.safe_dump(config))
    return {"lm_train_config": f"{folder}/lm.yaml", "lm_file": f"{folder}/lm.pth"}


@pytest.mark.slow  # a language model that ESPnet trained
def test_language_model_has_a_say_in_the_search(compact, run, tmp_path):
    lm = write_lm(tmp_path, read_yaml(compact / "config.yaml")["token_list"], "B")
    model = {"config": compact / "config.yaml", "model": compact / "pruned.pth"}
    said = {}
    for weight in (0.0, 5.0):
        search = {"beam_size": 3, "minlenratio": 0.3, "maxlenratio": 0.4}
        out = tmp_path / str(weight)
        run(search | lm | {"lm_weight": weight}, out=out, **model)
        lines = (out / "token").read_text().splitlines()
        assert len(lines) == 12
        said[weight] = [token for line in lines for token in line.split()[1:]]
    assert said[5.0] and set(said[5.0]) == {"B"} != set(said[0.0])


def test_control_character_of_a_token_list_does_not_end_a_decoding(tmp_path):
    """Training took the token, so decoding may write it; no table may hold it."""
    shard = tmp_path / "shard"
    (shard / "1best_recog").mkdir(parents=True)
    for table in decode.TABLES:
        path = shard / "1best_recog" / table
        path.write_text("u A\ufeffB\x07 C\n", encoding="utf-8")
    decode.merge([shard], tmp_path, ["u", "v"])
    assert read_table(tmp_path / "text") == {"u": "AB C", "v": ""}
