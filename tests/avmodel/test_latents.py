from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from avmodel.latents import LatentLayout, Planes

layouts = st.builds(
    LatentLayout,
    channels=st.integers(1, 4),
    frames=st.integers(1, 9),
    grid=st.integers(1, 9),
    streams=st.sampled_from([("v", "a"), ("v",), ("a",)]),
)


def planes_of(layout: LatentLayout, batch: int = 2) -> dict[str, Planes]:
    shapes = [(layout.grid, layout.grid), (layout.frames, layout.grid), (layout.frames, layout.grid)]
    return {s: Planes(*(torch.randn(batch, layout.channels, *hw) for hw in shapes)) for s in layout.streams}


@given(layouts)
def test_unstack_undoes_stack_and_the_rest_is_zero(layout: LatentLayout):
    planes = planes_of(layout)
    latent = layout.stack(planes)
    assert latent.shape[1:] == layout.shape
    back = layout.unstack(latent)
    for stream in layout.streams:
        for before, after in zip(planes[stream], back[stream], strict=True):
            assert torch.equal(before, after)
    mask = layout.mask()
    assert torch.all(latent[:, :, ~mask] == 0)
    assert torch.all(latent[:, :, mask] != 0)
    assert int(mask.sum()) * layout.channels == layout.values


def test_the_papers_latent():
    layout = LatentLayout(channels=4, frames=16, grid=32, streams=("v", "a"))
    assert layout.shape == (4, 6, 32, 32)
    assert layout.values == 16384
    assert layout.planes == ("v_hw", "v_tw", "v_th", "a_hw", "a_tw", "a_th")
    assert layout.valid_rows == (32, 16, 16, 32, 16, 16)


def test_a_latent_of_another_shape_is_refused():
    layout = LatentLayout(channels=4, frames=16, grid=32, streams=("v", "a"))
    with pytest.raises(ValueError, match="not \\(4, 6, 16, 16\\)"):
        layout.unstack(torch.zeros(1, 4, 6, 16, 16))
