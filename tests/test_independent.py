"""Profiles and metrics against other people's code and formulas, and against what their conventions promise."""

import warnings

import jax.numpy as jnp
import numpy as np
import pytest
from astropy.modeling import functional_models, physical_models
from numpy.testing import assert_allclose
from scipy import integrate, interpolate

import jaxphot as jp
from jaxphot import units
from jaxphot.numerics import pchip

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import galsim

Y, X = np.mgrid[-6:7:0.7, -6:7:0.6]
R = np.concatenate([[0.0, 1e-6, 1e-3], np.geomspace(0.02, 30, 60)])
CENTER = np.array([0.31, -0.42])


def place(**own):
    return {name: jnp.asarray(value) for name, value in {"center": CENTER, **own}.items()}


# --- astropy: angles from +x towards +y -----------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "q", "PA"), [(0.7, 0.4, 0.3), (1.0, 1.0, 0.0), (4.0, 0.8, 2.1), (6.5, 0.15, -1.0)])
def test_sersic_is_astropys(n, q, PA):
    theirs = functional_models.Sersic2D(3.0, 2.2, n, *CENTER, 1 - q, np.pi / 2 - PA)
    ours = jp.models.sersic(place(q=q, PA=PA, n=n, Re=2.2, Ie=3.0), X, Y)
    assert_allclose(ours, theirs(X, Y), rtol=1e-7)


def test_moffat_is_astropys():
    theirs = functional_models.Moffat2D(3.0, *CENTER, 1.7, 2.8)
    assert_allclose(jp.models.moffat(place(q=1.0, PA=0.0, n=2.8, Rd=1.7, I0=3.0), X, Y), theirs(X, Y), rtol=1e-12)
    assert_allclose(units.Rd_to_fwhm(1.7, 2.8), theirs.fwhm, rtol=1e-12)
    assert_allclose(units.fwhm_to_Rd(theirs.fwhm, 2.8), 1.7, rtol=1e-12)


def test_gaussian_is_astropys():
    theirs = functional_models.Gaussian2D(3.0, *CENTER, 1.7, 0.6 * 1.7, np.pi / 2 - 0.4)
    flux = 3.0 * 2 * np.pi * 1.7**2 * 0.6
    assert_allclose(jp.models.gaussian(place(q=0.6, PA=0.4, sigma=1.7, flux=flux), X, Y), theirs(X, Y), rtol=1e-12)
    assert_allclose(units.sigma_to_fwhm(1.7), theirs.x_fwhm, rtol=1e-12)
    assert_allclose(units.fwhm_to_sigma(theirs.x_fwhm), 1.7, rtol=1e-12)


@pytest.mark.parametrize(("Rc", "Rt"), [(1.3, 9.0), (2.0, 2.5), (0.05, 25.0)])
def test_king_is_astropys(Rc, Rt):
    theirs = physical_models.KingProjectedAnalytic1D if hasattr(physical_models, "KingProjectedAnalytic1D") else None
    theirs = (theirs or functional_models.KingProjectedAnalytic1D)(1.0, Rc, Rt)
    ours = jp.profiles.king(R, Rc=Rc, Rt=Rt, alpha=2.0, I0=float(theirs(0.0)))
    assert_allclose(ours, theirs(R), rtol=1e-9, atol=1e-14 * float(theirs(0.0)))


# --- GalSim ---------------------------------------------------------------------------------------------------------


def of_galsim(profile, *, q=0.6, PA=0.5):
    """Brightness at X, Y of a GalSim profile flattened with its area kept: our major axis is 1/√q longer."""
    turned = profile.shear(q=q, beta=(np.pi / 2 - PA) * galsim.radians).shift(*CENTER)
    return np.array([turned.xValue(x, y) for x, y in zip(X.flat, Y.flat, strict=True)]).reshape(X.shape)


@pytest.mark.parametrize("n", [0.5, 1.0, 2.7, 4.0, 6.2])
def test_sersic_is_galsims(n):
    q, Re = 0.6, 2.2
    theirs = of_galsim(galsim.Sersic(n, half_light_radius=Re * np.sqrt(q), flux=5.0))
    Ie = units.flux_to_Ie(5.0, n, Re, q)
    assert_allclose(jp.models.sersic(place(q=q, PA=0.5, n=n, Re=Re, Ie=Ie), X, Y), theirs, rtol=1e-6)


def test_others_are_galsims():
    q, size = 0.6, 2.2
    circular = size * np.sqrt(q)
    theirs = of_galsim(galsim.DeVaucouleurs(half_light_radius=circular, flux=5.0))
    model = jp.models.views.by_flux(jp.models.de_vaucouleurs)
    assert_allclose(model(place(q=q, PA=0.5, Re=size, flux=5.0), X, Y), theirs, rtol=1e-6)
    theirs = of_galsim(galsim.Exponential(scale_radius=circular, flux=5.0))
    model = jp.models.views.by_flux(jp.models.exponential)
    assert_allclose(model(place(q=q, PA=0.5, Re=units.scale_to_Re(size), flux=5.0), X, Y), theirs, rtol=1e-6)
    theirs = of_galsim(galsim.Moffat(2.8, scale_radius=circular, flux=5.0))
    model = jp.models.views.by_flux(jp.models.moffat)
    assert_allclose(model(place(q=q, PA=0.5, n=2.8, Rd=size, flux=5.0), X, Y), theirs, rtol=1e-6)


def test_ellipticity_is_galsims_reduced_shear():
    shear = galsim.Shear(g1=0.2, g2=-0.15)
    theirs = of_galsim(galsim.Gaussian(sigma=1.4, flux=5.0).shear(shear), q=1.0)
    # GalSim counts angles from +x; ours from North (+y) through East (+x): e1 changes sign, e2 does not
    theta = place(e1=-0.2, e2=-0.15, sigma=1.4, flux=5.0)
    model = jp.models.views.by_ellipticity(jp.models.gaussian)
    assert_allclose(model(theta, X, Y), theirs, rtol=1e-10)


# --- formulas, written as in the papers -----------------------------------------------------------------------------


def test_nuker_as_in_lauer_1995():
    r = R[1:]
    theirs = 3.0 * 2 ** ((2.9 - 0.7) / 1.6) * (1.3 / r) ** 0.7 * (1 + (r / 1.3) ** 1.6) ** ((0.7 - 2.9) / 1.6)
    ours = jp.profiles.nuker(r, Rb=1.3, Ib=3.0, alpha=1.6, beta=2.9, gamma=0.7)
    assert_allclose(ours[1:], theirs[1:], rtol=1e-9)
    assert_allclose(ours[0], theirs[0], rtol=1e-3)  # softened there


def test_core_sersic_as_in_graham_2003():
    r, (n, Re, Rb, Ib, alpha, gamma) = R[2:], (3.2, 5.0, 0.4, 3.0, 2.3, 0.25)
    b = float(jp.numerics.b_n(n))
    scale = Ib * 2 ** (-gamma / alpha) * np.exp(b * (2 ** (1 / alpha) * Rb / Re) ** (1 / n))
    outer = np.exp(-b * ((r**alpha + Rb**alpha) / Re**alpha) ** (1 / (alpha * n)))
    theirs = scale * (1 + (Rb / r) ** alpha) ** (gamma / alpha) * outer
    ours = jp.profiles.core_sersic(r, n=n, Re=Re, Rb=Rb, Ib=Ib, alpha=alpha, gamma=gamma)
    assert_allclose(ours, theirs, rtol=1e-9)
    Ie = float(jp.profiles.sersic(1e-7, n=n, Re=Re, Ie=1.0))
    bare = jp.profiles.core_sersic(r, n=n, Re=Re, Rb=1e-7, Ib=Ie, alpha=50.0, gamma=0.0)
    assert_allclose(bare, jp.profiles.sersic(r, n=n, Re=Re, Ie=1.0), rtol=1e-3)


def test_broken_exponential_as_in_erwin_2008():
    h1, h2, Rb, alpha, I0 = 3.0, 1.1, 5.0, 1.7, 2.0
    power = (1 / h1 - 1 / h2) / alpha
    theirs = (1 + np.exp(-alpha * Rb)) ** -power * I0 * np.exp(-R / h1) * (1 + np.exp(alpha * (R - Rb))) ** power
    assert_allclose(jp.profiles.broken_exponential(R, h1=h1, h2=h2, Rb=Rb, alpha=alpha, I0=I0), theirs, rtol=1e-10)


def test_king_of_any_exponent_and_ferrer_as_in_peng_2010():
    Rc, Rt, alpha, I0 = 1.3, 9.0, 2.7, 3.0
    inside = Rt > R
    r = np.where(inside, R, 0)
    edge = 1 / (1 + (Rt / Rc) ** 2) ** (1 / alpha)
    theirs = I0 * (1 - edge) ** -alpha * (1 / (1 + (r / Rc) ** 2) ** (1 / alpha) - edge) ** alpha
    assert_allclose(jp.profiles.king(R, Rc=Rc, Rt=Rt, alpha=alpha, I0=I0), np.where(inside, theirs, 0), rtol=1e-10)
    theirs = I0 * (1 - (r / Rt) ** (2 - 0.6)) ** 1.8
    assert_allclose(jp.profiles.ferrer(R, Rout=Rt, alpha=1.8, beta=0.6, I0=I0), np.where(inside, theirs, 0), rtol=1e-9)


def test_hernquist_is_a_projected_sphere():
    def projected(s):
        density = lambda z: 1 / (2 * np.pi * np.hypot(s, z) * (1 + np.hypot(s, z)) ** 3)  # noqa: E731
        return 2 * integrate.quad(density, 0, np.inf, epsabs=0, epsrel=1e-11, limit=500)[0]

    s = np.array([0.01, 0.3, 0.85, 0.87, 0.999, 1.0, 1.001, 1.1, 1.13, 4.0, 30.0])
    ours = jp.profiles.hernquist(2.0 * s, Rs=2.0, flux=5.0)
    assert_allclose(ours, [5.0 / 4 * projected(v) for v in s], rtol=1e-8)
    log_r = np.linspace(-18, np.log(1.8153), 4001)  # the half-light radius of Hernquist 1990
    inside = np.trapezoid(2 * np.pi * np.exp(2 * log_r) * jp.profiles.hernquist(np.exp(log_r), Rs=1.0, flux=1.0), log_r)
    assert_allclose(inside, 0.5, atol=1e-5)


def test_pchip_is_scipys():
    knots = np.array([0.0, 0.4, 1.0, 1.7, 3.0, 3.2])
    for values in ([1.0, 2.0, 2.5, 4.0, 4.0, 9.0], [1.0, -2.0, 2.5, 2.5, 0.0, 9.0], [5.0, 4.9, 1.0, 0.9, -3.0, -3.1]):
        t = np.linspace(0, 3.2, 101)
        theirs = interpolate.PchipInterpolator(knots, values)
        assert_allclose(pchip(knots, jnp.asarray(values), t), theirs(t), atol=1e-12)
        beyond = pchip(knots, jnp.asarray(values), np.array([-1.0, 5.0]))
        assert_allclose(beyond, [values[0] - theirs(0.0, 1), values[-1] + 1.8 * theirs(3.2, 1)], atol=1e-12)
        flat = pchip(knots, jnp.asarray(values), np.array([-1.0, 0.0, 3.2, 5.0]), flat_ends=True)
        assert_allclose(flat, np.array(values)[[0, 0, -1, -1]], atol=1e-12)
    assert_allclose(pchip((0.0, 2.0), jnp.asarray([1.0, 5.0]), 0.5), 2.0)


def test_splines_go_through_their_nodes_and_stay_between_them():
    radii, I_r = (0.0, 0.5, 1.0, 3.0), jnp.asarray([8.0, 5.0, 4.9, 0.1])
    r = np.linspace(0, 3, 300)
    for log in (True, False):
        profile = jp.profiles.spline(radii, log=log)
        assert_allclose(profile(np.array(radii), I_r=I_r), I_r, rtol=1e-12)
        assert np.all(np.diff(profile(r, I_r=I_r)) <= 0)
        assert np.all(np.asarray(profile(np.array([4.0, 50.0, 1e6]), I_r=I_r)) >= 0)
    assert_allclose(profile(1e3, I_r=I_r), 0)
    rising = profile(r, I_r=jnp.asarray([1.0, 2.0, 3.0, 4.0]))
    assert np.all(np.diff(rising) >= 0)
    for bad in ((1.0,), (2.0, 1.0), (-1.0, 2.0), (0.0, np.inf)):
        with pytest.raises(ValueError, match="radii"):
            jp.profiles.spline(bad)


# --- conversions ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [0.5, 1.0, 3.3])
def test_conversions_of_sersic_quantities(n):
    Re, Ie, q = 2.2, 3.0, 0.6
    assert_allclose(units.Ie_to_I0(Ie, n), jp.profiles.sersic(0.0, n=n, Re=Re, Ie=Ie), rtol=1e-12)
    assert_allclose(units.I0_to_Ie(units.Ie_to_I0(Ie, n), n), Ie, rtol=1e-12)
    flux = (
        2
        * np.pi
        * q
        * integrate.quad(lambda r: r * float(jp.profiles.sersic(r, n=n, Re=Re, Ie=Ie)), 0, 400, limit=200)[0]
    )
    assert_allclose(units.Ie_to_flux(Ie, n, Re, q), flux, rtol=1e-6)
    assert_allclose(units.flux_to_Ie(units.Ie_to_flux(Ie, n, Re, q), n, Re, q), Ie, rtol=1e-12)
    h = units.Re_to_scale(Re, n)
    r = np.array([0.3, 2.0, 7.0])
    wanted = units.Ie_to_I0(Ie, n) * np.exp(-((r / h) ** (1 / n)))
    assert_allclose(jp.profiles.sersic(r, n=n, Re=Re, Ie=Ie), wanted, rtol=1e-10)
    assert_allclose(units.scale_to_Re(h, n), Re, rtol=1e-12)
    mu = units.surface_brightness(Ie, 25.0)
    assert_allclose(units.intensity(mu, 25.0), Ie, rtol=1e-12)


# --- metrics --------------------------------------------------------------------------------------------------------


def on_axes(along, across, PA):
    """The point with these coordinates along the major axis, and across in the direction in which PA grows."""
    return CENTER[0] + along * np.sin(PA) + across * np.cos(PA), CENTER[1] + along * np.cos(PA) - across * np.sin(PA)


def test_superellipse_as_in_galfit():
    along, across, PA, q = 2.0, -1.5, 0.7, 0.6
    for C0 in (-0.8, 0.0, 1.5):
        c = C0 + 2
        r = jp.metrics.superellipse(*on_axes(along, across, PA), **place(q=q, PA=PA, C0=C0))
        assert_allclose(r, (abs(along) ** c + abs(across / q) ** c) ** (1 / c), rtol=1e-13)
    area = integrate.quad(lambda x: 4 * 0.6 * (1 - x**3.5) ** (1 / 3.5), 0, 1)[0] / np.pi
    assert_allclose(jp.metrics.superellipse.area(**place(q=0.6, PA=0.0, C0=1.5)), area, rtol=1e-7)


def test_fourier_modes_as_in_galfit():
    """r = r₀ (1 + Σ a_m cos(m (θ + φ_m))), θ from the major axis in the circularised frame."""
    PA, q, am, phim = 0.7, 0.5, np.array([0.2, -0.1]), np.array([0.4, -0.3])
    metric = jp.metrics.fourier((1, 3))
    for theta in (0.0, 0.5, 2.0, -2.5):
        x, y = on_axes(2 * np.cos(theta), q * 2 * np.sin(theta), PA)
        wanted = 2 * (1 + am @ np.cos(np.array([1, 3]) * (theta + phim)))
        assert_allclose(metric(x, y, **place(q=q, PA=PA, am=am, phim=phim)), wanted, rtol=1e-12)
    with pytest.raises(ValueError, match="modes"):
        jp.metrics.fourier((0, 1))
    with pytest.raises(ValueError, match="center"):
        jp.metrics.fourier((1,), lambda x, y, *, q: x)
    assert not hasattr(jp.metrics.fourier((1,), jp.metrics.bend((2,), 1.0)), "area")


def test_warp_turns_the_shorter_way():
    metric = jp.metrics.warp((1.0, 2.0, 4.0))
    for PA_r in ([0.1, -0.1, 0.2], [0.1, np.pi - 0.1, 0.2 - np.pi], [0.1 + 5 * np.pi, -0.1, 0.2]):
        for rho, PA in ((1.0, 0.1), (2.0, -0.1), (4.0, 0.2), (9.0, 0.2), (0.3, 0.1)):
            r = metric(*on_axes(rho, 0.0, PA), **place(q_r=[0.3, 0.4, 0.5], PA_r=PA_r))
            assert_allclose(r, rho, rtol=1e-12)
        between = metric(*on_axes(1.4, 0.0, 0.0), **place(q_r=[0.3, 0.4, 0.5], PA_r=PA_r))
        assert between < 1.42  # about aligned there: the other way round it would be across, at 1.4/q
    r = metric(*on_axes(0.0, 2.0, -0.1), **place(q_r=[0.3, 0.4, 0.5], PA_r=[0.1, -0.1, 0.2]))
    assert_allclose(r, 2.0 / 0.4, rtol=1e-12)
    assert not hasattr(metric, "area")


def test_bending_modes_as_in_galfit():
    PA, q, bm = 0.7, 0.5, np.array([0.1, -0.6])
    metric = jp.metrics.bend((1, 2), 3.0)
    for along in (-2.0, 0.5, 4.0):
        ridge = -(0.1 * along / 3 - 0.6 * (along / 3) ** 2)
        x, y = on_axes(along, ridge, PA)
        assert_allclose(metric(x, y, **place(q=q, PA=PA, bm=bm)), abs(along), rtol=1e-12)


def test_spiral_winds_from_north_to_east():
    """The ridge of the isophotes at the distance ρ lies at PA + θ(ρ), θ as in Peng et al. 2010, appendix A."""
    spiral = jp.models.spirals.spiral()
    PA, R_bar, R_arm, turn, slope = 0.3, 1.0, 5.0, 1.9, 0.7
    A = 2 * 0.23 / (turn + 0.23) - 1.00001
    B = (2 - np.arctanh(A)) * R_arm / (R_arm - R_bar)
    own = {"q": 0.3, "R_bar": R_bar, "R_arm": R_arm, "turn": turn, "slope": slope, "inclination": 0.0}
    for rho in (0.2, 1.0, 3.0, 5.0, 8.0):
        T = 0.5 * (np.tanh(B * (rho / R_arm - 1) + 2) + 1)
        theta = turn * T * (0.5 * (rho / R_arm + 1)) ** slope
        for PA_sky in (0.0, 1.2):
            r = spiral(*on_axes(rho, 0.0, PA + theta), **place(**own, PA=PA, PA_sky=PA_sky))
            assert_allclose(r, rho, rtol=1e-5)
    # inclined, distances across the line of nodes shrink
    r = spiral(
        *on_axes(0.0, np.cos(1.0), 0.5),
        **place(**{**own, "inclination": 1.0, "turn": 0.0, "q": 1.0}, PA=PA, PA_sky=0.5),
    )
    assert_allclose(r, 1.0, rtol=1e-10)


def test_weights_of_sectors_interpolate():
    for count, symmetric in ((2, False), (3, True), (5, False)):
        for blend in (0.0, 0.4, 1.0):
            model = jp.models.modifiers.wedge(jp.profiles.exponential, count, symmetric=symmetric, blend=blend)
            theta = np.linspace(-9, 9, 1001)
            weights = np.asarray(model.weights(jnp.asarray(theta)))
            assert_allclose(weights.sum(axis=0), 1, atol=1e-12)
            assert np.all(weights >= 0)
            middles = np.asarray(model.weights(jnp.asarray(model.width * np.arange(count))))
            assert_allclose(middles, np.eye(count), atol=1e-12)
            again = model.weights(jnp.asarray(theta + (np.pi if symmetric else 2 * np.pi)))
            assert_allclose(again[:, :-1], weights[:, :-1], atol=1e-9)


def test_sectors_that_are_alike_are_the_whole():
    own = {"n": 2.0, "Re": 2.2, "Ie": 3.0}
    whole = jp.models.sersic(place(q=0.6, PA=0.5, **own), X, Y)
    for make in (jp.models.modifiers.wedge, jp.models.modifiers.ray):
        sectors = place(q=0.6, PA=0.5, **{name: [value] * 3 for name, value in own.items()})
        assert_allclose(make(jp.profiles.sersic, 3)(sectors, X, Y), whole, rtol=1e-12)
    with pytest.raises(ValueError, match="count"):
        jp.models.modifiers.ray(jp.profiles.sersic, 1)
    with pytest.raises(ValueError, match="blend"):
        jp.models.modifiers.wedge(jp.profiles.sersic, 3, blend=2.0)


def test_truncation_leaves_what_it_says():
    both = jp.models.modifiers.truncate(jp.profiles.moffat, inner=True, outer=True)
    own = {"n": 2.0, "Rd": 3.0, "I0": 5.0}
    edges = {"R_in": 1.0, "w_in": 0.1, "R_out": 5.0, "w_out": 0.2}
    bare = jp.profiles.moffat(R, **own)
    left = np.asarray(both(R, **own, **edges) / bare)
    wanted = 0.25 * (1 + np.tanh((R - 1) / 0.1)) * (1 + np.tanh((5 - R) / 0.2))
    assert_allclose(left, wanted, rtol=1e-9, atol=1e-14)
    at = np.array([5.0 - 2.3 * 0.2, 5.0 + 2.3 * 0.2])
    assert_allclose(both(at, **own, **edges) / jp.profiles.moffat(at, **own), [0.99, 0.01], atol=1e-3)
    with pytest.raises(ValueError, match="truncate"):
        jp.models.modifiers.truncate(jp.profiles.moffat, outer=False)
    with pytest.raises(ValueError, match="R_out, w_out already"):
        jp.models.modifiers.truncate(both)


def test_an_inclined_disk_is_an_ellipse():
    metric = jp.models.modifiers.inclined(thickness=0.3)
    q = np.sqrt(np.cos(1.1) ** 2 + 0.09 * np.sin(1.1) ** 2)
    assert_allclose(metric(X, Y, **place(PA=0.4, inclination=1.1)), jp.metrics.ellipse(X, Y, **place(q=q, PA=0.4)))
    assert list(metric.parameters()) == ["center", "PA", "inclination"]
    with pytest.raises(ValueError, match="q"):
        jp.models.modifiers.inclined(jp.metrics.circle)


# --- imfit, where it is installed -----------------------------------------------------------------------------------

IMFIT = {
    "BrokenExponential": (
        jp.models.broken_exponential,
        {"h1": 6.0, "h2": 2.5, "Rb": 7.0, "alpha": 1.3, "I0": 5.0},
        {"I_0": 5.0, "h1": 6.0, "h2": 2.5, "r_break": 7.0, "alpha": 1.3},
    ),
    "Core-Sersic": (
        jp.models.core_sersic,
        {"n": 5.0, "Re": 9.0, "Rb": 4.0, "Ib": 5.0, "alpha": 2.4, "gamma": 0.3},
        {"n": 5.0, "I_b": 5.0, "r_e": 9.0, "r_b": 4.0, "alpha": 2.4, "gamma": 0.3},
    ),
    "ModifiedKing": (
        jp.models.king,
        {"Rc": 5.0, "Rt": 25.0, "alpha": 1.7, "I0": 5.0},
        {"I_0": 5.0, "r_c": 5.0, "r_t": 25.0, "alpha": 1.7},
    ),
    "FerrersBar2D": (
        jp.radial(jp.profiles.ferrer, jp.metrics.superellipse),
        {"C0": 0.8, "Rout": 18.0, "alpha": 2.0, "beta": 0.0, "I0": 5.0},
        {"c0": 0.8, "n": 2.0, "I_0": 5.0, "a_bar": 18.0},
    ),
    "Sersic_GenEllipse": (
        jp.radial(jp.profiles.sersic, jp.metrics.superellipse),
        {"C0": -0.5, "n": 5.0, "Re": 8.0, "Ie": 5.0},
        {"c0": -0.5, "n": 5.0, "I_e": 5.0, "r_e": 8.0},
    ),
    "GaussianRing": (
        jp.radial(jp.models.modifiers.ring(jp.profiles.gaussian)),
        {"R_ring": 9.0, "sigma": 4.0, "flux": 5.0 * 2 * np.pi * 16.0 * 0.55},
        {"A": 5.0, "R_ring": 9.0, "sigma_r": 4.0},
    ),
    "GaussianRing2Side": (
        jp.radial(jp.models.modifiers.ring(jp.profiles.gaussian, two_sided=True)),
        {"R_ring": 9.0, "sigma": 4.0, "side_ratio": 0.7, "flux": 5.0 * 2 * np.pi * 16.0 * 0.55},
        {"A": 5.0, "R_ring": 9.0, "sigma_r_in": 2.8, "sigma_r_out": 4.0},
    ),
    "Moffat": (
        jp.models.moffat,
        {"n": 2.8, "Rd": float(units.fwhm_to_Rd(9.0, 2.8)), "I0": 5.0},
        {"I_0": 5.0, "fwhm": 9.0, "beta": 2.8},
    ),
}


@pytest.mark.parametrize("name", IMFIT)
def test_profiles_are_imfits(name):
    """Its angles go from +y towards −x, its pixels start at 1; it subsamples within 10 pixels of the centre.

    (Its b_n is the series of Ciotti & Bertin 1999, which needs n ≥ 4 to be good enough.)
    """
    pyimfit = pytest.importorskip("pyimfit")
    model, own, theirs = IMFIT[name]
    function = pyimfit.make_imfit_function(name)
    for key, value in {"PA": np.degrees(0.7), "ell": 0.45, **theirs}.items():
        getattr(function, key).setValue(value)
    together = pyimfit.SimpleModelDescription()
    together.x0.setValue(31.3)
    together.y0.setValue(29.6)
    together.addFunction(function)
    image = pyimfit.Imfit(together).getModelImage(shape=(60, 60))
    y, x = np.mgrid[:60, :60].astype(float)
    ours = model(place(q=0.55, PA=-0.7, **own) | {"center": jnp.asarray([30.3, 28.6])}, x, y)
    far = np.hypot(x - 30.3, y - 28.6) > 12
    assert np.max(image[far]) > 0.1
    assert_allclose(ours[far], image[far], rtol=1e-6, atol=1e-9)
