"""Score one decoded set: error rates, and tests against other systems.

What is left beside the hypotheses: ``score_{wer,cer}/{ref.trn,hyp.trn,result.txt,
result.json}``, and for each other system ``significance.json`` in both: over utterances
and, where an ``utt2spk`` stands beside the references, over speakers.
"""

from collections.abc import Mapping
from pathlib import Path

from espnet_prune.base.files import atomic_dir, write_json, write_text
from espnet_prune.measuring.alignment import alignment_report, trn
from espnet_prune.measuring.mapsswe import mapsswe
from espnet_prune.measuring.metrics import METRICS, leading
from espnet_prune.measuring.significance import compare, read_result, read_speakers
from espnet_prune.measuring.wer import read_pairs, score


def test_file(name: str) -> str:
    """Name the file of the comparison with a system of that name."""
    return f"significance{name and '_'}{name}.json"


def speakers_of(ref: Path) -> Path:
    """Name the file of a set's speakers, which is there if they are known."""
    return ref.with_name("utt2spk")


def weights_of(decode: Path) -> str | None:
    """Read what the decoding says of the weights that it was made with."""
    mark = decode / "model.sha256"
    return mark.read_text().strip() if mark.is_file() else None


def score_set(ref: Path, hyp: Path, vs: Mapping[str, Path]) -> list[str]:
    """Score one decoded set; see above for the files.

    Args:
        ref: Kaldi ``text`` of the set.
        hyp: Kaldi ``text`` of the hypotheses.
        vs: scored directories to compare with, by name; one may have none.

    Returns:
        a sentence for each rate.

    Raises:
        InputError: hypotheses are missing, a system to compare with is not scored, or
            an utterance has no speaker.
    """
    out, said = hyp.parent, []
    pairs = read_pairs(ref, hyp)
    speakers = speakers_of(ref)
    speaker = None
    if speakers.is_file():
        speaker = read_speakers(speakers, [pair.utt for pair in pairs])
    leads = leading(pair.ref for pair in pairs)
    for metric in METRICS:
        scored = score(pairs, metric.counted)
        result = scored.as_json() | {"leads": metric is leads, "references": str(ref)}
        with atomic_dir(out / metric.folder) as folder:
            write_text(folder / "ref.trn", trn(scored.utts, scored.output.references))
            write_text(folder / "hyp.trn", trn(scored.utts, scored.output.hypotheses))
            write_text(folder / "result.txt", alignment_report(scored))
            write_json(folder / "result.json", result)
            for name, other in vs.items():
                scored_other = other / metric.folder
                theirs = read_result(scored_other / "result.json")
                significance = compare(result, theirs, str(other), speaker) | {
                    "mapsswe_p": mapsswe(folder, scored_other),
                    "vs_sha256": weights_of(other),
                }
                write_json(folder / test_file(name), significance)
        where = f"over {scored.n_units} {metric.counted}s: {out / metric.folder}"
        said.append(f"{metric.name} {scored.told} {where}")
    return said
