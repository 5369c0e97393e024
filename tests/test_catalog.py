"""Catalogues carry names, units and failures; files bring a Fit back to the last bit."""

import dataclasses
import re
from typing import Annotated

import astropy.units as u
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from astropy.table import QTable

import jaxphot as jp
from jaxphot.fitting import lm

MODEL = jp.scene(galaxy=jp.models.sersic, sky=jp.models.flat_sky)
FREE = ["galaxy.Ie", "galaxy.PA", "galaxy.Re", "galaxy.center[0]", "galaxy.center[1]", "galaxy.n", "galaxy.q"]
GALAXY = ("Ie", "PA", "Re", "center", "n", "q")


def _fit(status, dtype, free_sky):
    """A Fit such as `jp.fit` returns, with numbers that no decimal holds exactly; `status` sets the leading axis."""
    rng = np.random.default_rng(3)
    status = jnp.asarray(status, jnp.int32)

    def draw(*shape):
        return jnp.asarray(rng.uniform(0.1, 3, status.shape + shape).astype(dtype))

    def galaxy(function):
        return {key: function(*((2,) if key == "center" else ())) for key in GALAXY}

    sky = {"sky": {"I0": draw()}}
    names = (*FREE, "sky.I0") if free_sky else tuple(FREE)
    at_bound = {"galaxy": galaxy(lambda *shape: jnp.zeros(status.shape + shape, bool))}
    return jp.Fit(
        params={"galaxy": galaxy(draw), **sky},
        stderr={"galaxy": galaxy(draw), **({"sky": {"I0": draw()}} if free_sky else {})},
        covariance=draw(len(names), len(names)),
        chi2=100 * draw(),
        dof=jnp.full_like(status, 321),
        steps=jnp.full_like(status, 7),
        evaluations=jnp.full_like(status, 8),
        status=status,
        at_bound={**at_bound, **({"sky": {"I0": jnp.zeros(status.shape, bool)}} if free_sky else {})},
        undetermined={**at_bound, **({"sky": {"I0": jnp.zeros(status.shape, bool)}} if free_sky else {})},
        round=jnp.zeros(status.shape, bool),
        multimodal=jnp.zeros(status.shape, bool),
        names=names,
    )


@pytest.fixture
def single():
    """The sky is not free."""
    return _fit(lm.CONVERGED, np.float64, free_sky=False)


@pytest.fixture
def batch():
    """Three fits in float32: a good one, one held at a bound, one without data."""
    fit = _fit([lm.CONVERGED, lm.CONVERGED, lm.NO_DATA], np.float32, free_sky=True)
    held = fit.at_bound["galaxy"]
    held = {**held, "n": held["n"].at[1].set(True), "center": held["center"].at[1, 1].set(True)}
    stderr = {**fit.stderr["galaxy"], "n": fit.stderr["galaxy"]["n"].at[1].set(np.nan)}
    return dataclasses.replace(
        fit, at_bound={**fit.at_bound, "galaxy": held}, stderr={**fit.stderr, "galaxy": stderr},
        round=jnp.asarray([True, False, False]),
    )  # fmt: skip


def test_a_real_fit():
    image = jp.make_image(np.full((8, 8), 3.0), std=1.0)
    table = jp.to_table(jp.fit(jp.models.flat_sky, {"I0": 0.0}, image, sampling=jp.sampling.midpoint()), ids="a")
    np.testing.assert_allclose(table["I0"].value, 3, rtol=1e-6)
    np.testing.assert_allclose(table["I0_err"].value, 0.125, rtol=1e-6)
    assert table["message"].tolist() == ["converged"]


def _held(fit, params):
    """The same fit with other parameters, none of them free."""
    params = jax.tree.map(jnp.asarray, params)
    return dataclasses.replace(fit, params=params, stderr={}, at_bound={}, covariance=jnp.zeros((0, 0)), names=())


def _assert_same_fit(first, second):
    assert first.names == second.names
    assert jax.tree.structure(first) == jax.tree.structure(second)
    for (path, one), other in zip(jax.tree_util.tree_leaves_with_path(first), jax.tree.leaves(second), strict=True):
        name = jax.tree_util.keystr(path)
        assert isinstance(other, jax.Array), name
        assert (one.dtype, one.shape) == (other.dtype, other.shape), name
        np.testing.assert_array_equal(one, other, err_msg=name)


def _assert_same_table(first, second):
    assert first.colnames == second.colnames
    for name in first.colnames:
        one, other = first[name], second[name]
        assert type(one) is type(other), name
        assert getattr(one, "unit", None) == getattr(other, "unit", None), name
        np.testing.assert_array_equal(one, other, err_msg=name)


def test_table_of_one_fit(single):
    table = jp.to_table(single, "NGC 1")
    assert len(table) == 1
    expected = ["id"] + [name for key in FREE for name in (key, f"{key}_err")] + ["sky.I0"]
    expected += [
        "chi2",
        "dof",
        "steps",
        "status",
        "message",
        "failed",
        "at_bound",
        "undetermined",
        "round",
        "multimodal",
    ]
    assert table.colnames == expected
    row, best, error = table[0], single.params["galaxy"], single.stderr["galaxy"]
    assert row["id"] == "NGC 1"
    assert row["galaxy.n"] == float(best["n"])
    assert row["galaxy.center[1]"] == float(best["center"][1]) * u.arcsec
    assert row["galaxy.center[1]_err"] == float(error["center"][1]) * u.arcsec
    np.testing.assert_allclose(row["galaxy.PA"].to_value(u.rad), best["PA"], rtol=1e-15)
    np.testing.assert_allclose(row["galaxy.PA_err"].to_value(u.rad), error["PA"], rtol=1e-15)
    assert (row["message"], row["failed"], row["at_bound"], row["round"]) == ("converged", False, "none", False)
    assert (row["dof"], row["chi2"]) == (int(single.dof), float(single.chi2))
    assert jp.to_table(single).colnames == expected[1:]


def test_units(single):
    table = jp.to_table(single)
    units = {name: table[name].unit for name in table.colnames if isinstance(table[name], u.Quantity)}
    assert units["galaxy.Re"] == units["galaxy.Re_err"] == units["galaxy.center[0]"] == u.arcsec
    assert units["galaxy.PA"] == units["galaxy.PA_err"] == u.deg
    assert units["galaxy.Ie"] == units["sky.I0"] == u.arcsec**-2
    assert units["galaxy.n"] == units["galaxy.q"] == units["chi2"] == u.dimensionless_unscaled
    # every number but counts and codes has a unit
    plain = {"dof", "steps", "status", "message", "failed", "at_bound", "undetermined", "round", "multimodal"}
    assert set(table.colnames) - set(units) == plain
    assert jp.to_table(single, unit="adu")["galaxy.Ie"].unit == u.adu / u.arcsec**2
    assert jp.to_table(single, unit=u.nmgy, model=MODEL)["sky.I0"].unit == u.nmgy / u.arcsec**2
    _assert_same_table(table, jp.to_table(single, model=MODEL))


def test_units_of_a_users_profile(single):
    def ring(r, *, Rx: Annotated[jax.Array, jp.Parameter("arcmin")], I0: Annotated[jax.Array, jp.Parameter("flux")]):
        return I0 * jnp.exp(-((r / Rx) ** 2))

    def odd(r, *, a: Annotated[jax.Array, jp.Parameter("furlongs per fortnight")]):
        return a * jnp.exp(-r)

    model = jp.radial(ring)
    fit = _held(single, {"center": np.zeros(2), "q": 0.5, "PA": 0.0, "Rx": 1.0, "I0": 3.0})
    table = jp.to_table(fit, model=model, unit="ct")
    assert table["Rx"].unit == u.arcmin
    assert table["I0"].unit == u.ct
    assert "Rx_err" not in table.colnames
    # without the model, names have the meaning that they have in jaxphot, and unknown ones none
    table = jp.to_table(fit)
    assert table["Rx"].unit == u.dimensionless_unscaled
    assert table["I0"].unit == u.arcsec**-2
    model = jp.radial(odd)
    fit = _held(single, {"center": np.zeros(2), "q": 0.5, "PA": 0.0, "a": 1.0})
    with pytest.raises(ValueError, match="model: the unit of a, 'furlongs per fortnight'"):
        jp.to_table(fit, model=model)


def test_every_name_of_the_library_has_one_unit():
    from jaxphot.catalog import _vocabulary

    model = jp.scene(g=jp.models.gaussian, m=jp.models.moffat, s=jp.models.sersic, p=jp.models.point_source,
                     b=jp.models.plane_sky)  # fmt: skip
    for part in jp.parameters(model).values():
        for name, parameter in part.items():
            assert _vocabulary()[name] == parameter.unit


def test_table_of_a_batch_flags_failures(batch):
    table = jp.to_table(batch, ids=[11, 12, 13], zeropoint=[25.0, 26.0, np.nan])
    assert len(table) == 3
    assert table["id"].tolist() == [11, 12, 13]
    assert table["status"].tolist() == [lm.CONVERGED, lm.CONVERGED, lm.NO_DATA]
    assert table["failed"].tolist() == [False, False, True]
    assert table["message"].tolist() == jp.status_message(batch.status)
    assert "no data" in table["message"][2]
    assert table["at_bound"].tolist()[:2] == ["none", "galaxy.center[1], galaxy.n"]
    assert table["round"].tolist() == [True, False, False]
    assert np.isnan(table["galaxy.n_err"][1])
    # the start of a fit that saw nothing is no measurement
    for name in ("galaxy.n", "galaxy.center[0]", "sky.I0", "sky.I0_err"):
        assert np.isnan(table[name][2]), name
        assert np.isfinite(table[name][:2][0]), name
    np.testing.assert_array_equal(table["galaxy.Re"][:2].value, batch.params["galaxy"]["Re"][:2])
    assert table["galaxy.Re"].dtype == np.float32


def test_magnitudes(single, batch):
    table = jp.to_table(batch, zeropoint=[25.0, 26.0, 27.0])
    intensity = np.asarray(batch.params["galaxy"]["Ie"], float)
    magnitude = table["galaxy.Ie_mag"]
    assert magnitude.unit == u.mag / u.arcsec**2
    np.testing.assert_allclose(magnitude[:2].value, [25, 26] - 2.5 * np.log10(intensity[:2]), rtol=1e-6)
    error = 2.5 / np.log(10) * np.asarray(batch.stderr["galaxy"]["Ie"][:2]) / intensity[:2]
    np.testing.assert_allclose(table["galaxy.Ie_mag_err"][:2].value, error, rtol=1e-5)
    assert "galaxy.Re_mag" not in table.colnames
    star = dataclasses.replace(_held(single, {"flux": -3.0}), stderr={"flux": jnp.asarray(1.0)})
    table = jp.to_table(star, zeropoint=25.0)
    assert table["flux_mag"].unit == u.mag
    assert np.isnan(table["flux_mag"][0])
    assert np.isnan(table["flux_mag_err"][0])


@pytest.mark.parametrize("suffix", ["ecsv", "fits"])
def test_catalogue_survives_a_file(tmp_path, single, batch, suffix):
    for number, table in enumerate(
        (jp.to_table(single), jp.to_table(batch, ids=["a", "b", "c"], zeropoint=25.0, unit="adu"))
    ):
        path = tmp_path / f"{number}.{suffix}"
        table.write(path)
        again = QTable.read(path, **({"mask_invalid": False} if suffix == "fits" else {}))
        if suffix == "ecsv":
            _assert_same_table(table, again)
        else:
            assert table.colnames == again.colnames
            np.testing.assert_array_equal(table["galaxy.PA"].value, again["galaxy.PA"].value)
            assert again["galaxy.PA"].unit == u.deg


@pytest.mark.parametrize("suffix", [".fits", ".fits.gz", ".ecsv"])
def test_fit_survives_a_file(tmp_path, single, batch, suffix):
    nothing_free = _held(single, single.params)
    for number, fit in enumerate((single, batch, nothing_free)):
        path = tmp_path / f"fit{number}{suffix}"
        jp.save_fit(path, fit)
        _assert_same_fit(fit, jp.load_fit(str(path)))
    assert len(list(tmp_path.iterdir())) == 3
    # what follows from it is the same too
    _assert_same_table(jp.to_table(batch), jp.to_table(jp.load_fit(tmp_path / f"fit1{suffix}")))


@pytest.mark.parametrize("suffix", [".fits", ".ecsv"])
def test_any_tree_survives(tmp_path, single, suffix):
    # names that differ in case only, deep nesting, vectors, extreme values
    tree = {
        "b": {
            "Rd": jnp.asarray(1e-310),
            "rd": jnp.asarray(-0.0),
            "é" * 40: {"x y": jnp.asarray([np.inf, np.nan, 1 / 3])},
        },
        "a": jnp.asarray(np.nextafter(1, 2)),
    }
    fit = dataclasses.replace(single, params=tree, stderr={"a": jnp.asarray(np.nan)})
    jp.save_fit(tmp_path / f"a{suffix}", fit)
    again = jp.load_fit(tmp_path / f"a{suffix}")
    _assert_same_fit(fit, again)
    assert list(again.params) == list(tree)
    assert np.signbit(again.params["b"]["rd"])


def test_batch_of_one_is_not_a_single_fit(tmp_path, batch):
    one = jax.tree.map(lambda leaf: leaf[:1], batch)
    jp.save_fit(tmp_path / "a.ecsv", one)
    assert jp.load_fit(tmp_path / "a.ecsv").status.shape == (1,)
    assert len(jp.to_table(one)) == 1


def test_bad_input(tmp_path, single, batch):
    with pytest.raises(TypeError, match="fit: expected a Fit"):
        jp.to_table({"n": 1})
    with pytest.raises(TypeError, match="fit: traced"):
        jax.jit(jp.to_table)(single)
    with pytest.raises(ValueError, match="one leading axis"):
        jp.to_table(jax.tree.map(lambda leaf: leaf[None], batch))
    with pytest.raises(ValueError, match=r"ids: expected 3, one a fit, got shape \(2,\)"):
        jp.to_table(batch, ids=[1, 2])
    with pytest.raises(ValueError, match="zeropoint: expected a number or 3"):
        jp.to_table(batch, zeropoint=[1.0, 2.0])
    with pytest.raises(ValueError, match=r"path: expected a name that ends in .fits, .fits.gz or .ecsv, got 'fit.pkl'"):
        jp.save_fit("fit.pkl", single)
    with pytest.raises(ValueError, match=re.escape("expected a name that ends in")):
        jp.load_fit("fit.txt")
    with pytest.raises(FileNotFoundError, match="there is no file"):
        jp.load_fit(tmp_path / "no.fits")
    jp.save_fit(tmp_path / "a.fits", single)
    with pytest.raises(FileExistsError, match="overwrite=True"):
        jp.save_fit(tmp_path / "a.fits", single)
    jp.save_fit(tmp_path / "a.fits", single, overwrite=True)
    jp.to_table(single).write(tmp_path / "b.ecsv")
    jp.to_table(single).write(tmp_path / "b.fits")
    (tmp_path / "c.fits").write_text("nonsense")
    (tmp_path / "c.ecsv").write_text("nonsense")
    for name in ("b.ecsv", "b.fits", "c.fits", "c.ecsv"):
        with pytest.raises(ValueError, match=f"{name} is not a file that save_fit wrote"):
            jp.load_fit(tmp_path / name)
