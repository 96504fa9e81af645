"""The report as a list of parts, and its two renderings: Markdown and HTML."""

import base64
import html
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from espnet_prune.base.files import atomic_path, write_json, write_text
from espnet_prune.config.methods import METHODS
from espnet_prune.report import plots, tables
from espnet_prune.report.caveats import caveats
from espnet_prune.report.collect import BY_ESPNET, Collected
from espnet_prune.report.pareto import Point, pareto
from espnet_prune.report.quality import is_scored, leading, metrics
from espnet_prune.report.rendering import Table, write_csv
from espnet_prune.report.verdict import verdicts


@dataclass(frozen=True)
class Heading:
    text: str


@dataclass(frozen=True)
class Paragraph:
    text: str
    warning: bool = False


@dataclass(frozen=True)
class Picture:
    """A PNG; ``name`` is its file beside ``report.md``."""

    name: str
    title: str
    data: bytes


Part = Heading | Paragraph | Picture | Table

COSTS = (
    "encoder parameters, millions",
    "encoder GMAC per second of audio",
    "real-time factor of the encoder",
)
READING = (
    "Beside a cost: its change against dense. 95 %: interval by bootstrap over "
    "utterances. p: two-sided paired bootstrap against dense on the same "
    "utterances. RTF: seconds of computing per second of audio, one utterance at a "
    "time, each column from audio samples on, so encoder includes the frontend, and "
    "search the encoder; changes within the +- below are noise. M: millions of "
    "parameters. GMAC/s: 1e9 multiply-accumulates per second of audio{length}. "
    "- : not measured yet, or not applicable."
)

SPREAD = (
    "Median over the rounds of one run, and +- the interquartile range of whole "
    "rounds: how quiet the machine was."
)
BY_RUNTIME = (
    "The encoders are run by onnxruntime, the dense one's, too, so that the gain is "
    "that of pruning; ESPnet's own, by torch, computes the same more slowly."
)
BY_TORCH = "The encoders are ESPnet's own, run by torch."
SIGNIFICANCE = (
    "Differences in points, positive: worse than the other. Paired bootstrap over "
    "utterances, two-sided; by speaker: t-test over speakers, where there are "
    "five or more of similar size; MAPSSWE of NIST's SCTK where that is installed."
)

DELAY = (
    "Latency of the streaming search, from an utterance's last samples to its text "
    "(the median; the encoder's look-ahead is waited for while audio still comes)"
)

UNITS = (
    "The map shows what each block kept of the dense model's: hidden units of the two "
    "feed-forward modules (ffn1, ffn2), attention heads, query/key and value "
    "dimensions of each head (qk_dim, v_dim), and channels of the convolution (conv); "
    "an E-Branchformer also has units of the gating MLP (cgmlp), and channels that "
    "each branch gives on (attn_out, cgmlp_out)."
)


def _length(seconds: float | None) -> str:
    return "" if seconds is None else f", in an utterance of {seconds:g} s"


def build(found: Collected, note: str) -> list[Part]:
    """Lay the report out, top to bottom."""
    report = found.report
    # What the preset says of all numbers stands before the first of them.
    parts: list[Part] = [Paragraph(note, warning=True)] if note else []
    parts += [Paragraph(text) for text in verdicts(report["rows"])]
    parts += [Paragraph(text, warning=True) for text in caveats(report)]
    parts += [
        Paragraph(
            f"Corpus: {report['corpus']}. Decoded as {report['decoding']}.yaml says."
        ),
        Heading("Dense against compact"),
        tables.main_table(report["rows"]),
        Paragraph(READING.format(length=_length(report["macs_seconds"]))),
        *_comparison(found),
        Heading("Where the cost is"),
        tables.cost_table(report["rows"]),
    ]
    if found.times:
        by_runtime = any(name.endswith(BY_ESPNET) for name in found.times)
        parts += [
            Heading("Where the time goes"),
            tables.times_table(found.times),
            Paragraph(f"{SPREAD} {BY_RUNTIME if by_runtime else BY_TORCH}"),
        ]
        waits = {tables.label(row): row["delay"] for row in report["rows"]}
        told = [f"{name} {1000 * s:.0f} ms" for name, s in waits.items() if s]
        if told:
            parts.append(Paragraph(f"{DELAY}: {', '.join(told)}."))
    parts.append(Heading("What was kept"))
    if not found.pruning:
        parts.append(Paragraph("Not known yet: export (stage 13) writes it."))
    else:
        parts.append(Paragraph(UNITS))
    for number, (exp, pruning) in enumerate(found.pruning.items(), 1):
        parts.append(Paragraph(f"{exp}: {tables.pruning_sentence(pruning)}"))
        if METHODS[pruning["method"]].gated:  # of that nothing is kept
            picture = plots.png(plots.kept_figure(pruning, f"Kept units ({exp})"))
            parts.append(Picture(f"kept_{number}.png", f"Kept units of {exp}", picture))
        parts += [
            Paragraph(tables.channels_sentence(pruning)),
            tables.kept_table(pruning),
        ]
        if decoder := tables.decoder_table(pruning):
            parts.append(decoder)
        if frontend := tables.frontend_table(pruning):
            parts += [Paragraph(tables.frontend_sentence(pruning)), frontend]
    if found.soups:
        parts.append(Heading("Averaged fine-tunings"))
    parts += [Paragraph(tables.soup_sentence(*soup)) for soup in found.soups.items()]
    parts.append(Heading("Training curves"))
    if not found.curves:
        parts.append(Paragraph("None yet: stages 11, 12 and 14 leave them."))
    for number, (title, curves) in enumerate(found.curves.items(), 1):
        figure = plots.curves_figure(curves, title)
        if figure:
            name = f"curves_{number}.png"
            parts.append(Picture(name, title, plots.png(figure)))
    if found.missing:
        parts += [
            Heading("Not there yet"),
            Paragraph("Shown as - or left out: " + "; ".join(found.missing) + "."),
        ]
    parts += [
        Heading("Environment"),
        Table(["", "value"], _environment_rows(report["environment"])),
    ]
    return parts


def _comparison(found: Collected) -> list[Part]:
    """Show Pareto pictures and significance, if there is something to compare."""
    rows, parts = found.report["rows"], []
    for number, test_set in enumerate(dict.fromkeys(r["test_set"] for r in rows), 1):
        own = [row for row in rows if row["test_set"] == test_set]
        if figure := pareto_figure(own, f"Errors against cost ({test_set})"):
            name = f"pareto_{number}.png"
            parts.append(Picture(name, f"Pareto of {test_set}", plots.png(figure)))
    if any(row["vs"] for row in rows):
        table = tables.significance_table(rows)
        parts += [Heading("Significance"), table, Paragraph(SIGNIFICANCE)]
    return parts


def pareto_figure(rows: list[dict[str, Any]], title: str) -> Figure | None:
    """Draw the error rates in fp32 of one test set against costs, if there are two."""
    points = []
    for row in rows:
        if is_scored(row) and row["precision"] == "fp32":
            own = leading(row)
            params, macs = row["params"]["encoder"], row["macs_per_second"]["encoder"]
            scaled = (params and params / 1e6, macs and macs / 1e9)
            costs = *scaled, row["rtf"]["encoder"]
            points.append(Point(row["method"] or "?", costs, own["value"], own["ci"]))
    return pareto(points, COSTS, f"{metrics(rows)[0]}, %", title)


def _environment_rows(environment: dict[str, Any]) -> list[list[str]]:
    versions = ", ".join(f"{k} {v}" for k, v in environment["packages"].items() if v)
    rows = [["report made", environment["date"]]]
    rows.append(["software", f"Python {environment['python']}, {versions}"])
    machine = environment["measured_on"]
    if machine is None:
        return [*rows, ["times measured on", "not measured yet (stage 17)"]]
    return [
        *rows,
        [
            "times measured on",
            f"{machine['cpu']}, {machine['cores']} cores, torch {machine['torch']}",
        ],
        ["instruction sets", " ".join(machine["instruction_sets"])],
        ["threads", str(machine["threads"])],
        ["warning", machine["warning"] or "none: the machine was quiet"],
    ]


def markdown(parts: list[Part], title: str) -> str:
    """Render ``report.md``; pictures are files beside it."""
    lines = [f"# {title}", ""]
    for part in parts:
        match part:
            case Heading(text):
                lines += [f"## {text}", ""]
            case Paragraph(text, warning):
                lines += [f"> **{text}**" if warning else text, ""]
            case Picture(name, alt, _):
                lines += [f"![{alt}]({name})", ""]
            case Table():
                lines += [part.markdown()]
    return "\n".join(lines)


STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; color: #1a202c; background: #fff;
  max-width: 76rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
.warning { background: #fffaf0; border-left: 4px solid #dd6b20; padding: .6rem 1rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 14px; white-space: nowrap;
  font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .3rem .7rem; border-bottom: 1px solid #e2e8f0; }
th { border-bottom: 2px solid #a0aec0; font-weight: 600; }
th:first-child, td:first-child { text-align: left; }
code { background: #edf2f7; padding: 0 .25em; } img { max-width: 100%; }
p { max-width: 60rem; }
"""


def _html_text(text: str) -> str:
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text))


def html_page(parts: list[Part], title: str) -> str:
    """Render ``report.html``: one file with all in it, no reference to outside."""
    body = [f"<h1>{html.escape(title)}</h1>"]
    for part in parts:
        match part:
            case Heading(text):
                body.append(f"<h2>{html.escape(text)}</h2>")
            case Paragraph(text, warning):
                kind = ' class="warning"' if warning else ""
                body.append(f"<p{kind}>{_html_text(text)}</p>")
            case Picture(_, alt, data):
                source = f"data:image/png;base64,{base64.b64encode(data).decode()}"
                body.append(f'<p><img alt="{html.escape(alt)}" src="{source}"></p>')
            case Table():
                body.append(f'<div class="scroll">{part.html()}</div>')
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{html.escape(title)}</title><style>{STYLE}</style></head><body>\n"
        + "\n".join(body)
        + "\n</body></html>\n"
    )


def write_report(
    out: Path, parts: list[Part], title: str, report: dict[str, Any]
) -> None:
    """Write ``report.{md,html,json,csv}`` and the pictures, instead of older ones."""
    for old in out.glob("*_[0-9]*.png"):  # of other systems, perhaps
        old.unlink()
    for part in parts:
        if isinstance(part, Picture):
            with atomic_path(out / part.name) as temporary:
                temporary.write_bytes(part.data)
    write_text(out / "report.md", markdown(parts, title))
    write_text(out / "report.html", html_page(parts, title))
    write_json(out / "report.json", report)
    with atomic_path(out / "report.csv") as temporary:
        write_csv(temporary, report["rows"])
