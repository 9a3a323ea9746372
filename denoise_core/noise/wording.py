"""A noise report in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from denoise_core.noise.report import NoiseReport

CUT = 1e-3
"""Part of the pixels from which on clipping matters."""


def sentences(report: NoiseReport) -> list[str]:
    """Each finding with its number; levels also in units of 0..255."""
    said = [_level(report), _by_intensity(report), _neighbours(report)]
    if report.channel_correlation is not None:
        said.append(_channels(report))
    said += [_clipping(report), _values(report), _grid(report), _frames(report)]
    return said


def headline(report: NoiseReport) -> str:
    """The noise in one sentence."""
    said = f"Noise of {eight_bit(report.sigma)}"
    if report.correlation.windows:
        said += ", independent from pixel to pixel" if report.pixel_independent else ", shared by neighbouring pixels"
    way = ("grows" if report.gain > 0 else "falls") if report.on_line else "changes"
    said += ", equally strong everywhere" if report.signal_independent else f", which {way} with the intensity"
    if report.jpeg:
        said += ", in images that were compressed as JPEG"
    if report.zero_mean is not None and not report.zero_mean.aligned:
        said += "; the repeated frames are not aligned"
    elif report.zero_mean is not None and not report.zero_mean.holds:
        said += "; the repeated frames differ in brightness"
    return f"{said}."


def eight_bit(value: float) -> str:
    """A standard deviation in units of 0..255."""
    return f"{255 * value:.3g}/255"


def _level(report: NoiseReport) -> str:
    how = "from differences of repeated frames" if report.exact else "from the flattest places of single images"
    said = f"The noise has a standard deviation of {eight_bit(report.sigma)} ({report.sigma:.4f}) at the median "
    said += f"intensity of {report.median:.3f}, measured {how}."
    if not report.exact and not report.pixel_independent:
        said += (
            " That is an estimate, for correlated noise and the finest of the scene look alike: it may be as low as "
        )
        said += f"{eight_bit(report.least)}; repeated frames would tell."
    low, high = report.spread
    if low and high > 1.5 * low:
        said += f" Images differ: from {eight_bit(low)} to {eight_bit(high)}."
    return said


def _by_intensity(report: NoiseReport) -> str:
    first, last = report.curve[0], report.curve[-1]
    line = f"variance = {report.offset:.3g} {'-' if report.gain < 0 else '+'} {abs(report.gain):.3g} × intensity"
    if report.signal_independent:
        return (
            f"Its strength does not measurably follow the intensity: {eight_bit(first[1])} where it is {first[0]:.2f}, "
            f"{eight_bit(last[1])} where it is {last[0]:.2f} ({line})."
        )
    if not report.on_line:
        dark, middle, bright = (eight_bit(one) for one in report.thirds)
        return (
            f"It follows the intensity, on no line: {dark} where it is dark, {middle} between, {bright} where bright."
        )
    way = "grows" if report.gain > 0 else "falls"
    return (
        f"It {way} with the intensity, {line}: {eight_bit(first[1])} where it is {first[0]:.2f}, "
        f"{eight_bit(last[1])} where it is {last[0]:.2f}."
    )


def _neighbours(report: NoiseReport) -> str:
    found = report.correlation
    if not found.windows:
        return (
            "Whether neighbouring pixels share noise cannot be told: there is no noise above rounding in flat places."
        )
    numbers = f"{found.horizontal:z.2f} along rows, {found.vertical:z.2f} along columns"
    if found.correlated:
        return f"Neighbouring pixels share noise: they correlate by {numbers} (independent pixels: below 0.10)."
    return f"Neighbouring pixels have independent noise: they correlate by {numbers}."


def _channels(report: NoiseReport) -> str:
    value = report.channel_correlation or 0.0
    how = "share noise" if abs(value) > 0.1 else "have independent noise"
    return f"The channels {how}: they correlate by {value:z.2f}."


def _clipping(report: NoiseReport) -> str:
    low, high = report.clipped_low, report.clipped_high
    numbers = f"{low:.2%} of the pixels are at the least value, {high:.2%} at the largest"
    if max(low, high) < CUT:
        return f"Nothing is clipped to speak of: {numbers}."
    ends = [name for name, part in (("black", low), ("white", high)) if part >= CUT]
    return f"Values pile up at {' and '.join(ends)}, where clipped noise is weaker and not zero-mean: {numbers}."


def _values(report: NoiseReport) -> str:
    if not report.step:
        return "The values are continuous: they have no smallest step."
    levels = 1 / report.step
    said = f"The smallest step between values is 1/{levels:.0f} of the range"
    said += f", {report.step / report.sigma:.2f} of the noise's deviation." if report.sigma > 0 else "."
    if bits := stored_bits(report):
        said += f" These are {bits} bits in files of 16: {bit_place(report)}."
    return said


def stored_bits(report: NoiseReport) -> int:
    """How many bits the data has where files of 16 bits hold fewer, else 0."""
    if not report.step or report.step < 0.9 / 65535:
        return 0
    multiple = round(report.step * 65535)
    if multiple > 1 and multiple & (multiple - 1) == 0 and multiple <= 64:
        bits = 17 - multiple.bit_length()
        own = abs(report.step - 1 / (2**bits - 1)) < abs(report.step - multiple / 65535)
        return 0 if own else bits  # divided by their own range, or shifted to the upper end of 16 bits
    largest = round(report.ends[1] * 65535)
    if abs(report.step * 65535 - 1) < 0.1 and 255 < largest < 16384:
        return max(10, (largest).bit_length())
    return 0


def bit_place(report: NoiseReport) -> str:
    """Where these bits lie in the 16, and what that means for the range."""
    if report.step * 65535 > 1.5:
        return "they take the whole range, with the lowest bits empty"
    return (
        f"the largest value is {report.ends[1] * 65535:.0f} of 65535, so intensities and levels in [0, 1] look small; "
        f"write @white={2 ** stored_bits(report) - 1} after the folder's name for their full range"
    )


def _grid(report: NoiseReport) -> str:
    number = f"steps across a grid of 8 x 8 pixels are {report.jpeg_grid:+.1%} larger than beside it"
    if report.jpeg:
        return f"The images were compressed as JPEG, which smooths noise, most of all where they are flat: {number}."
    return f"No grid of JPEG stands out: {number}."


def _frames(report: NoiseReport) -> str:
    found = report.zero_mean
    if found is None:
        return "Whether the noise is zero-mean cannot be told from single images: record a few scenes repeatedly."
    if not found.aligned:
        return (
            f"The repeated frames are not aligned, they are up to {found.shift_pixels:.2f} pixels apart, so they say "
            "nothing of the noise: align them or record them again without anything moving."
        )
    numbers = f"at least {found.frames} frames of each scene, up to {found.shift_pixels:.2f} pixels apart, "
    numbers += f"brightness within {eight_bit(found.bias)}"
    if found.holds:
        return (
            f"Repeated frames share their mean ({numbers}). Zero-mean noise needs that; it is not proof, for what is "
            "the same in every frame cannot be seen."
        )
    return f"Repeated frames differ in brightness ({numbers}): their noise is not zero-mean around one image."
