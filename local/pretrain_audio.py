"""Unlabelled audio in memory, and the augmented crops that a model is trained on.

Audio is kept as *streams*: what one speaker said, file after file with short gaps, as
16-bit samples. A batch is a function of (seed, step) alone, so that a training which
was killed goes on with the very batches that it would have seen.
"""

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soxr

from espnet_prune.base.errors import InputError
from espnet_prune.base.table import read_table
from espnet_prune.data.audio import load_utterance

FS = 16000
HOP = 320  # samples from one frame of the model to the next
WINDOW = 400  # samples that a frame sees
_SUFFIXES = (".wav", ".flac")
_LEVEL = 0.05  # RMS of a file in memory
_GAP_SECONDS = (0.05, 0.2)
_FLOOR = 2e-4  # noise of the gaps, as a share of full scale
_SPEEDS = (0.9, 1.1)
_SNRS = (3.0, 30.0)  # dB
_NOISE_TILTS = (0.0, 2.0)  # power falls as 1 / frequency to this
_SHARES = {"clean": 0.25, "noise": 0.4, "voices": 0.35}
_DRIFT = 6.0  # dB by which the gain may change from a crop's start to its end


@dataclass(frozen=True)
class Batch:
    """Crops with what is to be learnt from them; B crops of N samples, T frames.

    Attributes:
        noisy_BN: what the model hears: float32, mean 0 and variance 1 per crop.
        clean_BN: the same without what was added to it, at the same scale.
        streams_B: the stream of each crop.
        frames_BT: the frame of that stream that each frame of the crop corresponds to.
    """

    noisy_BN: np.ndarray
    clean_BN: np.ndarray
    streams_B: np.ndarray
    frames_BT: np.ndarray


def count_frames(samples: int) -> int:
    """The function returns how many frames the model makes of so many samples."""
    return max(0, (samples - WINDOW) // HOP + 1)


def read_streams(sources: list[str], crop: int, seed: int) -> list[np.ndarray]:
    """The function reads audio and joins it to one stream per speaker.

    Args:
        sources: folders, quoted globs of files, Kaldi directories or ``wav.scp`` files.
            Speakers are those of the ``utt2spk`` beside a ``wav.scp``; elsewhere the
            files of one folder of one source count as one speaker's.
        crop: a stream shorter than so many samples (sped up) is repeated.
        seed: of the order of a speaker's files, and of the gaps.

    Raises:
        InputError: a source has no audio, or a file cannot be read.
    """
    groups: dict[tuple, list[str]] = {}
    for source in sources:
        for speaker, file in _list_files(source):
            groups.setdefault((source, speaker), []).append(file)
    rng, streams = np.random.default_rng(seed), []
    shortest = int(crop * max(_SPEEDS)) + 2 * HOP
    for files in groups.values():
        parts = []
        for index in rng.permutation(len(files)):
            parts += [_load(files[index]), _gap(rng)]
        stream = np.concatenate(parts)
        if len(stream) < shortest:
            stream = np.tile(stream, -(-shortest // len(stream)))
        streams.append(stream)
    hours = sum(map(len, streams)) / FS / 3600
    files = sum(map(len, groups.values()))
    logging.info(f"{files} files, {len(streams)} streams, {hours:.2f} h")
    return streams


def _list_files(source: str) -> list[tuple[str, str]]:
    """The function returns the (speaker, file) pairs of one source, sorted."""
    path = Path(source)
    scp = path / "wav.scp" if (path / "wav.scp").is_file() else path
    if scp.suffix == ".scp":
        return _list_kaldi(scp)
    if path.is_dir():
        files = [f for f in sorted(path.rglob("*")) if f.suffix.lower() in _SUFFIXES]
    else:
        files = sorted(path.parent.glob(path.name))
    if not files:
        raise InputError(
            source, "has no audio", "give a folder, a quoted glob or a wav.scp"
        )
    return [(str(file.parent), str(file)) for file in files]


def _list_kaldi(scp: Path) -> list[tuple[str, str]]:
    speakers = scp.with_name("utt2spk")
    speaker_of = read_table(speakers) if speakers.is_file() else {}
    found = []
    for utterance, value in read_table(scp).items():
        folders = (Path(), scp.parent, *scp.parent.resolve().parents)
        places = [folder / value for folder in folders]
        file = next((place for place in places if place.is_file()), None)
        if file is None:
            raise InputError(scp, f"{value} does not exist", "correct its path")
        found.append((speaker_of.get(utterance, ""), str(file)))
    return found


def _load(file: str) -> np.ndarray:
    samples = load_utterance(file, FS).samples
    rms = np.sqrt(np.mean(samples**2)) + 1e-5
    return np.clip(samples * _LEVEL / rms * 32768, -32768, 32767).astype(np.int16)


def _gap(rng: np.random.Generator) -> np.ndarray:
    samples = int(rng.uniform(*_GAP_SECONDS) * FS)
    return (rng.standard_normal(samples) * _FLOOR * 32768).astype(np.int16)


class Crops:
    """The crops of a list of streams, augmented anew each time that they are drawn.

    Args:
        streams: int16 samples.
        crop: samples in a crop.
        batch: crops in a batch.
        seed: of the order and of every augmentation.
    """

    def __init__(self, streams: list[np.ndarray], crop: int, batch: int, seed: int):
        self.streams, self.crop, self.batch, self.seed = streams, crop, batch, seed
        counts = [max(1, len(stream) // crop) for stream in streams]
        self._slots = [(i, n) for i, count in enumerate(counts) for n in range(count)]

    def draw(self, step: int) -> Batch:
        """The function returns the augmented batch of a training step."""
        rng = np.random.default_rng([self.seed, step])
        slots = [self._slot(step * self.batch + i) for i in range(self.batch)]
        cut = [self._cut(slot, rng) for slot in slots]
        clean_BN = np.stack([samples for samples, _ in cut])
        added_BN = np.stack([self._disturb(clean_BN, i, rng) for i in range(len(cut))])
        drift_B1 = rng.uniform(-_DRIFT, _DRIFT, (len(cut), 1))
        gain_BN = 10 ** (drift_B1 / 20 * np.linspace(-0.5, 0.5, self.crop))
        streams_B = np.array([index for index, _ in slots])
        return _normalise(
            clean_BN * gain_BN, added_BN * gain_BN, streams_B, [f for _, f in cut]
        )

    def plain(self, number: int) -> Batch:
        """The function returns crops as they are, spread evenly over all streams."""
        chosen = np.linspace(0, len(self._slots) - 1, number).round().astype(int)
        slots = [self._slots[i] for i in chosen]
        starts = [n * self.crop // HOP * HOP for _, n in slots]
        pairs = zip(slots, starts, strict=True)
        clean_BN = np.stack([self.streams[i][s : s + self.crop] for (i, _), s in pairs])
        frames = [np.arange(count_frames(self.crop)) + s // HOP for s in starts]
        streams_B = np.array([index for index, _ in slots])
        return _normalise(clean_BN / 32768, 0.0 * clean_BN, streams_B, frames)

    def _slot(self, place: int) -> tuple[int, int]:
        """The function returns the stream and the part of it at a place in the order.

        Every crop comes once before any comes again.
        """
        epoch, place = divmod(place, len(self._slots))
        order = np.random.default_rng([self.seed, 1, epoch])
        return self._slots[order.permutation(len(self._slots))[place]]

    def _cut(self, slot: tuple[int, int], rng: np.random.Generator):
        """The function returns a crop at a random speed, and its frames' places."""
        index, part = slot
        stream = self.streams[index]
        speed = round(rng.uniform(*_SPEEDS), 3)
        wanted = int(np.ceil(self.crop * speed)) + HOP
        shift = rng.uniform(-0.5, 0.5)
        start = int(np.clip((part + shift) * self.crop, 0, len(stream) - wanted))
        source = stream[start : start + wanted].astype(np.float32) / 32768
        samples = soxr.resample(source, FS * speed, FS, quality="MQ")[: self.crop]
        samples = np.pad(samples, (0, self.crop - len(samples)))
        centres = start + speed * (
            HOP * np.arange(count_frames(self.crop)) + WINDOW / 2
        )
        frames = np.rint((centres - WINDOW / 2) / HOP).astype(int)
        return samples, np.clip(frames, 0, count_frames(len(stream)) - 1)

    def _disturb(self, clean_BN: np.ndarray, i: int, rng: np.random.Generator):
        """The function returns what is added to crop i: nothing, noise or voices."""
        kind = rng.choice(list(_SHARES), p=list(_SHARES.values()))
        if kind == "clean":
            return np.zeros(self.crop)
        if kind == "noise":
            spectrum = np.fft.rfft(rng.standard_normal(self.crop))
            tilt = rng.uniform(*_NOISE_TILTS) / 2
            added = np.fft.irfft(
                spectrum / np.arange(1, len(spectrum) + 1) ** tilt, self.crop
            )
        else:
            added = np.zeros(self.crop)
            for other in rng.choice(len(clean_BN), rng.integers(1, 4)):
                added += np.roll(clean_BN[other], rng.integers(self.crop))
            # Half of the time someone else speaks for a while, else all along.
            if rng.random() < 0.5:
                length = rng.integers(self.crop // 8, self.crop // 2)
                first = rng.integers(self.crop - length)
                added[:first] = added[first + length :] = 0
        snr = rng.uniform(*_SNRS)
        power = np.mean(added**2) + 1e-10
        return added * np.sqrt(np.mean(clean_BN[i] ** 2) / power / 10 ** (snr / 10))


def _normalise(clean_BN, added_BN, streams_B, frames) -> Batch:
    """The function scales crops as ``Wav2Vec2FeatureExtractor(do_normalize=True)``."""
    noisy_BN = clean_BN + added_BN
    mean_B1 = noisy_BN.mean(axis=1, keepdims=True)
    std_B1 = np.sqrt(noisy_BN.var(axis=1, keepdims=True) + 1e-7)
    return Batch(
        ((noisy_BN - mean_B1) / std_B1).astype(np.float32),
        ((clean_BN - mean_B1) / std_B1).astype(np.float32),
        streams_B,
        np.stack(frames),
    )
