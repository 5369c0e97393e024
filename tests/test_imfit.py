"""imfit's configurations: against images that pyimfit 1.1 drew, and there and back."""

import json

import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose

import jaxphot as jp
from jaxphot.interchange.imfit import read_imfit, write_imfit


@pytest.fixture(autouse=True)
def _as_a_reader():
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture
def drawn(data_dir):
    return json.loads((data_dir / "imfit" / "functions.json").read_text())


FUNCTIONS = [
    "Sersic", "Sersic_GenEllipse", "Exponential", "Exponential_GenEllipse", "Gaussian", "Moffat", "Core-Sersic",
    "BrokenExponential", "EdgeOnDisk", "ModifiedKing", "ModifiedKing2", "FerrersBar2D", "GaussianRing",
    "GaussianRing2Side", "FlatSky", "TiltedSkyPlane",
]  # fmt: skip
SKY_CD = 0.4 * np.array([[-np.cos(0.5), np.sin(0.5)], [np.sin(0.5), np.cos(0.5)]])


def _brightness_at_pixels(setup, transform):
    j, i = np.mgrid[3:32:5, 2:28:5].astype(float)
    x, y = transform.pixel_to_plane(i, j)
    return np.asarray(setup.model(setup.params, x, y)) * abs(np.linalg.det(transform.cd))


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("cd", [0.4 * np.eye(2), SKY_CD], ids=["pixels", "sky"])
def test_functions_have_imfits_values(function, cd, drawn, tmp_path):
    """At pixel centres (drawn without sub-sampling); and the writer gives the same back."""
    path = tmp_path / "config.dat"
    path.write_text(drawn[function]["config"])
    transform = jp.make_linear(cd=cd, crpix=(3.0, 5.0), crtan=(1.0, -2.0))
    setup = read_imfit(path, transform=transform)
    ours, theirs = _brightness_at_pixels(setup, transform), np.array(drawn[function]["pixels"])
    assert_allclose(ours, theirs, rtol=1e-5, atol=1e-9)  # its b_n is a series

    again = tmp_path / "again.dat"
    write_imfit(again, setup.model, setup.params, transform, fixed=setup.fixed)
    back = read_imfit(again, transform=transform)
    assert_allclose(_brightness_at_pixels(back, transform), ours, rtol=1e-9)
    with pytest.raises(FileExistsError):
        write_imfit(again, setup.model, setup.params, transform)


CONFIG = """\
GAIN  4.725
X0   33.0   30,36
Y0   35.0   32,38
FUNCTION Sersic   # the galaxy
PA   18.0   0,180
ell   0.2   0,0.5     # +/- 0.01
n   2.5   fixed
I_e   20.0
r_e   6.0   1,20
X0   1   fixed
Y0   1   fixed
FUNCTION FlatSky
I_sky   3
"""


def test_limits_and_fixed(tmp_path):
    path = tmp_path / "config.dat"
    path.write_text(CONFIG)
    setup = jp.read_imfit(path, pixelscale=0.5)
    assert setup.info == {"GAIN": "4.725"}
    assert setup.fixed == {"sersic1": {"n": None}}
    bounds = setup.bounds["sersic1"]
    assert bounds["q"] == (0.5, 1.0)
    assert_allclose(bounds["Re"], (0.5, 10.0))
    assert_allclose(bounds["center"], [[14.5, 15.5], [17.5, 18.5]])
    assert_allclose(setup.params["sersic1"]["center"], [16.0, 17.0])
    assert_allclose(setup.params["sersic1"]["Ie"], 80.0)
    image = jp.make_image(np.zeros((64, 64)), std=1.0, pixelscale=0.5)
    assert float(jp.render(setup.model, setup.params, image)[34, 32]) > 80  # 1-based (33, 35)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("r_e   6.0   1,20", "r_e   6.0   1;20"), ":9: expected limits"),
        (("I_e   20.0", "I_e   bright"), ":8: expected"),
        (("FUNCTION Sersic ", "FUNCTION GaussianRing3D "), ":4: GaussianRing3D has no counterpart"),
        (("n   2.5   fixed\n", ""), "expected PA, ell, n, I_e, r_e"),
        (("X0   33.0   30,36\n", ""), ":"),
    ],
)
def test_what_is_wrong_is_named(change, words, tmp_path):
    path = tmp_path / "config.dat"
    path.write_text(CONFIG.replace(*change))
    with pytest.raises(ValueError, match=words):
        read_imfit(path)


def test_no_counterpart(tmp_path):
    model = jp.scene(blob=jp.models.nuker)
    params = {"blob": {name: 1.0 for name in jp.parameters(model)["blob"]}}
    with pytest.raises(ValueError, match="blob: imfit has no counterpart"):
        write_imfit(tmp_path / "no.dat", model, params, jp.make_linear(pixelscale=1.0))
