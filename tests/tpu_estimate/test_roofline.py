from collections import Counter

import pytest

from jaxretr.tpu_estimate.chips import Slice
from jaxretr.tpu_estimate.costs import Collective, Costs
from jaxretr.tpu_estimate.measure import Roofline

COSTS = Costs(
    matmul_flops=10**12,
    matmul_passes=2 * 10**12,
    hbm_bytes=819 * 10**7,
    collectives=Counter({Collective("all-reduce", 16, 8 * 10**8): 2}),
)


def test_each_part_at_its_peak() -> None:
    roofline = Roofline.of(COSTS, Slice.parse("v5e:4x4"))
    assert roofline.compute == pytest.approx(2e12 / 197e12)
    assert roofline.memory == pytest.approx(0.01)
    assert roofline.network == pytest.approx(2 * (2 * 15 / 16 * 8e8) / (2 * 50e9))
    assert roofline.overlapped == roofline.network and roofline.bound_by == "network"
    assert roofline.serial == pytest.approx(roofline.compute + roofline.memory + roofline.network)


def test_a_ring_has_twice_the_links_of_a_line_and_one_chip_has_none() -> None:
    def network(name: str) -> float:
        return Roofline.of(COSTS, Slice.parse(name)).network

    assert network("v5e:16x16") == pytest.approx(network("v5e:8x8") / 2)
    assert network("v5e:1x1") == 0
