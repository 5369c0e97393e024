"""From segmentation maps and catalogues to scenes, on synthetic and on real frames; and the light divided again."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

import jaxphot as jp

DATA = Path(__file__).parent / "data"
SHAPE = (80, 100)
CENTERS = np.array([[25.0, 40.0], [40.0, 44.0], [75.0, 30.0], [78.0, 62.0]])
Y, X = np.mgrid[-10:11, -10:11]
PSF = np.exp(-(X**2 + Y**2) / 2 / 1.3**2)


@pytest.fixture(scope="module")
def field():
    """Two galaxies that touch, one bright, and two stars; with the map of who is brightest where."""
    galaxies = {
        "center": 0.5 * CENTERS[:2],
        "q": np.array([0.6, 0.9]),
        "PA": np.array([0.5, 1.0]),
        "n": np.array([1.5, 1.0]),
        "Re": np.array([3.0, 1.5]),
        "Ie": np.array([60.0, 30.0]),
    }
    truth = {
        "galaxies": galaxies,
        "stars": {"center": 0.5 * CENTERS[2:], "flux": np.array([900.0, 400.0])},
        "sky": {"I0": 20.0},
    }
    model = jp.scene(
        galaxies=jp.many(jp.models.sersic, stamp=75),
        stars=jp.many(jp.models.point_source, stamp=25),
        sky=jp.models.flat_sky,
    )
    image = jp.make_image(np.zeros(SHAPE), std=1.0, psf=PSF, pixelscale=0.5)
    clean = np.asarray(jp.render(model, truth, image))
    image = replace(image, data=image.data + clean + np.random.default_rng(2).standard_normal(SHAPE))
    shares = jp.deblend(model, truth, replace(image, data=image.data * 0 + clean))
    light = np.zeros((4, *SHAPE))
    number = 0
    for name in ("galaxies", "stars"):
        for one in jp.unstack_images(shares[name]):
            corner = np.asarray(one.transform.pixel_to_plane(0.0, 0.0)) / 0.5
            i, j = np.round(corner).astype(int)
            light[number, j : j + one.shape[0], i : i + one.shape[1]] = one.data
            number += 1
    segmentation = np.where(clean - 5.0 > 3.0, np.argmax(light, 0) + 1, 0)
    return model, truth, image, segmentation, light, clean


def test_scene_from_a_map(field):
    _, truth, image, segmentation, _, _ = field
    model, start, windows = jp.initialize_scene(image, segmentation, stars=(3, 4))
    assert sorted(windows) == [1, 2, 3, 4]
    assert abs(float(start["sky"]["I0"]) - 20) < 1
    names = [name for name, _ in model.parts]
    rows = [(name, row) for name in sorted(start) if name != "sky" for row in range(len(start[name]["center"]))]
    for label, (name, row) in zip(windows, rows, strict=True):
        assert np.hypot(*(np.asarray(start[name]["center"][row]) / 0.5 - CENTERS[label - 1])) < 1.5
        i0, i1, j0, j1 = windows[label]
        assert i0 <= CENTERS[label - 1, 0] < i1
        assert j0 <= CENTERS[label - 1, 1] < j1
        if label > 2:
            assert name.startswith("stars")
            np.testing.assert_allclose(start[name]["flux"][row], truth["stars"]["flux"][label - 3], rtol=0.3)
        else:
            assert name.startswith("galaxies")
            assert 0.6 < float(start[name]["Re"][row]) / truth["galaxies"]["Re"][label - 1] < 1.6
    assert names[-1] == "sky"


def test_catalogues_say_the_same(field):
    _, _, image, segmentation, _, _ = field
    _, start, windows = jp.initialize_scene(image, segmentation, labels=[3], stars=[3], scale=1, side=25)
    table = Table({"NUMBER": [3], "X_IMAGE": [CENTERS[2, 0] + 1], "Y_IMAGE": [CENTERS[2, 1] + 1]})
    _, of_table, of_positions = jp.initialize_scene(image, table, stars=[3], scale=1)
    assert list(windows) == list(of_positions) == [3]
    np.testing.assert_allclose(of_table["stars25"]["center"][0], CENTERS[2] * 0.5, atol=1e-12)
    np.testing.assert_allclose(of_table["stars25"]["flux"], start["stars25"]["flux"], rtol=0.1)


def test_sky_positions_and_boxes_of_a_table():
    transform = jp.make_linear(pixelscale=0.5, crpix=(50, 40), crval=(150.0, 2.0))
    image = jp.make_image(np.ones(SHAPE), std=1.0, transform=transform, psf=PSF)
    ra, dec = jp.pixel_to_sky(transform, CENTERS[:, 0], CENTERS[:, 1])
    table = {"label": np.array([4, 7, 8, 9]), "ra": ra, "dec": dec, "flux": np.arange(4.0)}
    _, start, windows = jp.initialize_scene(image, table, stars=[4, 7, 8, 9], scale=1, sky=None)
    assert list(start) == ["stars25"]
    assert windows[4] == (13, 38, 28, 53)
    found = image.transform.plane_to_pixel(*np.asarray(start["stars25"]["center"]).T)
    np.testing.assert_allclose(np.stack(found, -1), CENTERS, atol=1e-6)
    names = ("bbox_xmin", "bbox_xmax", "bbox_ymin", "bbox_ymax")
    boxes = {name: np.array([value]) for name, value in zip(names, (20, 29, 35, 44), strict=True)}
    own = {name: column[:1] for name, column in table.items()} | boxes
    _, _, windows = jp.initialize_scene(image, own, stars=[4], scale=2, side=1, sky=None)
    assert windows == {4: (15, 35, 30, 50)}


def test_photutils(field):
    segmentation_module = pytest.importorskip("photutils.segmentation")
    _, _, image, segmentation, _, _ = field
    map_of = segmentation_module.SegmentationImage(segmentation)
    assert jp.windows_from_segmentation(map_of) == jp.windows_from_segmentation(segmentation)
    catalogue = segmentation_module.SourceCatalog(np.asarray(image.data) - 5.0, map_of)
    _, start, windows = jp.initialize_scene(image, catalogue, model=jp.models.exponential, labels=[1, 2])
    assert sorted(windows) == [1, 2]
    centers = np.concatenate([own["center"] for name, own in start.items() if name != "sky"])
    assert np.max(np.min(np.linalg.norm(centers[:, None] - 0.5 * CENTERS[None, :2], axis=-1), axis=0)) < 0.6


def test_windows_of_a_map():
    segmentation = np.zeros(SHAPE, ">i4")
    segmentation[10:14, 20:26] = 5
    segmentation[0:2, 0:1] = 2
    windows = jp.windows_from_segmentation
    assert windows(segmentation) == {2: (0, 1, 0, 2), 5: (20, 26, 10, 14)}
    assert windows(segmentation, minimum=3) == windows(segmentation, labels=[5]) == {5: (20, 26, 10, 14)}
    assert windows(segmentation, maximum=3, border=1) == {2: (0, 2, 0, 3)}
    assert windows(segmentation, scale=2, side=9, labels=[5]) == {5: (17, 29, 7, 17)}
    assert windows(segmentation.astype(float)) == windows(segmentation)


def test_windows_go_to_other_images_through_the_sky():
    segmentation = np.zeros(SHAPE, int)
    segmentation[30:40, 50:60] = 1
    segmentation[0:4, 0:4] = 2
    image, near, far = (
        jp.make_image(np.zeros(shape), std=1.0, transform=jp.make_linear(pixelscale=scale, crpix=crpix, crval=crval))
        for shape, scale, crpix, crval in (
            (SHAPE, 0.5, (50, 40), (150.0, 2.0)),
            ((60, 60), 1.0, (30, 30), (150.001, 2.0)),
            ((60, 60), 1.0, (30, 30), (152.0, 2.0)),
        )
    )
    found = jp.windows_from_segmentation(segmentation, image=image, to=near)
    i, j = jp.sky_to_pixel(near.transform, *jp.pixel_to_sky(image.transform, 54.5, 34.5))
    i0, i1, j0, j1 = found[1]
    assert abs((i0 + i1 - 1) / 2 - i) <= 0.5
    assert abs((j0 + j1 - 1) / 2 - j) <= 0.5
    assert 5 <= i1 - i0 <= 7
    assert 5 <= j1 - j0 <= 7
    assert jp.windows_from_segmentation(segmentation, image=image, to=far) == {}
    assert jp.windows_from_segmentation(segmentation, image=image, to=image) == jp.windows_from_segmentation(
        segmentation
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda image, seg: jp.initialize_scene(image, seg * 0), "empty"),
        (lambda image, seg: jp.initialize_scene(image, seg[1:]), "its shape is"),
        (lambda image, seg: jp.initialize_scene(image, seg > 0), "whole numbers"),
        (lambda image, seg: jp.initialize_scene(image, seg + 0.5), "whole numbers"),
        (lambda image, seg: jp.initialize_scene(image, seg, minimum=10**6), "minimum of 1000000"),
        (lambda image, seg: jp.initialize_scene(image, seg, stars=[77]), "no source 77"),
        (lambda image, seg: jp.initialize_scene(replace(image, psf=None), seg, stars=[3]), "no PSF"),
        (lambda image, seg: jp.initialize_scene(image, {"a": [1.0]}), "columns with positions"),
        (lambda image, seg: jp.initialize_scene(image, {"x": [-50.0], "y": [3.0]}), "lies on the frame"),
        (lambda image, seg: jp.initialize_scene(image, {"x": [np.nan], "y": [3.0]}), "no position"),
        (lambda image, seg: jp.windows_from_segmentation(seg, labels=[9]), "no source 9"),
        (lambda image, seg: jp.windows_from_segmentation(seg, scale=0), "scale: expected"),
        (lambda image, seg: jp.windows_from_segmentation(seg, to=image), "image: expected"),
        (lambda image, seg: jp.deblend(jp.models.flat_sky, {"I0": 1.0}, image), "no sources"),
    ],
)
def test_bad_input(field, call, message):
    with pytest.raises(ValueError, match=message):
        call(field[2], field[3])


def test_light_divided(field):
    """Shares of a noiseless frame are the sources themselves; of a noisy one, unbiased with the variance said."""
    model, truth, image, _, light, clean = field
    np.testing.assert_allclose(light.sum(0)[15:65, 15:85] + 5.0, clean[15:65, 15:85], rtol=1e-4)
    shares = jp.deblend(model, truth, image)
    assert shares["galaxies"].data.shape == (2, 75, 75)
    assert shares["stars"].data.shape == (2, 25, 25)
    first = jp.unstack_images(shares["galaxies"])[0]
    i, j = np.round(np.asarray(first.transform.pixel_to_plane(0.0, 0.0)) / 0.5).astype(int)
    expected = light[0, j : j + 75, i : i + 75]
    used = np.asarray(first.ivar) > 0
    pull = (np.asarray(first.data) - expected)[used] * np.sqrt(np.asarray(first.ivar)[used])
    assert abs(np.std(pull) - 1) < 0.05
    assert abs(np.mean(pull)) < 0.05
    assert np.all(np.asarray(first.ivar)[used] >= 1 - 1e-9)


def test_catalogue_of_a_fitted_scene(field, tmp_path):
    model, truth, image, _, _, _ = field
    fit = jp.fit(model, truth, image, fixed={"galaxies": {"n": truth["galaxies"]["n"]}})
    assert int(fit.status) == 0
    table = jp.to_source_table(fit, [1, 2, 3, 4], model=model, image=image, zeropoint=25.0)
    assert table["id"].tolist() == [1, 2, 3, 4]
    assert table["part"].tolist() == ["galaxies"] * 2 + ["stars"] * 2
    np.testing.assert_allclose(table["i"].value, CENTERS[:, 0], atol=0.2)
    assert np.all(np.isnan(table["Re"][2:]))
    for row in (0, 1):

        def flux(params, row=row):
            return jp.total_flux(model.parts[0][1].model, {key: leaf[row] for key, leaf in params["galaxies"].items()})

        expected = jp.propagate(flux, fit)
        np.testing.assert_allclose(table["flux"][row].value, expected.value)
        np.testing.assert_allclose(table["flux_err"][row].value, expected.stderr)
        assert abs(table["flux"][row].value - flux(truth)) < 5 * table["flux_err"][row].value
    np.testing.assert_allclose(table["flux_mag"].value, 25 - 2.5 * np.log10(table["flux"].value))
    assert "flux_mag_err" in table.colnames
    assert np.all(np.isnan(jp.to_source_table(fit)["flux"][:2]))
    nothing_free = jp.to_source_table(jp.fit(model, truth, image, fixed=truth), model=model)
    assert np.all(nothing_free["flux"] > 0)
    assert np.all(np.isnan(nothing_free["flux_err"]))
    assert "n_err" not in table.colnames
    np.testing.assert_allclose(table["flux"][2:].value, fit.params["stars"]["flux"])
    np.testing.assert_allclose(table["flux_err"][2:].value, fit.stderr["stars"]["flux"])
    assert table["PA"].unit == "deg"
    assert np.all(np.abs(table["flux"][2:].value - truth["stars"]["flux"]) < 4 * table["flux_err"][2:].value)
    assert table["at_bound"].tolist() == ["none"] * 4
    table.write(tmp_path / "sources.ecsv")
    jp.save_fit(tmp_path / "fit.fits", fit)
    again = jp.load_fit(tmp_path / "fit.fits")
    assert jp.to_source_table(again)["Re_err"].value.tolist()[:2] == table["Re_err"].value.tolist()[:2]
    with pytest.raises(ValueError, match="ids: expected 4"):
        jp.to_source_table(fit, [1])
    flat = jp.fit(jp.models.flat_sky, {"I0": 0.0}, image)
    with pytest.raises(ValueError, match="no sources"):
        jp.to_source_table(flat)


def test_picture_of_a_scene(field):
    model, truth, image, segmentation, _, _ = field
    axes = jp.plot.scene(image, model, truth, windows=jp.windows_from_segmentation(segmentation))
    assert [text.get_text() for text in axes[0].texts] == ["1", "2", "3", "4"]
    galaxies, stars = axes[1].collections[-2:]
    assert len(galaxies.get_paths()) == len(stars.get_paths()) == 2
    outline = galaxies.get_paths()[0].vertices[:-1]
    np.testing.assert_allclose(outline.mean(0), truth["galaxies"]["center"][0], atol=1e-9)
    radius = np.hypot(*(outline - outline.mean(0)).T)
    np.testing.assert_allclose([radius.max(), radius.min()], [3.0, 1.8], rtol=1e-2)
    major = (outline - outline.mean(0))[np.argmax(radius)]
    np.testing.assert_allclose(np.abs(major), 3 * np.abs([np.sin(0.5), np.cos(0.5)]), rtol=1e-6)
    with pytest.raises(ValueError, match="lies off the frame"):
        jp.plot.scene(image, model, truth, windows=[(200, 210, 0, 5)])


def test_real_frame():
    """KiDS: a bright galaxy and three faint sources on its map, from FITS to a fit that leaves little."""
    data, sigma, mask, segments, psf = (
        fits.getdata(DATA / f"kids/G265911{part}.fits").astype(float)
        for part in ("fitim", "sigma", "mskim", "segim", "psfim")
    )
    image = jp.make_image(data * 1e12, std=sigma * 1e12, mask=mask > 0, psf=psf, pixelscale=0.2, zeropoint=30.0)
    model, start, windows = jp.initialize_scene(image, segments)
    assert sorted(windows) == [1, 3, 4, 5]
    bright = start["galaxies303"]
    assert abs(float(bright["Re"][0]) / 2.85 - 1) < 0.2
    assert np.hypot(*(np.asarray(bright["center"][0]) - [16.76, 18.75])) < 0.2
    used = ~np.asarray(image.mask)
    left = (np.asarray(image.data) - np.asarray(jp.render(model, start, image)))[used]
    assert np.sum(left**2) < 0.05 * np.sum(np.asarray(image.data)[used] ** 2)
    shares = jp.deblend(model, start, image)
    assert shares["galaxies41"].data.shape == (3, 41, 41)
