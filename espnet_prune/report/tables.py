"""The tables of the report."""

from typing import Any

from espnet_prune.config.methods import REFERENCE
from espnet_prune.report.quality import NONE, metrics
from espnet_prune.report.rendering import DASH, Table


def _number(value: float | None, form: str, scale: float = 1.0) -> str:
    return DASH if value is None else format(value * scale, form)


def _versus(value: float | None, dense: float | None, form: str, scale: float) -> str:
    """Format a quantity, and its change against the dense one's: ``5.10 -49%``."""
    shown = _number(value, form, scale)
    if value is None or not dense or value == dense:
        return shown
    return f"{shown} {100 * (value / dense - 1):+.0f}%"


def label(row: dict[str, Any]) -> str:
    """Name a row: ``dense``, ``compact -50 % params``, ``random -75 ...``."""
    kind, value = row["target"]["kind"], row["target"]["value"]
    name = (
        row["system"] if row["method"] in (None, "dense", REFERENCE) else row["method"]
    )
    if value is not None:
        name += f" -{100 * value:g} % {kind}" if value else ", all of it"
    return name if row["precision"] == "fp32" else f"{name} {row['precision']}"


def main_table(rows: list[dict[str, Any]]) -> Table:
    """Compare dense and compact, from the rows of ``report.json``.

    The table fits a laptop's terminal: what else there is stands in the others.
    """
    fp32 = [row for row in rows if row["precision"] == "fp32"]
    dense = {row["test_set"]: row for row in fp32 if row["system"] == "dense"}
    several = len(dense) > 1
    header = ["system", *(["test set"] if several else [])]
    first, *others = metrics(rows)
    header += [f"{first} %", "95 %", "p", *(f"{name} %" for name in others)]
    header += ["encoder M", "GMAC/s"]
    header += ["RTF encoder", "RTF search"]

    def cells(row: dict[str, Any]) -> list[str]:
        base = dense[row["test_set"]]
        rate, *rates = (row["quality"].get(name, NONE) for name in (first, *others))
        interval = "{:.2f}-{:.2f}".format(*rate["ci"]) if rate["ci"] else DASH

        def versus(part: str, name: str, form: str, scale: float = 1.0) -> str:
            return _versus(row[part][name], base[part][name], form, scale)

        return [
            label(row),
            *([row["test_set"]] if several else []),
            _number(rate["value"], ".2f"),
            interval,
            _number(row["p_vs_dense"], ".2g"),
            *(_number(each["value"], ".2f") for each in rates),
            versus("params", "encoder", ".2f", 1e-6),
            versus("macs_per_second", "encoder", ".3f", 1e-9),
            *(versus("rtf", name, ".4f") for name in ("encoder", "search")),
        ]

    return Table(header, [cells(row) for row in rows])


def significance_table(rows: list[dict[str, Any]]) -> Table:
    """Compare each compact system with dense and, if there are any, L0 pruning."""
    names = {"dense": "dense", "l0": "L0"}
    tested = [row for row in rows if row["vs"]]
    others = [o for o in names if any(o in row["vs"] for row in tested)]
    header = ["system", "test set"]
    for other in others:
        header += [f"{metrics(tested)[0]} - {names[other]}'s", "95 %", "p bootstrap"]
        header += ["p by speaker", "p MAPSSWE"]

    def cells(test: dict[str, Any] | None) -> list[str]:
        if test is None:
            return [DASH] * 5
        low, high = test["interval"] or (None, None)
        return [
            _number(test["delta"], "+.2f"),
            DASH if low is None else f"{low:+.2f} to {high:+.2f}",
            _number(test["p_value"], ".2g"),
            _number(test["p_by_speaker"], ".2g"),
            _number(test["mapsswe_p"], ".3f"),
        ]

    lines = []
    for row in tested:
        line = [label(row), row["test_set"]]
        for other in others:
            line += cells(row["vs"].get(other))
        lines.append(line)
    return Table(header, lines)


def cost_table(rows: list[dict[str, Any]]) -> Table:
    """Show where parameters and MACs are, and their file; one row per system.

    The frontend, with all before the encoder, has columns where it has weights.
    """
    parts = {
        "params": ["total", "frontend", "subsampling", "blocks", "decoder"],
        "macs_per_second": ["frontend", "subsampling", "blocks", "encoder"],
    }
    if not any(row["params"]["frontend"] for row in rows):
        for names in parts.values():
            names.remove("frontend")
    params, macs = parts.values()
    header = [*(f"{name} M" for name in params), f"GMAC/s: {macs[0]}", *macs[1:]]
    same = ("test_set", "precision")
    first_set = [row for row in rows if all(row[n] == rows[0][n] for n in same)]
    lines = [
        [label(row), _number(row["bytes"], ".2f", 1e-6)]
        + [_number(row["params"][part], ".3f", 1e-6) for part in params]
        + [_number(row["macs_per_second"][part], ".4f", 1e-9) for part in macs]
        for row in first_set
    ]
    return Table(["system", "file MB", *header], lines)


def times_table(times: dict[str, dict[str, dict[str, float]]]) -> Table:
    """Show real-time factors, median and spread: see ``measuring.rtf.summarise``."""
    names = list(dict.fromkeys(name for columns in times.values() for name in columns))

    def cell(value: dict[str, float] | None) -> str:
        return DASH if value is None else "{median:.4f} +- {iqr:.4f}".format(**value)

    rows = [[exp, *(cell(v.get(name)) for name in names)] for exp, v in times.items()]
    return Table(["RTF", *names], rows)


def kept_table(pruning: dict[str, Any]) -> Table:
    """Show the units kept of dense, per block; ``gone`` where the submodule is."""

    def cell(kept: int, dense: int) -> str:
        if not dense:  # the dense model has no such submodule
            return DASH
        return f"{kept}/{dense}" if kept else "gone"

    small, large = pruning["architecture"], pruning["dense_architecture"]
    units = list(large["blocks"][0])  # in a block's order
    rows = [
        [str(number), *(cell(kept.get(unit, 0), dense[unit]) for unit in units)]
        for number, (kept, dense) in enumerate(
            # One that was trained from scratch may have fewer blocks.
            zip(whole_blocks(small), large["blocks"], strict=False),
            1,
        )
    ]
    return Table(["block", *units], rows)


def whole_blocks(architecture: dict[str, Any]) -> list[dict[str, int]]:
    """Return the sizes of each block; all 0 where it is gone."""
    blocks = architecture["blocks"]
    none = dict.fromkeys(next(filter(None, blocks), {}), 0)
    return [none if block is None else block for block in blocks]


def decoder_table(pruning: dict[str, Any]) -> Table | None:
    """Show the units kept of the decoder, per layer; None if it was not pruned."""
    if "decoder" not in pruning:
        return None
    return _layers("decoder layer", pruning["decoder"], pruning["dense_decoder"])


def frontend_table(pruning: dict[str, Any]) -> Table | None:
    """Show the units kept of the frontend's blocks; None if it was not pruned."""
    if "frontend" not in pruning:
        return None
    small, large = (pruning[name]["blocks"] for name in ("frontend", "dense_frontend"))
    return _layers("frontend block", small, large)


def frontend_sentence(pruning: dict[str, Any]) -> str:
    """Say what is kept of a pruned frontend in front of its blocks."""
    small, large = (pruning[name] for name in ("frontend", "dense_frontend"))
    pairs = zip(small["convolution"], large["convolution"], strict=True)
    channels = ", ".join(f"{kept}/{dense}" for kept, dense in pairs)
    groups = [len(each["positions"]) for each in (small, large)]
    taps = [end - first for first, end in (small["taps"], large["taps"])]
    return (
        f"Frontend, channels of its convolutions kept: {channels}; of its positional "
        f"convolution {groups[0]}/{groups[1]} groups and {taps[0]}/{taps[1]} taps."
    )


def _layers(title: str, small: list[dict], large: list[dict]) -> Table:
    """Show the units kept of dense, layer by layer; ``gone`` where there are none."""
    units = [unit for unit, number in large[0].items() if isinstance(number, int)]
    pairs = zip(small, large, strict=True)
    rows = [
        [str(number), *(f"{kept[u]}/{dense[u]}" if kept[u] else "gone" for u in units)]
        for number, (kept, dense) in enumerate(pairs, 1)
    ]
    return Table([title, *units], rows)


def channels_sentence(pruning: dict[str, Any]) -> str:
    """Say how many channels are kept of dense.

    They are those of the subsampling's two convolutions, and those between the layers.
    """
    small, large = pruning["architecture"], pruning["dense_architecture"]
    pairs = zip(small["subsampling"], large["subsampling"], strict=True)
    kept = ", ".join(f"{kept}/{dense}" for kept, dense in pairs)
    sentence = f"Subsampling channels kept: {kept}."
    if "model_dim" in pruning:
        kept, dense = pruning["model_dim"]
        sentence += f" Model dimension: {kept}/{dense}"
        if (target := pruning.get("model_dim_target")) is not None:
            sentence += f" (aimed at: {100 * target:.1f} % less)"
        sentence += "."
    return sentence


def pruning_sentence(pruning: dict[str, Any]) -> str:
    """Say what the target was, and what was reached."""
    target = pruning["target"]
    over = f" of the {target['denominator']}" if target.get("denominator") else ""
    groups = (f"{g} {100 * t:g} %" for g, t in (target.get("groups") or {}).items())
    if own := ", ".join(groups):
        over += f", of which {own} by targets of their own"
    by_limit = pruning.get("constraints") or []
    of = ""
    if target["kind"] != "params" and "macs_seconds" in pruning:
        of = f" (of an utterance of {pruning['macs_seconds']:g} s)"
    sentence = (
        f"Method {pruning['method']}; target: remove {100 * target['value']:.1f} % of "
        f"{target['kind']}{of}{over}; realised {100 * pruning['realised']:.2f} %"
    )
    if len(by_limit) > 1:
        parts = (f"{c['of']} {c['kind']} {100 * c['realised']:.2f} %" for c in by_limit)
        sentence += f" ({', '.join(parts)})"
    if "expected_before_projection" not in pruning:  # not made of gates
        return sentence + "."
    before = {
        kind: f"{100 * pruning[f'{kind}_before_projection']:.2f} %"
        for kind in ("expected", "realised")
    }
    return sentence + (
        f" (before the final projection: expected {before['expected']}, "
        f"realised {before['realised']})."
    )


def soup_sentence(exp: str, soup: dict[str, Any]) -> str:
    """Say what the average of fine-tunings brought, on the validation set.

    Args:
        exp: directory of the compact model.
        soup: its ``soup.json``.
    """
    told = [
        f"{one['run']} {100 * one['error_rate']:.2f} % "
        f"({'in' if one['is_in'] else 'left out'})"
        for one in soup["ingredients"]
    ]
    number = sum(one["is_in"] for one in soup["ingredients"])
    return (
        f"{exp}: `finetuned.pth` is the average of {number} of {len(told)} "
        f"fine-tunings, a greedy soup. On the validation set ({soup['validation']}, "
        f"decoded by {soup['decoding']}), which chose them, its {soup['metric']} is "
        f"{100 * soup['error_rate']:.2f} %, that of the best single one "
        f"{100 * soup['best_single']:.2f} %: {', '.join(told)}."
    )
