import numpy as np
import pytest

from depthprune.study.items import pack, unpack, weighted_mean


@pytest.mark.parametrize("n", [1, 7, 8, 9, 500])
def test_right_and_wrong_take_a_bit_an_item_and_come_back(n):
    values = np.random.default_rng(n).integers(0, 2, n).astype(float)
    packed = pack(values)
    assert isinstance(packed, str)
    assert len(packed) == 2 * -(-n // 8)
    assert (unpack(packed, n) == values).all()


def test_losses_come_back_to_six_decimals():
    values = np.random.default_rng(0).standard_normal(16)
    packed = pack(values)
    assert unpack(packed, 16) == pytest.approx(values, abs=5e-7)
    weights = np.arange(1, 17).astype(float)
    assert weighted_mean(values, weights.tolist()) == pytest.approx(weights @ values / 136)


@pytest.mark.parametrize(("packed", "n"), [("ff", 9), ("ffff", 8), ((1.5, 2.0), 3)])
def test_another_number_of_them_is_refused(packed, n):
    with pytest.raises(ValueError, match=f"expected .*{n}"):
        unpack(packed, n)
