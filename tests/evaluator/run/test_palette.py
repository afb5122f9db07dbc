from __future__ import annotations

import pytest

from evaluator.run.plot import PALETTES, Palette
from stream.spec import MODELS, find_model


def luminance(colour: str) -> float:
    """Relative luminance as the WCAG defines it."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("palette", PALETTES.values(), ids=PALETTES)
def test_lines_and_words_can_be_told_from_the_ground(palette: Palette) -> None:
    for model in MODELS:
        assert contrast(palette.of(model), palette.ground) >= 3
    assert contrast(palette.muted, palette.ground) >= 4.5
    assert contrast(palette.ink, palette.ground) >= 7


@pytest.mark.parametrize("palette", PALETTES.values(), ids=PALETTES)
def test_only_dense_and_sparse_have_a_hue(palette: Palette) -> None:
    dense, sparse, never_rebuilt = MODELS
    assert palette.of(dense) == "#0072B2"
    assert palette.of(sparse) == "#D55E00"
    assert palette.of(never_rebuilt) == palette.of(find_model("anything else")) == palette.muted
