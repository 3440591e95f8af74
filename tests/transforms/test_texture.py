"""Grey-level co-occurrence by hand, and through the pool of processes as without it."""

import numpy as np

from tumorscope.config import Texture
from tumorscope.transforms import texture


def test_energy_and_contrast_of_two_levels_by_hand():
    """Left half black, right half white, 2x4: of the pairs to the right, 2 are black-black, 2 white-white, 2 cross.

    Symmetric shares: 2/6 on the diagonal twice, 1/6 off it twice. ASM = 2 (1/3)^2 + 2 (1/6)^2 = 5/18; energy its root;
    contrast the share that differs by one level, 1/3; homogeneity 2/3 + 1/3 / 2.
    """
    image = np.array([[[0, 0, 255, 255], [0, 0, 255, 255]]], np.uint8)
    asked = Texture(properties=("energy", "contrast", "homogeneity", "ASM"), angles=(0.0,), levels=2)
    expected = [[(5 / 18) ** 0.5, 1 / 3, 5 / 6, 5 / 18]]
    np.testing.assert_allclose(texture.texture_values(image, asked), expected, rtol=1e-6)


def test_values_go_by_property_distance_and_angle_and_do_not_depend_on_the_pool(monkeypatch):
    images = np.random.default_rng(0).integers(0, 256, (5, 16, 16), dtype=np.uint8)
    asked = Texture(properties=("contrast", "energy"), distances=(1, 2), angles=(0.0, 90.0), levels=16)
    alone = texture.texture_values(images, asked)
    assert alone.shape == (5, 8)
    one = Texture(properties=("energy",), distances=(2,), angles=(90.0,), levels=16)
    np.testing.assert_array_equal(alone[:, 7:], texture.texture_values(images, one))
    # Down the columns of the turned slice is along the rows of the slice.
    np.testing.assert_allclose(texture.texture_values(images.transpose(0, 2, 1), asked)[:, 0], alone[:, 1], rtol=1e-6)
    monkeypatch.setattr(texture, "CHUNK", 2)
    np.testing.assert_array_equal(texture.texture_values(images, asked), alone)
