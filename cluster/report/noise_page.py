"""The noise report of a folder as one self-contained page, and which methods its noise suits."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go
from PIL import Image
from torch import Tensor

from cluster.report.document import document, write
from cluster.report.drawing import styled
from cluster.report.html_parts import figure, items, prose, section, strip, table
from cluster.report.style import BAD, FAINT, INK, OURS, PAPER, PAPERS, SOFT, fade
from denoise_core.method import methods
from denoise_core.noise.report import NoiseReport
from denoise_core.noise.wording import eight_bit, headline

CROP, LARGER = 96, 4
"""Edge of the example in pixels, and how many times larger it is shown."""
BINS = 128
HOLDS, FAILS, UNKNOWN = "holds", "does not hold", "not known"
HEAD = ("method", "zero mean", "pixels independent", "signal independent", "learns from")
FIELDS = {
    "noisy": "noisy images", "noisy2": "a second noisy frame", "clean": "their clean images",
    "clean_unpaired": "other clean images", "smooth": "smooth patches of them", "noise": "the noise itself",
    "noise2": "more of it",
}  # fmt: skip


@dataclass(frozen=True)
class Suits:
    """A method, and for each assumption on the noise whether it holds; empty where the method does not make it."""

    method: str
    zero_mean: str
    pixel_independent: str
    signal_independent: str
    learns_from: str

    @property
    def fails(self) -> bool:
        """Whether an assumption is measured not to hold."""
        return FAILS in (self.zero_mean, self.pixel_independent, self.signal_independent)

    @property
    def row(self) -> tuple[str, ...]:
        """As in :data:`HEAD`."""
        assumed = (self.zero_mean, self.pixel_independent, self.signal_independent)
        return (self.method, *(text or "–" for text in assumed), self.learns_from)


def suits(report: NoiseReport) -> list[Suits]:
    """Every method against this noise: those first of which no assumption fails."""
    zero_mean = UNKNOWN if report.zero_mean is None or not report.exact else _said(report.zero_mean.holds)
    pixel = _said(report.pixel_independent) if report.correlation.windows else UNKNOWN
    signal = _said(report.signal_independent)
    found = []
    for name, method in methods().items():
        assumes = method.assumes
        fields = " and ".join(FIELDS.get(field, field) for field in assumes.fields)
        found.append(
            Suits(
                name,
                zero_mean if assumes.zero_mean else "",
                pixel if assumes.pixel_independent else "",
                signal if assumes.signal_independent else "",
                fields,
            )
        )
    return sorted(found, key=lambda one: (one.fails, one.method))


def _said(holds: bool) -> str:
    return HOLDS if holds else FAILS


def write_noise_page(report: NoiseReport, images: Sequence[Tensor], title: str, path: Path) -> Path:
    """Write the page and return its path; it is written aside and renamed. ``images`` are those of the report."""
    return write(path, noise_page(report, images, title))


def noise_page(report: NoiseReport, images: Sequence[Tensor], title: str) -> str:
    """The whole document, which loads nothing from any network."""
    body = "\n".join([
        f'<header><div class="study">{escape(title)}</div><h1>What is the noise of these images?</h1>'
        f'<p class="verdict">{prose(headline(report))}</p></header>',
        _numbers(report),
        section("What was measured", items(report.sentences())),
        section("Strength by intensity", figure(draw_curve(report), "curve", _curve_note(report))),
        section("Does a pixel's noise tell that of its neighbours?",
                figure(draw_lags(report), "lags", "Autocorrelation of the noise by distance in pixels. White noise has "
                       "1 in the middle and nothing around it.")),
        section("Values", figure(draw_values(report, images), "values", "Part of the pixels by value. Bars in orange "
                "are what lies exactly at the least and the largest value that occurs.")),
        section("Look at it", _example(images[0])),
        section("Which methods' assumptions hold", table(HEAD, [one.row for one in suits(report)], text=True),
                '<p class="note">– means that a method does not need it. A method whose assumption does not hold may '
                "keep noise or remove structure.</p>"),
    ])  # fmt: skip
    return document(f"Noise of {title}", body)


def _numbers(report: NoiseReport) -> str:
    sizes = report.sizes
    size = f"{sizes[0][0]} × {sizes[0][1]}" if len(sizes) == 1 else f"{len(sizes)} sizes"
    shown = [
        (str(report.images), f"images, {size}", False),
        (eight_bit(report.sigma), "standard deviation", False),
        (f"{report.correlation.lag1:z.2f}", "correlation of neighbours", not report.pixel_independent),
        (f"{report.clipped_low:.1%} / {report.clipped_high:.1%}", "at least / largest value",
         max(report.clipped_low, report.clipped_high) >= 1e-3),
    ]  # fmt: skip
    if report.channel_correlation is not None:
        shown.append((f"{report.channel_correlation:z.2f}", "correlation of channels", False))
    if report.zero_mean is not None:
        shown.append((f"{report.zero_mean.shift_pixels:.2f}", "pixels between frames", not report.zero_mean.aligned))
    return strip(shown)


def _curve_note(report: NoiseReport) -> str:
    note = "Points: variance of the noise at intensities of equally many "
    note += "pixels, from differences of repeated frames" if report.exact else "flat places"
    sure = "differs from zero" if report.slope_sure else "cannot be told from zero"
    return f"{note}. Line: robust fit, {report.offset:.3g} + {report.gain:.3g} × intensity; its slope {sure}."


def draw_curve(report: NoiseReport) -> Any:
    """Variance against intensity in units of 0..255, with the fitted line."""
    x, y = ([point[k] for point in report.curve] for k in (0, 1))
    ends = [x[0], x[-1]]
    line = [255**2 * max(0.0, report.offset + report.gain * at) for at in ends]
    canvas = go.Figure([
        go.Scatter(x=x, y=[(255 * one) ** 2 for one in y], mode="markers", name="measured",
                   marker={"size": 9, "color": OURS, "line": {"color": PAPER, "width": 1.5}},
                   customdata=[255 * one for one in y],
                   hovertemplate="intensity %{x:.3f}: deviation %{customdata:.2f}/255<extra></extra>"),
        go.Scatter(x=ends, y=line, mode="lines", name="fitted line", line={"color": PAPERS, "width": 2.2}),
    ])  # fmt: skip
    canvas.update_xaxes(title_text="intensity, of 1")
    canvas.update_yaxes(title_text="variance, in units of 0..255 squared", rangemode="tozero")
    return styled(canvas, height=380, top=56)


def draw_lags(report: NoiseReport) -> Any:
    """The autocorrelation as a heat map with its numbers."""
    reach = len(report.autocorrelation) // 2
    lags = list(range(-reach, reach + 1))
    numbers = [[f"{value:z.2f}" for value in row] for row in report.autocorrelation]
    canvas = go.Figure(
        go.Heatmap(
            x=lags, y=lags, z=report.autocorrelation, zmin=-1, zmax=1, text=numbers, texttemplate="%{text}",
            textfont={"size": 11}, colorscale=[[0, BAD], [0.5, PAPER], [1, OURS]], xgap=1, ygap=1,
            hovertemplate="%{x} right, %{y} down: %{z:.3f}<extra></extra>",
            colorbar={"thickness": 12, "outlinewidth": 0},
        )
    )  # fmt: skip
    canvas = styled(canvas, height=440, top=20)
    canvas.update_xaxes(title_text="pixels to the right", tickvals=lags, showline=False, ticks="", constrain="domain")
    canvas.update_yaxes(
        title_text="pixels down", tickvals=lags, autorange="reversed", scaleanchor="x", constrain="domain"
    )
    return canvas


def draw_values(report: NoiseReport, images: Sequence[Tensor]) -> Any:
    """Histogram of the values; what lies at the ends is drawn apart."""
    low, high = report.ends
    edges = _edges(low, high, report.step)
    counts, total = np.zeros(len(edges) - 1), 0
    for image in images:
        counts += np.histogram(image.numpy(), edges)[0]
        total += image.numel()
    parts = counts / total
    parts[0] -= report.clipped_low
    parts[-1] -= report.clipped_high
    middle = (edges[:-1] + edges[1:]) / 2
    canvas = go.Figure([
        go.Bar(x=middle, y=np.clip(parts, 0, None), width=np.diff(edges), name="between",
               marker={"color": fade(OURS, 0.7), "line": {"width": 0}},
               hovertemplate="%{x:.3f}: %{y:.2%}<extra></extra>"),
        go.Bar(x=[middle[0], middle[-1]], y=[report.clipped_low, report.clipped_high], width=[*np.diff(edges)[[0, -1]]],
               marker={"color": PAPERS, "line": {"width": 0}}, name="at the ends",
               hovertemplate="%{x:.3f}: %{y:.2%} at the end<extra></extra>"),
    ])  # fmt: skip
    canvas.update_layout(barmode="stack")
    canvas.add_vline(x=report.median, line={"color": INK, "width": 1, "dash": "dot"}, annotation_text="median",
                     annotation_font={"size": 12, "color": SOFT})  # fmt: skip
    canvas.update_xaxes(title_text="value, of 1", zerolinecolor=FAINT)
    canvas.update_yaxes(title_text="part of the pixels", rangemode="tozero", tickformat=".1%")
    canvas = styled(canvas, height=330, top=56)
    canvas.update_layout(bargap=0)
    return canvas


def _edges(low: float, high: float, step: float) -> npt.NDArray[Any]:
    """Borders of bins, each of equally many steps of the values: else some bins would get more values than others."""
    if not step:
        return np.linspace(low, high, BINS + 1)
    steps = round((high - low) / step)
    wide = -(-(steps + 1) // BINS)
    return low + step * (np.arange(-(-(steps + 1) // wide) + 1) * wide - 0.5)


def _example(image: Tensor) -> str:
    """The middle of the first image, enlarged, and stretched to its own range where it is darker than that."""
    side = min(CROP, *image.shape[1:])
    top, left = ((edge - side) // 2 for edge in image.shape[1:])
    crop = image[:, top : top + side, left : left + side].permute(1, 2, 0).numpy()
    low, high = (float(np.quantile(crop, part)) for part in (0.001, 0.999))
    whole = np.clip(crop, 0, 1)
    stretched = np.clip((crop - low) / max(high - low, 1e-9), 0, 1)
    shown = "".join(
        f'<figure><img alt="{escape(name)}" src="data:image/png;base64,{_png(pixels)}">'
        f"<figcaption>{escape(name)}</figcaption></figure>"
        for name, pixels in (("as it is", whole), (f"stretched from {low:.3f} to {high:.3f}", stretched))
    )
    note = f'<p class="note">{side} × {side} pixels in the middle of the first image.</p>'
    return f'{note}<div class="crops" style="--columns: 2; max-width: 820px">{shown}</div>'


def _png(pixels: Any) -> str:
    values = np.repeat(np.repeat((pixels * 255).round().astype(np.uint8), LARGER, axis=0), LARGER, axis=1)
    stream = io.BytesIO()
    Image.fromarray(values[..., 0] if values.shape[2] == 1 else values).save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode()
