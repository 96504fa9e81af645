"""Draw the figures of the report (matplotlib, without a display)."""

import io
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from espnet_prune.config.methods import METHODS
from espnet_prune.report.curves import Curves
from espnet_prune.report.tables import whole_blocks

PALETTE = (
    "#2b6cb0", "#dd6b20", "#2f855a", "#805ad5",
    "#c53030", "#718096", "#b7791f", "#d53f8c",
    "#4c51bf", "#00838f", "#6d4c41",
)  # fmt: skip
COLOURS = dict(zip(METHODS, PALETTE, strict=True))  # the same in every report


def png(figure: Figure) -> bytes:
    """Render; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer, metadata={"Software": None})
    return buffer.getvalue()


def plain(axes: Axes) -> None:
    """Leave out what is no data: lines around, and all but a faint grid."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e2e8f0", linewidth=0.8)
    axes.set_axisbelow(True)


def kept_figure(pruning: dict[str, Any], title: str) -> Figure:
    """Draw a heat map of the kept share per block and unit, the subsampling apart."""
    small, large = pruning["architecture"], pruning["dense_architecture"]
    n_blocks = len(large["blocks"])
    figure = Figure(figsize=(2.6 + 0.72 * (n_blocks + 2), 3.8), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[2, n_blocks], sharey=False)

    def panel(axes: Axes, kept: list[list[int]], dense: list[list[int]]) -> Any:
        share = [
            [k / d if d else 0.0 for k, d in zip(*rows, strict=True)]
            for rows in zip(kept, dense, strict=True)
        ]
        image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        for y, (line, row) in enumerate(zip(kept, share, strict=True)):
            for x, (k, s) in enumerate(zip(line, row, strict=True)):
                colour = "white" if s > 0.6 else "#1a202c" if k else "#c53030"
                text = str(k) if k else "gone" if dense[y][x] else "none"
                axes.text(x, y, text, ha="center", va="center", color=colour, size=8)
        axes.set_xticks(range(len(kept[0])))
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        return image

    panel(left, [small["subsampling"]], [large["subsampling"]])
    sizes = enumerate(large["subsampling"], 1)
    left.set_xticklabels([f"conv {i}\n(of {size})" for i, size in sizes])
    left.set_yticks([0], ["channels"])
    left.set_title("subsampling", size=9)
    units = list(large["blocks"][0])
    image = panel(
        right,
        [[block.get(unit, 0) for block in whole_blocks(small)] for unit in units],
        [[block[unit] for block in large["blocks"]] for unit in units],
    )
    right.set_xticklabels([str(i) for i in range(1, n_blocks + 1)])
    dense = large["blocks"][0]
    right.set_yticks(range(len(units)), [f"{u} (of {dense[u]})" for u in units])
    right.set_title("block", size=9)
    figure.colorbar(image, ax=right, label="share kept", pad=0.02)
    figure.suptitle(title, size=11)
    return figure


# Panels of a training figure: title and the keys of ESPnet's statistics in it. What a
# run did not log is left out, and so is a panel without any curve.
PANELS = {
    "task loss": ("loss", "loss_task", "loss_ctc", "loss_att"),
    "distillation and sparsity loss": ("loss_layer", "loss_output", "loss_sparsity"),
    "token accuracy": ("acc",),
    "share removed": ("sparsity_expected", "sparsity_realised", "sparsity_target"),
    "multipliers": ("lambda1", "lambda2"),
}


def curves_figure(curves: Curves, title: str) -> Figure | None:
    """Draw training statistics by epoch, train solid, valid dashed; None if empty."""
    logged = curves["train"].keys() | curves["valid"].keys()
    panels = {
        name: [key for key in keys if key in logged] for name, keys in PANELS.items()
    }
    panels = {name: keys for name, keys in panels.items() if keys}
    if not panels:
        return None
    columns = min(3, len(panels))
    lines = -(-len(panels) // columns)
    figure = Figure(figsize=(4.2 * columns, 3.1 * lines + 0.4), layout="constrained")
    all_axes = figure.subplots(lines, columns, squeeze=False).ravel()
    for axes in all_axes[len(panels) :]:
        axes.set_visible(False)
    for axes, (name, keys) in zip(all_axes, panels.items(), strict=False):
        for key, colour in zip(keys, PALETTE, strict=False):
            target = key == "sparsity_target"
            for phase, style in (("train", "-"), ("valid", "--")):
                points = curves[phase].get(key)
                # What gates and schedule do is the same in both phases.
                repeated = phase == "valid" and name in ("share removed", "multipliers")
                if not points or repeated:
                    continue
                axes.plot(
                    *zip(*points, strict=True),
                    ":" if target else style,
                    color="black" if target else colour,
                    marker="." if len(points) < 40 else None,
                    label=key if phase == "train" else f"{key} (valid)",
                )
        axes.set_title(name, size=10)
        axes.set_xlabel("epoch", size=9)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
        axes.tick_params(labelsize=8)
        below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.18), "ncols": 2}
        axes.legend(fontsize=7, edgecolor="none", **below)
        plain(axes)
    figure.suptitle(title, size=11)
    return figure
