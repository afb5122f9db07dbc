"""The colours of pictures, light and dark.

Of the Okabe-Ito set only four colours have a contrast of 3 : 1 on both grounds; two of these, far
apart for every kind of colour blindness, are all that is used.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

from evaluator.config import DENSE, INCUMBENT

Theme = Literal["light", "dark"]
FONT: Final = "DejaVu Sans"
"""It comes with matplotlib, so that a picture is laid out alike everywhere."""


@dataclass(frozen=True, slots=True)
class Palette:
    """The colours of a theme."""

    ground: str
    ink: str
    muted: str
    faint: str
    hatch: str
    dense: str = "#0072B2"
    sparse: str = "#D55E00"

    def of(self, model: str) -> str:
        """Return a model's colour; models without one of their own are grey."""
        return {DENSE: self.dense, INCUMBENT: self.sparse}.get(model, self.muted)

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
