"""Make what a HuBERT learns without labels: clusters of frames, log-mel features."""

import logging

import numpy as np
import torch
import torchaudio
from pretrain_audio import FS, HOP, WINDOW, count_frames
from scipy.cluster.vq import kmeans2, vq
from transformers import HubertModel

MELS = 80  # log-mel values per frame of the model: two of 10 ms, of 40 bands each
_BANDS = MELS // 2
_CEPSTRA = 13
_KMEANS_FRAMES = 200_000
_START_FRAMES = 10_000
_ROUNDS = 20
_PIECE = 10 * FS  # samples that the model hears at once when its layer is clustered


class LogMel(torch.nn.Module):
    """The class gives two log-mel frames, 10 ms apart, for every frame of the model."""

    def __init__(self):
        super().__init__()
        self._mel = torchaudio.transforms.MelSpectrogram(
            FS, n_fft=512, win_length=WINDOW, hop_length=HOP // 2, n_mels=_BANDS,
            f_min=20.0, center=False, pad=0,
        )  # fmt: skip

    def forward(self, samples_BN: torch.Tensor) -> torch.Tensor:
        # torch centres the window of 400 in its 512 samples: 56 before it.
        padded = torch.nn.functional.pad(samples_BN, (56, 56 + HOP))
        mel_BFT = torch.log(self._mel(padded) + 1e-2)
        frames = count_frames(samples_BN.shape[1])
        return mel_BFT[..., : 2 * frames].mT.reshape(len(mel_BFT), frames, MELS)


def mfcc_features(stream: np.ndarray) -> np.ndarray:
    """The function returns the 39 MFCC values of a stream's frames, at 20 ms.

    They are cepstra without the stream's own mean, hence less of the speaker and of
    the microphone, with first and second differences.
    """
    samples = torch.from_numpy(stream.astype(np.float32) / 32768)
    mfcc = torchaudio.transforms.MFCC(
        FS, _CEPSTRA, log_mels=True,
        melkwargs=dict(
            n_fft=512, win_length=WINDOW, hop_length=HOP, n_mels=_BANDS, f_min=20.0,
            center=False,
        ),
    )  # fmt: skip
    padded = torch.nn.functional.pad(samples, (56, 56 + HOP))
    cepstra_CT = mfcc(padded)[:, : count_frames(len(samples))]
    first_CT = torchaudio.functional.compute_deltas(cepstra_CT)
    second_CT = torchaudio.functional.compute_deltas(first_CT)
    centred_CT = cepstra_CT - cepstra_CT.mean(dim=1, keepdim=True)
    return torch.cat([centred_CT, first_CT, second_CT]).T.numpy()


def balance(features: list[np.ndarray]) -> np.ndarray:
    """The function returns factors by which clusters of MFCCs say more of the phones.

    Left as they are the first cepstrum, loudness, decides alone.
    """
    return 1 / np.sqrt(np.concatenate(features).std(axis=0) + 1e-5)


@torch.no_grad()
def layer_features(stream: np.ndarray, model: HubertModel, layer: int) -> np.ndarray:
    """The function returns a layer's outputs for all frames of a stream.

    The model hears the stream in pieces, each scaled to mean 0 and variance 1.
    """
    total, parts = count_frames(len(stream)), []
    for start in range(0, total, _PIECE // HOP):
        first = min(start * HOP, max(0, len(stream) - _PIECE)) // HOP
        piece = stream[first * HOP : first * HOP + _PIECE + WINDOW - HOP]
        samples = torch.from_numpy(piece.astype(np.float32))
        samples = (samples - samples.mean()) / (samples.std(correction=0) + 1e-7)
        states = model(samples[None], output_hidden_states=True).hidden_states[layer]
        parts.append(states[0, start - first :].float().numpy())
    return np.concatenate(parts)[:total]


def cluster(features: list[np.ndarray], clusters: int, seed: int) -> np.ndarray:
    """The function finds the k-means centres of frames, of which it takes a sample.

    Args:
        features: (frames, values) of each stream.
        clusters: how many.
        seed: of the sample and of the centres' beginning.
    """
    rng = np.random.default_rng(seed)
    frames = np.concatenate(features)
    sample = frames[rng.permutation(len(frames))[:_KMEANS_FRAMES]]
    # The time of "++" grows with the square of the clusters: it sees few frames.
    few = sample[:_START_FRAMES]
    centres, _ = kmeans2(few, clusters, iter=_ROUNDS, minit="++", rng=rng)
    centres, _ = kmeans2(sample, centres, iter=_ROUNDS, minit="matrix")
    _, distances = vq(sample, centres)
    explained = 1 - (distances**2).sum() / ((sample - sample.mean(0)) ** 2).sum()
    logging.info(
        f"{clusters} clusters of {len(sample)} frames hold {100 * explained:.0f} % "
        "of their variance"
    )
    return centres


def label(centres: np.ndarray, features: list[np.ndarray]) -> list[np.ndarray]:
    """The function returns the cluster of every frame of every stream."""
    return [vq(frames, centres)[0] for frames in features]
