"""How HU are coded, their windows, and the slices of ct_phantom."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from denoise_core.errors import UserError
from denoise_core.images import phantom
from denoise_core.images.canvas import PIXEL, SIDE
from denoise_core.images.phantom import load_phantom
from denoise_core.images.windows import WINDOWS, coded, hounsfield, to_window
from denoise_core.noise.ct import FIELD


def test_hounsfield_units_are_coded_as_a_16_bit_file_loads() -> None:
    hu = torch.tensor([-1024.0, -1000, -160, 0, 40, 240, 3071])
    pixels = coded(hu)
    assert torch.equal(pixels, torch.from_numpy((hu.numpy() + 1024).astype(np.uint16).astype(np.float32) / 65535))
    assert torch.allclose(hounsfield(pixels), hu, atol=0.001)
    assert pixels.min() == 0


def test_windows() -> None:
    assert WINDOWS == {"abdomen": (-160, 240), "chest": (-400, 1000)}
    hu = torch.tensor([-1024.0, -160, 40, 240, 1000])
    assert torch.allclose(to_window(coded(hu), "abdomen"), torch.tensor([0, 0, 0.5, 1, 1]), atol=1e-5)
    assert torch.allclose(to_window(coded(hu), "chest"), (hu.clamp(-400, 1000) + 400) / 1400, atol=1e-5)
    with pytest.raises(UserError, match=r"unknown CT window 'chess': did you mean 'chest'. Known: abdomen, chest"):
        to_window(coded(hu), "chess")


def test_phantom_is_the_same_every_time() -> None:
    images = load_phantom()
    assert len(images) == 48
    assert load_phantom(1) is images
    assert (images.name, images.channels) == ("ct_phantom", 1)
    assert images.ids[0] == "abdomen00"
    assert images.ids[24] == "chest24"
    assert [name[:5] for name in images.ids] == ["abdom"] * 24 + ["chest"] * 24
    assert FIELD / SIDE == PIXEL
    for index, again in ((3, phantom._abdomen(3)), (40, phantom._chest(40))):
        assert torch.equal(images.pixels[index][0], coded(torch.from_numpy(again).float()))
    with pytest.raises(UserError, match="gray and has no version with 3 channels"):
        load_phantom(3)


def test_phantom_slices_hold_what_bodies_hold() -> None:
    for name, pixels in zip(load_phantom().ids, load_phantom().pixels, strict=True):
        assert pixels.shape == (1, 256, 256)
        hu = (65535 * pixels.double() - 1024)[0]
        assert (hu - hu.round()).abs().max() < 1e-3
        assert -1000 - 1e-3 < hu.min() < -990
        assert 450 < hu.max() < 1500

        def share(low: float, high: float, hu: Tensor = hu) -> float:
            return ((hu > low) & (hu < high)).double().mean().item()

        assert share(-140, -60) > 0.03, name  # fat
        assert share(20, 220) > 0.08, name  # muscle, organs, blood
        assert 0.005 < share(250, 1500) < 0.1, name  # bone
        assert 0.3 < share(-1001, -950) < 0.75, name  # air
        lung = share(-940, -700)
        assert (0.05 < lung < 0.3) if name.startswith("chest") else lung < 0.02, name


def test_phantom_slices_differ_and_share_no_texture() -> None:
    images = load_phantom()
    assert len(set(images.digests.values())) == 48
    hu = hounsfield(torch.stack(images.pixels))
    assert all((a - b).abs().mean() > 30 for a, b in pairwise(hu))
    # soft tissue without edges: what is left is texture, 7 HU high, and the finest structure
    fine = (hu - F.avg_pool2d(hu, 5, 1, 2, count_include_pad=False))[:, 0]
    fine = (fine * ((hu[:, 0] > 20) & (hu[:, 0] < 200) & (fine.abs() < 15))).flatten(1)
    alike = torch.corrcoef(fine) - torch.eye(48)
    assert fine.square().mean() > 1
    assert alike.abs().max() < 0.15
