"""The picture of a run: normalised entropy over the stream, and below it the loss to the root."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from io import BytesIO
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.markers import TICKUP
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator
from scipy.optimize import isotonic_regression

from evaluator.metrics.metric import Floats
from evaluator.run.history import RunHistory
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
    if not heights:
        return []
    order, found = np.argsort(heights, kind="stable"), np.array(heights, np.float64)
    # With the gaps taken out, heights may be equal but must not fall.
    narrowed = found[order] - gap * np.arange(len(order))
    found[order] += isotonic_regression(narrowed).x - narrowed
    return [float(height) for height in found]


_FONTS: Final = "system-ui, -apple-system, &quot;Segoe UI&quot;, Helvetica, Arial, sans-serif"
_LEFT, _RIGHT, _TOP, _BOTTOM = 0.69, 1.93, 0.49, 0.65
"""Inches around the panels, where the key has one row."""
_BETWEEN: Final = 0.53
"""Inches between two panels, where the title of the lower one is."""
_ROW: Final = 0.2
"""Inches that each further row of the key takes."""
_LETTER: Final = 0.066
"""Inches that a letter of the key or beside a title takes, more or less."""
_LEAST: Final = (4.5, 3.5)
"""Inches of the smallest picture."""
_MOST_PIXELS: Final = 100_000_000
_MILLIONS: Final = 1_500_000
"""From this many events on the axis counts in millions."""
_SIGNS: Final = {"hatch": 0.267, "*": 0.11}
"""Inches that a sign of the key takes; the others are marks."""
_MARKER: Final = 0.166
_APART: Final = 0.276
"""Inches between two entries of the key."""


class _Mark(NamedTuple):
    """How something that happened is marked, and the words for it in the key."""

    words: str
    marker: Any
    fill: Literal["full", "none"]
    points: float = 6
    at_foot: bool = False
    hue: Literal["ink", "muted"] = "ink"

    def draw(self, panel: Axes, x: float | Floats, y: float, palette: Palette, **more: Any) -> None:
        look: dict[str, Any] = {"markersize": self.points, "fillstyle": self.fill, **more}
        at = np.atleast_1d(x)
        panel.plot(
            at,
            np.full_like(at, y, float),
            color=getattr(palette, self.hue),
            marker=self.marker,
            **look,
        )


_MARKS: Final = {
    "promoted": _Mark("new mask takes over", "v", "full"),
    "rejected": _Mark("candidate rejected", "v", "none"),
    "rollback": _Mark("rollback", "<", "full"),
    # A square on its corner looks larger than it is. It is at the foot, for an alarm may be raised
    # where a mask takes over, and hollow: nothing was decided by it.
    "alarm": _Mark("alarm", "D", "none", points=4.2, at_foot=True),
    "graft": _Mark("graft: the mask moves without a rebuild", TICKUP, "full", 4, True, "muted"),
}
_MOST_TICKS: Final = 1_000
"""Grafts that are closer than this part of the width are one tick."""


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


class RunView:
    """What a picture shows of a run.

    Parameters
    ----------
    history
        The run.
    size
        Of the windows that are drawn; by default the smallest of which there are not too many.

    Attributes
    ----------
    table
        These windows.
    models
        Those that were scored at all, the root first.
    others
        Those of them that are compared with the root.
    end
        The count at which the last window ends.
    marks
        What is marked, and the count at which: where a rebuild ended, and a rollback took effect.
    grafts
        The counts of grafts, of those that are close to each other the first.
    lost
        What models have lost to the root over the last half since the first mask, by name.
    last_half
        The scores over the last half of the events since the first mask, if there was one.
    """

    def __init__(self, history: RunHistory, size: int | None = None) -> None:
        sizes = history.sizes
        few = [one for one in sizes if len(history.tables[one]) <= MAX_WINDOWS]
        size = size or (few or [*sizes, 0])[0]
        if size not in sizes:
            there = ", ".join(f"{one:,}" for one in sizes) or "none"
            raise ValueError(
                f"no whole window of {size:,} events to draw; sizes there are: {there}"
            )
        self.history, self.size, self.table = history, size, (table := history.tables[size])
        self.end = int(table.ends[-1])
        self.models = [m for m in history.models if np.isfinite(table.column(f"{m.name}.ce")).any()]
        self.others = [model for model in self.models if model.role != "root"]
        alarms = {e.message.count for e in history.happened if isinstance(e.message, Alarm)}
        marks = [
            *((one.verdict, one.count) for one in history.verdicts if not history.superseded(one)),
            *(("rollback", one.rollback.count) for one in history.rollbacks if one.rollback),
            *(("alarm", count) for count in sorted(alarms)),
        ]
        self.marks = [(what, at) for what, at in marks if what in _MARKS and at <= self.end]
        grafts = np.array(history.grafts.counts, np.int64)
        grafts = grafts[grafts <= self.end]
        _, first = np.unique(_MOST_TICKS * grafts // self.end, return_index=True)
        self.grafts = grafts[first].astype(np.float64)
        half = None if history.start is None else history.whole_and_last_half()[1]
        lost = {name: one.get("relative_ce") for name, one in (half.models if half else {}).items()}
        self.lost = {name: mean for name, mean in lost.items() if mean is not None}
        self.last_half = half


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
    view, palette = RunView(history, size), PALETTES[theme]
    letters = {"svg.fonttype": "path"} if paper.outlines else {}
    with style.context(["default", palette.settings, letters]):
        figure = Figure(figsize=(paper.width, paper.height))
        _Drawing(figure, view, palette).compose()
        drawn = BytesIO()
        about = {"Date": None, "Creator": "resprout"} if suffix == "svg" else {}
        figure.savefig(drawn, format=suffix, dpi=paper.dpi, metadata=about)
    return _with_title(drawn.getvalue(), view) if suffix == "svg" else drawn.getvalue()


class _Drawing:
    """Puts the panels and the key on a figure."""

    def __init__(self, figure: Figure, view: RunView, palette: Palette) -> None:
        self.figure, self.view, self.palette = figure, view, palette
        self.width, self.height = map(float, figure.get_size_inches())
        self.middles = np.asarray(view.table.ends - view.size / 2)

    def compose(self) -> None:
        """Draw one panel where the root runs alone, else two."""
        others = self.view.others
        ratios = [3, 2] if others else [1]
        key = self.key()
        bottom = _BOTTOM + _ROW * max(len(key) - 1, 0)
        around: dict[str, Any] = {
            "height_ratios": ratios,
            "left": _LEFT / self.width,
            "right": 1 - _RIGHT / self.width,
            "top": 1 - _TOP / self.height,
            "bottom": bottom / self.height,
            "hspace": 2 * _BETWEEN / (self.height - _TOP - bottom - _BETWEEN),
        }
        grid = self.figure.subplots(len(ratios), sharex=True, squeeze=False, gridspec_kw=around)
        panels: list[Axes] = list(grid.flat)
        for panel in panels:
            panel.set_axisbelow(True)
            panel.grid(axis="y", color=self.palette.faint, linewidth=0.8)
            panel.tick_params(length=0, pad=5)
            panel.spines["left"].set_visible(False)
            for band in self.view.history.bands:
                span = panel.axvspan(band.begin, band.end, facecolor="none", hatch="///", lw=0)
                span.set_edgecolor(self.palette.hatch)
        self.entropies(panels[0])
        if others:
            self.relatives(panels[1])
        self.events_axis(panels[-1])
        self.marks(panels)
        self.draw_key(key)

    def entropies(self, panel: Axes) -> None:
        """Draw the normalised entropy of each model."""
        lines = [(one, self.view.table.column(f"{one.name}.ne")) for one in self.view.models]
        self.lines(panel, lines)
        # In the first tenth of the stream the learning curve may leave the panel.
        learned = self.middles >= 0.1 * self.view.end
        self.limits(panel, np.concatenate([line[learned] for _, line in lines]))
        more = "lower is better, 1 = no better than the click rate"
        self.title(panel, "Normalised entropy", more)
        low, high = panel.get_ylim()
        if low < 1 < high:
            panel.axhline(1, color=self.palette.muted, linewidth=0.8)
        self.end_labels(panel, [(model, line, model.label) for model, line in lines])

    def relatives(self, panel: Axes) -> None:
        """Draw what each model loses to the root, in percent."""
        view = self.view
        root, table = view.history.root, view.table
        lines = [(one, 100 * table.column(f"{one.name}.relative_ce")) for one in view.others]
        panel.axhline(0, color=self.palette.of(root), linewidth=1.7)
        self.lines(panel, lines)
        # So many percent are shown at least, so that noise does not fill the panel.
        self.limits(panel, np.concatenate([*(line for _, line in lines), (-0.05, 0.45)]))
        panel.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:+g} %" if y else "0 %"))
        size = f"{view.size:,}"
        more = f"on the same events, windows of {size} events"
        self.title(panel, f"Cross entropy relative to {root.label}", more)
        labels = [(root, np.zeros(1), root.label)]
        for one, line in lines:
            lost = f"  {100 * view.lost[one.name]:+.2f} %*" if one.name in view.lost else ""
            labels.append((one, line, f"{one.label}{lost}"))
        self.end_labels(panel, labels)

    def lines(self, panel: Axes, lines: Sequence[tuple[ModelSpec, Floats]]) -> None:
        """Draw one line a model."""
        for model, line in lines:
            look: dict[str, Any] = {
                "linestyle": (0, model.dash) if model.dash else "solid",
                "marker": "o" if np.isfinite(line).sum() == 1 else "none",
            }
            panel.plot(self.middles, line, color=self.palette.of(model), markersize=4, **look)

    def limits(self, panel: Axes, seen: Floats) -> None:
        """Fit the panel around what is to be seen; NaN is not."""
        seen = seen[np.isfinite(seen)]
        low, high = (float(seen.min()), float(seen.max())) if len(seen) else (0.0, 1.0)
        pad = 0.09 * (high - low) or 0.01
        panel.set_ylim(low - pad, high + pad)
        panel.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))

    def title(self, panel: Axes, title: str, more: str) -> None:
        """Write what a panel shows above its left corner, and more of it where there is room."""
        bold: dict[str, Any] = {"fontsize": 10.5, "fontweight": "bold"}
        over = self.above(panel, 11)
        text = panel.text(0, over, title, transform=panel.transAxes, **bold)
        # A letter of the title takes 0.084 inches.
        if _LEFT + len(title) * 0.084 + len(more) * _LETTER <= self.width:
            small: dict[str, Any] = {"va": "bottom", "fontsize": 9, "color": self.palette.muted}
            place: dict[str, Any] = {"xytext": (8, 0.7), "textcoords": "offset points"}
            panel.annotate(more, (1, 0), xycoords=text, **place, **small)

    def end_labels(self, panel: Axes, lines: Sequence[tuple[ModelSpec, Floats, str]]) -> None:
        """Write each line's name where it ends, moved apart where two end close to each other."""
        low, high = panel.get_ylim()
        ends = [
            (model, (float(line[np.isfinite(line)][-1]) - low) / (high - low), text)
            for model, line, text in lines
            if np.isfinite(line).any()
        ]
        heights = label_layout([end for _, end, _ in ends], self.above(panel, 14) - 1)
        look: dict[str, Any] = {"va": "center", "fontweight": "bold"}
        for (model, _, text), height in zip(ends, heights, strict=True):
            colour = self.palette.of(model)
            panel.text(1.012, height, text, transform=panel.transAxes, color=colour, **look)

    def above(self, panel: Axes, points: float) -> float:
        """Return the height that many points above a panel, as a share of the panel's height."""
        return 1 + points / 72 / (panel.get_position().height * self.height)

    def events_axis(self, panel: Axes) -> None:
        """Count events from 0, in thousands or millions."""
        panel.set_xlim(0, self.view.end)
        # Two labels are 0.8 inches apart at least.
        labels = int(panel.get_position().width * self.width / 0.8)
        panel.xaxis.set_major_locator(MaxNLocator(min(labels, 7), steps=[1, 2, 2.5, 5, 10]))
        unit, letter = (1e6, "M") if self.view.end >= _MILLIONS else (1e3, "k")
        panel.xaxis.set_major_formatter(
            FuncFormatter(lambda x, _: f"{x / unit:g} {letter}" if x else "0 events")
        )
        panel.get_xticklabels()[0].set_horizontalalignment("left")

    def marks(self, panels: Sequence[Axes]) -> None:
        """Mark what happened; a line goes down where what serves became another."""
        over = self.above(panels[0], 5)
        look = {"transform": panels[0].get_xaxis_transform(), "clip_on": False}
        for what, count in self.view.marks:
            mark = _MARKS[what]
            mark.draw(panels[0], count, over - mark.at_foot, self.palette, **look)
            if mark.fill == "full":
                for panel in panels:
                    panel.axvline(count, color=self.palette.muted, linewidth=0.7, zorder=1)
        for panel in panels if self.view.grafts.size else ():
            foot: dict[str, Any] = {"transform": panel.get_xaxis_transform(), "linestyle": "none"}
            _MARKS["graft"].draw(panel, self.view.grafts, 0, self.palette, **foot)

    def key(self) -> list[list[tuple[float, str, str]]]:
        """Lay out the signs that there are to explain, in rows: inches from the left, sign, words.

        A sign is the name of a mark, ``hatch`` or ``*``.
        """
        marked = {what for what, _ in self.view.marks} | (
            {"graft"} if self.view.grafts.size else set()
        )
        entries = [(what, mark.words) for what, mark in _MARKS.items() if what in marked]
        kinds = sorted({kind for band in self.view.history.bands for kind in band.drift})
        if kinds:
            entries.append(("hatch", f"true drift: {', '.join(kinds)}"))
        if self.view.last_half and self.view.others:
            entries.append(("*", "over the last half since the first mask"))
        rows: list[list[tuple[float, str, str]]] = []
        x = self.width
        for sign, words in entries:
            taken = _SIGNS.get(sign, _MARKER) + _LETTER * len(words)
            if x + taken > self.width:
                rows.append([])
                x = _LEFT
            rows[-1].append((x, sign, words))
            x += taken + _APART
        return rows

    def draw_key(self, rows: Sequence[Sequence[tuple[float, str, str]]]) -> None:
        """Draw the key below the panels."""
        tall = 0.312 + _ROW * max(len(rows) - 1, 0)
        axes = self.figure.add_axes((0.0, 0.052 / self.height, 1.0, tall / self.height))
        axes.set(xlim=(0, self.width), ylim=(0, tall))
        axes.axis("off")
        muted: dict[str, Any] = {"va": "center", "color": self.palette.muted}
        for number, row in enumerate(rows):
            y = tall - 0.156 - _ROW * number
            for x, sign, words in row:
                if sign == "hatch":
                    look: dict[str, Any] = {"hatch": "/////", "fill": False, "linewidth": 0}
                    box = Rectangle((x, y - 0.062), 0.202, 0.125, **look)
                    box.set_edgecolor(self.palette.hatch)
                    axes.add_patch(box)
                elif sign == "*":
                    axes.text(x, y, "*", fontsize=9, **muted)
                else:
                    _MARKS[sign].draw(axes, x + 0.046, y, self.palette, linestyle="none")
                words_at = x + _SIGNS.get(sign, _MARKER)
                axes.text(words_at, y - 0.006, words, fontsize=8.5, **muted)


def _with_title(svg: bytes, view: RunView) -> bytes:
    """Name the picture for those who hear it, and let it use the reader's own font."""
    root = view.history.root.label
    lost = [
        f"{model.label} {100 * view.lost[model.name]:+.2f} % against {root} over the last half"
        for model in view.others
        if model.name in view.lost
    ]
    heard = f"Normalised entropy over {view.end:,} events; {'; '.join(lost) or f'{root} alone'}"
    text = svg.decode().replace(f"'{FONT}'", _FONTS)
    begin = text.index(">", text.index("<svg")) + 1
    return f"{text[:begin]}\n <title>{escape(heard)}</title>{text[begin:]}".encode()
