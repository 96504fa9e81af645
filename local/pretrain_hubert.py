#!/usr/bin/env python3
"""Pre-train a small HuBERT on unlabelled audio: a teacher without downloads.

Two rounds, as HuBERT's authors do: the first predicts clusters of MFCCs at masked
frames, the second clusters of the first model's middle layer, whose weights it goes on
from. Beside it the feature projection regresses the log-mel features of what was said,
without the noise that was added. A killed run, started again, goes on where it was:

    local/pretrain_hubert.py --round 1 --steps 1500 --audio DIR ... --out r1
    local/pretrain_hubert.py --round 2 --steps 3500 --audio DIR ... --out r2 \\
        --clusters_from r1

The result is a Hugging Face directory; beside it, in ``<out>.work``, stay the
checkpoint (with the heads) and the labels.
"""

import argparse
import json
import logging
import time
from pathlib import Path

import numpy as np
import torch
from pretrain_audio import FS, Batch, Crops, count_frames, read_streams
from pretrain_model import WEIGHTS, Pretraining, draw_mask, make_config, make_model
from pretrain_targets import (
    LogMel,
    balance,
    cluster,
    label,
    layer_features,
    mfcc_features,
)
from transformers import HubertModel, Wav2Vec2FeatureExtractor

from espnet_prune.base.errors import InputError, run_main
from espnet_prune.base.files import atomic_dir, atomic_path, write_json

_STATISTICS_CROPS = 128  # give the mean and deviation of the log-mel features
_HELD_OUT_CROPS = 48
# Options that may differ when a run goes on.
_FREE = {"threads", "device", "save_every", "log_every", "test_every"}
_PATHS = {"audio", "held_out", "out", "clusters_from"}


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--audio", nargs="+", required=True,
        help="folders, quoted globs, Kaldi directories or wav.scp files to learn from",
    )  # fmt: skip
    parser.add_argument(
        "--held_out",
        nargs="+",
        default=[],
        help="the same, to test the masked accuracy",
    )
    parser.add_argument("--out", required=True, help="the Hugging Face directory")
    parser.add_argument("--round", type=int, choices=(1, 2), default=1)
    parser.add_argument("--clusters_from", help="round 2: the model of round 1")
    parser.add_argument(
        "--cluster_layer", type=int, help="round 2: default, the middle"
    )
    parser.add_argument("--clusters", type=int, default=100)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seconds_per_step", type=float, default=96.0)
    parser.add_argument("--crop_seconds", type=float, default=4.0)
    parser.add_argument("--lr", type=float, default=8e-4, help="its peak")
    parser.add_argument("--warmup", type=float, default=0.08, help="share of the steps")
    parser.add_argument("--width", type=int, default=192)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--heads", type=int, default=6)
    parser.add_argument("--seed", type=int, default=2024)
    parser.add_argument("--bf16", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--save_every", type=int, default=50, help="steps")
    parser.add_argument("--log_every", type=int, default=20, help="steps")
    parser.add_argument("--test_every", type=int, default=100, help="steps")
    return parser


class Run:
    """The class is one training: its data, model and optimizer, and where it stands.

    Args:
        args: the options.
        work: folder of the labels and of the checkpoint.
    """

    def __init__(self, args: argparse.Namespace, work: Path):
        torch.manual_seed(args.seed)
        self.args, self.work, self.step = args, work, 0
        crop = round(args.crop_seconds * FS)
        batch = max(1, round(args.seconds_per_step / args.crop_seconds))
        train = read_streams(args.audio, crop, args.seed)
        test = read_streams(args.held_out, crop, args.seed) if args.held_out else []
        self.labels = _get_labels(args, work, train, test)
        self.crops = Crops(train, crop, batch, args.seed)
        self.held_out = Crops(test, crop, batch, args.seed) if test else None
        if args.clusters_from:
            hubert = HubertModel.from_pretrained(args.clusters_from).float()
        else:
            hubert = make_model(make_config(args.width, args.layers, args.heads))
        self.model = Pretraining(hubert, args.clusters).to(args.device).train()
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=args.lr, betas=(0.9, 0.98), weight_decay=0.01
        )
        self.log_mel = LogMel().to(args.device)
        plain = torch.from_numpy(self.crops.plain(_STATISTICS_CROPS).clean_BN)
        mel_BTF = self.log_mel(plain.to(args.device))
        self.mel_mean_F, self.mel_std_F = mel_BTF.mean((0, 1)), mel_BTF.std((0, 1))
        self._resume()

    def losses(self, batch: Batch, labels: list[np.ndarray], seed: list[int]) -> dict:
        """The method returns what the model makes of a batch (:class:`Pretraining`)."""
        device = self.args.device
        pairs = zip(batch.streams_B, batch.frames_BT, strict=True)
        labels_BT = torch.from_numpy(np.stack([labels[i][f] for i, f in pairs]))
        mel_BTF = self.log_mel(torch.from_numpy(batch.clean_BN).to(device))
        mel_BTF = (mel_BTF - self.mel_mean_F) / self.mel_std_F
        mask_BT = draw_mask(*labels_BT.shape, seed).to(device)
        noisy_BN = torch.from_numpy(batch.noisy_BN).to(device)
        with torch.autocast(device, torch.bfloat16, enabled=self.args.bf16):
            return self.model(noisy_BN, mel_BTF, labels_BT.long().to(device), mask_BT)

    def advance(self) -> dict[str, float]:
        """The method takes one step; returns its losses and the masked accuracy."""
        steps, warmup = self.args.steps, max(1, self.args.warmup * self.args.steps)
        share = min(
            (self.step + 1) / warmup, (steps - self.step) / (steps - warmup + 1)
        )
        for group in self.optimizer.param_groups:
            group["lr"] = self.args.lr * share
        batch = self.crops.draw(self.step)
        found = self.losses(batch, self.labels[0], [self.args.seed, self.step])
        loss = sum(weight * found[name] for name, weight in WEIGHTS.items())
        if not torch.isfinite(loss):
            raise InputError("--lr", f"the loss is {loss:.1f}", "give a smaller one")
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.step += 1
        return {name: value.item() for name, value in found.items()}

    @torch.no_grad()
    def test(self) -> dict[str, float]:
        """The method returns losses and accuracy on held-out crops, without noise."""
        batch = self.held_out.plain(_HELD_OUT_CROPS)
        found = self.losses(batch, self.labels[1], [self.args.seed])
        return {name: value.item() for name, value in found.items()}

    def save(self) -> None:
        """The method writes the checkpoint, whole or not at all."""
        state = {
            "options": _fixed_options(self.args),
            "step": self.step,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        with atomic_path(self.work / "checkpoint.pt") as temporary:
            torch.save(state, temporary)

    def _resume(self) -> None:
        path = self.work / "checkpoint.pt"
        if path.is_file():
            state = torch.load(path, map_location=self.args.device, weights_only=True)
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.step = state["step"]
            logging.info(f"goes on after step {self.step}")

    def export(self, facts: dict) -> None:
        """The method writes the Hugging Face directory, in 16 bits.

        Args:
            facts: what ``training.json`` says of the result.
        """
        extractor = Wav2Vec2FeatureExtractor(
            sampling_rate=FS, do_normalize=True, return_attention_mask=False
        )
        with atomic_dir(self.args.out) as folder:
            self.model.hubert.eval().half().save_pretrained(folder)
            extractor.save_pretrained(folder)
            # Else who loads it without saying more computes in 16 bits.
            config = json.loads((folder / "config.json").read_text())
            write_json(folder / "config.json", {**config, "dtype": "float32"})
            write_json(folder / "training.json", facts)


def _get_labels(
    args: argparse.Namespace, work: Path, *sets: list[np.ndarray]
) -> list[list[np.ndarray]]:
    """The function returns every frame's cluster, for each set of streams.

    They are made once; the first set is the one that is clustered.
    """
    path = work / "labels.npz"
    sizes = [[count_frames(len(stream)) for stream in streams] for streams in sets]
    if not path.is_file():
        if args.clusters_from:
            model = HubertModel.from_pretrained(args.clusters_from).float().eval()
            layer = args.cluster_layer or model.config.num_hidden_layers // 2
            features = [[layer_features(s, model, layer) for s in x] for x in sets]
        else:
            features = [[mfcc_features(s) for s in x] for x in sets]
            factors = balance(features[0])
            features = [[frames * factors for frames in x] for x in features]
        centres = cluster(features[0], args.clusters, args.seed)
        labels = [label(centres, x) for x in features]
        flat = np.concatenate([x for streams in labels for x in streams])
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.savez(file, labels=flat.astype(np.int32), centres=centres)
    flat = np.load(path)["labels"]
    if len(flat) != sum(map(sum, sizes)):
        raise InputError(path, "is of other audio", "remove it, or give another --out")
    pieces = np.split(flat, np.cumsum([n for size in sizes for n in size])[:-1])
    return [[pieces.pop(0) for _ in size] for size in sizes]


def _fixed_options(args: argparse.Namespace) -> dict:
    return {name: v for name, v in vars(args).items() if name not in _FREE}


def _check(args: argparse.Namespace, work: Path) -> None:
    """The function refuses options that do not go together, or with the folder's."""
    if (args.round == 2) != bool(args.clusters_from):
        raise InputError("--clusters_from", "belongs to --round 2, and only to it")
    if args.steps < 1:
        raise InputError("--steps", "is below 1", "give a few thousand")
    if args.crop_seconds < 0.5:
        raise InputError("--crop_seconds", "is below 0.5", "give about 4")
    options, path = _fixed_options(args), work / "options.json"
    if path.is_file() and (other := json.loads(path.read_text())) != options:
        names = [name for name in options if options[name] != other.get(name)]
        raise InputError(
            work, f"was begun with other options ({', '.join(names)})",
            "give the same, remove it, or give another --out",
        )  # fmt: skip
    write_json(path, options)


def _say(values: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.3f}" for name, value in values.items())


def main() -> None:
    args = get_parser().parse_args()
    out = Path(args.out)
    if (out / "training.json").is_file():
        logging.info(f"{out} is complete")
        return
    work = out.with_name(f"{out.name}.work")
    work.mkdir(parents=True, exist_ok=True)
    _check(args, work)
    torch.set_num_threads(args.threads)
    run = Run(args, work)
    size = sum(p.numel() for p in run.model.hubert.parameters())
    logging.info(f"{size / 1e6:.2f} M parameters, steps of {run.crops.batch} crops")
    begun, first, window = time.monotonic(), run.step, []
    while run.step < args.steps:
        window.append(run.advance())
        if run.step % args.save_every == 0:
            run.save()
        if run.step % args.log_every == 0 or run.step == args.steps:
            means = {n: float(np.mean([x[n] for x in window])) for n in window[0]}
            seconds = (time.monotonic() - begun) / (run.step - first)
            left = seconds * (args.steps - run.step) / 60
            logging.info(
                f"step {run.step} of {args.steps}: {_say(means)}; {seconds:.2f} s a "
                f"step, time left: {left:.1f} min"
            )
            window = []
        if run.held_out and run.step % args.test_every == 0:
            logging.info(f"held out after {run.step} steps: {_say(run.test())}")
    run.save()
    held_out = run.test() if run.held_out else None
    hours = sum(map(len, run.crops.streams)) / FS / 3600
    options = {k: v for k, v in _fixed_options(args).items() if k not in _PATHS}
    run.export({"parameters": size, "hours": hours, "held_out": held_out, **options})
    logging.info(f"{out} is complete")


if __name__ == "__main__":
    run_main(main)
