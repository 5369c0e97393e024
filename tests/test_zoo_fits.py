"""Every model from pixels alone: `initialize`, then a fit that ends where one that starts at the truth does."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
from cases import CASES

import jaxphot as jp

SIDE, SCALE = 40, 0.4  # pixels, arcsec: as large as four half-light radii and more
TRANSFORM = jp.make_linear(pixelscale=SCALE, crpix=((SIDE - 1) / 2, (SIDE - 1) / 2))
SKY = {"I0": 0.1}
BLANK = jp.make_image(np.zeros((SIDE, SIDE)), std=1.0, transform=TRANSFORM)

# in the table for their derivatives; here, as sources are
CHANGED = {
    "exponential": {"Ie": 3.0},
    "mge_twisted": {"fluxes": [3.0, 2.0]},
    "many": {"flux": [5.0, 3.0]},
    "spline_of_brightness": {"I_r": [6.0, 4.0, 1.5, 0.6, 0.05]},
}
# what no image determines beside the rest
HELD = {
    "basis": ("images", "scale"),
    "zernike": ("Rd", "center"),
    "gaussian_ellipsoid": ("beta", "gamma", "sigma_c"),
    "many": ("center",),
    "pixelated": ("center", "PA", "scale"),
    "pixelated_cubic": ("center", "PA", "scale"),
    "logarithmic_spiral": ("R_wind",),
}
# S/N from which on all parameters are determined: below it a fit need not converge, but has to say so
DETERMINED_FROM = {
    **dict.fromkeys(("core_sersic", "by_flux_without_closed_form", "inclined_boxy_truncated_ring"), np.inf),
    **dict.fromkeys(("king", "by_magnitude", "nuker", "broken_exponential", "spline_of_brightness"), 60),
    **dict.fromkeys(("truncated", "two_sided_ring", "warp", "bend"), 60),
    **dict.fromkeys(("wedge", "ray", "ray_of_splines_on_a_bend", "logarithmic_spiral", "spiral"), 60),
}
SOURCES = {
    name: replace(case, params={**case.params, **CHANGED.get(name, {})})
    for name, case in CASES.items()
    if case.frame is not None and name != "linked"  # which has no inverse
}
# with a border as sharp as in the table, χ² is a staircase
SOURCES["wedge"] = replace(SOURCES["wedge"], model=jp.models.modifiers.wedge(jp.profiles.exponential, 3))
QUICK = ("ring",)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.full) for name in SOURCES]
)
def test_from_pixels_to_the_minimum(name):
    case = SOURCES[name]
    model, truth = jp.scene(source=case.model, sky=jp.models.flat_sky), {"source": case.values(), "sky": SKY}
    known = {"source": {key: truth["source"][key] for key in HELD.get(name, ())}}
    pixels = np.asarray(jp.render(model, truth, BLANK))
    light = np.sqrt(np.sum((pixels - SKY["I0"] * SCALE**2) ** 2))
    for signal_to_noise in (100, 60, 20):
        std = light / signal_to_noise
        data = pixels + std * np.random.default_rng(1).normal(size=pixels.shape)
        image = jp.make_image(data, std=std, transform=TRANSFORM)
        start = jp.initialize(model, image, known)
        assert all(np.all(np.isfinite(leaf)) for leaf in start["source"].values())
        fit, best = (jp.fit(model, params, image, fixed=known) for params in (start, truth))
        is_determined = signal_to_noise >= DETERMINED_FROM.get(name, 20)
        told = jp.status_message(fit)
        assert float(fit.chi2) < float(best.chi2) + (1 if is_determined else 5), (signal_to_noise, told)
        if is_determined:
            assert int(fit.status) == jp.fitting.lm.CONVERGED, (signal_to_noise, told)
        elif not np.all(np.isfinite([leaf for leaf in map(np.sum, fit.stderr["source"].values())])):
            assert told != "converged"


def test_sectors_and_alternatives_are_measured():
    """A lopsided galaxy's sectors start apart, a spiral on the side to which it winds."""
    case = SOURCES["ray_of_gaussians"]
    model = jp.scene(source=case.model)
    image = jp.make_image(jp.render(model, {"source": case.values()}, BLANK), std=1e-3, transform=TRANSFORM)
    sizes = np.asarray(jp.initialize(model, image, {"source": {"center": case.params["center"]}})["source"]["sigma"])
    assert np.corrcoef(sizes, case.params["sigma"])[0, 1] > 0.8
    for turn in (3.0, -3.0):
        model = jp.scene(source=SOURCES["spiral"].model)
        params = {"source": SOURCES["spiral"].values(changes={"turn": turn, "inclination": 0.4, "q": 0.4})}
        image = jp.make_image(jp.render(model, params, BLANK), std=1e-3, transform=TRANSFORM)
        assert float(jp.initialize(model, image)["source"]["turn"]) * turn > 0


def test_skies_start_at_their_level():
    image = jp.make_image(np.full((SIDE, SIDE), 3.0) * SCALE**2, std=1.0, transform=TRANSFORM)
    skies = (
        jp.models.flat_sky,
        jp.models.plane_sky,
        jp.models.poly_sky(2),
        jp.models.bilinear_sky((2, 3), (0, 1, 0, 1)),
    )
    for sky in skies:
        start = jp.initialize(jp.scene(sky=sky), image)
        assert np.allclose(jp.render(jp.scene(sky=sky), start, image), image.data)


def test_own_starts():
    """A user's profile and metric say where their parameters start; one that does not is asked for."""

    def plateau(r, *, width, I0):
        return I0 / (1 + (r / width) ** 8)

    image = jp.make_image(jp.render(SOURCES["gaussian"].model, SOURCES["gaussian"].values(), BLANK), std=0.1)
    with pytest.raises(ValueError, match="width"):
        jp.initialize(jp.radial(plateau), image)
    plateau.start = lambda source: {"width": 1.2 * source.Re}
    start = jp.initialize(jp.radial(plateau), image)
    assert 0.5 < float(start["width"]) < 10
    plateau.start = lambda source: [{"width": 100.0}, {"width": 1.2 * source.Re}, {"width": 0.01}]
    assert jnp.allclose(jp.initialize(jp.radial(plateau), image)["width"], start["width"])
