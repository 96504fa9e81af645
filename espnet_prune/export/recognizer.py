"""The module that is exported: audio -> features -> encoder -> CTC log probabilities.

It computes what ESPnet's model does for one utterance, from audio alone.
"""

import copy
import math

import torch
import torch.nn.functional as F
from espnet2.asr.espnet_model import ESPnetASRModel
from espnet2.asr.frontend.default import DefaultFrontend
from espnet2.layers.global_mvn import GlobalMVN
from espnet2.layers.utterance_mvn import UtteranceMVN
from torch import Tensor, nn

from espnet_prune.base.errors import InputError
from espnet_prune.families.espnet.graph import EncoderGraph


class LogMel(nn.Module):
    """ESPnet's default frontend: log mel filterbank energies of short-time spectra.

    The Fourier transform is a product with its basis, which onnxruntime computes faster
    than its own STFT, and which lacks the zeros around the window.

    Raises:
        InputError: the frontend has an option that this does not compute.
    """

    def __init__(self, frontend: DefaultFrontend):
        super().__init__()
        stft, mel = frontend.stft, frontend.logmel
        for name, plain in (
            ("frontend_conf", not enhances(frontend.frontend)),
            ("apply_stft", stft is not None),
            ("onesided", stft is not None and stft.onesided),
            ("normalized", stft is not None and not stft.normalized),
        ):
            if not plain:
                raise InputError("frontend", f"{name} cannot be exported as it is set")
        width = stft.win_length
        window = torch.ones(width, dtype=torch.double)
        if stft.window is not None:
            make = getattr(torch, f"{stft.window}_window")
            window = make(width, dtype=torch.double)
        left = (stft.n_fft - width) // 2
        bins = torch.arange(stft.n_fft // 2 + 1, dtype=torch.double)
        samples = torch.arange(width, dtype=torch.double) + left
        angle = samples[:, None] * bins * (2 * math.pi / stft.n_fft)
        basis = torch.cat([angle.cos(), angle.sin()], 1) * window[:, None]
        self.register_buffer("basis", basis.float())
        self.register_buffer("mel", mel.melmat.detach().clone())
        self.scale = 1 / math.log(mel.log_base) if mel.log_base else 1.0
        self.hop = stft.hop_length
        self.centre = stft.n_fft // 2 if stft.center else 0
        # Zeros around the window, which the basis lacks.
        self.left, self.right = left, stft.n_fft - width - left

    def forward(self, speech: Tensor) -> Tensor:
        """Compute log mel energies: (batch, sample) -> (batch, frame, mel)."""
        if self.centre:
            speech = F.pad(speech[:, None], (self.centre,) * 2, mode="reflect")[:, 0]
        cut = speech[:, self.left : speech.shape[1] - self.right]
        spectrum = cut.unfold(1, len(self.basis), self.hop) @ self.basis
        power = spectrum.square().unflatten(2, (2, -1)).sum(2)
        return (power @ self.mel).clamp(min=1e-10).log() * self.scale


def enhances(frontend: nn.Module | None) -> bool:
    """Tell whether ESPnet's speech enhancement does anything."""
    return frontend is not None and (frontend.use_wpe or frontend.use_beamformer)


class Normalize(nn.Module):
    """Mean and variance normalisation, of the utterance or of the training set.

    Raises:
        InputError: the layer is of another kind.
    """

    def __init__(self, layer: nn.Module | None):
        super().__init__()
        self.per_utterance = isinstance(layer, UtteranceMVN)
        if layer is not None and not isinstance(layer, (UtteranceMVN, GlobalMVN)):
            raise InputError("normalize", f"{type(layer).__name__} cannot be exported")
        self.means = layer is not None and layer.norm_means
        self.variances = layer is not None and layer.norm_vars
        if isinstance(layer, GlobalMVN):
            self.register_buffer("mean", layer.mean.detach().float())
            self.register_buffer("std", layer.std.detach().float())
        self.eps = layer.eps if self.per_utterance else 0.0

    def forward(self, x: Tensor) -> Tensor:
        """Normalize (batch, frame, feature)."""
        if not (self.means or self.variances):
            return x
        mean = x.mean(1, keepdim=True) if self.per_utterance else self.mean
        if self.per_utterance:
            std = (x - mean).square().mean(1, keepdim=True).sqrt().clamp(min=self.eps)
        else:
            std = self.std
        x = x - mean if self.means else x
        return x / std if self.variances else x


class Recognizer(nn.Module):
    """The recognizer turns audio into features and the log probabilities of CTC.

    Args:
        model: an ESPnet model whose encoder is ours.

    Raises:
        InputError: it has no CTC head, or parts that cannot be exported, by name.
    """

    def __init__(self, model: ESPnetASRModel):
        super().__init__()
        if model.ctc is None:
            raise InputError("model", "has no CTC head", "only CTC can be exported")
        for part in ("preencoder", "postencoder"):
            if getattr(model, part) is not None:
                raise InputError("model", f"its {part} cannot be exported")
        if not isinstance(model.frontend, DefaultFrontend):
            kind = type(model.frontend).__name__
            raise InputError("frontend", f"{kind} cannot be exported")
        self.features = LogMel(model.frontend)
        self.normalize = Normalize(model.normalize)
        self.encoder = EncoderGraph(model.encoder)
        self.head = copy.deepcopy(model.ctc.ctc_lo).cpu().float()

    def forward(self, speech: Tensor) -> tuple[Tensor, Tensor]:
        """Compute log probabilities and features of audio.

        (batch, sample) in [-1, 1] -> (batch, time, token), (batch, frame, mel).
        """
        features = self.normalize(self.features(speech))
        return self.head(self.encoder(features)).log_softmax(-1), features
