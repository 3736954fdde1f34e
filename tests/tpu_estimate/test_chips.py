import pytest

from jaxretr.tpu_estimate.chips import CHIPS, Slice


@pytest.mark.parametrize(
    ("name", "devices", "links"),
    [
        ("v5e:1x1", 1, 0),
        ("v5e:2x2", 4, 2),
        ("v5e:4x4", 16, 2),  # lines: the chip in the corner has one neighbour along each axis
        ("v5e:8x16", 128, 3),  # the long axis is a ring
        ("v6e:16x16", 256, 4),
        ("v4:2x2x1", 4, 2),
        ("v5p:2x2x4", 16, 3),  # no cube, so no ring
        ("v4:4x4x4", 64, 6),
        ("v5p:4x8x8", 256, 6),
    ],
)
def test_devices_and_links_of_a_slice(name: str, devices: int, links: int) -> None:
    slice_ = Slice.parse(name)
    assert (slice_.devices, slice_.links, str(slice_)) == (devices, links, name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("v3:4x4", "'v3:4x4' is unknown; expected one of v4, v5e, v5p, v6e"),
        ("v5e", "'v5e' is unknown.*such as v5e:4x4"),
        ("v5e:4x", "is unknown"),
        ("v5e:0x4", "is unknown"),
        ("v5e:4x4x4", "has 3 axes; expected 2 axes for v5e, such as v5e:4x4"),
        ("v4:4x4", "has 2 axes; expected 3 axes for v4, such as v4:4x4x4"),
        ("tpu7x:2x2x1", "'tpu7x:2x2x1' is not supported: each chip is two JAX devices.*one of v4, v5e, v5p, v6e"),
        ("v6e:16x32", "larger than a pod; the largest slice is v6e:16x16"),
    ],
)
def test_other_names_are_refused_with_a_remedy(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Slice.parse(name)


def test_peaks_agree_with_what_is_published_of_whole_pods() -> None:
    """All-reduce bandwidth and peak of a pod are documented apart from those of a chip."""
    for name, chips, all_reduce, peak in (
        ("v4", 4096, 1.1e15, 1.1e18),
        ("v5e", 256, 51.2e12, 50.63e15),
        ("v6e", 256, 102.4e12, 234.9e15),
    ):
        chip = CHIPS[name]
        assert chips * chip.peak_flops == pytest.approx(peak, rel=0.03)
        assert chips * 2 * chip.dimensions * chip.link_bandwidth == pytest.approx(all_reduce, rel=0.03)
