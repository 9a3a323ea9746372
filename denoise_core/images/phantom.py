"""``ct_phantom``: 48 axial CT slices drawn by a program, so that CT studies run without anybody's scans.

256 x 256 pixels of 1.34 mm, coded HU (:mod:`denoise_core.images.windows`): 24 of the abdomen, then 24 of the chest.
Each has its own seed, which sets size, posture, level, contrast agent, organs, vessels, lesions and texture. HU are
whole numbers and all randomness is uniform draws from a seed, so every computer has the same slices. They show what
noise does to organs, edges and fine structure; their numbers are comparable with those of no paper.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import torch
from torch import Tensor

from denoise_core.errors import UserError
from denoise_core.images import canvas as painting
from denoise_core.images import windows
from denoise_core.images.canvas import Array, Blob, Canvas, Draw, Rod, Shape
from denoise_core.images.drawn import drawn
from denoise_core.images.image_set import ImageSet
from denoise_core.images.windows import coded

PHANTOM = "ct_phantom"
PER_REGION = 24


def load_phantom(channels: int | None = None) -> ImageSet:
    """``ct_phantom``: ``abdomen00`` to ``abdomen23``, then ``chest24`` to ``chest47``, each (1, 256, 256).

    Raises UserError for any other number of channels than 1 (or None).
    """
    if channels not in (None, 1):
        raise UserError(f"the image set {PHANTOM!r} is gray and has no version with {channels} channels; use 1.")
    return _drawn()


@cache
def _drawn() -> ImageSet:
    ids = tuple(f"{'abdomen' if k < PER_REGION else 'chest'}{k:02d}" for k in range(2 * PER_REGION))
    return ImageSet(PHANTOM, ids, drawn(PHANTOM, _slices, (__file__, painting.__file__, windows.__file__)))


def _slices() -> Iterator[Tensor]:
    for k in range(2 * PER_REGION):
        yield coded(torch.from_numpy(_abdomen(k) if k < PER_REGION else _chest(k)).float())[None]


@dataclass(frozen=True)
class Trunk:
    """What all slices share: the outlines of skin, muscle wall and cavity, and the HU of this patient."""

    canvas: Canvas
    draw: Draw
    skin: Blob
    wall: Blob
    cavity: Blob
    contrast: float
    fat: float
    muscle: float
    blood: float
    bone: float
    marrow: float

    @property
    def spine(self) -> float:
        """y of the middle of the vertebral body."""
        return self.wall.ry - 54


def _trunk(index: int, rx: float, ry: float, thickness: float) -> Trunk:
    """Table, skin, fat under it, and a muscle wall of ``thickness`` mm around a cavity full of fat."""
    draw = Draw(PHANTOM, index)
    canvas = Canvas(draw)
    contrast = draw(0.3, 1) if draw(0, 1) < 0.7 else 0.0
    fat, muscle = draw(-115, -95), draw(45, 62)
    waves = ((4, draw(0.01, 0.03), math.pi), *draw.wobble(0.012))
    skin = Blob(0, 0, draw(rx - 8, rx + 8), draw(ry - 6, ry + 6), 0, waves)
    table = Rod(-165, skin.ry + 9, 165, skin.ry + 9, 6)
    canvas.paint(table, 60)
    canvas.paint(replace(table, r=4.2), -960)
    canvas.paint(skin, 10, 6)
    canvas.paint(skin.shrunk(2), fat, 6)
    layer = draw(9, 22)
    wall = skin.shrunk(layer, 0.7 * layer)
    for inset, hu in ((0.0, muscle), (0.35 * thickness, muscle - 55), (0.35 * thickness + 1.2, muscle)):
        canvas.paint(wall.shrunk(inset), hu, 8)
    cavity = wall.shrunk(thickness)
    canvas.paint(cavity, fat, 8)
    blood, bone, marrow = 45 + 140 * contrast, draw(450, 900), draw(150, 280)
    return Trunk(canvas, draw, skin, wall, cavity, contrast, fat, muscle, blood, bone, marrow)


def _level(trunk: Trunk, index: int) -> float:
    """Height of a slice in its region, 0 (top) to 1, in such an order that neighbours in the set are far apart.

    Any few slices in a row then cover the region, so that a training part and a test part show the same anatomy.
    """
    return (7 * index % PER_REGION + trunk.draw(0, 1)) / PER_REGION


def _bone(trunk: Trunk, shape: Shape, shell: float) -> None:
    """``shape`` with a dense shell of ``shell`` mm around marrow."""
    trunk.canvas.paint(shape, trunk.bone, 30)
    inner = replace(shape, r=shape.r - shell) if isinstance(shape, Rod) else shape.shrunk(shell)
    trunk.canvas.paint(inner, trunk.marrow, 45)


def _spine(trunk: Trunk) -> None:
    """Vertebra with processes and canal, and the muscles of the back."""
    canvas, draw, y = trunk.canvas, trunk.draw, trunk.spine
    for side in (-1, 1):
        back = Blob(side * 27, y + 35, 23, 17, side * draw(0.1, 0.4), draw.wobble(0.06))
        canvas.paint(back, trunk.muscle, 14)
        for _ in range(5):
            x, down = back.x + draw(-14, 14), back.y + draw(-9, 9)
            canvas.paint(Rod(x, down, x + draw(-7, 7), down + draw(-5, 5), 0.7), draw(-60, 10), 8)
        _bone(trunk, Rod(side * 11, y + 21, side * draw(32, 40), y + draw(22, 32), draw(3.5, 5)), 1.5)
    _bone(trunk, Rod(0, y + 36, draw(-2, 2), y + draw(48, 56), draw(3, 4.5)), 1.4)
    canvas.paint(Blob(0, y + 24, 16, 15, 0, draw.wobble(0.05)), trunk.bone, 40)
    canvas.paint(Blob(0, y + 23, draw(9, 11), draw(8, 10)), 15, 6)
    canvas.paint(Blob(0, y + 23, 5.5, 4.5), 40, 5)
    _bone(trunk, Blob(0, y, draw(20, 25), draw(15, 19), 0, ((2, 0.03, math.pi), *draw.wobble(0.03))), 1.6)


def _ribs(trunk: Trunk, count: int) -> None:
    """``count`` ribs on each side, cut at a slant, inside the muscle wall."""
    draw = trunk.draw
    thickness = trunk.wall.rx - trunk.cavity.rx
    for side in (-1, 1):
        for k in range(count):
            angle = -0.9 + 2.0 * (k + draw(0.2, 0.8)) / count
            x, y = trunk.wall.shrunk(0.62 * thickness).outline(angle, side)
            ahead, before = (trunk.wall.outline(angle + step, side) for step in (0.02, -0.02))
            turn = math.atan2(ahead[1] - before[1], ahead[0] - before[0])
            _bone(trunk, Blob(x, y, draw(7, 17), draw(3.2, 4.6), turn, draw.wobble(0.03)), 1.4)


@dataclass(frozen=True)
class Vessels:
    """How a tree of vessels looks: HU where it is thick and around it, the thinnest radius in mm, where it may be.

    A slice is some millimetres thick, so a thin branch fills only a part of it and looks paler.
    """

    hu: float
    around: float
    thinnest: float
    within: Array


def _tree(trunk: Trunk, vessels: Vessels, start: tuple[float, float], angle: float, r: float) -> None:
    """Branches off from ``start`` again and again until they are too thin."""
    draw, (x, y) = trunk.draw, start
    length = r * draw(2, 6) + 3
    end = (x + length * math.cos(angle), y + length * math.sin(angle))
    hu = vessels.around + (vessels.hu - vessels.around) * min(1.0, r / 2.5)
    trunk.canvas.paint(Rod(x, y, *end, r), hu, 6, vessels.within)
    for turn in (-draw(0.15, 0.7), draw(0.15, 0.7)):
        thinner = r * draw(0.5, 0.86)
        if thinner > vessels.thinnest:
            _tree(trunk, vessels, end, angle + turn, thinner)


def _abdomen(index: int) -> Array:
    """One slice of the abdomen: ``level`` 0 is below the diaphragm, 1 below the kidneys."""
    trunk = _trunk(index, 146, 110, 13)
    level = _level(trunk, index)
    inside = trunk.canvas.mask(trunk.cavity.shrunk(1.5))
    _bowel(trunk, level, inside)
    _stomach_and_spleen(trunk, level, inside)
    _liver(trunk, level, inside)
    _kidneys(trunk, level)
    _great_vessels(trunk)
    _spine(trunk)
    _ribs(trunk, round(5 * (1 - level)) + 1)
    return trunk.canvas.finished()


def _liver(trunk: Trunk, level: float, inside: Array) -> None:
    canvas, draw = trunk.canvas, trunk.draw
    size = 1.08 - 0.75 * level
    right = Blob(-58, -10 + 8 * level, 62 * size, 60 * size, 0.3, draw.wobble(0.06))
    left = Blob(-8, -44, 58 * size, 24 * size, draw(-0.25, 0.1), draw.wobble(0.06))
    hu = draw(50, 65) + 45 * trunk.contrast
    liver = np.maximum(canvas.mask(right), canvas.mask(left) if level < 0.6 else 0.0) * inside
    for part in (right, left) if level < 0.6 else (right,):
        canvas.paint(part, hu, 9, inside)
    vessels = Vessels(hu + (60 * trunk.contrast if trunk.contrast else -15), hu, 0.9, liver)
    for _ in range(3):
        start = (-24 + draw(-8, 8), -8 + draw(-10, 8))
        _tree(trunk, vessels, start, math.pi + draw(-1.1, 1.1), draw(3, 4.5) * size)
    for _ in range(int(draw(0, 4))):
        x, y = right.x + draw(-35, 30), right.y + draw(-30, 30)
        lesion = Blob(x, y, draw(2.5, 9), draw(2.5, 9), 0, draw.wobble(0.1))
        canvas.paint(lesion, hu + draw(-55, -18), 8, liver)
    if 0.2 < level < 0.7 and draw(0, 1) < 0.7:
        canvas.paint(Blob(-34, -34, draw(9, 14), draw(12, 18), draw(-0.5, 0.5)), draw(4, 16), 5, inside)


def _stomach_and_spleen(trunk: Trunk, level: float, inside: Array) -> None:
    canvas, draw = trunk.canvas, trunk.draw
    if level < 0.6:
        spleen = Blob(92, 18, draw(20, 27), draw(30, 46), draw(-0.45, -0.15), draw.wobble(0.08))
        canvas.paint(spleen, draw(45, 55) + 70 * trunk.contrast, 9, inside)
    if level < 0.65:
        stomach = Blob(54, -34, draw(32, 44), draw(22, 32), draw(-0.5, 0.5), draw.wobble(0.1))
        canvas.paint(stomach, trunk.muscle + 25 * trunk.contrast, 8, inside)
        lumen = stomach.shrunk(draw(4, 6))
        canvas.paint(lumen, draw(5, 40), 12, inside)
        if draw(0, 1) < 0.8:
            canvas.paint(lumen, -990, 4, inside * canvas.above(stomach.y - draw(-4, 14)))
    if 0.2 < level < 0.75:
        lobes = ((8, draw(0.03, 0.08), draw(0, 6)), (11, draw(0.03, 0.08), draw(0, 6)))
        pancreas = Blob(18, 0, draw(34, 44), draw(8, 11), draw(-0.5, -0.1), lobes)
        canvas.paint(pancreas, 42 + 45 * trunk.contrast, 14, inside)


def _kidneys(trunk: Trunk, level: float) -> None:
    canvas, draw = trunk.canvas, trunk.draw
    for side in (-1, 1):
        psoas = Blob(side * 36, trunk.spine + 8, 9 + 10 * level, 12 + 9 * level, side * 0.3, draw.wobble(0.04))
        canvas.paint(psoas, trunk.muscle, 8)
        if not 0.2 + 0.06 * side < level < 0.88:
            continue
        kidney = Blob(
            side * draw(60, 68), trunk.spine + draw(-8, 4), draw(21, 26), draw(24, 31), side * 0.5, draw.wobble(0.05)
        )
        canvas.paint(kidney, 36 + 140 * trunk.contrast, 9)
        inward = math.atan2(trunk.spine - 14 - kidney.y, -side * 40)
        for spread in np.linspace(-2.2, 2.2, 6):
            x, y = (15 * f(inward + math.pi + float(spread)) for f in (math.cos, math.sin))
            canvas.paint(Blob(kidney.x + 0.85 * x, kidney.y + 1.1 * y, 4.5, 4.5), 32 + 75 * trunk.contrast, 7)
        x, y = kidney.x + 9 * math.cos(inward), kidney.y + 9 * math.sin(inward)
        canvas.paint(Blob(x, y, 13, 8, inward, draw.wobble(0.15)), -60, 14)
        canvas.paint(Rod(x, y, x + 24 * math.cos(inward), y + 24 * math.sin(inward), draw(2, 3.5)), trunk.blood, 6)
        if draw(0, 1) < 0.35:
            canvas.paint(Blob(kidney.x + side * 14, kidney.y + draw(-18, 18), draw(4, 10), draw(4, 10)), draw(0, 14), 5)


def _great_vessels(trunk: Trunk) -> None:
    """Aorta, at times with lime in its wall, and vena cava."""
    canvas, draw, y = trunk.canvas, trunk.draw, trunk.spine - 28
    aorta = Blob(draw(4, 12), y, draw(8, 11), draw(8, 11), 0, draw.wobble(0.03))
    canvas.paint(aorta.shrunk(-1.2), trunk.muscle - 10, 6)
    canvas.paint(aorta, trunk.blood, 7)
    for _ in range(int(draw(0, 3))):
        angle = draw(0, 2 * math.pi)
        spot = aorta.outline(angle, 1)
        canvas.paint(Blob(*spot, draw(1.5, 3.5), 1.2, angle + math.pi / 2), draw(300, 700))
    cava = Blob(draw(-26, -20), y + 4, draw(10, 14), draw(7, 10), draw(-0.3, 0.3))
    canvas.paint(cava, trunk.blood - 15 * trunk.contrast, 7)


def _bowel(trunk: Trunk, level: float, inside: Array) -> None:
    """Loops with gas, fluid or stool, and vessels in the fat between them."""
    canvas, draw = trunk.canvas, trunk.draw
    for _ in range(round(5 + 17 * level)):
        angle, out = draw(-3.4, 0.3), math.sqrt(draw(0.03, 0.75))
        x, y = 0.92 * trunk.cavity.rx * out * math.cos(angle), 0.9 * trunk.cavity.ry * out * math.sin(angle)
        loop = Blob(x, y, draw(9, 17), draw(8, 13), draw(0, math.pi), draw.wobble(0.12))
        canvas.paint(loop, trunk.muscle + 35 * trunk.contrast, 8, inside)
        lumen = loop.shrunk(draw(2, 3.5))
        content = draw(0, 1)
        if content < 0.3:
            canvas.paint(lumen, draw(5, 30), 12, inside)
            canvas.paint(lumen, -980, 6, inside * canvas.above(y + draw(-5, 5)))
        elif content < 0.5:
            canvas.paint(lumen, draw(-60, 40), 130, inside)
        elif content < 0.6:
            canvas.paint(lumen, draw(180, 400), 15, inside)
        else:
            canvas.paint(lumen, draw(5, 30), 12, inside)
    for _ in range(70):
        angle, out = draw(-math.pi, math.pi), math.sqrt(draw(0, 0.8))
        x, y = trunk.cavity.rx * out * math.cos(angle), trunk.cavity.ry * out * math.sin(angle)
        if canvas.at(x, y) < -70:
            canvas.paint(Rod(x, y, x + draw(-6, 6), y + draw(-6, 6), draw(0.6, 1.8)), trunk.blood, 5, inside)


def _chest(index: int) -> Array:
    """One slice of the chest: ``level`` 0 is above the arch of the aorta, 1 in the lower heart."""
    trunk = _trunk(index, 154, 110, 15)
    level = _level(trunk, index)
    _shoulders(trunk, level)
    trunk.canvas.paint(trunk.cavity.shrunk(1.5), trunk.draw(-885, -835), 20)
    _mediastinum(trunk, level)
    _lungs(trunk, (trunk.canvas.hu < -600) * trunk.canvas.mask(trunk.cavity.shrunk(2)))
    _airways(trunk, level)
    _spine(trunk)
    _ribs(trunk, int(trunk.draw(6, 9)))
    _bone(trunk, Blob(0, 6 - trunk.wall.ry, trunk.draw(13, 22), trunk.draw(5, 7), 0, trunk.draw.wobble(0.05)), 1.6)
    return trunk.canvas.finished()


def _shoulders(trunk: Trunk, level: float) -> None:
    """Muscles of chest and shoulder blade outside the ribs; they and the blade end towards the lower chest."""
    canvas, draw = trunk.canvas, trunk.draw
    inside = canvas.mask(trunk.skin.shrunk(3))
    for side in (-1, 1):
        for angle, length in ((-1.0, 40 * (1.1 - level)), (0.15, 30 * (1.1 - level)), (0.62, 38)):
            x, y = trunk.wall.outline(angle, side)
            ahead, before = (trunk.wall.outline(angle + step, side) for step in (0.1, -0.1))
            turn = math.atan2(ahead[1] - before[1], ahead[0] - before[0])
            canvas.paint(Blob(x, y, length, draw(6, 9), turn, draw.wobble(0.05)), trunk.muscle, 12, inside)
            if angle > 0.5 and level < 0.6:
                half = draw(14, 26) * (1 - level)
                dx, dy = half * math.cos(turn), half * math.sin(turn)
                _bone(trunk, Rod(x - dx, y - dy, x + dx, y + dy + draw(-3, 3), draw(2.4, 3.6)), 1.2)


def _mediastinum(trunk: Trunk, level: float) -> None:
    """What lies between the lungs: fat, gullet, great vessels or heart."""
    canvas, draw = trunk.canvas, trunk.draw
    front = Blob(2, -trunk.cavity.ry + 42, draw(20, 30) + 10 * level, 46, 0, draw.wobble(0.06))
    for part in (front, Blob(4, trunk.spine - 28, 27, 34, 0, draw.wobble(0.05)), Blob(0, trunk.spine + 6, 33, 26)):
        canvas.paint(part, trunk.fat + 10, 10, canvas.mask(trunk.cavity))
    if level > 0.45:
        _heart(trunk, level)
    else:
        _arteries(trunk, level)
    if level > 0.2:
        canvas.paint(Blob(22, trunk.spine - 14, draw(10, 13), draw(10, 13), 0, draw.wobble(0.03)), trunk.blood, 7)
    gullet = Blob(6, trunk.spine - 24, 8, 5.5, draw(-0.4, 0.4))
    canvas.paint(gullet, trunk.muscle, 8)
    canvas.paint(Blob(gullet.x, gullet.y, 2.2, 1.6), draw(-900, 20))


def _airways(trunk: Trunk, level: float) -> None:
    """The windpipe or, below its fork, the two main airways."""
    canvas, draw = trunk.canvas, trunk.draw
    tubes = ((0.0, 2.0, 9.0),) if level < 0.33 else ((-24.0, 6.0, 7.0), (24.0, 8.0, 6.5)) if level < 0.7 else ()
    for x, y, r in tubes:
        airway = Blob(x, y, r * draw(0.85, 1.1), r * draw(0.85, 1.1))
        canvas.paint(airway.shrunk(-1.6), trunk.muscle, 8)
        canvas.paint(airway, -985, 6)


def _arteries(trunk: Trunk, level: float) -> None:
    canvas, draw = trunk.canvas, trunk.draw
    bright = 45 + 190 * trunk.contrast
    canvas.paint(Blob(-26, -20, draw(7, 10), draw(7, 10)), bright, 8)
    if level < 0.14:
        for x, y, r in ((-12, -22, 7), (6, -24, 5), (18, -12, 5.5), (20, -34, 6)):
            canvas.paint(Blob(x, y, r * draw(0.85, 1.15), r), trunk.blood, 7)
    elif level < 0.26:
        canvas.paint(Blob(8, -10, draw(34, 40), draw(11, 14), draw(0.55, 0.8), draw.wobble(0.05)), trunk.blood, 7)
    else:
        canvas.paint(Blob(-12, -24, draw(14, 18), draw(14, 17)), trunk.blood, 7)
        canvas.paint(Blob(18, -24, draw(12, 15), draw(14, 18), draw(-0.4, 0.4)), bright, 7)
        canvas.paint(Blob(-8, -4, draw(32, 40), draw(7, 9), draw(-0.15, 0.1), draw.wobble(0.05)), bright, 7)
    for _ in range(4):
        canvas.paint(Blob(draw(-20, 25), draw(-45, 15), draw(2.5, 5), draw(2, 4)), draw(30, 60), 6)


def _heart(trunk: Trunk, level: float) -> None:
    canvas, draw = trunk.canvas, trunk.draw
    size = 0.75 + 0.45 * (level - 0.45)
    heart = Blob(18, -24, 62 * size, 47 * size, 0.45, draw.wobble(0.05))
    canvas.paint(heart, trunk.fat + 20, 10)
    wall = heart.shrunk(draw(3, 7))
    canvas.paint(wall, trunk.muscle + 50 * trunk.contrast, 9)
    blood = trunk.blood + 12
    if level < 0.65:
        canvas.paint(Blob(6, 6, 34 * size, 17 * size, 0.1, draw.wobble(0.08)), blood, 8, canvas.mask(wall.shrunk(3)))
        canvas.paint(Blob(6, -26, 15, 15), blood, 8)
    for x, y, rx, ry, turn, shade in ((42, -12, 30, 18, 0.6, 0), (2, -40, 34, 19, 0.5, 25), (-22, -12, 20, 24, 0, 0)):
        chamber = Blob(x * size, y * size, rx * size, ry * size, turn, draw.wobble(0.08))
        canvas.paint(chamber, blood + shade * trunk.contrast, 8, canvas.mask(wall.shrunk(3)))
    for _ in range(int(draw(0, 4))):
        left, top = heart.x + draw(-35, 25), heart.y + draw(-30, 5)
        canvas.paint(Rod(left, top, left + draw(-5, 5), top + draw(-5, 5), draw(0.8, 1.6)), draw(250, 700))


def _lungs(trunk: Trunk, lungs: Array) -> None:
    """Vessels and airways from the roots of the lungs outwards, fissures, and at times nodules, haze and bubbles."""
    canvas, draw = trunk.canvas, trunk.draw
    vessels = Vessels(draw(10, 50) + 80 * trunk.contrast, -850, 0.3, lungs)
    canvas.hu += lungs * np.linspace(-30, 40, len(lungs))[:, None]  # blood sinks to the back
    for side in (-1, 1):
        middle = (0.0 if side > 0 else math.pi) + draw(-0.2, 0.2)
        for spread in (-1.3, -0.75, -0.25, 0.25, 0.75, 1.3):
            start = (side * 26, -4 + 12 * spread + draw(-5, 5))
            _tree(trunk, vessels, start, middle + side * spread, draw(2, 4.5))
        for spread in (-0.6, 0.1, 0.7):
            x, y = side * 30.0, 4 + 10 * spread
            far = (x + 22 * math.cos(middle + side * spread), y + 22 * math.sin(middle + side * spread))
            canvas.paint(Rod(x, y, *far, 3.2), -80, 8, lungs)
            canvas.paint(Rod(x, y, *far, 2.0), -960, 8, lungs)
        bend, tilt = draw(-18, 18), draw(-25, 25)
        for k in range(10):
            x0, x1 = side * (24 + 10 * k), side * (34 + 10 * k)
            y0, y1 = (20 + tilt * f + bend * math.sin(3 * f) for f in (k / 10, (k + 1) / 10))
            canvas.paint(Rod(x0, y0, x1, y1, 0.4), -620, 15, lungs)
    for _ in range(110):  # vessels that run through the slice
        angle, out = draw(0, 2 * math.pi), math.sqrt(draw(0.05, 1))
        x, y = trunk.cavity.rx * out * math.cos(angle), trunk.cavity.ry * out * math.sin(angle)
        r = 2.2 - 1.8 * out * draw(0.7, 1)
        canvas.paint(Blob(x, y, r, r), 300 * r - 700, 5, lungs)
    for low, high, largest, grain in ((-10, 50, 9.0, 10), (-720, -560, 26.0, 45), (-975, -930, 14.0, 8)):
        for _ in range(int(draw(0, 3))):
            across, down = draw(2.5, largest), draw(2.5, largest)
            spot = Blob(draw(-110, 110), draw(-70, 60), across, down, draw(0, 3), draw.wobble(0.1))
            canvas.paint(spot, draw(low, high), grain, lungs)
