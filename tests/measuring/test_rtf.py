import argparse
import json
import logging
import shutil
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch

from espnet_prune.base.errors import InputError
from espnet_prune.base.files import read_yaml
from espnet_prune.cli import measure
from espnet_prune.measuring import machine as this_machine
from espnet_prune.measuring import memory
from espnet_prune.measuring.machine import describe
from espnet_prune.measuring.rtf import (
    COLUMNS,
    columns,
    summarise,
    time_rounds,
)
from espnet_prune.measuring.system import System


@pytest.fixture(autouse=True)
def restore_global_state():
    """The command line pins threads and log levels for its own process."""
    threads, level = torch.get_num_threads(), logging.getLogger().level
    yield
    torch.set_num_threads(threads)
    logging.getLogger().setLevel(level)


def test_systems_take_turns_within_an_utterance():
    calls = []

    def system(name):
        return {"encoder": lambda audio: calls.append((name, len(audio)))}

    systems = {name: system(name) for name in ("dense", "compact")}
    audio = [torch.zeros(n) for n in (5, 9, 7)]
    done = []
    found = time_rounds(systems, audio, rounds=20, progress=done.append)
    assert calls[:2] == [("dense", 9), ("compact", 9)]  # warm-up on the longest
    timed = [calls[i : i + 2] for i in range(2, len(calls), 2)]
    assert [pair[0][1] for pair in timed] == [5, 9, 7] * 20
    assert all(a[1] == b[1] and {a[0], b[0]} == {*systems} for a, b in timed)
    assert {pair[0][0] for pair in timed} == {*systems}  # neither is always first
    assert done == list(range(1, 21))
    assert found["dense"]["encoder"].shape == (20, 3)
    assert (found["compact"]["encoder"] > 0).all()


def test_summary_is_median_and_spread():
    rounds = np.array([[1.0, 1.0], [2.0, 1.0], [3.0, 1.0], [4.0, 1.0], [5.0, 1.0]])
    found = summarise(rounds, audio_seconds=10.0)
    assert found == {"median": pytest.approx(0.4), "iqr": pytest.approx(0.2)}


def test_slow_moment_of_the_machine_does_not_count():
    seconds = np.full((5, 3), 1.0)
    for round_, utterance in ((0, 0), (1, 1), (2, 2), (3, 0), (4, 1)):
        seconds[round_, utterance] = 9.0  # every round has one, none is clean
    assert summarise(seconds, 3.0)["median"] == pytest.approx(1.0)
    seconds[:3] = 9.0  # not a moment any more
    assert summarise(seconds, 3.0)["median"] > 5.0


def test_model_without_ctc_is_timed_without_that_column():
    model = SimpleNamespace(ctc=None)
    decoder = SimpleNamespace(asr_model=model, asr_train_args=None)
    assert "ctc_greedy" not in columns(decoder)


def test_machine_is_named():
    found = describe()
    assert found["cpu"] and found["cores"] >= 1 and len(found["load_average"]) == 3
    assert found["warning"] is None or "busy" in found["warning"]


def options(models, data, *more):
    systems = [f"--system={n}={c}:{m}:{c.parent}" for n, (c, m) in models.items()]
    return [*systems, "--data", str(data), "--rounds", "2", *more]


def test_command_line(tiny_models, noise_set):
    decoding = noise_set / "decode.yaml"
    decoding.write_text("beam_size: 2\nctc_weight: 0.3\nmaxlenratio: 0.2\nngpu: 0\n")
    models = {}  # a copy: what the next lines write is not for other tests
    for name, (config, _) in tiny_models.items():
        folder = shutil.copytree(config.parent, noise_set / name)
        models[name] = folder / "config.yaml", folder / "model.pth"
    # The length at which the compact one's target was counted.
    (noise_set / "compact/pruning.json").write_text('{"macs_seconds": 2.0}')
    measure.main(options(models, noise_set, "--inference_config", str(decoding)))
    found = {
        name: json.loads((config.parent / "measure.json").read_text())
        for name, (config, _) in models.items()
    }
    assert found["dense"]["session"] == found["compact"]["session"]
    for name, result in found.items():
        assert result["system"] == name
        assert tuple(result["rtf"]) == tuple(result["rtf_espnet"]) == COLUMNS
        medians = {c: r["median"] for c, r in result["rtf"].items()}
        # Of so small a model only the search is slower on a busy machine, too.
        assert 0 < min(medians.values()) and medians["encoder"] < medians["search"]
        assert all(r["iqr"] >= 0 for r in result["rtf"].values())
        assert result["bytes"] == models[name][1].stat().st_size
        assert result["machine"]["threads"] == 1
        assert (result["utterances"], result["macs_seconds"]) == (3, 2.0)
        assert result["audio_seconds"] == pytest.approx(1.8)
    small, large = found["compact"], found["dense"]
    norm = 2 * 16  # after_norm is there once in both
    blocks = {name: r["params"]["blocks"] - norm for name, r in found.items()}
    assert blocks["compact"] * 2 == blocks["dense"]
    assert small["macs_per_second"]["blocks"] * 2 == pytest.approx(
        large["macs_per_second"]["blocks"], abs=2
    )


def test_macs_are_counted_at_the_length_of_the_targets(tmp_path):
    def system(name, seconds):
        (tmp_path / name).mkdir()
        for file in ("config.yaml", "m.pth"):
            (tmp_path / name / file).touch()
        if seconds is not None:
            text = json.dumps({"macs_seconds": seconds})
            (tmp_path / name / "pruning.json").write_text(text)
        folder = tmp_path / name
        return System(name, folder / "config.yaml", folder / "m.pth", folder)

    dense, short, alike = system("dense", None), system("a", 2.0), system("b", 2.0)
    assert measure.length_of_targets([dense]) == 10.0
    assert measure.length_of_targets([dense, short, alike]) == 2.0
    with pytest.raises(InputError, match=r"at 2 s .*, 5 s .* -> choose a length"):
        measure.length_of_targets([dense, short, system("c", 5.0)])


def test_quiet_times_survive_a_busy_machine(
    tiny_models, noise_set, tmp_path, monkeypatch, caplog
):
    machine = describe() | {"warning": None, "threads": 1}
    monkeypatch.setattr(this_machine, "describe", lambda: machine)

    decoding = tmp_path / "greedy.yaml"
    decoding.write_text("ctc_greedy: true\n")
    usual = ["--inference_config", str(decoding), "--macs_seconds", "2"]

    def session(*more):
        measure.main(options(tiny_models, noise_set, *usual, *more))
        files = [config.parent / "measure.json" for config, _ in tiny_models.values()]
        (found,) = {json.loads(file.read_text())["session"] for file in files}
        return found

    quiet = session()
    assert session() != quiet  # timed anew, as asked
    quiet = session()
    machine["warning"] = "other work kept 2 of 2 cores busy"
    with caplog.at_level("WARNING"):
        assert session() == quiet
    assert "kept the times of" in caplog.text
    _, weights = tiny_models["compact"]
    state, before = torch.load(weights), weights.read_bytes()
    torch.save({key: value + 1 for key, value in state.items()}, weights)
    assert session() != quiet  # not the same model
    weights.write_bytes(before)
    busy = session("--utts", "1")  # not the same measurement
    assert busy != quiet
    assert session("--utts", "1") != busy  # those were no quiet ones


def test_results_go_where_the_run_is_and_not_beside_the_model(tiny_models, noise_set):
    config, model = tiny_models["compact"]
    their = noise_set / "their"
    shutil.copytree(config.parent, their)
    (their / "measure.json").unlink(missing_ok=True)
    (noise_set / "greedy.yaml").write_text("ctc_greedy: true\n")
    more = ["--inference_config", str(noise_set / "greedy.yaml"), "--rounds", "2"]
    before = sorted(their.iterdir())
    names = [noise_set / f"exp/{tag}_dense" for tag in ("one", "two")]
    for out in names:
        system = f"--system=dense={their / config.name}:{their / model.name}:{out}"
        measure.main([system, "--data", str(noise_set), *more])
    assert sorted(their.iterdir()) == before
    one, two = (json.loads((out / "measure.json").read_text()) for out in names)
    assert one["session"] != two["session"] and one["sha256"] == two["sha256"]


@pytest.mark.parametrize("change", ["misses", "adds"])
def test_checkpoint_that_does_not_fit_is_refused(tiny_models, noise_set, change):
    """Stock ESPnet would leave the layer random and say nothing."""
    config, model = tiny_models["compact"]
    weights = torch.load(model, weights_only=True)
    if change == "misses":
        weights = {k: v for k, v in weights.items() if not k.startswith("ctc.")}
    else:
        weights["ctc.more"] = torch.zeros(1)
    torch.save(weights, noise_set / "partial.pth")
    broken = {"compact": (config, noise_set / "partial.pth")}
    with pytest.raises(InputError, match="partial.pth: does not fit.*ctc"):
        measure.main(options(broken, noise_set))


def test_audio_too_short_to_time_is_left_out(noise_set, tmp_path):
    soundfile.write(tmp_path / "short.wav", np.zeros(200), 16000)
    scp = noise_set / "wav.scp"
    n_before = len(scp.read_text().splitlines())
    scp.write_text(f"{scp.read_text()}short {tmp_path / 'short.wav'}\n")
    assert len(measure.read_audio(scp, 99, {16000})) == n_before
    scp.write_text(f"short {tmp_path / 'short.wav'}\n")
    with pytest.raises(InputError, match="no utterance of at least 0.3 s"):
        measure.read_audio(scp, 99, {16000})


def test_audio_too_long_for_the_memory_is_named(tiny_models, noise_set, monkeypatch):
    config, _ = tiny_models["dense"]
    models = [argparse.Namespace(**read_yaml(config))]
    read = partial(measure.read_audio, noise_set / "wav.scp", 1, {16000}, models)
    assert len(read()) == 1
    monkeypatch.setattr(memory, "available_bytes", lambda: 1000)
    with pytest.raises(InputError, match=r"wav.scp: \S+ lasts \d s, for which"):
        read()


def test_wrong_inputs_are_named(tmp_path, noise_set):
    for text in ("exp/dense", "dense=a.yaml:a.pth", "dense=a.yaml::out"):
        with pytest.raises(InputError, match="NAME=CONFIG:MODEL:OUT"):
            System.parse(text)
    with pytest.raises(InputError, match="no such file"):
        System.parse("dense=absent.yaml:absent.pth:out")
    with pytest.raises(InputError, match="absent: cannot be read"):
        measure.read_audio(tmp_path / "absent", 1, {16000})
    with pytest.raises(InputError, match="16000 Hz, the models want 8000"):
        measure.read_audio(noise_set / "wav.scp", 1, {8000})
    scp = tmp_path / "bad.scp"
    soundfile.write(tmp_path / "stereo.wav", np.zeros((160, 2)), 16000)
    scp.write_text(f"u {tmp_path / 'stereo.wav'}\n")
    with pytest.raises(InputError, match="2 channels"):
        measure.read_audio(scp, 1, {16000})
    scp.write_text(f"u {scp}\n")
    with pytest.raises(InputError, match="cannot be read"):
        measure.read_audio(scp, 1, {16000})
