from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxretr import parallel


def test_split_and_merge_are_inverse_and_share_memory() -> None:
    batch = {"x": np.arange(48).reshape(16, 3), "y": np.arange(16)}
    split = parallel.split(batch)
    assert split["x"].shape == (8, 2, 3) and np.shares_memory(split["x"], batch["x"])
    doubled = parallel.pmap(lambda tree: tree["x"] * 2)(split)
    np.testing.assert_array_equal(parallel.merge(doubled), batch["x"] * 2)


def test_gather_is_in_device_order_and_mean_is_over_devices() -> None:
    def per_device(x):
        return parallel.gather(x), parallel.mean(x.sum()), parallel.device_index()

    x = np.arange(16.0, dtype=np.float32)
    gathered, mean, index = parallel.pmap(per_device, out_axes=(None, None, 0))(parallel.split(x))
    np.testing.assert_array_equal(gathered, x)
    assert float(mean) == x.sum() / 8
    np.testing.assert_array_equal(index, np.arange(8))


def test_replicated_values_enter_and_leave_without_a_devices_axis() -> None:
    weights = parallel.replicate({"w": jnp.arange(3.0)})
    step = parallel.pmap(
        lambda w, x: {"w": w["w"] + parallel.mean(x)}, in_axes=(None, 0), out_axes=None, donate_argnums=(0,)
    )
    after = step(weights, np.ones((8, 3), np.float32))
    np.testing.assert_array_equal(after["w"], [1.0, 2.0, 3.0])
    assert after["w"].sharding.is_equivalent_to(parallel.replicated_sharding(), 1)
    assert weights["w"].is_deleted()


def test_a_batch_that_cannot_be_shared_evenly_says_which_can() -> None:
    assert parallel.process_rows(24) == slice(0, 24)
    with pytest.raises(ValueError, match="batch_size=20 cannot be divided evenly over 8 devices.* such as 16 or 24"):
        parallel.process_rows(20)
    with pytest.raises(ValueError, match="multiple of 8, such as 8"):
        parallel.process_rows(4)


def test_a_process_that_sees_another_disk_is_told(tmp_path: Path) -> None:
    parallel.check_shared(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"process 0 does not see .*absent.* storage that all processes share"):
        parallel.check_shared(tmp_path / "absent")


def test_eight_devices() -> None:
    assert parallel.device_count() == parallel.local_device_count() == jax.device_count() == 8
    assert parallel.is_main_process()
