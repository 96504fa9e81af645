"""Work that is split among processes, or jobs of Slurm."""

import re
import sys

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from espnet_prune.base.errors import InputError
from espnet_prune.cli import collect_stats
from espnet_prune.running.executor import Executor, split
from espnet_prune.running.parallel import time_left
from espnet_prune.running.shards import mark_of, run_shards


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


def test_shard_that_a_signal_ends_says_so(tmp_path):
    end = "import os, signal; os.kill(os.getpid(), signal.SIGTERM)"
    commands, logs = jobs(tmp_path, "print(1)", end)
    with pytest.raises(InputError, match=r"job\.1\.log.*\nit was ended by signal 15"):
        run_shards(commands, logs, lambda: "")


def test_no_more_run_at_once_than_there_are_cores(tmp_path, monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    code = "import os, sys, time; f = sys.argv[1]; open(f, 'w').close(); "
    code += "n = len(os.listdir(os.path.dirname(f))); time.sleep(0.3); os.remove(f)"
    code += "; print(n)"
    (tmp_path / "here").mkdir()
    commands, logs = jobs(tmp_path, *[code] * 5)
    for number, command in enumerate(commands):
        command.append(str(tmp_path / "here" / str(number)))
    run_shards(commands, logs, lambda: "")
    assert {int(log.read_text()) for log in logs} <= {1, 2}


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


@pytest.mark.parametrize("executor", [Executor(), Executor("slurm", 2)])
def test_killed_shard_says_that_memory_was_too_little(tmp_path, jobs_here, executor):
    killed = "import os; os.kill(os.getpid(), 9)"
    commands, logs = jobs(tmp_path, "print(1)", killed, killed)
    with pytest.raises(InputError) as e:
        run_shards(commands, logs, lambda: "", executor)
    told = "this job was killed, most likely for want of memory"
    assert told in str(e.value) and len(str(e.value).splitlines()) == 1
    assert "--nj" in str(e.value) and str(logs[1]) in str(e.value)


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


@pytest.mark.slow  # ESPnet's stage 10 for real, in processes
def test_statistics_are_collected_for_a_config_that_wants_them_itself(
    data_dir, tmp_path, monkeypatch
):
    # global_mvn needs a file of statistics, which is what is being made.
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
