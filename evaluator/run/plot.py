"""The picture of a run: normalised entropy over the stream, and below it the loss to the root."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from io import BytesIO
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator

from evaluator.metrics.metric import Floats
from evaluator.run.history import RangeScores, RunHistory, WindowTable
from stream import ModelSpec
from stream.messages import Alarm

__all__ = ["PAPER", "Paper", "Suffix", "draw", "save"]

Theme = Literal["light", "dark"]
Suffix = Literal["svg", "png"]
FONT: Final = "DejaVu Sans"
"""It comes with matplotlib, so that a picture is laid out alike everywhere."""
MAX_WINDOWS: Final = 120
"""The smallest windows are drawn of which there are no more than this."""


@dataclass(frozen=True, slots=True)
class Palette:
    """The colours of a theme."""

    ground: str
    ink: str
    muted: str
    faint: str
    hatch: str

    def of(self, model: ModelSpec) -> str:
        """Return a model's colour; models without one of their own are grey."""
        return model.colour or self.muted

    def hues(self, models: Sequence[ModelSpec]) -> dict[str, str]:
        """Return all colours by name, those of the models too."""
        own = {name: str(getattr(self, name)).upper() for name in self.__slots__}
        return own | {model.name: model.colour.upper() for model in models if model.colour}

    @property
    def settings(self) -> dict[Any, Any]:
        """What matplotlib needs to draw in these colours, the same on every machine."""
        return {
            "axes.edgecolor": self.faint,
            "axes.facecolor": self.ground,
            "axes.labelcolor": self.muted,
            "axes.labelsize": 9,
            "axes.spines.right": False,
            "axes.spines.top": False,
            "figure.facecolor": self.ground,
            "font.family": FONT,
            "font.size": 9.5,
            "hatch.color": self.hatch,
            "hatch.linewidth": 0.8,
            "lines.linewidth": 1.7,
            "lines.solid_capstyle": "round",
            "svg.fonttype": "none",
            "svg.hashsalt": "resprout",
            "text.color": self.ink,
            "xtick.color": self.faint,
            "xtick.labelcolor": self.muted,
            "ytick.color": self.faint,
            "ytick.labelcolor": self.muted,
        }


PALETTES: Final[dict[Theme, Palette]] = {
    "light": Palette("#FFFFFF", "#1F2328", "#6E7781", "#E4E8EC", "#D8DEE4"),
    "dark": Palette("#0E1116", "#E6EDF3", "#8B949E", "#242A31", "#2A313A"),
}


def label_layout(heights: Sequence[float], gap: float) -> list[float]:
    """Move heights apart as little as need be, keeping their order.

    Examples
    --------
    >>> label_layout([0.5, 0.5, 0.9], gap=0.1)
    [0.45, 0.55, 0.9]
    """
    order = np.argsort(heights, kind="stable")
    groups: list[list[float]] = []
    for height in np.asarray(heights)[order].tolist():
        groups.append([height])
        while len(groups) > 1 and _top(groups[-2], gap) + gap > _bottom(groups[-1], gap):
            last = groups.pop()
            groups[-1] += last
    placed = [_bottom(group, gap) + i * gap for group in groups for i in range(len(group))]
    found = np.empty(len(placed))
    found[order] = placed
    return [float(height) for height in found]


def _bottom(group: Sequence[float], gap: float) -> float:
    """Return where the lowest of a group is, the group centred on its mean."""
    return sum(group) / len(group) - gap * (len(group) - 1) / 2


def _top(group: Sequence[float], gap: float) -> float:
    return _bottom(group, gap) + gap * (len(group) - 1)


_FONTS: Final = "system-ui, -apple-system, &quot;Segoe UI&quot;, Helvetica, Arial, sans-serif"
_LEFT, _RIGHT, _TOP, _BOTTOM = 0.69, 1.93, 0.49, 0.65
"""Inches around the panels, where the key has one row."""
_BETWEEN: Final = 0.53
"""Inches between two panels, where the title of the lower one is."""
_ROW: Final = 0.2
"""Inches that each further row of the key takes."""
_LETTER: Final = 0.066
"""Inches that a letter of the key or beside a title takes, more or less."""
_BOLD: Final = 0.084
"""Inches of a letter of a title."""
_TICK: Final = 0.8
"""Inches between two labels of the axis of events, at least."""
_LEAST: Final = (4.5, 3.5)
"""Inches of the smallest picture."""
_MOST_PIXELS: Final = 100_000_000
_GAP_POINTS: Final = 14
"""Between two labels at line ends."""
_AT_LEAST: Final = (-0.05, 0.45)
"""Percent that the relative panel shows at least, so that noise does not fill it."""
_MILLIONS: Final = 1_500_000
"""From this many events on the axis counts in millions."""
_FILLS: Final = {"promoted": "full", "rejected": "none"}
_BACK: Final = "<"
"""The mark of a rollback; those of rebuilds point down."""
_ALARM: Final = "D"
"""The mark of an alarm, hollow: nothing was decided by it."""
_SIZE: Final = 6
_SIZES: Final = {_ALARM: 4.2}
"""Points of a mark; a square on its corner looks larger than it is."""
_LEARNED: Final = 0.1
"""The share of the stream before which the learning curve may leave the panel."""


@dataclass(frozen=True, slots=True)
class Paper:
    """What a picture is drawn on.

    Letters keep their size, so draw a picture as large as it is to be printed.

    Examples
    --------
    >>> Paper(width=3)
    Traceback (most recent call last):
    ...
    ValueError: a picture of 3 x 5.2 inches; it takes 4.5 x 3.5 at least, to bear its labels
    """

    width: float = 9.2
    """Inches."""
    height: float = 5.2
    """Inches."""
    dpi: int = 144
    """Pixels an inch, of PNG."""
    outlines: bool = False
    """SVG: letters are drawn as shapes, the same everywhere, rather than in the reader's font."""

    def __post_init__(self) -> None:
        size = f"{self.width:g} x {self.height:g} inches"
        if not (self.width >= _LEAST[0] and self.height >= _LEAST[1]):
            least = f"{_LEAST[0]:g} x {_LEAST[1]:g}"
            raise ValueError(f"a picture of {size}; it takes {least} at least, to bear its labels")
        if self.dpi < 1 or self.width * self.height * self.dpi**2 > _MOST_PIXELS:
            raise ValueError(
                f"a picture of {size} at {self.dpi} dpi; use 1 dpi or more, and no more than "
                f"{_MOST_PIXELS:,} pixels in all"
            )


PAPER: Final = Paper()


@dataclass(frozen=True, slots=True)
class RunView:
    """What a picture shows of a run."""

    history: RunHistory
    size: int
    """Of the windows that are drawn."""
    table: WindowTable
    """These windows."""
    models: list[ModelSpec]
    """Those that were scored at all, the root first."""
    alarms: list[int]
    """The counts at which there was any alarm."""
    last_half: RangeScores | None
    """The scores over the last half of the events since the first mask, if there was one."""

    @classmethod
    def of(cls, history: RunHistory, size: int | None = None) -> RunView:
        """Choose the windows; by default the smallest of which there are not too many."""
        sizes = history.sizes
        few = [one for one in sizes if len(history.tables[one]) <= MAX_WINDOWS]
        size = size or (few or [*sizes, 0])[0]
        if size not in sizes:
            known = ", ".join(f"{one:,}" for one in sizes) or "none"
            raise ValueError(
                f"no whole window of {size:,} events to draw; sizes there are: {known}"
            )
        table = history.tables[size]
        found = [one for one in history.models if np.isfinite(table.column(f"{one.name}.ce")).any()]
        alarms = {e.message.count for e in history.happened if isinstance(e.message, Alarm)}
        half = None if history.start is None else history.whole_and_last_half()[1]
        return cls(history, size, table, found, sorted(alarms), half)

    @property
    def end(self) -> int:
        """The count at which the last window ends."""
        return int(self.table.ends[-1])

    @property
    def others(self) -> list[ModelSpec]:
        """The models that are compared with the root."""
        return [model for model in self.models if model.role != "root"]

    def lost(self, model: ModelSpec) -> float | None:
        """Return what a model has lost to the root over the last half."""
        models = self.last_half.models if self.last_half else {}
        return models.get(model.name, {}).get("relative_ce")


def save(
    history: RunHistory,
    folder: Path,
    name: str = "run",
    suffix: Suffix = "svg",
    paper: Paper = PAPER,
) -> tuple[Path, Path]:
    """Write ``<name>-light.svg`` and ``<name>-dark.svg``; equal runs give equal bytes.

    Parameters
    ----------
    history
        The run.
    folder
        Made if need be.
    name
        Of the files.
    suffix
        What they are, and how they end.
    paper
        What they are drawn on.
    """
    light, dark = (draw(history, theme, suffix, paper) for theme in ("light", "dark"))
    folder.mkdir(parents=True, exist_ok=True)
    paths = folder / f"{name}-light.{suffix}", folder / f"{name}-dark.{suffix}"
    paths[0].write_bytes(light)
    paths[1].write_bytes(dark)
    return paths


def draw(
    history: RunHistory,
    theme: Theme = "light",
    suffix: Suffix = "svg",
    paper: Paper = PAPER,
    size: int | None = None,
) -> bytes:
    """Draw a run, as SVG or PNG, in windows of some size; raises where there is none."""
    view, palette = RunView.of(history, size), PALETTES[theme]
    letters = {"svg.fonttype": "path"} if paper.outlines else {}
    with style.context(["default", palette.settings, letters]):
        figure = Figure(figsize=(paper.width, paper.height))
        FigureCanvasAgg(figure)
        _compose(figure, view, palette)
        drawn = BytesIO()
        about = {"Date": None, "Creator": "resprout"} if suffix == "svg" else {}
        figure.savefig(drawn, format=suffix, dpi=paper.dpi, metadata=about)
    return _with_title(drawn.getvalue(), view) if suffix == "svg" else drawn.getvalue()


def _compose(figure: Figure, view: RunView, palette: Palette) -> None:
    """Put the panels on the figure: one where the root runs alone, else two."""
    others = view.others
    ratios = [3, 2] if others else [1]
    width, height = figure.get_size_inches()
    key = _rows(_entries(view), width)
    bottom = _BOTTOM + _ROW * max(len(key) - 1, 0)
    grid = figure.add_gridspec(
        len(ratios),
        1,
        height_ratios=ratios,
        hspace=2 * _BETWEEN / (height - _TOP - bottom - _BETWEEN),
        left=_LEFT / width,
        right=1 - _RIGHT / width,
        top=1 - _TOP / height,
        bottom=bottom / height,
    )
    top = figure.add_subplot(grid[0])
    panels = [top, figure.add_subplot(grid[1], sharex=top)] if others else [top]
    for panel in panels:
        _background(panel, view, palette)
    _entropies(top, view, palette)
    if others:
        top.tick_params(labelbottom=False)
        _relatives(panels[1], view, palette)
    _events_axis(panels[-1], view)
    _marks(panels, view, palette)
    _key(figure, key, palette)


def _background(panel: Axes, view: RunView, palette: Palette) -> None:
    """Draw what is under the lines: a grid and the ranges of true drift."""
    panel.set_axisbelow(True)
    panel.grid(axis="y", color=palette.faint, linewidth=0.8)
    panel.tick_params(length=0, pad=5)
    panel.spines["left"].set_visible(False)
    for band in view.history.bands:
        panel.axvspan(
            band.begin, band.end, facecolor="none", edgecolor=palette.hatch, hatch="///", lw=0
        )


def _entropies(panel: Axes, view: RunView, palette: Palette) -> None:
    """Draw the normalised entropy of each model."""
    lines = [(model, view.table.column(f"{model.name}.ne")) for model in view.models]
    _lines(panel, view, lines, palette)
    learned = _middles(view) >= _LEARNED * view.end
    _limits(panel, np.concatenate([line[learned] for _, line in lines]))
    _title(panel, "Normalised entropy", "lower is better, 1 = no better than the click rate")
    low, high = panel.get_ylim()
    if low < 1 < high:
        panel.axhline(1, color=palette.muted, linewidth=0.8)
    _end_labels(panel, [(model, line, model.label) for model, line in lines], palette)


def _relatives(panel: Axes, view: RunView, palette: Palette) -> None:
    """Draw what each model loses to the root, in percent."""
    root, table = view.history.root, view.table
    lines = [(one, 100 * table.column(f"{one.name}.relative_ce")) for one in view.others]
    panel.axhline(0, color=palette.of(root), linewidth=1.7)
    _lines(panel, view, lines, palette)
    _limits(panel, np.concatenate([*(line for _, line in lines), _AT_LEAST]))
    panel.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:+g} %" if y else "0 %"))
    last = f"windows of {view.size:,} events".replace(",", " ")
    _title(panel, f"Cross entropy relative to {root.label}", f"on the same events, {last}")
    labels = [(root, np.zeros(1), root.label)]
    for model, line in lines:
        mean = view.lost(model)
        figure = "" if mean is None else f"  {100 * mean:+.2f} %*"
        labels.append((model, line, f"{model.label}{figure}"))
    _end_labels(panel, labels, palette)


def _lines(
    panel: Axes, view: RunView, lines: Sequence[tuple[ModelSpec, Floats]], palette: Palette
) -> None:
    """Draw one line a model."""
    for model, line in lines:
        dashed = (0, model.dash) if model.dash else "solid"
        marker = "o" if np.isfinite(line).sum() == 1 else "none"
        colour = palette.of(model)
        panel.plot(
            _middles(view), line, color=colour, linestyle=dashed, marker=marker, markersize=4
        )


def _limits(panel: Axes, seen: Floats) -> None:
    """Fit the panel around what is to be seen; NaN is not."""
    seen = seen[np.isfinite(seen)]
    low, high = (float(seen.min()), float(seen.max())) if len(seen) else (0.0, 1.0)
    pad = 0.09 * (high - low) or 0.01
    panel.set_ylim(low - pad, high + pad)
    panel.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))


def _title(panel: Axes, title: str, more: str) -> None:
    """Write what a panel shows above its left corner, and more of it where there is room."""
    text = panel.text(
        0, _above(panel, 11), title, transform=panel.transAxes, fontsize=10.5, fontweight="bold"
    )
    if _LEFT + len(title) * _BOLD + len(more) * _LETTER > _size(panel)[0]:
        return
    panel.annotate(
        more,
        (1, 0),
        xycoords=text,
        xytext=(8, 0.7),
        textcoords="offset points",
        va="bottom",
        fontsize=9,
        color=panel.xaxis.label.get_color(),
    )


def _end_labels(
    panel: Axes, lines: Sequence[tuple[ModelSpec, Floats, str]], palette: Palette
) -> None:
    """Write each line's name where it ends, moved apart where two end close to each other."""
    low, high = panel.get_ylim()
    ends = [
        (model, float(line[np.isfinite(line)][-1]), text)
        for model, line, text in lines
        if np.isfinite(line).any()
    ]
    gap = _above(panel, _GAP_POINTS) - 1
    heights = label_layout([(end - low) / (high - low) for _, end, _ in ends], gap)
    for (model, _, text), height in zip(ends, heights, strict=True):
        panel.text(
            1.012,
            height,
            text,
            transform=panel.transAxes,
            color=palette.of(model),
            va="center",
            fontweight="bold",
        )


def _above(panel: Axes, points: float) -> float:
    """Return the height that many points above a panel, as a share of the panel's own height."""
    return 1 + points / 72 / (panel.get_position().height * _size(panel)[1])


def _size(panel: Axes) -> tuple[float, float]:
    """Return the inches of the figure that a panel is on."""
    figure = panel.get_figure(root=True)
    width, height = figure.get_size_inches() if figure else (PAPER.width, PAPER.height)
    return float(width), float(height)


def _events_axis(panel: Axes, view: RunView) -> None:
    """Count events from 0, in thousands or millions."""
    panel.set_xlim(0, view.end)
    labels = int(panel.get_position().width * _size(panel)[0] / _TICK)
    panel.xaxis.set_major_locator(MaxNLocator(min(labels, 7), steps=[1, 2, 2.5, 5, 10]))
    unit, letter = (1e6, "M") if view.end >= _MILLIONS else (1e3, "k")
    panel.xaxis.set_major_formatter(
        FuncFormatter(lambda x, _: f"{x / unit:g} {letter}" if x else "0 events")
    )
    panel.get_xticklabels()[0].set_horizontalalignment("left")


def _marks(panels: Sequence[Axes], view: RunView, palette: Palette) -> None:
    """Mark where a rebuild ended: full where its mask took over, hollow where it was rejected.

    A rollback is marked where it took effect, pointing back; an alarm where it was raised.
    """
    over = _above(panels[0], 5)
    marks = [(count, "v", _FILLS[outcome], over) for count, outcome in _ended(view)]
    marks += [(count, _BACK, "full", over) for count in _rolled_back(view)]
    # At the foot: an alarm may be raised where a mask takes over.
    marks += [(count, _ALARM, "none", over - 1) for count in view.alarms if count <= view.end]
    for count, marker, fill, height in marks:
        panels[0].plot(
            [count],
            [height],
            marker=marker,
            markersize=_SIZES.get(marker, _SIZE),
            color=palette.ink,
            fillstyle=fill,
            transform=panels[0].get_xaxis_transform(),
            clip_on=False,
        )
        if fill == "full":
            for panel in panels:
                panel.axvline(count, color=palette.muted, linewidth=0.7, zorder=1)


def _ended(view: RunView) -> list[tuple[int, str]]:
    """Return where rebuilds were promoted or rejected; those superseded by a rollback were not."""
    return [
        (one.count, one.verdict)
        for one in view.history.verdicts
        if one.verdict in _FILLS and one.count <= view.end and not view.history.superseded(one)
    ]


def _rolled_back(view: RunView) -> list[int]:
    """Return where rollbacks took effect."""
    found = (one.rollback.count for one in view.history.rollbacks if one.rollback)
    return [count for count in found if count <= view.end]


def _entries(view: RunView) -> list[tuple[str, str]]:
    """Return the signs that there are to explain, and the words for each."""
    shown = {outcome for _, outcome in _ended(view)}
    kinds = sorted({kind for band in view.history.bands for kind in band.drift})
    entries: list[tuple[str, str]] = []
    if "promoted" in shown:
        entries.append(("full", "new mask takes over"))
    if "rejected" in shown:
        entries.append(("none", "candidate rejected"))
    if _rolled_back(view):
        entries.append((_BACK, "rollback"))
    if view.alarms and view.alarms[0] <= view.end:
        entries.append((_ALARM, "alarm"))
    if kinds:
        entries.append(("hatch", f"true drift: {', '.join(kinds)}"))
    if view.last_half and view.others:
        entries.append(("*", "over the last half since the first mask"))
    return entries


_SIGNS: Final = {"hatch": 0.267, "*": 0.11}
"""Inches that a sign takes; the others are markers."""
_MARKER: Final = 0.166
_APART: Final = 0.276
"""Inches between two entries of the key."""


def _rows(entries: Sequence[tuple[str, str]], width: float) -> list[list[tuple[str, str]]]:
    """Break the key into rows that fit into so many inches."""
    rows: list[list[tuple[str, str]]] = []
    x = width
    for entry in entries:
        taken = _taken(entry)
        if x + taken > width:
            rows.append([])
            x = _LEFT
        rows[-1].append(entry)
        x += taken + _APART
    return rows


def _taken(entry: tuple[str, str]) -> float:
    """Return the inches that an entry of the key takes."""
    sign, words = entry
    return _SIGNS.get(sign, _MARKER) + _LETTER * len(words)


def _key(figure: Figure, rows: Sequence[Sequence[tuple[str, str]]], palette: Palette) -> None:
    """Explain the marks that there are, below the panels."""
    width, height = figure.get_size_inches()
    tall = 0.312 + _ROW * max(len(rows) - 1, 0)
    axes = figure.add_axes((0.0, 0.052 / height, 1.0, tall / height))
    axes.set(xlim=(0, width), ylim=(0, tall))
    axes.axis("off")
    for number, row in enumerate(rows):
        x = _LEFT
        for entry in row:
            _entry(axes, (x, tall - 0.156 - _ROW * number), entry, palette)
            x += _taken(entry) + _APART


def _entry(axes: Axes, at: tuple[float, float], entry: tuple[str, str], palette: Palette) -> None:
    """Draw one sign and its words at a place, in inches."""
    (x, y), (sign, words) = at, entry
    if sign == "hatch":
        box = Rectangle((x, y - 0.062), 0.202, 0.125, hatch="/////", fill=False, linewidth=0)
        box.set_edgecolor(palette.hatch)
        axes.add_patch(box)
    elif sign == "*":
        axes.text(x, y, "*", va="center", fontsize=9, color=palette.muted)
    else:
        marker, fill = {_BACK: (_BACK, "full"), _ALARM: (_ALARM, "none")}.get(sign, ("v", sign))
        size = _SIZES.get(marker, _SIZE)
        axes.plot([x + 0.046], [y], marker, markersize=size, color=palette.ink, fillstyle=fill)
    words_at = x + _SIGNS.get(sign, _MARKER)
    axes.text(words_at, y - 0.006, words, va="center", fontsize=8.5, color=palette.muted)


def _middles(view: RunView) -> Floats:
    return np.asarray(view.table.ends - view.size / 2)


def _with_title(svg: bytes, view: RunView) -> bytes:
    """Name the picture for those who hear it, and let it use the reader's own font."""
    root = view.history.root.label
    lost = [
        f"{model.label} {100 * mean:+.2f} % against {root} over the last half"
        for model in view.others
        if (mean := view.lost(model)) is not None
    ]
    heard = f"Normalised entropy over {view.end:,} events; {'; '.join(lost) or f'{root} alone'}"
    text = svg.decode().replace(f"'{FONT}'", _FONTS)
    begin = text.index(">", text.index("<svg")) + 1
    return f"{text[:begin]}\n <title>{escape(heard)}</title>{text[begin:]}".encode()
