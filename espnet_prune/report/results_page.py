"""The page of results, from records: claims first, then four tables at most."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from espnet_prune.report.plots import PALETTE, plain
from espnet_prune.report.quality import DENSE
from espnet_prune.report.rendering import DASH, Table
from espnet_prune.report.results import SECTIONS, Record, Row

PICTURE = "results.png"
HEAD = """\
# Results

<!-- made by: python3 -m espnet_prune.cli.results, from results/*.json -->

Values are means over seeds, in brackets the least and the largest of them. Differences
to the dense model have 95 % intervals over utterances, and over speakers where speakers
are known: a difference "for these speakers" might turn round with others. Encoders are
timed by onnxruntime, the search with its decoder.

{claims}

![Error rate against what is left, and against time, a dot per seed]({picture})

What helps, what does not, and when pruning is the wrong choice:
[findings](findings.md). Older protocols, and all else that was measured:
[archive](results-archive.md).
"""
KINDS = {
    "params": "parameters", "macs": "MACs", "params+macs": "parameters and MACs",
    "latency": "time",
}  # fmt: skip
PARTS = ("encoder", "search")  # that are timed, of a system that decodes
SEEDS = {1: "one seed", 2: "two seeds", 3: "three seeds"}


def page(records: Mapping[str, Record]) -> str:
    """Write the page.

    Args:
        records: by name.
    """
    parts = [HEAD.format(claims=claims(records), picture=PICTURE)]
    for section in SECTIONS:
        own = [record for record in records.values() if record.section == section]
        if own:
            parts += [f"## {section[0].upper()}{section[1:]}\n", table(own).markdown()]
            parts += [_origin(record) for record in own]
    return "\n".join(parts)


def claims(records: Mapping[str, Record]) -> str:
    """Write a line for each record, real speech first."""
    ordered = sorted(
        records.values(), key=lambda record: SECTIONS.index(record.section)
    )
    return "\n".join(f"- {claim(record)}" for record in ordered)


def claim(record: Record) -> str:
    """Say in a sentence what the record shows of L0 pruning, or of the clock."""
    name = record.metric.removesuffix(" %")
    unit = record.metric.removeprefix(name)
    if record.metric:
        told = [f"the dense model has a {name} of {shown(record.dense, unit)}"]
    else:
        alone = "onnxruntime alone makes the dense encoder"
        told = [f"{alone} {_speeds(record.dense)} as fast as torch does"]
    of = f" of the encoder's {KINDS[record.kind]}"
    for row in record.rows:
        if row.target is None or (record.metric and row.system != "L0"):
            continue
        said = f"is {_speeds(row)} as fast"
        if record.metric:
            judged = verdict(row, record.higher)
            said = f"has {shown(row, unit)}, {judged}{_gain(row)}"
        told.append(f"with {100 * row.target:g} %{of} gone it {said}")
        of = ""
    return f"**{record.title}**: {'; '.join(told)}."


def _gain(row: Row) -> str:
    encoder, search = (row.speed.get(part) for part in PARTS)
    if encoder is None:
        return ""
    told = f", and its encoder is {encoder:.1f} times as fast"
    return told if search is None else f"{told} (the search {search:.1f} times)"


def _speeds(row: Row) -> str:
    return " and ".join(f"{v:.1f} times ({name})" for name, v in row.speed.items())


def verdict(row: Row, higher: bool) -> str:
    """Say in words what a difference is worth; ``higher``: more of it is better."""
    seeds = f"({SEEDS.get(row.seeds, f'{row.seeds} seeds')})"
    if row.difference is None or len(row.difference) < 3:
        return f"not tested {seeds}"
    _, low, high = row.difference
    if low <= 0 <= high:
        return f"not told apart {seeds}"
    told = "better" if (low > 0) == higher else "worse"
    if row.by_speaker and row.by_speaker[0] <= 0 <= row.by_speaker[1]:
        told += " for these speakers"
    return f"{told} {seeds}"


def shown(row: Row, unit: str = "") -> str:
    """Format mean and, of several seeds, least and largest value."""
    digits = ".0f" if row.mean >= 100 or row.mean <= -100 else ".2f"
    low, high = (format(value, digits) for value in row.span)
    told = format(row.mean, digits) + unit
    return told if low == high else f"{told} ({low} to {high})"


def table(records: list[Record]) -> Table:
    """Make the table of a section, of eight rows at most."""
    if not records[0].metric:
        return clock(records)
    several = len(records) > 1
    tables = [
        comparison(r.title, r.metric, r.rows, DENSE, r.higher, named=several)
        for r in records
    ]
    header = ["", *tables[0].header[1:]] if several else tables[0].header
    return Table(header, [row for each in tables for row in each.rows])


def comparison(
    title: str,
    metric: str,
    rows: Sequence[Row],
    against: str,
    higher: bool = False,
    named: bool = False,
) -> Table:
    """Compare systems with another one.

    Args:
        title: of the comparison.
        metric: with its unit.
        rows: of the systems.
        against: what differences are to.
        higher: whether more of the metric is better.
        named: whether each row repeats the title.
    """
    header = [title, "gone: params / MACs", metric, f"difference to {against}"]
    lines = []
    for row in rows:
        told = verdict(row, higher) if row.difference or row.target else ""
        cells = [_gone(row), shown(row), _difference(row), told]
        name = f"{title}: {row.system}" if named else row.system
        lines.append([name, *cells, *(_times(row.speed.get(part)) for part in PARTS)])
    return Table(
        [*header, "verdict", *(f"{part}, times as fast" for part in PARTS)], lines
    )


def clock(records: list[Record]) -> Table:
    """Show how many times as fast as ESPnet's dense encoder each is, by format."""
    formats = list(dict.fromkeys(n for r in records for w in r.rows for n in w.speed))
    lines = [
        [f"{record.title}: {row.system}" if len(records) > 1 else row.system]
        + [_gone(row), *(_times(row.speed.get(name)) for name in formats)]
        for record in records
        for row in record.rows
    ]
    title = "" if len(records) > 1 else records[0].title
    named = (f"times as fast, {name}" for name in formats)
    return Table([title, "gone: params / MACs", *named], lines)


def _gone(row: Row) -> str:
    gone = [f"{100 * row.gone[k]:.0f}" for k in ("params", "macs") if k in row.gone]
    return " / ".join(gone) + (" %" if gone else "")


def _times(value: float | None) -> str:
    return DASH if value is None else f"{value:.1f}"


def _difference(row: Row) -> str:
    if row.difference is None:
        return DASH
    if len(row.difference) == 1:
        return f"{row.difference[0]:+.2f}"
    told = "{:+.2f} ({:+.2f} to {:+.2f}".format(*row.difference)
    if row.by_speaker:
        told += "; speakers {:+.2f} to {:+.2f}".format(*row.by_speaker)
    return f"{told})"


def _origin(record: Record) -> str:
    """Say how the figures were made."""
    made = record.made
    commands = "\n".join(f"    {line}" for line in made.command)
    told = f"{record.title}: {record.test}; {made.commit}, {made.machine}, {made.date}."
    return f"{told}\n\n{commands}\n"


def picture(records: Mapping[str, Record]) -> Figure | None:
    """Draw the metric against what is left and against time, a dot per seed.

    Args:
        records: those of which no pruned encoder has values are left out.

    Returns:
        None where none has.
    """
    panels = [
        (record, cost, label)
        for record in records.values()
        for cost, label in ((_left, "parameters"), (_time, "time"))
        if any(row.target and row.values and cost(row) for row in record.rows)
    ]
    if not panels:
        return None
    lines = -(-len(panels) // 2)
    figure = Figure(figsize=(9.5, 3.2 * lines), layout="constrained")
    grid = figure.subplots(lines, 2, squeeze=False).ravel()
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    for axes, (record, cost, label) in zip(grid, panels, strict=False):
        systems = list(dict.fromkeys(row.system for row in record.rows))
        for number, system in enumerate(systems):
            dots = [
                (cost(row), value)
                for row in record.rows
                if row.system == system and cost(row)
                for value in row.values
            ]
            if dots:
                colour = "black" if system == "dense" else PALETTE[number % 8]
                x, y = zip(*dots, strict=True)
                axes.plot(x, y, "o", color=colour, ms=5, label=system)
        axes.margins(0.1)
        axes.set_xlim(0, 1.08)
        axes.set_ylim(bottom=0)
        axes.set_xlabel(f"share of the encoder's {label} that is left", size=8)
        axes.set_ylabel(record.metric, size=8)
        axes.set_title(record.title, size=10)
        axes.legend(fontsize=7, edgecolor="none")
        plain(axes)
    return figure


def _left(row: Row) -> float | None:
    if row.target is None:
        return 1.0
    return 1 - row.gone["params"] if "params" in row.gone else None


def _time(row: Row) -> float | None:
    if row.target is None:
        return 1.0
    return 1 / row.speed["encoder"] if "encoder" in row.speed else None
