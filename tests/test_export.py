"""What leaves for other tools, and the pictures of batches and of a fit's way."""

import json

import jax
import matplotlib.pyplot as plt
import numpy as np
import pytest
from astropy.table import QTable

import jaxphot as jp

MODEL = jp.scene(galaxy=jp.models.gaussian, sky=jp.models.flat_sky)
TRUTH = {"galaxy": {"center": [5.2, 5.6], "q": 0.7, "PA": 0.5, "sigma": 1.8, "flux": 500.0}, "sky": {"I0": 2.0}}


@pytest.fixture(scope="module")
def fitted():
    blank = jp.make_image(np.zeros((12, 12)), std=1.0)
    pixels = np.asarray(jp.render(MODEL, TRUTH, blank)) + np.random.default_rng(2).normal(size=(12, 12))
    image = jp.make_image(pixels, std=1.0)
    history = jp.fit_history(MODEL, {**TRUTH, "galaxy": {**TRUTH["galaxy"], "q": 0.9, "sigma": 2.5}}, image)
    return image, history


@pytest.mark.parametrize("suffix", [".ecsv", ".fits", ".csv", ".parquet"])
def test_tables_are_read_again(fitted, tmp_path, suffix):
    table = jp.to_table(fitted[1].fit, "a", model=MODEL)
    path = tmp_path / f"t{suffix}"
    jp.write_table(path, table)
    if suffix == ".parquet":
        parquet = pytest.importorskip("pyarrow.parquet").read_table(path)
        assert json.loads(parquet.schema.metadata[b"units"])["galaxy.PA"] == "deg"
        again = {name: np.asarray(parquet[name]) for name in parquet.column_names}
    else:
        again = QTable.read(path, format="ascii.csv" if suffix == ".csv" else None)
    for name in ("galaxy.flux", "galaxy.PA_err", "chi2"):
        assert float(getattr(again[name][0], "value", again[name][0])) == float(
            getattr(table[name][0], "value", table[name][0])
        )
    with pytest.raises(FileExistsError):
        jp.write_table(path, table)
    with pytest.raises(ValueError, match="expected a name that ends in"):
        jp.write_table(tmp_path / "t.txt", table)


def test_xarray_and_arviz(fitted):
    pytest.importorskip("xarray")
    fit = fitted[1].fit
    data = jp.to_xarray(fit, model=MODEL)
    assert float(data["galaxy.flux"]) == float(fit.params["galaxy"]["flux"])
    assert data["galaxy.PA"].attrs["units"] == "rad"
    np.testing.assert_array_equal(data["covariance"].sel(parameter="sky.I0"), fit.covariance[fit.names.index("sky.I0")])
    batch = jp.to_xarray(jax.tree.map(lambda leaf: np.stack([leaf, leaf]), fit), ["a", "b"])
    assert float(batch["sky.I0"].sel(fit="b")) == float(fit.params["sky"]["I0"])
    arviz = pytest.importorskip("arviz")
    drawn = jp.to_arviz(fit, draws=4000, seed=1)["posterior"]
    for name, error in (("galaxy.flux", fit.stderr["galaxy"]["flux"]), ("sky.I0", fit.stderr["sky"]["I0"])):
        assert drawn[name].shape == (1, 4000)
        np.testing.assert_allclose(np.std(np.asarray(drawn[name])), error, rtol=0.05)
    together = np.corrcoef(np.ravel(drawn["galaxy.flux"]), np.ravel(drawn["sky.I0"]))[0, 1]
    i, j = fit.names.index("galaxy.flux"), fit.names.index("sky.I0")
    np.testing.assert_allclose(
        together, fit.covariance[i, j] / np.sqrt(fit.covariance[i, i] * fit.covariance[j, j]), atol=0.05
    )
    assert "galaxy.flux" in arviz.summary(jp.to_arviz(fit, draws=100)).index


def test_history_is_that_of_the_fit(fitted):
    _, history = fitted
    known = history.chi2[np.isfinite(history.chi2)]
    assert len(known) >= len(history.chi2) - 1
    assert np.all(np.diff(known) <= 1e-3 * known[0])
    np.testing.assert_allclose(history.chi2[-1], history.fit.chi2, rtol=1e-6)
    np.testing.assert_allclose(history.params["galaxy.q"][-1], history.fit.params["galaxy"]["q"], rtol=1e-3)
    ax = jp.plot.convergence(history, names=["galaxy.q"])
    assert [line.get_label() for line in ax.lines][:2] == ["galaxy.q", "χ² above its end"]
    ax.figure.canvas.draw()
    with pytest.raises(ValueError, match="names: there is no x"):
        jp.plot.convergence(history, names=["x"])
    with pytest.raises(TypeError, match="history: expected"):
        jp.plot.convergence(3)
    plt.close("all")


def test_contact_sheet_and_marks(fitted):
    image, history = fitted
    fits = jax.tree.map(lambda leaf: np.stack([leaf, leaf]), history.fit)
    axes = jp.plot.batch([image, image], MODEL, fits, ids=["a", "b"])
    assert len(axes) == 2
    assert axes[1].get_title().startswith("b   χ²/dof")
    assert jp.plot.thumbnail(image, np.full((12, 12), np.nan)).shape == (12, 3 * 12 + 4, 3)
    with pytest.raises(ValueError, match="images: expected 2"):
        jp.plot.batch([image], MODEL, fits)
    on_sky = jp.make_image(np.eye(9), std=1.0, transform=jp.make_linear(pixelscale=0.2, crval=(10.0, 20.0)))
    ax = jp.plot.scale_bar(jp.plot.compass(jp.plot.image(on_sky)), length=0.5)
    np.testing.assert_allclose(np.ptp(ax.lines[-1].get_xdata()), 0.5)
    plt.close("all")
