"""Two processes, spawned by ESPnet's own main(), train together.

As on a machine with two GPUs, but for the device, gloo in place of NCCL, and what would
make two halves of a batch differ from the whole: dropout is off, BatchNorm is frozen
(its statistics are those of each process's own share), and all utterances are equally
long (some losses are means over a batch's frames).
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
        seen, drawn = [], []
        for layer in model.modules():
            if isinstance(layer, torch.nn.BatchNorm1d):
                layer.eval()
                layer.train = lambda mode=True, layer=layer: layer

        def look(module, args, batch):
            if module.training:
                seen.append(len(batch["speech"]))

        def draw(module, args, values):
            if module.training:
                drawn.append(values.detach().clone())

        model.register_forward_pre_hook(look, with_kwargs=True)
        if model.gates is not None:
            model.gates.register_forward_hook(draw)
        super().run(*args, **kwargs)
        out = Path(kwargs["trainer_options"].output_dir)
        rank = kwargs["distributed_option"].dist_rank or 0
        torch.save(model.state_dict(), out / f"rank{rank}.pth")
        updates = {int(state["step"]) for state in optimizer.state.values()}
        torch.save((seen, updates, drawn), out / f"did{rank}.pth")

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


SPAWNED = ["--ngpu", "2", "--dist_backend", "gloo"]
SPAWNED += ["--multiprocessing_distributed", "true"]


def assert_same_weights(folder: Path) -> dict[str, torch.Tensor]:
    """Both processes ended with the weights that were saved."""
    first, second = (torch.load(folder / f"rank{rank}.pth") for rank in range(2))
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    saved = torch.load(folder / "latest.pth")
    torch.testing.assert_close(first, saved, rtol=0, atol=0)
    return first


@pytest.mark.slow
def test_spawned_processes_fine_tune_as_one_does(
    finetune_command, compact, of_one_length, tmp_path, monkeypatch
):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    one, two = tmp_path / "one", tmp_path / "two"
    Task.main(cmd=of_one_length(finetune_command(one)))
    Task.main(cmd=[*of_one_length(finetune_command(two)), *SPAWNED])

    whole, *_ = torch.load(one / "did0.pth")
    parts = []
    for rank in range(2):
        seen, updates, _ = torch.load(two / f"did{rank}.pth")
        assert updates == {UPDATES} and all(seen)
        parts.append(seen)
    assert list(map(sum, zip(*parts, strict=True))) == whole  # a share of each batch
    start, found = torch.load(compact / "pruned.pth"), assert_same_weights(two)
    for name, value in torch.load(one / "rank0.pth").items():
        # Nothing depends on the keys' biases, and little on some positions: Adam makes
        # of gradients that are rounding errors steps as long as of others.
        noise = name.endswith(("linear_k.bias", "linear_pos.weight"))
        atol = 5e-4 if noise else 1e-5
        torch.testing.assert_close(found[name], value, rtol=0, atol=atol, msg=name)
        if name.endswith("w_1.weight"):
            assert not torch.allclose(value, start[name], rtol=0, atol=1e-3)


@pytest.mark.slow
def test_spawned_processes_draw_gates_of_their_own_and_the_same_after_a_kill(
    student_command, of_one_length, dense, tmp_path, monkeypatch
):
    """Gradients are averaged, so weights stay equal; two samples are less noise."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    commands = {
        out: [*of_one_length(student_command(out)), *SPAWNED] for out in (whole, killed)
    }
    Task.main(cmd=commands[whole])
    (killed / "kill").touch()
    with pytest.raises(ProcessExitedException):
        Task.main(cmd=commands[killed])
    assert (killed / "1epoch.pth").exists() and not (killed / "2epoch.pth").exists()
    (killed / "kill").unlink()
    Task.main(cmd=commands[killed])

    drawn = [torch.load(whole / f"did{rank}.pth")[2] for rank in range(2)]
    assert len(drawn[0]) == UPDATES
    seen = {tuple(values.tolist()) for of_one in drawn for values in of_one}
    assert len(seen) == 2 * UPDATES  # none twice, in no process and at no step
    for rank, of_one in enumerate(drawn):
        again = torch.load(killed / f"did{rank}.pth")[2]  # of the second epoch
        torch.testing.assert_close(again, of_one[UPDATES // 2 :], rtol=0, atol=0)
    end = assert_same_weights(whole)
    torch.testing.assert_close(assert_same_weights(killed), end, rtol=0, atol=0)
    name = "encoder.encoders.0.feed_forward.w_1.weight"
    start = torch.load(dense / "model.pth")[name]
    assert not torch.allclose(end[name], start, rtol=0, atol=1e-3)
    summary = export(killed / "config.yaml", killed / "rank1.pth", tmp_path / "compact")
    assert 0.5 <= summary["removed"]["params"] < 0.53
