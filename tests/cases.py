"""One table of models: every row is put to every question of `test_cases.py`.

To add a model, add a row to `CASES`, under a name of its own:

    "my_model": Case(jp.models.my_model, {**ELLIPSE, "Re": 1.7, "I0": 3.0}, flux=12.3),

params   ordinary values at which every parameter matters (derivatives are compared with finite differences, which must
         not vanish), nested like the model's; lists become arrays. Sizes of 1 to 3 arcsec: samples lie within 8 arcsec.
flux     the total from a formula that is not the model's own (scipy, a paper); QUADRATURE if there is none: then only
         the model's own `total_flux` is compared with the integral; None if the total is infinite (a sky).
edges    dictionaries of changes to params at which values and gradients must be finite. Those that every model shares
         (see `edge_cases`) are added: q, PA and centre at their extremes, every finite bound, amplitudes ≤ 0, tiny and
         huge sizes.
angles   names of the parameters that grow by φ when the sky turns by φ from North to East; None if it cannot turn.
frame    "center" unless the position has another name; None if the model has no position (a sky).
kinks    True if brightness has borders inside the frame on which it is not smooth: the integral is then good to 1e-3.
jumps    True if it jumps there: the integral is then good to 3e-3.
loose32  how far float32 may be from float64, relative to the brightest sample; a reason goes beside it.

Values against other people's code are in `test_independent.py`.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from scipy import integrate, interpolate, special

import jaxphot as jp

QUADRATURE = "quadrature"


@dataclass(frozen=True)
class Case:
    """A row; see the head of this file."""

    model: object
    params: dict
    flux: object = QUADRATURE
    edges: tuple = ()
    angles: tuple | None = ("PA",)
    frame: str | None = "center"
    kinks: bool = False
    jumps: bool = False
    loose32: float = 1e-4

    def values(self, dtype=np.float64, changes=None):
        """The parameters as arrays, with some changed."""
        tree = {**self.params, **(changes or {})}
        return jax.tree.map(
            lambda leaf: jnp.asarray(leaf, dtype), tree, is_leaf=lambda leaf: not isinstance(leaf, dict)
        )


ELLIPSE = {"center": [0.3, -0.4], "q": 0.6, "PA": 0.7}


def sersic_flux(n, Re, Ie, q):
    b = special.gammaincinv(2 * n, 0.5)
    return 2 * np.pi * q * n * Re**2 * Ie * np.exp(b) * b ** (-2 * n) * special.gamma(2 * n)


DISK = {"inclination": 0.8, "PA_sky": -0.5}


def radial_flux(profile, end, q=0.6):
    """2π q ∫ I r dr, by scipy."""
    return 2 * np.pi * q * integrate.quad(lambda r: profile(r) * r, 0, end, epsabs=0, epsrel=1e-9, limit=500)[0]


def king_power(r, Rc, Rt, alpha):
    outer = (1 + (Rt / Rc) ** 2) ** (-1 / alpha)
    return (((1 + (r / Rc) ** 2) ** (-1 / alpha) - outer) / (1 - outer)) ** alpha


def spline_by_scipy(r, radii=(0.0, 0.5, 1.0, 2.2, 4.0, 8.0), values=(8.0, 6.0, 4.0, 1.5, 0.6, 0.05)):
    knots = 0.5 * np.log(np.square(radii) + 0.25)
    curve = interpolate.PchipInterpolator(knots, np.log(values))
    t = 0.5 * np.log(r**2 + 0.25)
    return np.exp(curve(min(t, knots[-1])) + curve(knots[-1], 1) * max(t - knots[-1], 0))


def bulge_and_disk(theta):
    shape = {name: theta[name] for name in ("center", "q", "PA")}
    bulge = {**shape, "n": 4.0, "Re": theta["Re"], "Ie": theta["Ie"]}
    return {"bulge": bulge, "disk": {**shape, "Re": 3 * theta["Re"], "Ie": theta["disk"]["Ie"]}}


CASES = {
    "sersic": Case(
        jp.models.sersic, {**ELLIPSE, "n": 2.3, "Re": 1.7, "Ie": 3.0}, flux=sersic_flux(n=2.3, Re=1.7, Ie=3.0, q=0.6)
    ),
    "sersic_low_n": Case(
        jp.models.sersic, {**ELLIPSE, "n": 0.4, "Re": 1.7, "Ie": 3.0}, flux=sersic_flux(n=0.4, Re=1.7, Ie=3.0, q=0.6)
    ),
    "exponential": Case(
        jp.models.exponential, {**ELLIPSE, "Re": 1.7, "Ie": -3.0}, flux=sersic_flux(n=1.0, Re=1.7, Ie=-3.0, q=0.6)
    ),
    "gaussian": Case(jp.models.gaussian, {**ELLIPSE, "sigma": 1.1, "flux": 5.0}, flux=5.0),
    "moffat": Case(
        jp.models.moffat, {**ELLIPSE, "n": 2.6, "Rd": 1.3, "I0": 2.0}, flux=np.pi * 0.6 * 1.3**2 * 2.0 / 1.6
    ),
    "de_vaucouleurs": Case(
        jp.models.de_vaucouleurs, {**ELLIPSE, "Re": 1.7, "Ie": 3.0}, flux=sersic_flux(n=4.0, Re=1.7, Ie=3.0, q=0.6)
    ),
    "ferrer": Case(
        jp.models.ferrer,
        {**ELLIPSE, "Rout": 4.5, "alpha": 2.6, "beta": 0.4, "I0": 3.0},
        flux=radial_flux(lambda r: 3.0 * (1 - (r / 4.5) ** 1.6) ** 2.6, 4.5),
        edges=({"beta": 1.0}, {"beta": 0.0}, {"Rout": 0.1}),
        kinks=True,  # its edge
    ),
    "king": Case(
        jp.models.king,
        {**ELLIPSE, "Rc": 1.2, "Rt": 6.5, "alpha": 2.3, "I0": 3.0},
        flux=radial_flux(lambda r: 3.0 * king_power(r, 1.2, 6.5, 2.3), 6.5),
        edges=({"Rt": 0.1}, {"Rt": 1.2}, {"Rc": 100.0}),
        kinks=True,
    ),
    "nuker": Case(
        jp.models.nuker,
        {**ELLIPSE, "Rb": 1.4, "Ib": 3.0, "alpha": 1.7, "beta": 3.1, "gamma": 0.6},
        flux=radial_flux(
            lambda r: 3.0 * 2 ** (2.5 / 1.7) * (r / 1.4) ** -0.6 * (1 + (r / 1.4) ** 1.7) ** (-2.5 / 1.7), np.inf
        ),
        edges=({"gamma": 0.0}, {"beta": 2.0}, {"beta": 0.6}),
    ),
    "core_sersic": Case(
        jp.models.core_sersic,
        {**ELLIPSE, "n": 2.3, "Re": 1.9, "Rb": 0.7, "Ib": 3.0, "alpha": 2.1, "gamma": 0.4},
        edges=({"gamma": 0.0}, {"Rb": 1e-6}, {"n": 12.0, "Rb": 50.0}),
    ),
    "broken_exponential": Case(
        jp.models.broken_exponential,
        {**ELLIPSE, "h1": 2.2, "h2": 1.1, "Rb": 2.0, "alpha": 1.5, "I0": 3.0},
        edges=({"h1": 1.1}, {"h1": 1e-4, "alpha": 1e-3}),
    ),
    "hernquist": Case(
        jp.models.hernquist, {**ELLIPSE, "Rs": 1.1, "flux": 5.0}, flux=5.0, edges=({"Rs": 1.0, "center": [0.0, 0.0]},)
    ),
    "spline": Case(
        jp.radial(jp.profiles.spline((0.0, 0.5, 1.0, 2.2, 4.0, 8.0))),
        {**ELLIPSE, "I_r": [8.0, 6.0, 4.0, 1.5, 0.6, 0.05]},
        flux=radial_flux(spline_by_scipy, np.inf),
        edges=({"I_r": [1.0] * 6}, {"I_r": [1e-30] * 6}, {"I_r": [1.0, 2.0, 1.0, 2.0, 1.0, 0.0]}),
        kinks=True,  # of the second derivative
    ),
    "spline_of_brightness": Case(
        jp.radial(jp.profiles.spline((0.3, 1.0, 2.2, 4.0, 8.0), log=False)),
        {**ELLIPSE, "I_r": [6.0, 4.0, -1.5, 0.6, 0.05]},
        edges=({"I_r": [0.0] * 5},),
        kinks=True,
    ),
    "circle": Case(
        jp.radial(jp.profiles.gaussian, jp.metrics.circle), {"center": [0.3, -0.4], "sigma": 1.7, "flux": 5.0}, flux=5.0
    ),
    "boxy": Case(
        jp.radial(jp.profiles.gaussian, jp.metrics.superellipse),
        {**ELLIPSE, "C0": 0.7, "sigma": 1.7, "flux": 5.0},
        flux=5.0,
        edges=({"C0": 0.0}, {"C0": -1.0}, {"C0": 0.0, "q": 1.0}),
    ),
    "disky": Case(
        jp.radial(jp.profiles.exponential, jp.metrics.superellipse),
        {**ELLIPSE, "C0": -0.4, "Re": 1.7, "Ie": 3.0},
        kinks=True,
    ),
    "fourier": Case(
        jp.radial(jp.profiles.gaussian, jp.metrics.fourier((1, 3, 4))),
        {**ELLIPSE, "am": [0.1, -0.08, 0.05], "phim": [0.3, -0.4, 1.2], "sigma": 1.7, "flux": 5.0},
        flux=5.0,
        edges=({"am": [0.0, 0.0, 0.0]}, {"am": [0.0, 0.0, 0.0], "q": 1.0}),
    ),
    "boxy_fourier": Case(
        jp.radial(jp.profiles.gaussian, jp.metrics.fourier((1,), jp.metrics.superellipse)),
        {**ELLIPSE, "C0": 0.3, "am": [0.2], "phim": [0.3], "sigma": 1.7, "flux": 5.0},
        flux=5.0,
    ),
    "warp": Case(
        jp.radial(jp.profiles.exponential, jp.metrics.warp((0.0, 1.0, 2.2, 5.0))),
        {"center": [0.3, -0.4], "q_r": [0.9, 0.7, 0.5, 0.6], "PA_r": [0.2, 0.5, 3.3, 2.9], "Re": 1.7, "Ie": 3.0},
        angles=("PA_r",),
        edges=({"PA_r": [0.0, np.pi / 2, 0.0, np.pi]}, {"PA_r": [0.0, 0.0, 0.0, 0.0]}),
        kinks=True,
    ),
    "bend": Case(
        jp.radial(jp.profiles.gaussian, jp.metrics.bend((1, 2, 3), 2.5)),
        {**ELLIPSE, "bm": [0.1, 0.4, -0.2], "sigma": 1.7, "flux": 5.0},
        flux=5.0,
        edges=({"bm": [0.0, 0.0, 0.0]},),
    ),
    "spiral": Case(
        jp.radial(jp.profiles.gaussian, jp.models.spirals.spiral()),
        {**ELLIPSE, **DISK, "R_bar": 0.8, "R_arm": 3.0, "turn": 2.1, "slope": 0.6, "sigma": 1.7, "flux": 5.0},
        flux=5.0,
        angles=("PA", "PA_sky"),
        edges=({"turn": 0.0}, {"turn": -30.0}, {"R_bar": 3.0}, {"inclination": 0.0}),
    ),
    "logarithmic_spiral": Case(
        jp.radial(jp.profiles.gaussian, jp.models.spirals.spiral(winding=jp.models.spirals.log_winding)),
        {**ELLIPSE, **DISK, "R_bar": 0.8, "R_arm": 3.0, "turn": -1.4, "R_wind": 0.9, "sigma": 1.7, "flux": 5.0},
        flux=5.0,
        angles=("PA", "PA_sky"),
    ),
    "truncated": Case(
        jp.radial(jp.models.modifiers.truncate(jp.profiles.sersic, inner=True)),
        {**ELLIPSE, "n": 1.4, "Re": 1.9, "Ie": 3.0, "R_in": 0.8, "w_in": 0.4, "R_out": 3.1, "w_out": 0.7},
    ),
    "ring": Case(
        jp.radial(jp.models.modifiers.ring(jp.profiles.sersic)),
        {**ELLIPSE, "n": 0.5, "Re": 0.9, "Ie": 3.0, "R_ring": 1.9},
        edges=({"R_ring": 3.0, "center": [0.0, -3.0], "q": 1.0}, {"n": 4.0}),
    ),
    "two_sided_ring": Case(
        jp.radial(jp.models.modifiers.ring(jp.profiles.exponential, two_sided=True)),
        {**ELLIPSE, "Re": 0.9, "Ie": 3.0, "R_ring": 1.9, "side_ratio": 0.6},
        kinks=True,
    ),
    "inclined": Case(
        jp.radial(jp.profiles.gaussian, jp.models.modifiers.inclined(thickness=0.15)),
        {"center": [0.3, -0.4], "PA": 0.7, "inclination": 1.1, "sigma": 1.7, "flux": 5.0},
        flux=5.0,
    ),
    "inclined_boxy_truncated_ring": Case(
        jp.radial(
            jp.models.modifiers.truncate(jp.models.modifiers.ring(jp.profiles.moffat)),
            jp.models.modifiers.inclined(jp.metrics.superellipse),
        ),
        {
            **{"center": [0.3, -0.4], "PA": 0.7, "inclination": 1.1, "C0": 0.3},
            **{"n": 2.6, "Rd": 1.3, "I0": 2.0, "R_ring": 1.1, "R_out": 3.1, "w_out": 0.7},
        },
        kinks=True,
    ),
    "wedge": Case(
        jp.models.modifiers.wedge(jp.profiles.exponential, 3, blend=0),
        {**ELLIPSE, "Re": [1.7, 1.2, 1.9], "Ie": [3.0, 2.0, 2.5]},
        kinks=True,
        jumps=True,
    ),
    "wedge_all_around": Case(
        jp.models.modifiers.wedge(jp.profiles.sersic, 3, symmetric=False, blend=0.3),
        {**ELLIPSE, "n": [0.9, 1.1, 1.4], "Re": [1.7, 1.2, 1.9], "Ie": [3.0, 2.0, 2.5]},
        kinks=True,
    ),
    "ray": Case(
        jp.models.modifiers.ray(jp.profiles.moffat, 4),
        {**ELLIPSE, "n": [2.9, 2.4, 3.3, 2.6], "Rd": [1.7, 1.2, 1.9, 1.5], "I0": [3.0, 2.0, 2.5, 1.0]},
    ),
    "ray_of_gaussians": Case(
        jp.models.modifiers.ray(jp.profiles.gaussian, 5, jp.metrics.circle, symmetric=False),
        {"center": [0.3, -0.4], "sigma": [1.7, 1.2, 1.9, 1.5, 1.3], "flux": [3.0, 2.0, 2.5, 1.0, 4.0]},
        flux=2.5,
        angles=None,  # sectors count from North
    ),
    "ray_of_splines_on_a_bend": Case(
        jp.models.modifiers.ray(jp.profiles.spline((0.0, 1.0, 3.0, 6.0)), 2, jp.metrics.bend((2,), 2.5)),
        {**ELLIPSE, "bm": [0.3], "I_r": [[5.0, 3.0, 0.7, 0.05], [5.0, 2.0, 0.5, 0.04]]},
        kinks=True,
    ),
    "many": Case(
        jp.many(jp.models.gaussian),
        {
            **{"center": [[0.3, -0.4], [1.1, 0.2]], "q": [0.6, 0.8], "PA": [0.7, -0.3]},
            **{"sigma": [1.1, 1.4], "flux": [5.0, -3.0]},
        },
        flux=2.0,
    ),
    "linked": Case(
        jp.linked(jp.scene(bulge=jp.models.sersic, disk=jp.models.exponential), bulge_and_disk),
        {**ELLIPSE, "Re": 0.9, "Ie": 3.0, "disk": {"Ie": 0.7}},
        flux=sersic_flux(n=4.0, Re=0.9, Ie=3.0, q=0.6) + sersic_flux(n=1.0, Re=2.7, Ie=0.7, q=0.6),
    ),
    "by_flux": Case(jp.models.views.by_flux(jp.models.sersic), {**ELLIPSE, "n": 2.3, "Re": 1.7, "flux": 5.0}, flux=5.0),
    "by_flux_without_closed_form": Case(
        jp.models.views.by_flux(jp.models.core_sersic),
        {**ELLIPSE, "n": 2.3, "Re": 1.9, "Rb": 0.7, "alpha": 2.1, "gamma": 0.4, "flux": 5.0},
        flux=5.0,
    ),
    "by_magnitude": Case(
        jp.models.views.by_magnitude(jp.models.king, 25.0),
        {**ELLIPSE, "Rc": 1.2, "Rt": 6.5, "alpha": 2.3, "mag": 22.5},
        flux=10.0,
        kinks=True,
    ),
    "by_ellipticity": Case(
        jp.models.views.by_ellipticity(jp.models.views.by_flux(jp.models.exponential)),
        {"center": [0.3, -0.4], "e1": 0.2, "e2": -0.3, "Re": 1.7, "flux": 5.0},
        flux=5.0,
        edges=({"e1": 0.0, "e2": 0.0}, {"e1": 1e-12, "e2": 0.0}, {"e1": 1e-9, "e2": -1e-9}),
    ),
    "flat_sky": Case(jp.models.flat_sky, {"I0": 2.5}, flux=None, frame=None),
    "plane_sky": Case(jp.models.plane_sky, {"I0": 2.5, "delta": [0.2, -0.3]}, flux=None, frame=None),
    "edge_on": Case(
        jp.models.edge_on,
        {"center": [0.3, -0.4], "PA": 0.7, "rs": 1.6, "hs": 0.9, "I0": 3.0},
        flux=2 * np.pi * 1.6 * 0.9 * 3.0,
        kinks=True,
    ),
    "isothermal": Case(
        jp.models.isothermal,
        {"center": [0.3, -0.4], "PA": 0.75, "rs": 1.6, "hs": 0.9, "I0": 3.0},
        flux=4 * 1.6 * 0.9 * 3.0,
        kinks=True,
    ),
    "mge": Case(
        jp.models.mge(3),
        {"center": [0.3, -0.4], "PA": 0.7, "qs": [0.6, 0.9, 0.4], "sigmas": [0.7, 1.4, 2.5], "fluxes": [3.0, 4.0, 2.0]},
        flux=9.0,
    ),
    "mge_twisted": Case(
        jp.models.mge(2, own_PA=True),
        {"center": [0.3, -0.4], "PAs": [0.7, 2.0], "qs": [0.6, 0.8], "sigmas": [0.9, 1.9], "fluxes": [3.0, -1.0]},
        flux=2.0,
        angles=("PAs",),
    ),
    "gaussian_ellipsoid": Case(
        jp.models.gaussian_ellipsoid,
        {
            "center": [0.3, -0.4],
            "sigma_a": 2.1,
            "sigma_b": 1.2,
            "sigma_c": 0.8,
            "alpha": 0.5,
            "beta": 0.9,
            "gamma": -0.4,
            "flux": 5.0,
        },
        flux=5.0,
        angles=("alpha",),
        edges=({"beta": 0.0}, {"beta": np.pi / 2, "sigma_c": 1e-3}, {"sigma_a": 1.5, "sigma_b": 1.5, "sigma_c": 1.5}),
    ),
    "pixelated": Case(
        jp.models.pixelated((2, 3)),
        {"center": [0.3, -0.4], "PA": 0.75, "scale": 1.7, "values": [[1.0, 2.0, -0.5], [0.7, 3.0, 1.2]]},
        flux=7.4 * 1.7**2,
        kinks=True,
    ),
    "pixelated_cubic": Case(
        jp.models.pixelated((3, 2), jp.models.grids.cubic),
        {"center": [0.3, -0.4], "PA": 0.7, "scale": 1.7, "values": [[1.0, 2.0], [-0.5, 0.7], [3.0, 1.2]]},
        flux=7.4 * 1.7**2,
        kinks=True,
    ),
    "basis": Case(
        jp.models.basis(2, (2, 2), jp.models.grids.cubic),
        {
            "center": [0.3, -0.4],
            "PA": 0.7,
            "scale": 1.7,
            "weights": [2.0, -0.3],
            "images": [[[1.0, 2.0], [0.5, 0.7]], [[3.0, 1.2], [-1.0, 0.2]]],
        },
        flux=(2.0 * 4.2 - 0.3 * 3.4) * 1.7**2,
        kinks=True,
    ),
    "zernike": Case(
        jp.models.zernike(3),
        {"center": [0.3, -0.4], "Rd": 2.9, "weights": [2.0, -0.3, 0.5, 0.4, 1.0, -0.7, 0.2, 0.1, -0.6, 0.8]},
        flux=None,  # the border is a step; see test_special.py
        angles=None,
    ),
    "poly_sky": Case(
        jp.models.poly_sky(2, origin=(0.5, -1.0), scale=2.0),
        {"coefficients": [2.5, 0.2, -0.3, 0.1, 0.4, -0.2]},
        flux=None,
        frame=None,
    ),
    "bilinear_sky": Case(
        jp.models.bilinear_sky((2, 3), (-2.0, 3.0, -3.0, 2.0)),
        {"nodes": [[1.0, 2.0, 0.5], [0.7, 3.0, 1.2]]},
        flux=None,
        frame=None,
    ),
    "airy": Case(
        jp.radial(jp.psf_models.airy_profile, jp.metrics.circle),
        {"center": [0.3, -0.4], "lam_over_D": 1.3, "flux": 3.0},
        flux=None,  # quadrature in log radius does not follow the rings; see test_psf_models.py
    ),
}
