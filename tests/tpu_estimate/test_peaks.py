import pytest

from jaxretr.tpu_estimate.peaks import peak_flops


@pytest.mark.parametrize(
    ("kind", "tera"),
    [
        ("NVIDIA H100 80GB HBM3", 989.5),
        ("NVIDIA H200", 989.5),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("TPU v6 lite", 918),
        ("TPU7x", 1153.5),  # one of the two devices of a chip
    ],
)
def test_the_dense_peak_of_one_device(kind: str, tera: float) -> None:
    assert peak_flops(kind) == pytest.approx(tera * 1e12)


def test_peaks_agree_with_tensor_cores_and_boost_clock() -> None:
    """A100: 432 tensor cores, 512 operations each per cycle, 1.41 GHz. H100 SXM: 528, 1,024 and 1.83 GHz."""
    assert peak_flops("NVIDIA A100-SXM4-40GB") == pytest.approx(432 * 512 * 1.41e9, rel=0.01)
    assert peak_flops("NVIDIA H100 80GB HBM3") == pytest.approx(528 * 1024 * 1.83e9, rel=0.01)


@pytest.mark.parametrize("kind", ["cpu", "NVIDIA H20", "NVIDIA H100 80GB HBM3 MIG 1g.10gb", "TPU v3", ""])
def test_an_unknown_device_has_no_peak(kind: str) -> None:
    assert peak_flops(kind) is None
