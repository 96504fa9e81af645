"""Say what a reader of the numbers must know, so that they do not mislead."""

from typing import Any

from espnet_prune.config.methods import METHODS, REFERENCE, Method

SYNTHETIC = (
    "Synthetic speech: the corpus `synth` is spoken by espeak-ng voices from a seed. "
    "Its error rates show that the recipe works and nothing about human speech."
)
LEVEL = 0.05  # of significance


def caveats(report: dict[str, Any]) -> list[str]:
    """Write sentences on the numbers of ``report.json``, for the page and the card."""
    found = [SYNTHETIC] if report["corpus"] == "synth" else []
    machine = report["environment"]["measured_on"]
    if machine is not None and machine["warning"]:
        found.append(
            f"The times are not reliable: {machine['warning']} (stage 17 repeats them)."
        )
    better = {row["method"] for row in report["rows"] if _better_than_dense(row)}
    if better:
        sentence = (
            "A compact model is significantly better than the dense one. Either so "
            "small a model is enough for these data, or the dense one was not trained "
            "to its end"
        )
        if any(METHODS[method].gated for method in better):
            sentence += (
                " and pruning and fine-tuning went on training it: then these numbers "
                "do not say what pruning costs a finished model"
            )
        found.append(f"{sentence}.")
    here = {row["method"] for row in report["rows"]} & METHODS.keys()
    if here - {REFERENCE}:
        sizes = {row["target"]["value"] for row in report["rows"]} - {None}
        ladder = " (and go on from the size before)" if len(sizes) > 1 else ""
        ways: dict[str, list[str]] = {}
        for method in METHODS.values():
            if method.name in here:
                ways.setdefault(_way(method, ladder), []).append(method.name)
        told = "; ".join(f"{way} ({', '.join(names)})" for way, names in ways.items())
        found.append(f"All are fine-tuned alike; before that they were {told}.")
    return found


def _way(method: Method, ladder: str) -> str:
    """Say what a method has had before the fine-tuning."""
    if method.prunes_as:
        return f"pruned as {method.prunes_as}, and then learn as one set of weights"
    if not method.gated:
        own = "" if method.taught else "the dense model's epochs and "
        return f"trained from scratch for {own}those of pruning"
    if not method.trained:
        return "cut at once"
    return f"trained while pruned{ladder if method.laddered else ''}"


def _better_than_dense(row: dict[str, Any]) -> bool:
    test = row["vs"].get("dense")
    if not test or test["p_value"] is None:
        return False
    return test["delta"] < 0 and test["p_value"] < LEVEL
