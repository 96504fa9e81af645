"""Two processes, spawned by ESPnet's own main(), prune as one with the whole batch.

As on a machine with two GPUs, but for the device, gloo in place of NCCL, and what would
make two halves of a batch differ from the whole: dropout is off, BatchNorm is frozen
(its statistics are those of each process's own share), and all utterances are equally
long (some losses are means over a batch's frames). The gates' noise stays: without
dropout all processes draw the same.
"""

import os
import signal
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch.multiprocessing.spawn import ProcessExitedException

from espnet_prune.export.export import export
from espnet_prune.training.task import PruneASRTask
from espnet_prune.training.trainer import PruneTrainer

UTTERANCES, SAMPLES, UPDATES = 8, 8000, 4
NO_DROPOUT = [
    word
    for part in ("encoder", "decoder")
    for name in ("dropout_rate", "positional_dropout_rate")
    for word in (f"--{part}_conf", f"{name}=0.0")
]


class Watched(PruneTrainer):
    """Leaves what each process saw and ended with; one may be killed on the way."""

    @classmethod
    def run(cls, *args, **kwargs):
        model, (optimizer,) = kwargs["model"], kwargs["optimizers"]
        seen = []
        for layer in model.modules():
            if isinstance(layer, torch.nn.BatchNorm1d):
                layer.eval()
                layer.train = lambda mode=True, layer=layer: layer

        def look(module, args, batch):
            if module.training:
                seen.append(len(batch["speech"]))

        model.register_forward_pre_hook(look, with_kwargs=True)
        super().run(*args, **kwargs)
        out = Path(kwargs["trainer_options"].output_dir)
        rank = kwargs["distributed_option"].dist_rank or 0
        torch.save(model.state_dict(), out / f"rank{rank}.pth")
        updates = {int(state["step"]) for state in optimizer.state.values()}
        torch.save((seen, updates), out / f"did{rank}.pth")

    @classmethod
    def validate_one_epoch(cls, *args, **kwargs):
        kill = Path(kwargs["options"].output_dir) / "kill"
        second = kwargs["reporter"].get_epoch() == 2
        if second and kill.exists() and kwargs["distributed_option"].dist_rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        super().validate_one_epoch(*args, **kwargs)


class Task(PruneASRTask):
    trainer = Watched

    @classmethod
    def main_worker(cls, args):
        args.ngpu = 0  # main() has spawned one process for each, and here are none
        super().main_worker(args)


@pytest.fixture
def of_one_length(data_dir, tmp_path):
    """``of_one_length(options)``: with utterances of one length, without dropout."""
    data, draw = tmp_path / "data", np.random.default_rng(0)
    data.mkdir()
    wavs = [data / f"utt{i:02}.wav" for i in range(UTTERANCES)]
    for wav in wavs:
        soundfile.write(wav, 0.1 * draw.standard_normal(SAMPLES), 16000)
    texts = {"wav.scp": map(str, wavs), "text": "AB BC CA AC".split() * 2}
    texts["utt2num_samples"] = [str(SAMPLES)] * UTTERANCES
    for name, values in texts.items():
        lines = zip(wavs, values, strict=True)
        (data / name).write_text("".join(f"{w.stem} {v}\n" for w, v in lines))

    def make(options: list[str]) -> list[str]:
        options = [word.replace(str(data_dir), str(data)) for word in options]
        return [*options, *NO_DROPOUT, "--batch_bins", str(4 * SAMPLES)]

    return make


@pytest.fixture
def command(student_command, of_one_length):
    """``command(out)``: options of a pruning run."""

    def make(out: Path) -> list[str]:
        return of_one_length(student_command(out, batch_bins=4 * SAMPLES))

    return make


SPAWNED = ["--ngpu", "2", "--dist_backend", "gloo"]
SPAWNED += ["--multiprocessing_distributed", "true"]


def assert_trained_alike(one, two, start, batches=slice(None)):
    """Two processes ended with the weights of one, from a share of each batch."""
    whole, _ = torch.load(one / "did0.pth")
    parts = []
    for rank in range(2):
        seen, updates = torch.load(two / f"did{rank}.pth")
        assert updates == {UPDATES}
        parts.append(seen)
    assert all(map(all, parts))
    assert list(map(sum, zip(*parts, strict=True))) == whole[batches]
    first, second = (torch.load(two / f"rank{rank}.pth") for rank in range(2))
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    torch.testing.assert_close(first, torch.load(two / "latest.pth"), rtol=0, atol=0)
    for name, value in torch.load(one / "rank0.pth").items():
        # Nothing depends on the keys' biases, and little on some positions: Adam makes
        # of gradients that are rounding errors steps as long as of others.
        noise = name.endswith(("linear_k.bias", "linear_pos.weight"))
        atol = 5e-4 if noise else 1e-5
        torch.testing.assert_close(first[name], value, rtol=0, atol=atol, msg=name)
        if name.endswith("w_1.weight"):
            assert not torch.allclose(value, start[name], rtol=0, atol=1e-3)


@pytest.mark.slow
def test_spawned_processes_fine_tune_as_one_does(
    finetune_command, compact, of_one_length, tmp_path, monkeypatch
):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    one, two = tmp_path / "one", tmp_path / "two"
    Task.main(cmd=of_one_length(finetune_command(one)))
    Task.main(cmd=[*of_one_length(finetune_command(two)), *SPAWNED])
    assert_trained_alike(one, two, torch.load(compact / "pruned.pth"))


@pytest.mark.slow
def test_spawned_processes_prune_as_one_does_also_after_a_kill(
    command, dense, tmp_path, monkeypatch
):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    one, two = tmp_path / "one", tmp_path / "two"
    Task.main(cmd=command(one))
    spawned = [*command(two), *SPAWNED]
    (two / "kill").touch()
    with pytest.raises(ProcessExitedException):
        Task.main(cmd=spawned)
    assert (two / "1epoch.pth").exists() and not (two / "2epoch.pth").exists()
    (two / "kill").unlink()
    Task.main(cmd=spawned)

    # Of the second epoch, which the spawned began anew.
    start = torch.load(dense / "model.pth")
    assert_trained_alike(one, two, start, slice(UPDATES // 2, None))
    cut = []
    for rank in range(2):
        out = tmp_path / f"compact{rank}"
        summary = export(two / "config.yaml", two / f"rank{rank}.pth", out)
        assert 0.5 <= summary["removed"]["params"] < 0.53
        cut.append(torch.load(out / "pruned.pth"))
    torch.testing.assert_close(*cut, rtol=0, atol=0)
