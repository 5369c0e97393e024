"""Pictures show what they say: the right pixels, where they are, on the right scale."""

import dataclasses
import inspect
from itertools import pairwise

import jax
import jax.numpy as jnp
import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_rgba

import jaxphot as jp
from jaxphot import drawing
from jaxphot.transforms.sip import make_sip

SHAPE = (20, 24)
MODEL = jp.scene(galaxy=jp.models.sersic, sky=jp.models.flat_sky)
PARAMS = {
    "galaxy": {"center": [0.5, -0.25], "q": 0.5, "PA": 0.7, "n": 1.0, "Re": 1.0, "Ie": 20.0},
    "sky": {"I0": 100.0},
}
MIDPOINT = jp.sampling.midpoint()
TURNED = [[-0.2, 0.1], [0.1, 0.2]]


@pytest.fixture(autouse=True)
def _figures_are_closed():
    before = dict(mpl.rcParams)
    yield
    plt.close("all")
    assert dict(mpl.rcParams) == before


def _image(transform=None, **arguments):
    transform = jp.make_linear(pixelscale=0.25, crpix=(11, 9)) if transform is None else transform
    blank = jp.make_image(np.zeros(SHAPE), std=0.05, transform=transform, **arguments)
    noise = 0.05 * np.random.default_rng(5).normal(size=SHAPE)
    data = jp.render(MODEL, PARAMS, blank, MIDPOINT) + noise
    mask = np.zeros(SHAPE, bool)
    mask[2, 3] = True
    data = data.at[2, 3].set(1e9).at[18, 20].set(np.nan)
    return jp.make_image(data, std=0.05, mask=mask, transform=transform, **arguments)


def _shown(ax):
    (artist,) = [*ax.images, *ax.collections]
    return artist, np.ma.asarray(artist.get_array()).reshape(SHAPE)


def test_every_picture_takes_axes():
    """And makes them where none are given; a thumbnail is pixels."""
    for name in set(jp.plot.__all__) - {"thumbnail"}:
        parameters = inspect.signature(getattr(jp.plot, name)).parameters
        assert [parameters[key].default for key in ("ax", "axes") if key in parameters] == [None], name


def test_image_shows_the_data_and_masks():
    image = _image()
    ax = jp.plot.image(image, title="a galaxy")
    artist, values = _shown(ax)
    np.testing.assert_array_equal(values.mask, image.mask)
    np.testing.assert_array_equal(values.compressed(), np.asarray(image.data)[~np.asarray(image.mask)])
    assert artist.cmap(np.ma.masked) == to_rgba(drawing.MASKED)
    for name in ("inferno", "RdBu_r", "cividis"):
        distance = np.abs(plt.get_cmap(name)(np.linspace(0, 1, 256)) - to_rgba(drawing.MASKED)).max(1)
        assert distance.min() > 0.1, f"masked pixels look like others in {name}"
    # the masked 1e9 has no say in the stretch, the sky lies low in it, the peak high
    assert artist.norm.vmax < 20
    sky, peak = 100 * 0.25**2, values.max()
    assert 0.05 < artist.norm(sky) < 0.35
    assert artist.norm(peak) > 0.85
    assert ax.get_title() == "a galaxy"
    ax.figure.canvas.draw()


def test_axes_are_the_plane():
    ax = jp.plot.image(_image())
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("x [arcsec]", "y [arcsec]")
    np.testing.assert_allclose(ax.get_xlim(), ((-0.5 - 11) / 4, (23.5 - 11) / 4))
    np.testing.assert_allclose(ax.get_ylim(), ((-0.5 - 9) / 4, (19.5 - 9) / 4))
    ax = jp.plot.image(_image(jp.make_linear(pixelscale=1.0)))
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("i [pixel]", "j [pixel]")
    ax = jp.plot.image(_image(jp.make_linear(cd=TURNED, crpix=(3, 4), crval=(10, 20))))
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("East offset [arcsec]", "North offset [arcsec]")
    left, right = ax.get_xlim()
    assert left > right, "East is to the left"
    assert np.diff(ax.get_ylim())[0] > 0


@pytest.mark.parametrize("kind", ["turned", "sip"])
def test_pixels_are_where_they_are_on_the_plane(kind):
    place = {"cd": TURNED, "crpix": (3, 4), "crval": (10, 20)}
    a, b = {(2, 0): 5e-3}, {(1, 1): 5e-3}
    transform = jp.make_linear(**place) if kind == "turned" else make_sip(SHAPE, a, b, **place)
    image = _image(transform)
    ax = jp.plot.image(image, colorbar=False)
    artist, values = _shown(ax)
    assert values.mask[2, 3]
    if kind == "turned":
        to_plane = artist.get_transform() - ax.transData  # of (column, row) counted from the corner
        for i, j in ((0, 0), (20.3, 3), (5, 19)):
            x, y = transform.pixel_to_plane(float(i), float(j))
            np.testing.assert_allclose(to_plane.transform((i + 0.5, j + 0.5)), (x, y), atol=1e-9)
    else:
        corners = artist.get_coordinates()
        assert corners.shape == (SHAPE[0] + 1, SHAPE[1] + 1, 2)
        np.testing.assert_allclose(corners[7, 11], transform.pixel_to_plane(10.5, 6.5), atol=1e-9)
    # and on the canvas: the peak's colour at the galaxy's centre, nothing outside the frame
    ax.figure.canvas.draw()
    picture = np.asarray(ax.figure.canvas.buffer_rgba())

    def colour(x, y):
        column, row = ax.transData.transform((x, y)).astype(int)
        return picture[len(picture) - 1 - row, column, :3].astype(int)

    (x0, x1), (y0, y1) = ax.get_xlim(), ax.get_ylim()
    np.testing.assert_array_equal(colour(x0 + 0.02 * (x1 - x0), y0 + 0.02 * (y1 - y0)), 255)
    center = np.asarray(PARAMS["galaxy"]["center"])
    i, j = (int(np.rint(v)) for v in transform.plane_to_pixel(*center))
    x, y = transform.pixel_to_plane(float(i), float(j))
    expected = 255 * np.asarray(artist.cmap(artist.norm(float(image.data[j, i])))[:3])
    np.testing.assert_allclose(colour(float(x), float(y)), expected, atol=2)
    x, y = transform.pixel_to_plane(3.0, 2.0)
    np.testing.assert_allclose(colour(float(x), float(y)), 255 * np.asarray(to_rgba(drawing.MASKED)[:3]), atol=2)


def test_model_residual_and_triptych_agree():
    image = _image()
    predicted = np.asarray(jp.render(MODEL, PARAMS, image, MIDPOINT))
    axes = jp.plot.triptych(image, MODEL, PARAMS, sampling=MIDPOINT)
    (data, _), (model, shown), (residual, deviation) = (_shown(ax) for ax in axes)
    np.testing.assert_array_equal(shown, predicted)
    assert data.norm is model.norm
    sigmas = np.asarray((image.data - predicted) * np.sqrt(image.ivar))
    np.testing.assert_allclose(deviation.compressed(), sigmas[~np.asarray(image.mask)], rtol=1e-12)
    np.testing.assert_array_equal(deviation.mask, image.mask)
    assert residual.norm.vmin == -residual.norm.vmax
    assert 3 <= residual.norm.vmax <= 10
    red, blue = residual.cmap(residual.norm(2.5)), residual.cmap(residual.norm(-2.5))
    assert red[0] > red[2], "data above the model are red"
    assert blue[2] > blue[0]
    chi2 = np.sum(deviation.compressed() ** 2) / deviation.count()
    labels = [child.get_xlabel() for child in axes[2].child_axes]
    assert labels == [f"(data − model) / σ;  χ²/N = {chi2:.3g}"]
    axes[0].figure.canvas.draw()
    np.testing.assert_array_equal(_shown(jp.plot.model(image, MODEL, PARAMS, sampling=MIDPOINT))[1], predicted)
    ax = jp.plot.residual(image, MODEL, PARAMS, sampling=MIDPOINT, limit=4.0)
    assert (_shown(ax)[0].norm.vmin, _shown(ax)[0].norm.vmax) == (-4, 4)


def test_given_axes_are_used_and_returned():
    image, before = _image(psf=np.ones((3, 3))), plt.get_fignums()
    figure, axes = plt.subplots(2, 4)
    flat = axes.ravel()
    assert jp.plot.image(image, flat[0]) is flat[0]
    assert jp.plot.model(image, MODEL, PARAMS, flat[1], sampling=MIDPOINT) is flat[1]
    assert jp.plot.residual(image, MODEL, PARAMS, flat[2], sampling=MIDPOINT) is flat[2]
    assert jp.plot.psf(image, flat[3]) is flat[3]
    assert jp.plot.pixel_area_map(image, flat[4]) is flat[4]
    assert jp.plot.profile(MODEL, PARAMS, ax=flat[5]) is flat[5]
    assert list(jp.plot.triptych(image, MODEL, PARAMS, axes[0, :3], sampling=MIDPOINT)) == list(axes[0, :3])
    assert plt.get_fignums() == [*before, figure.number]


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e7])
def test_colour_bars_have_few_short_round_ticks(scale):
    image = _image()
    image = dataclasses.replace(image, data=image.data * scale, ivar=image.ivar / scale**2)
    ax = jp.plot.image(image)
    ax.figure.canvas.draw()
    (bar,) = ax.child_axes
    texts = [label.get_text() for label in bar.get_yticklabels()]
    assert 3 <= len(texts) <= 6
    assert all(len(text) <= 7 for text in texts), texts
    assert ("10^" in bar.get_ylabel()) == (scale != 1)


def test_degenerate_images_are_drawn():
    flat = jp.make_image(np.full(SHAPE, 3.0), std=1.0)
    jp.plot.image(flat).figure.canvas.draw()
    nothing = dataclasses.replace(flat, ivar=jnp.zeros(SHAPE))
    jp.plot.image(nothing).figure.canvas.draw()
    jp.plot.triptych(nothing, jp.models.flat_sky, {"I0": 1.0})[0].figure.canvas.draw()


def test_psf():
    stamp = np.exp(-0.5 * (np.arange(12)[:, None] - 6) ** 2 - 0.5 * (np.arange(9) - 4) ** 2)
    ax = jp.plot.psf(jp.make_psf(stamp, oversample=2))
    np.testing.assert_allclose(ax.images[0].get_extent(), (-2.25, 2.25, -3.25, 2.75))
    (cross,) = ax.lines
    assert cross.get_xydata().tolist() == [[0, 0]]
    assert "1/2 pixel" in ax.child_axes[0].get_ylabel()
    np.testing.assert_allclose(ax.images[0].get_array().sum(), 1)
    jp.plot.psf(stamp).figure.canvas.draw()
    with pytest.raises(ValueError, match="psf: the image has none"):
        jp.plot.psf(_image())
    pair = [_image(psf=stamp)] * 2
    with pytest.raises(ValueError, match="psf: expected one stamp, got a stack"):
        jp.plot.psf(jp.stack_images(pair))


def test_pixel_area_map():
    transform = make_sip(SHAPE, {(2, 0): 5e-3}, {(1, 1): 5e-3}, pixelscale=0.5, crpix=(3, 4))
    image = _image(transform)
    artist, values = _shown(jp.plot.pixel_area_map(image))
    np.testing.assert_allclose(values, image.pixel_area_map, rtol=1e-12)
    assert artist.norm.vmax == values.max()
    artist, values = _shown(jp.plot.pixel_area_map(_image()))
    np.testing.assert_allclose(artist.norm([0.25**2]), 0.5, atol=1e-6)


def test_pixel_footprint():
    sip = make_sip(SHAPE, {(2, 0): 5e-3}, {(1, 1): 5e-3}, cd=TURNED, crpix=(3, 4), crval=(10.0, 20.0))
    transform = jp.make_cmos(sip, loc=(0.1, -0.05), scale=(0.5, 0.7))
    for given in (transform, _image(transform)):
        ax = jp.plot.pixel_footprint(given, pixels=[(7, 5), (8, 5)], title="two")
        sensitive, whole = ax.collections
        assert len(sensitive.get_paths()) == len(whole.get_paths()) == 2
        assert sensitive.get_facecolor()[0, 3] > 0
        assert len(whole.get_facecolor()) == 0
        for n, pixel in enumerate([(7, 5), (8, 5)]):
            assert _area(sensitive, n) == pytest.approx(float(transform.pixel_area(*map(float, pixel))), rel=2e-3)
            i, j = sip.plane_to_pixel(*whole.get_paths()[n].vertices.T)
            from_edge = 0.5 - np.maximum(abs(i - pixel[0]), abs(j - pixel[1]))
            np.testing.assert_allclose(from_edge, 0, atol=1e-6)
            i, j = sip.plane_to_pixel(*sensitive.get_paths()[n].vertices.T)
            np.testing.assert_allclose((i.min(), i.max()), (pixel[0] - 0.15, pixel[0] + 0.35), atol=1e-6)
            np.testing.assert_allclose((j.min(), j.max()), (pixel[1] - 0.4, pixel[1] + 0.3), atol=1e-6)
        left, right = ax.get_xlim()
        corners = whole.get_paths()[0].vertices
        assert left > corners[:, 0].max() > corners[:, 0].min() > right, "East is to the left, and nothing is cut"
        assert (ax.get_xlabel(), ax.get_title()) == ("East offset [arcsec]", "two")
        ax.figure.canvas.draw()
    # on a picture: its limits stay; without pixels=: the middle one; without a footprint: all of it
    image = _image(sip)
    ax = jp.plot.image(image)
    limits = ax.get_xlim(), ax.get_ylim()
    assert jp.plot.pixel_footprint(image, ax) is ax
    assert (ax.get_xlim(), ax.get_ylim()) == limits
    np.testing.assert_array_equal(*(path.get_paths()[0].vertices for path in ax.collections[-2:]))
    i, j = sip.plane_to_pixel(*ax.collections[-1].get_paths()[0].vertices.T)
    np.testing.assert_allclose((i.min(), i.max(), j.min(), j.max()), (11.5, 12.5, 9.5, 10.5), atol=1e-6)
    for pixels in ([], [(1, 2, 3)], (np.nan, 0)):
        with pytest.raises(ValueError, match=r"pixels: expected \(i, j\), or a sequence"):
            jp.plot.pixel_footprint(sip, pixels=pixels)
    with pytest.raises(TypeError, match="image: expected an Image or a transform"):
        jp.plot.pixel_footprint(3)
    with pytest.raises(ValueError, match="image: expected one transform, got a stack"):
        jp.plot.pixel_footprint(jp.stack_images([image, image]).transform)


def _area(collection, n):
    x, y = collection.get_paths()[n].vertices.T
    return abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2


@pytest.mark.parametrize("origin", [0.0, -227.5, 3.25e4])
@pytest.mark.parametrize("pixelscale", [0.0131, 0.262, 40.0])
def test_tick_labels_along_x_do_not_touch(origin, pixelscale):
    transform = jp.make_linear(pixelscale=pixelscale, crtan=(origin, 55.0), crval=(10.0, 20.0))
    axes = [jp.plot.pixel_area_map(_image(transform))]
    axes += list(jp.plot.triptych(_image(transform), jp.models.flat_sky, {"I0": 1.0}, sampling=MIDPOINT))
    for ax in axes:
        ax.figure.canvas.draw()
        low, high = sorted(ax.get_xlim())
        labels = [
            label.get_window_extent()
            for label in ax.get_xticklabels()
            if low <= label.get_position()[0] <= high and label.get_text()
        ]
        assert len(labels) >= 2
        labels.sort(key=lambda box: box.x0)
        assert all(left.x1 + 2 < right.x0 for left, right in pairwise(labels))


def test_profile_without_an_image_is_the_models_own():
    model = jp.scene(bulge=jp.models.sersic, disk=jp.models.exponential, sky=jp.models.flat_sky)
    galaxy = PARAMS["galaxy"]
    disk = {**{key: galaxy[key] for key in ("center", "q", "PA", "Ie")}, "Re": 3.0}
    ax = jp.plot.profile(model, {"bulge": galaxy, "disk": disk, "sky": {"I0": 5.0}})
    lines = {line.get_label(): line.get_xydata() for line in ax.lines}
    assert list(lines) == ["bulge", "disk", "model"]
    radius, bulge = lines["bulge"].T
    assert radius[-1] == 12
    np.testing.assert_allclose(bulge, jp.profiles.sersic(radius, n=1.0, Re=1.0, Ie=20.0), rtol=1e-9)
    np.testing.assert_allclose(lines["model"][:, 1], bulge + lines["disk"][:, 1], rtol=1e-12)
    ax = jp.plot.profile(jp.models.sersic, galaxy, rmax=2.0)
    assert [line.get_label() for line in ax.lines] == ["model"]
    assert ax.lines[0].get_xdata()[-1] == 2


def test_profile_of_data_follows_the_model():
    image = _image()
    ax = jp.plot.profile(MODEL, PARAMS, image, sampling=MIDPOINT)
    data = ax.containers[0][0].get_xydata()
    (model,) = (line.get_xydata() for line in ax.lines if line.get_label() == "model")
    np.testing.assert_array_equal(data[:, 0], model[:, 0])
    (bars,) = ax.containers[0][2]
    error = np.asarray([np.ptp(segment[:, 1]) / 2 for segment in bars.get_segments()])
    pulls = (data[:, 1] - model[:, 1]) / error
    assert len(pulls) > 5
    assert np.all(np.abs(pulls) < 4), "the masked 1e9 is not in, the sky is off, the errors are right"
    assert 0.3 < np.std(pulls) < 2
    ax.figure.canvas.draw()
    with pytest.raises(ValueError, match=r"part: expected one of galaxy, got 'sky'"):
        jp.plot.profile(MODEL, PARAMS, part="sky")
    with pytest.raises(ValueError, match="rmax: expected a positive"):
        jp.plot.profile(MODEL, PARAMS, rmax=-1.0)
    with pytest.raises(ValueError, match="none of its components has a centre"):
        jp.plot.profile(jp.models.flat_sky, {"I0": 1.0})
    with pytest.raises(ValueError, match="pass image="):
        jp.plot.profile(jp.models.point_source, {"center": [0.0, 0.0], "flux": 1.0})


def _fit():
    covariance = np.array(
        [[4e-24, 0.5e-12 * 0.1, 0, 0], [0.5e-12 * 0.1, 0.01, 0, 0], [0, 0, 1.0, 0], [0, 0, 0, np.nan]]
    )
    params = {"g": {"Ie": jnp.asarray(3e-12), "PA": jnp.asarray(1.0), "center": jnp.asarray([2.0, 4.0])}}
    return jp.Fit(
        params=params,
        stderr={}, covariance=jnp.asarray(covariance), chi2=jnp.asarray(1.0), dof=jnp.asarray(1), steps=jnp.asarray(1),
        evaluations=jnp.asarray(1), status=jnp.asarray(0), at_bound={}, undetermined={}, round=jnp.asarray(False),
        multimodal=jnp.asarray(False),
        names=("g.Ie", "g.PA", "g.center[0]", "g.center[1]"),
    )  # fmt: skip


def test_corner():
    axes = jp.plot.corner(_fit())
    assert axes.shape == (3, 3), "the fourth has no error"
    assert [ax.get_xlabel() for ax in axes[-1]] == ["g.Ie [$10^{-12}$]", "g.PA [deg]", "g.center[0]"]
    assert axes[0, 0].get_title() == "3.0 ± 2.0"
    assert axes[1, 1].get_title() == "57.3 ± 5.7"
    outer, inner, cross = axes[1, 0].lines
    np.testing.assert_allclose(cross.get_xydata(), [[3, np.rad2deg(1)]])
    # the ellipses' extent is 2σ and 1σ of either parameter, and they lean as the correlation says
    for line, width in ((outer, 2), (inner, 1)):
        x, y = line.get_xydata().T
        np.testing.assert_allclose([np.ptp(x) / 2, np.ptp(y) / 2], [2 * width, np.rad2deg(0.1) * width], rtol=1e-3)
        np.testing.assert_allclose(np.corrcoef(x[:-1], y[:-1])[0, 1], 0.25, rtol=1e-3)
    assert axes[0, 1].texts[0].get_text() == "+0.25"
    axes[0, 0].figure.canvas.draw()
    assert jp.plot.corner(_fit(), names=["g.PA", "g.Ie"]).shape == (2, 2)
    _, given = plt.subplots(1, 1)
    assert jp.plot.corner(_fit(), [[given]], names=["g.PA"])[0, 0] is given
    with pytest.raises(
        ValueError, match=r"names: no error is known of g.center\[1\]; there are g.Ie, g.PA, g.center\[0\]"
    ):
        jp.plot.corner(_fit(), names=["g.center[1]"])
    with pytest.raises(ValueError, match="fit: expected one fit, got a batch"):
        jp.plot.corner(jax.tree.map(lambda leaf: leaf[None], _fit()))
    with pytest.raises(TypeError, match="fit: expected a Fit"):
        jp.plot.corner({})
    with pytest.raises(ValueError, match=r"axes: expected shape \(3, 3\)"):
        jp.plot.corner(_fit(), plt.subplots(2, 2)[1])


def test_bad_input():
    image = _image()
    stack = jp.stack_images([image, image])
    for function in (jp.plot.image, jp.plot.pixel_area_map):
        with pytest.raises(ValueError, match="image: expected one image, got a stack"):
            function(stack)
    with pytest.raises(ValueError, match="image: expected one image, got a stack"):
        jp.plot.triptych(stack, MODEL, PARAMS)
    with pytest.raises(TypeError, match="image: expected an Image"):
        jp.plot.image(np.ones(SHAPE))
    with pytest.raises(TypeError, match="ax: expected matplotlib Axes"):
        jp.plot.image(image, 3)
    with pytest.raises(ValueError, match=r"axes: expected three, got shape \(2,\)"):
        jp.plot.triptych(image, MODEL, PARAMS, plt.subplots(1, 2)[1], sampling=MIDPOINT)
    with pytest.raises(ValueError, match="limit: expected a positive"):
        jp.plot.residual(image, MODEL, PARAMS, limit=0)
    with pytest.raises(ValueError, match=r"galaxy.n: missing"):
        jp.plot.model(image, MODEL, {**PARAMS, "galaxy": {}}, sampling=MIDPOINT)
    with pytest.raises(TypeError, match="image: traced"):
        jax.jit(lambda image: jp.plot.image(image) and 0)(image)


def test_joint_draws_a_row_for_each_image():
    """The rows are the triptychs of what each image is explained by."""
    images = {
        key: jp.make_image(np.full((6, 7), level), std=1.0, transform=jp.make_linear(pixelscale=0.3, crval=(10.0, dec)))
        for key, level, dec in (("g", 1.0, 20.0), ("r", 2.0, 20.001))
    }
    models = jp.models.by_wavelength(jp.models.flat_sky, {"g": 1.0, "r": 2.0})
    params = {"I0": {"g": 1.0 / 0.09, "r": 1.0 / 0.09}}
    axes = jp.plot.joint(images, models, params)
    assert axes.shape == (2, 3)
    assert axes[1, 0].get_ylabel().startswith("r:")
    drawn = [np.ma.filled((ax.images or ax.collections)[0].get_array(), np.nan) for ax in axes[:, 2]]
    np.testing.assert_allclose(np.nanmean(drawn[0]), 0.0, atol=1e-6)
    np.testing.assert_allclose(np.nanmean(drawn[1]), 1.0, atol=1e-6)
    assert axes[1, 0].get_ylim()[0] > 2  # 0.001° North of the first
    with pytest.raises(ValueError, match=r"axes: expected shape \(2, 3\)"):
        jp.plot.joint(images, models, params, axes=axes[:1])
    plt.close("all")
