import re
import sys

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from espnet_prune.base.errors import InputError
from espnet_prune.running.executor import Executor
from espnet_prune.running.shards import mark_of, run_shards, split, time_left


@given(st.lists(st.text(), min_size=1, max_size=60), st.integers(1, 80))
@settings(deadline=None)
def test_split_keeps_order_and_is_even(keys, parts):
    shards = split(keys, parts)
    assert [key for shard in shards for key in shard] == keys
    sizes = [len(shard) for shard in shards]
    assert len(sizes) == min(parts, len(keys))
    assert min(sizes) >= 1 and max(sizes) - min(sizes) <= 1


def test_time_left_is_that_of_the_rest(monkeypatch):
    monkeypatch.setattr("time.monotonic", lambda: 130.0)
    assert time_left(100.0, 0, 30) == ""
    assert time_left(100.0, 10, 30) == ", time left: 1.0 min"


def jobs(tmp_path, *codes):
    logs = [tmp_path / f"job.{i}.log" for i in range(len(codes))]
    return [[sys.executable, "-c", code] for code in codes], logs


def test_shards_write_their_own_logs(tmp_path):
    commands, logs = jobs(tmp_path, "print(1)", "import sys; print(2, file=sys.stderr)")
    run_shards(commands, logs, lambda: "")
    assert [log.read_text() for log in logs] == ["1\n", "2\n"]


def test_failing_shard_names_its_log_and_shows_its_end(tmp_path):
    commands, logs = jobs(tmp_path, "print(1)", "print('x'); raise SystemExit('why')")
    with pytest.raises(InputError, match=r"job\.1\.log(.|\n)*why"):
        run_shards(commands, logs, lambda: "")


def test_every_failing_shard_is_named(tmp_path, jobs_here):
    commands, logs = jobs(tmp_path, *["raise SystemExit('why')", "print(1)"] * 2)
    with pytest.raises(InputError) as here:
        run_shards(commands, logs, lambda: "")
    told = f"{logs[0]}: this job failed (as did {logs[2]}):\nwhy"
    assert str(here.value) == told
    with pytest.raises(InputError) as there:
        run_shards(commands, logs, lambda: "", Executor("slurm", 2))
    told = r"(\d+)_0_log.err: this job failed \(as did .*/(\d+)_0_log.err\): why -> "
    first, other = re.search(told, str(there.value)).groups()
    assert first != other


def test_only_the_failed_shard_is_run_again(tmp_path):
    code = "open({!r}, 'a').write('x')"
    fine, broken = tmp_path / "fine", tmp_path / "broken"
    done = [mark_of(tmp_path / "a.1"), mark_of(tmp_path / "a.2")]
    commands, logs = jobs(tmp_path, code.format(str(fine)), "raise SystemExit(1)")
    with pytest.raises(InputError, match=r"job\.1\.log"):
        run_shards(commands, logs, lambda: "", done=done)
    commands[1][2] = code.format(str(broken))
    run_shards(commands, logs, lambda: "", done=done)
    assert fine.read_text() == broken.read_text() == "x"
    run_shards(commands, logs, lambda: "", done=done)
    assert fine.read_text() == broken.read_text() == "x"


def test_shards_as_jobs_name_the_failed_one_and_keep_the_others(tmp_path, jobs_here):
    done = [mark_of(tmp_path / "a.1"), mark_of(tmp_path / "a.2")]
    executor = Executor("slurm", 2, {"partition": "cpu", "timeout_min": 5})
    code = "import os; print(os.environ['OMP_NUM_THREADS'])"
    commands, logs = jobs(tmp_path, code, "raise SystemExit('why')")
    with pytest.raises(InputError, match="this job failed: why"):
        run_shards(commands, logs, lambda: "", executor, done)
    assert [mark.exists() for mark in done] == [True, False]
    assert logs[0].read_text() == "1\n" and "why" in logs[1].read_text()
    assert jobs_here[0]["slurm_partition"] == "cpu"


@pytest.mark.parametrize("given, own", [(None, 4), ("1", 1), ("6", 4), ("2,1", 4)])
def test_shards_share_the_cores_that_the_user_leaves(tmp_path, monkeypatch, given, own):
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if given:
        monkeypatch.setenv("OMP_NUM_THREADS", given)
    code = "import os; print(os.environ['OMP_NUM_THREADS'])"
    commands, logs = jobs(tmp_path, code, code)
    run_shards(commands, logs, lambda: "")
    assert [log.read_text() for log in logs] == [f"{own}\n"] * 2


def test_log_of_a_failed_decoding_is_still_there(
    data_dir, dense, tmp_path, monkeypatch
):
    from espnet_prune.cli import decode

    (tmp_path / "decode.yaml").write_text("no_such_option: 1\n")
    argv = ["decode", "--config", str(dense / "config.yaml"), "--nj", "1"]
    argv += ["--model", str(dense / "model.pth"), "--data", str(data_dir)]
    argv += ["--inference_config", str(tmp_path / "decode.yaml")]
    argv += ["--out", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", argv)
    # What is run does not matter here, only that it fails.
    monkeypatch.setattr(decode.sys, "executable", "false")
    with pytest.raises(InputError) as error:
        decode.main()
    log = str(error.value).split(": this job failed")[0]
    assert (tmp_path / log).exists()
    assert not (tmp_path / "out" / "text").exists()


def test_utterances_too_short_for_a_window_are_not_given_to_espnet(tmp_path):
    from espnet_prune.cli.decode import without_too_short

    samples = tmp_path / "utt2num_samples"
    assert without_too_short(["a", "b"], samples) == ["a", "b"]
    samples.write_text("a 512\nb 513\n")
    assert without_too_short(["a", "b"], samples) == ["b"]
    samples.write_text("a 512\nb 5\n")
    with pytest.raises(InputError, match="every utterance"):
        without_too_short(["a", "b"], samples)


def test_utterance_without_a_hypothesis_counts_as_an_empty_one(tmp_path, caplog):
    from espnet_prune.cli.decode import TABLES, merge

    jobs = [tmp_path / f"output.{n}" for n in (1, 2)]
    for job, key in zip(jobs, ("a", "c"), strict=True):
        (job / "1best_recog").mkdir(parents=True)
        for table in TABLES:
            (job / "1best_recog" / table).write_text(f"{key} X Y\n")
    merge(jobs, tmp_path, ["a", "b", "c"])
    assert (tmp_path / "text").read_text() == "a X Y\nb\nc X Y\n"
    assert "1 utterances gave no hypothesis: b" in caplog.text
    assert not any(job.exists() for job in jobs)


def test_decoding_audio_of_another_rate_is_refused(
    data_dir, dense, tmp_path, monkeypatch
):
    from espnet_prune.cli import decode

    config = yaml.safe_load((dense / "config.yaml").read_text())
    config["frontend_conf"] = (config["frontend_conf"] or {}) | {"fs": "8k"}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    (tmp_path / "decode.yaml").write_text("beam_size: 1\n")
    argv = [
        "decode",
        "--config",
        str(tmp_path / "config.yaml"),
        "--data",
        str(data_dir),
    ]
    argv += ["--model", str(dense / "model.pth"), "--out", str(tmp_path / "out")]
    argv += ["--inference_config", str(tmp_path / "decode.yaml")]
    monkeypatch.setattr(sys, "argv", argv)
    with pytest.raises(InputError, match="holds audio of 16000 Hz, but .* 8000 Hz"):
        decode.main()


@pytest.mark.slow
def test_statistics_are_collected_for_a_config_that_wants_them_itself(
    data_dir, tmp_path, monkeypatch
):
    # global_mvn needs a file of statistics, which is what is being made.
    from espnet_prune.cli import collect_stats

    config = {"normalize": "global_mvn", "decoder": "transformer"}
    config |= {"frontend_conf": {"n_fft": 256, "hop_length": 128, "n_mels": 20}}
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(config))
    (tmp_path / "tokens.txt").write_text("<blank>\n<unk>\nA\nB\nC\n<sos/eos>\n")
    argv = ["stats", "--train", data_dir, "--valid", data_dir, "--nj", "1"]
    argv += ["--token_list", tmp_path / "tokens.txt", "--token_type", "char"]
    argv += ["--out", tmp_path / "stats", "--config", tmp_path / "train.yaml"]
    monkeypatch.setattr(sys, "argv", [str(x) for x in argv])
    collect_stats.main()
    assert (tmp_path / "stats/train/feats_stats.npz").exists()
    assert len((tmp_path / "stats/train/speech_shape").read_text().splitlines()) == 12
    # Nothing is started again for the same, and it is for something else.
    monkeypatch.setattr(collect_stats.sys, "executable", "false")
    collect_stats.main()
    (tmp_path / "tokens.txt").write_text("<blank>\n<unk>\nA\nB\n<sos/eos>\n")
    with pytest.raises(InputError, match="this job failed"):
        collect_stats.main()


def test_jobs_are_cancelled_when_their_stage_is_stopped(
    tmp_path, monkeypatch, jobs_here
):
    from submitit.local.local import LocalJob

    def done(job):  # asked for by the loop that waits
        raise Stopped

    cancelled = []
    monkeypatch.setattr(LocalJob, "cancel", lambda job, check=True: cancelled.append(1))
    monkeypatch.setattr(LocalJob, "done", done)
    commands, logs = jobs(tmp_path, *["import time; time.sleep(3)"] * 2)
    with pytest.raises(Stopped):
        run_shards(commands, logs, lambda: "", Executor("slurm", 2))
    assert len(cancelled) == 2


class Stopped(BaseException):
    pass


def test_shards_take_turns_on_the_gpus(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    code = "import os; print(os.environ['CUDA_VISIBLE_DEVICES'])"
    commands, logs = jobs(tmp_path, code, code, code)
    run_shards(commands, logs, lambda: "", gpus=True)
    assert [log.read_text() for log in logs] == ["4\n", "6\n", "4\n"]


def test_language_model_of_other_tokens_is_refused(tmp_path):
    from argparse import Namespace

    from espnet_prune.cli.decode import check_lm

    config, weights = tmp_path / "lm.yaml", tmp_path / "lm.pth"
    weights.touch()
    options = {"lm_train_config": str(config), "lm_file": str(weights)}
    with pytest.raises(InputError, match="lm_train_config .* does not exist"):
        check_lm(options, Namespace(token_list=["a"]), "decode.yaml")
    config.write_text("token_list: [a, b]\n")
    check_lm(options, Namespace(token_list=["a", "b"]), "decode.yaml")
    with pytest.raises(InputError, match="other tokens"):
        check_lm(options, Namespace(token_list=["a", "c"]), "decode.yaml")


def write_lm(folder, tokens, favourite):
    """A language model of ESPnet's that says one token, whatever came before."""
    from espnet2.tasks.lm import LMTask

    (folder / "tokens.txt").write_text("\n".join(tokens) + "\n")
    sizes = {"nlayers": 1, "unit": 4}
    command = ["--token_list", str(folder / "tokens.txt"), "--output_dir", str(folder)]
    args = LMTask.get_parser().parse_args(command)
    args.lm_conf = sizes
    model = LMTask.build_model(args)
    state = model.state_dict()
    state["lm.decoder.weight"].zero_()
    state["lm.decoder.bias"].zero_()[tokens.index(favourite)] = 8.0
    torch.save(state, folder / "lm.pth")
    config = {k: v for k, v in vars(args).items() if k != "config"}
    (folder / "lm.yaml").write_text(yaml.safe_dump(config))
    return {"lm_train_config": f"{folder}/lm.yaml", "lm_file": f"{folder}/lm.pth"}


@pytest.mark.slow
def test_language_model_has_a_say_in_the_search(
    compact, data_dir, tmp_path, monkeypatch
):
    from espnet_prune.cli import decode

    tokens = yaml.safe_load((compact / "config.yaml").read_text())["token_list"]
    lm = write_lm(tmp_path, tokens, "B")
    command = ["decode", "--config", compact / "config.yaml", "--data", data_dir]
    command += ["--model", compact / "pruned.pth", "--nj", 1]
    said = {}
    for weight in (0.0, 5.0):
        search = tmp_path / f"decode_{weight}.yaml"
        options = {"beam_size": 3, "minlenratio": 0.3, "maxlenratio": 0.4}
        search.write_text(yaml.safe_dump(options | lm | {"lm_weight": weight}))
        argv = [*command, "--inference_config", search, "--out", tmp_path / search.stem]
        monkeypatch.setattr(sys, "argv", list(map(str, argv)))
        decode.main()
        lines = (tmp_path / search.stem / "token").read_text().splitlines()
        assert len(lines) == 12
        said[weight] = [token for line in lines for token in line.split()[1:]]
    assert said[5.0] and set(said[5.0]) == {"B"} != set(said[0.0])


@pytest.mark.slow
@pytest.mark.parametrize("search", ["beam_size: 2", "ctc_greedy: true"])
def test_outputs_are_the_same_whatever_the_number_of_parts(
    dense, data_dir, tmp_path, monkeypatch, search
):
    from espnet_prune.cli import decode

    (tmp_path / "decode.yaml").write_text(f"{search}\n")
    weights = torch.load(dense / "model.pth")
    weights["ctc.ctc_lo.bias"][0] -= 5  # a random model says nothing but blank
    torch.save(weights, tmp_path / "model.pth")
    command = ["decode", "--config", dense / "config.yaml", "--data", data_dir]
    command += ["--model", tmp_path / "model.pth"]
    command += ["--inference_config", tmp_path / "decode.yaml"]
    for nj in (1, 3):
        argv = [*command, "--out", tmp_path / f"{nj}", "--nj", nj]
        monkeypatch.setattr(sys, "argv", list(map(str, argv)))
        decode.main()
    whole, parts = tmp_path / "1", tmp_path / "3"
    assert len(set((whole / "text").read_text().split())) > 12
    for table in ("text", "token", "token_int"):
        assert (whole / table).read_bytes() == (parts / table).read_bytes(), table
    # Batches of other utterances may round otherwise.
    one, three = (
        [float(x) for x in re.findall(r"-\d+\.\d+", (folder / "score").read_text())]
        for folder in (whole, parts)
    )
    assert len(one) == 12 and three == pytest.approx(one, rel=1e-5)
