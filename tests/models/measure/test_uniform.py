import numpy as np
import pytest

from models.measure.uniform import max_vio_floor


def test_max_vio_floor_against_simulated_routing() -> None:
    rng = np.random.default_rng(0)
    distinct, repeated = [], []
    for _ in range(300):
        chosen = np.argpartition(rng.random((2048, 16)), 3, axis=1)[:, :4]
        distinct.append(np.bincount(chosen.ravel(), minlength=16).max() / 512 - 1)
        repeated.append(np.bincount(rng.integers(0, 16, 2048 * 4), minlength=16).max() / 512 - 1)
    assert max_vio_floor(2048, 16, 4) == pytest.approx(np.mean(distinct), rel=0.03)
    # 0.079, often quoted for this size, lets one token take the same expert twice.
    assert np.mean(repeated) == pytest.approx(0.079, abs=0.002)
    assert max_vio_floor(2048, 16, 4) == pytest.approx(0.0698, abs=1e-4)
    assert max_vio_floor(65536, 16, 4) == pytest.approx(0.0123, abs=1e-4)
    assert max_vio_floor(1, 16, 4) == pytest.approx(1.83, abs=1.2) and max_vio_floor(100, 8, 8) == 0.0
    with pytest.raises(ValueError, match="tokens=0"):
        max_vio_floor(0, 16, 4)
