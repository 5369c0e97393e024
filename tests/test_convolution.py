"""Light through the PSF against GalSim, and stars at every sub-pixel phase against integrals over pixels."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.special import gamma, gammaincinv

import jaxphot as jp
from jaxphot.numerics import gauss_legendre

SIDE = 36
ADAPTIVE = jp.sampling.adaptive()


def radial_profile(kind, fwhm):
    """Brightness over radius², and a radius that holds all but 5e-6 of the light."""
    if kind == "gaussian":
        sigma = fwhm / 2.3548200450309493
        return lambda r2: np.exp(-0.5 * r2 / sigma**2), 6 * sigma
    core = fwhm / 2 / np.sqrt(2 ** (1 / 3.5) - 1)
    return lambda r2: (1 + r2 / core**2) ** -3.5, 12 * core


def stamp(kind, fwhm, k, integrated):
    """Samples, or integrals over cells."""
    profile, radius = radial_profile(kind, fwhm)
    half = int(np.ceil(radius * k))
    axis = np.arange(-half, half + 1) / k
    nodes, weights = gauss_legendre(5) if integrated else ([0.0], [1.0])
    values = sum(
        wu * wv * profile((axis[:, None] + v / k) ** 2 + (axis + u / k) ** 2)
        for u, wu in zip(nodes, weights, strict=True)
        for v, wv in zip(nodes, weights, strict=True)
    )
    return jp.make_psf(values, oversample=k, integrated=integrated)


def sersic(n, q, Re, seed=0):
    """A galaxy at a random sub-pixel place and angle."""
    random = np.random.default_rng([int(10 * n), int(10 * q), int(Re), seed])
    center = SIDE / 2 + random.uniform(-0.5, 0.5, 2)
    return {"center": jnp.asarray(center), "PA": random.uniform(0, np.pi), "q": q, "n": n, "Re": float(Re), "Ie": 1.0}


def galsim_image(params, psf, fwhm, loc=(0.0, 0.0), scale=(1.0, 1.0)):
    galsim = pytest.importorskip("galsim")
    n, q, Re = (float(params[key]) for key in ("n", "q", "Re"))
    b = gammaincinv(2 * n, 0.5)
    flux = 2 * np.pi * n * Re**2 * q * np.exp(b) * b ** (-2 * n) * gamma(2 * n)
    fine = galsim.GSParams(
        folding_threshold=1e-3 if n * Re > 12 else 1e-4,
        maxk_threshold=1e-5,
        kvalue_accuracy=1e-6,
        maximum_fft_size=16384,
    )
    galaxy = galsim.Sersic(n=n, half_light_radius=Re * np.sqrt(q), flux=flux, gsparams=fine)
    galaxy = galaxy.shear(q=q, beta=(np.pi / 2 - float(params["PA"])) * galsim.radians)
    blur = galsim.Gaussian(fwhm=fwhm) if psf == "gaussian" else galsim.Moffat(beta=3.5, fwhm=fwhm)
    both = galsim.Convolve(galaxy, blur, galsim.Box(*scale), gsparams=fine)
    offset = np.asarray(params["center"]) - (SIDE - 1) / 2 - np.asarray(loc)
    drawn = both.drawImage(nx=SIDE, ny=SIDE, scale=1, offset=tuple(offset), method="no_pixel", dtype=float)
    return drawn.array * scale[0] * scale[1]


@functools.partial(jax.jit, static_argnums=(0, 3))
def render(model, params, image, rule=ADAPTIVE):
    return jp.render(model, params, image, rule)


def blank(psf, transform=None, dtype=np.float64):
    return jp.make_image(np.zeros((SIDE, SIDE), dtype), std=1.0, psf=psf, transform=transform)


def error_of(image, truth):
    return np.max(np.abs(np.asarray(image) - truth)) / truth.max()


# --- galaxies ---------------------------------------------------------------------------------------------------------

GALAXIES = [
    (0.5, 0.2, 1),
    (1, 0.6, 3),
    (2.5, 1.0, 10),
    (2.5, 0.2, 1),
    (2.5, 0.6, 1),
    (4, 0.2, 1),
    (4, 0.6, 3),
    (6, 1.0, 1),
]


@pytest.mark.parametrize(
    ("kind", "fwhm", "k", "integrated"),
    [("gaussian", 2.0, 3, False), ("moffat", 3.0, 3, True), ("moffat", 2.0, 5, True), ("gaussian", 4.0, 5, False)],
)
def test_galaxies_against_galsim(kind, fwhm, k, integrated):
    """≤ 1e-3 of the peak for n ≤ 6, ≤ 2e-4 for n ≤ 2.5."""
    image = blank(stamp(kind, fwhm, k, integrated))
    for n, q, Re in GALAXIES:
        params = sersic(n, q, Re)
        error = error_of(render(jp.models.sersic, params, image), galsim_image(params, kind, fwhm))
        assert error < (2e-4 if n <= 2.5 else 1e-3), (n, q, Re)


def test_galaxies_on_part_of_the_pixel_against_galsim():
    loc, scale = (0.2, -0.1), (0.5, 0.7)
    transform = jp.make_cmos(jp.make_linear(pixelscale=1.0), loc, scale)
    image = blank(stamp("gaussian", 2.0, 3, False), transform)
    for n, q, Re in [(1, 0.2, 3), (2.5, 0.6, 1), (4, 0.6, 3)]:
        params = sersic(n, q, Re)
        truth = galsim_image(params, "gaussian", 2.0, loc, scale)
        assert error_of(render(jp.models.sersic, params, image), truth) < (2e-4 if n <= 2.5 else 1e-3), (n, q, Re)


def test_native_stamp():
    """Cells of a pixel alone draw these wrong by 1e-2 to 6e-2; what is left is the light that a stamp cannot hold."""
    image, samples = blank(stamp("moffat", 3.0, 1, True)), blank(stamp("moffat", 3.0, 1, False))
    for n, q, Re in [(4, 0.6, 6), (2.5, 0.6, 1), (6, 0.6, 1)]:
        params = sersic(n, q, Re)
        truth = galsim_image(params, "moffat", 3.0)
        assert error_of(render(jp.models.sersic, params, image), truth) < 2e-3
        assert error_of(render(jp.models.sersic, params, samples), truth) > 6e-3  # by definition: see test_render


@pytest.mark.full
def test_moves_smoothly():
    """A galaxy that moves over the borders of cells and pixels takes its image along: no steps, derivatives right."""
    image, base = blank(stamp("gaussian", 2.5, 3, False)), sersic(4.0, 0.3, 2.0)

    def at(x, image):
        return jp.render(jp.models.sersic, base | {"center": jnp.stack([x, jnp.asarray(17.3)])}, image)

    both = jax.jit(lambda x, image: jax.jvp(lambda x: at(x, image), (x,), (jnp.ones(()),)))
    places = 17.4 + 2e-3 * np.arange(0, 100)
    values, slopes = (np.stack(leaf) for leaf in zip(*[both(jnp.asarray(x), image) for x in places], strict=True))
    peak = values.max()
    middle = (values[:-4] - 8 * values[1:-3] + 8 * values[3:-1] - values[4:]) / (12 * 2e-3)
    assert np.max(np.abs(slopes)) > 0.1 * peak
    assert np.max(np.abs(np.diff(values, axis=0) - 1e-3 * (slopes[1:] + slopes[:-1]))) < 1e-5 * peak
    assert np.max(np.abs(middle - slopes[2:-2])) < 5e-3 * np.max(np.abs(slopes))


def test_small_frames_and_sources_outside():
    """The same light wherever the frame is cut, though a core may be cut with it."""
    psf = jp.make_psf(np.exp(-0.5 * ((np.indices((13, 13)) - 6) ** 2).sum(0) / 1.5**2))
    large = blank(psf)
    small = jp.crop(large, (14, 21, 15, 20))
    for center in ([17.2, 17.6], [13.1, 14.2], [21.4, 17.0], [60.0, 17.0], [1e6, -1e6]):
        params = sersic(2.5, 0.5, 1.0) | {"center": jnp.asarray(center)}
        wanted = np.asarray(render(jp.models.sersic, params, large))
        got = np.asarray(render(jp.models.sersic, params, small))
        peak = np.max(np.asarray(render(jp.models.sersic, sersic(2.5, 0.5, 1.0), large)))
        assert np.max(np.abs(got - wanted[15:20, 14:21])) < 1e-4 * peak, center


def test_float32():
    params = sersic(4.0, 0.6, 3.0)
    psf = stamp("gaussian", 2.0, 3, False)
    short = render(jp.models.sersic, jax.tree.map(jnp.float32, params), blank(psf, dtype=np.float32))
    double = np.asarray(
        render(jp.models.sersic, jax.tree.map(jnp.float64, jax.tree.map(jnp.float32, params)), blank(psf))
    )
    assert short.dtype == np.float32
    assert error_of(short, double) < 2e-5


# --- stars ------------------------------------------------------------------------------------------------------------

PHASES = [(0.0, 0.0), (0.5, 0.5), (0.25, -0.4), (0.11, 0.37), (-1 / 6, 1 / 3), (0.5, -0.09)]


def gaussian_pixels(sigma, center):
    """Integrals over pixels."""
    from scipy.special import erf

    edge = np.arange(SIDE + 1) - 0.5
    share = [np.diff(erf((edge - c) / (np.sqrt(2) * sigma))) / 2 for c in center]
    return share[1][:, None] * share[0]


@pytest.mark.parametrize(
    ("sigma", "k", "limit"), [(0.8, 3, 1e-3), (0.8, 5, 1e-3), (1.2, 1, 1e-3), (1.5, 1, 1e-3), (0.8, 1, 1e-2)]
)
def test_stars_at_every_phase(sigma, k, limit):
    """A star's pixels, from a stamp integrated over its cells; at σ = 0.8 px a native stamp is undersampled."""
    image = blank(stamp("gaussian", sigma * 2.3548200450309493, k, integrated=True))
    for phase in PHASES:
        center = jnp.asarray([17.0 + phase[0], 18.0 + phase[1]])
        got = np.asarray(render(jp.models.point_source, {"center": center, "flux": 1.0}, image))
        truth = gaussian_pixels(sigma, center)
        assert error_of(got, truth) < limit, phase
        assert abs(got.sum() - 1) < 1e-6
        assert got.min() > -limit * truth.max()


def test_a_stars_gradient():
    sigma, step = 0.8, 1e-5
    image = blank(stamp("gaussian", sigma * 2.3548200450309493, 3, integrated=True))
    slopes = jax.jit(
        jax.jacfwd(lambda center: jp.render(jp.models.point_source, {"center": center, "flux": 1.0}, image))
    )
    for phase in PHASES:
        center = np.asarray([17.0 + phase[0], 18.0 + phase[1]])
        got = np.asarray(slopes(jnp.asarray(center)))
        for axis in (0, 1):
            shift = step * np.eye(2)[axis]
            truth = (gaussian_pixels(sigma, center + shift) - gaussian_pixels(sigma, center - shift)) / (2 * step)
            assert_allclose(got[..., axis], truth, rtol=0, atol=2e-3 * np.abs(truth).max())
