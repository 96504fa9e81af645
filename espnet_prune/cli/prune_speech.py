"""Prune a self-supervised encoder from Python: stages 1-4 in one call."""

from collections.abc import Sequence
from pathlib import Path

import espnet_prune.base.quiet  # noqa: F401  (before anything of ESPnet)

# isort: split

from transformers import PreTrainedModel

from espnet_prune.cli import ssl_audio
from espnet_prune.cli.check_early import COMPACT, training_options
from espnet_prune.cli.in_process import call, do_here, quiet_root
from espnet_prune.cli.ladder import FAMILIES, Ladder
from espnet_prune.config.methods import REFERENCE
from espnet_prune.config.rungs import Rung
from espnet_prune.families.ssl.audio import normalizes
from espnet_prune.families.ssl.directory import locate
from espnet_prune.families.ssl.model import read, read_head
from espnet_prune.training.origin import refuse_missing_gpus
from espnet_prune.training.ssl_plan import check_options
from espnet_prune.training.ssl_task import Spelling

RECIPES = Path(__file__).parents[1] / "config/recipes/ssl"


def prune_speech(
    model: str | Path,
    audio: str | Path,
    out: str | Path,
    target: float = 0.5,
    kind: str = "params",
    method: str = REFERENCE,
    prune_recipe: str | Path = RECIPES / "prune.yaml",
    distil_recipe: str | Path = RECIPES / "distil.yaml",
    prune_options: Sequence[str] = (),
    distil_options: Sequence[str] = (),
    text: str | Path | None = None,
    seconds: float | None = None,
    ngpu: int = 0,
    nj: int = 2,
) -> PreTrainedModel:
    """Prune HuBERT, WavLM or wav2vec 2.0, and distil what is left.

    No labels are needed.

    Progress is printed. Killed and called again, the trainings go on from the last
    epoch.

    Args:
        model: Hugging Face directory, or name, of the dense model.
        audio: folder of audio files, or a Kaldi ``wav.scp``.
        out: where everything goes; the small model to ``out/compact_distilled``, which
            ``AutoModel.from_pretrained`` loads.
        target: fraction of the encoder to remove, in (0, 1).
        kind: what it counts: ``params``, ``macs``, ``latency``, or ``params+macs``.
        method: ``l0``, or a baseline.
        prune_recipe, distil_recipe: files as ``conf/ssl/prune.yaml`` and
            ``conf/ssl/distil.yaml`` of the project, which are the defaults.
        prune_options, distil_options: further options of these trainings, as
            ``("--max_epoch", "20")``.
        text: Kaldi's table of transcripts: a fine-tuned ``...ForCTC`` is trained on its
            own CTC loss, too.
        seconds: length of the crops that the audio is cut into, 4 by default; with
            ``text`` the longest recording that is used, 20 by default.
        ngpu: GPUs to train on. With several a script must call this below ``if
            __name__ == "__main__":``, for ESPnet's processes import the script, too.
        nj: processes that cut the audio.

    Returns:
        the small model, in evaluation mode.

    Raises:
        InputError: what is wrong with the input, and the mend.
    """
    quiet_root()
    out, model = Path(out), locate(model)
    more = [*map(str, prune_options)], [*map(str, distil_options)]
    refuse_missing_gpus(ngpu)
    given = Path(prune_recipe), more[0], method, kind, target
    check_options(training_options("prune_options", *given), model)
    given = Path(distil_recipe), more[1], method
    check_options(training_options("distil_options", *given, compact=COMPACT), model)
    normalizes(model)
    crops = out / "crops"
    given = ["--audio", audio, "--out", crops, "--nj", nj]
    given += ["--seconds", seconds or (4 if text is None else 20)]
    if text is not None:
        read_head(model)
        Spelling(model).check(Path(text))
        given += ["--text", text]
    call(ssl_audio, *given)
    common = ["--dense", model, "--train", crops / "train", "--valid", crops / "valid"]
    common += ["--ngpu", ngpu, "--multiprocessing_distributed", "true"]
    Ladder(
        FAMILIES["ssl"],
        [Rung(method, target, kind)],
        lambda rung: out / "pruned",
        lambda rung: out / "compact",
        [*map(str, common)],
        ["--recipe", str(prune_recipe), *more[0]],
        ["--recipe", str(distil_recipe), *more[1]],
        latency_table=out / "latency.json",
    ).climb(do_here)
    return read(out / "compact_distilled")
