"""What `jaxphot.plot` draws with: stretches, maps of pixels on the plane, colour bars, radial averages."""

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from matplotlib import colormaps, ticker
from matplotlib.collections import PolyCollection
from matplotlib.colors import FuncNorm, Normalize
from matplotlib.transforms import Affine2D

from jaxphot.image import Image
from jaxphot.models.combinators import Scene, kind
from jaxphot.parameters import Parameter, parameters
from jaxphot.psf import PSF, make_psf
from jaxphot.pytree import leaves_with_names, refuse_tracers
from jaxphot.render import check_image, render
from jaxphot.transforms.protocol import WHOLE_PIXEL

MASKED = "#8b979f"  # in none of the colour maps that are used here


def checked(image):
    """One concrete image's data as float64, and which pixels are used."""
    check_image(image)
    refuse_tracers("pictures are made outside", image=image)
    return np.asarray(image.data, np.float64), ~np.asarray(image.mask)


def check_axes(ax, figsize=(5.2, 4.4)):
    """The axes given, or those of a new figure."""
    if ax is None:
        return plt.subplots(figsize=figsize, layout="compressed")[1]
    if not hasattr(ax, "imshow"):
        raise TypeError(f"ax: expected matplotlib Axes, got {type(ax).__name__}")
    return ax


def robust_level(values):
    """Clipped median of values, and their scatter about it."""
    for _ in range(10):
        middle = np.median(values)
        scatter = 1.4826 * np.median(np.abs(values - middle))
        kept = values[np.abs(values - middle) <= 3 * scatter]
        if len(kept) in (0, len(values)):
            break
        values = kept
    return middle, scatter


def asinh_norm(values):
    """A stretch that shows both the noise of the sky and the middle of a galaxy."""
    values = values[np.isfinite(values)]
    if not values.size:
        return stretch(0.0, 1.0, 0.0, 1.0)
    sky, scatter = robust_level(values)
    # the few brightest pixels, cosmic rays among them, do not set the scale
    high = np.percentile(values, 99.9)
    low = max(values.min(), sky - 4 * scatter)
    return stretch(sky, 2 * scatter, low, high)


def symmetric_norm(values, limit=None):
    """A linear scale about 0, by default to what 99 % of the values stay within, but from 3 to 10."""
    if limit is None:
        known = np.abs(values[np.isfinite(values)])
        limit = np.clip(np.percentile(known, 99), 3, 10) if known.size else 3
    return Normalize(-limit, limit)


def stretch(middle, width, low, high):
    """asinh((value − middle) / width) from `low` to `high`; a width of 0 becomes a thousandth of the range."""
    if not high > low:
        low, high = low - 0.5 * (abs(low) or 1), low + 0.5 * (abs(low) or 1)
    width = max(width, 1e-3 * (high - low))
    functions = (lambda value: np.arcsinh((value - middle) / width), lambda value: middle + width * np.sinh(value))
    return FuncNorm(functions, low, high)


def pixel_corners(image):
    """Plane positions (x, y) of the corners of all pixels, each (ny + 1, nx + 1)."""
    return _on_plane(image.transform, *_corner_numbers(image.shape))


def _corner_numbers(shape):
    """Pixel coordinates (i, j) of the corners of all pixels."""
    ny, nx = shape
    return np.meshgrid(np.arange(nx + 1) - 0.5, np.arange(ny + 1) - 0.5)


def _on_plane(transform, i, j):
    """Plane positions of pixel coordinates, float64."""
    dtype = transform.crval.dtype
    x, y = transform.pixel_to_plane(i.astype(dtype), j.astype(dtype))
    return np.asarray(x, np.float64), np.asarray(y, np.float64)


def draw_pixels(image, values, ax, norm, cmap, label, bar="right", title=None, extend="neither"):
    """Draw values as pixels where they are on the plane; NaN is shown as masked."""
    ax = check_axes(ax)
    x, y = pixel_corners(image)
    cmap = (colormaps[cmap] if isinstance(cmap, str) else cmap).with_extremes(bad=MASKED)
    affine = _affine(x, y)
    if affine is None:
        artist = ax.pcolormesh(x, y, np.ma.masked_invalid(values), norm=norm, cmap=cmap, rasterized=True)
    else:
        ny, nx = values.shape
        artist = ax.imshow(
            np.ma.masked_invalid(values), norm=norm, cmap=cmap, origin="lower", extent=(0, nx, 0, ny),
            interpolation="nearest", aspect="equal",
        )  # fmt: skip
        artist.set_transform(Affine2D(affine) + ax.transData)
    ax.set_aspect("equal")
    label_plane(ax, image.transform, *_corner_numbers(image.shape), x, y)
    if title is not None:
        ax.set_title(title)
    add_bar(ax, artist, label, bar, extend)
    return ax


def _affine(x, y):
    """The 3×3 matrix that takes corner numbers (i, j) to the plane, or None where that is off by 2 % of a pixel."""
    ny, nx = x.shape
    origin = np.array([x[0, 0], y[0, 0]])
    along_i = (np.array([x[0, -1], y[0, -1]]) - origin) / (nx - 1)
    along_j = (np.array([x[-1, 0], y[-1, 0]]) - origin) / (ny - 1)
    j, i = np.mgrid[:ny, :nx]
    error = np.hypot(*(c - o - a * i - b * j for c, o, a, b in zip((x, y), origin, along_i, along_j, strict=True)))
    if error.max() > 0.02 * np.sqrt(abs(along_i[0] * along_j[1] - along_i[1] * along_j[0])):
        return None
    return np.array([[along_i[0], along_j[0], origin[0]], [along_i[1], along_j[1], origin[1]], [0, 0, 1]])


def label_plane(ax, transform, i, j, x, y, margin=0.0):
    """Limits and labels for pixel coordinates (i, j) at (x, y): East to the left if there is a sky."""
    on_sky = not np.any(np.isnan(np.asarray(transform.crval)))
    xlim, ylim = [(c.min() - margin * np.ptp(c), c.max() + margin * np.ptp(c)) for c in (x, y)]
    if on_sky:
        ax.set(xlabel="East offset [arcsec]", ylabel="North offset [arcsec]", xlim=xlim[::-1], ylim=ylim)
    elif np.allclose(x, i) and np.allclose(y, j):
        ax.set(xlabel="i [pixel]", ylabel="j [pixel]", xlim=xlim, ylim=ylim)
    else:
        ax.set(xlabel="x [arcsec]", ylabel="y [arcsec]", xlim=xlim, ylim=ylim)
    ax.xaxis.set_major_locator(_ApartTicks())
    ax.ticklabel_format(useOffset=False)
    ax.tick_params(direction="in", top=True, right=True, color="0.5")


class _ApartTicks(ticker.MaxNLocator):
    """Round ticks along x, as many as there is room for side by side with their labels."""

    def __init__(self):
        super().__init__("auto", steps=[1, 2, 2.5, 5, 10])

    def tick_values(self, vmin, vmax):
        """As many as do not touch, but two at least."""
        points = 72 * self.axis.axes.get_window_extent().width / self.axis.axes.figure.dpi
        digit = 0.64 * self.axis.get_major_ticks(1)[0].label1.get_fontsize()
        for count in range(7, 0, -1):
            self.set_params(nbins=count)
            ticks = super().tick_values(vmin, vmax)
            longest = max(map(len, self.axis.get_major_formatter().format_ticks(ticks)))
            if len(ticks) < 2 or (ticks[1] - ticks[0]) / abs(vmax - vmin) * points > (longest + 1.5) * digit:
                break
        return ticks


def check_transform(image):
    """The transform of an image, or the one given; a single one."""
    if hasattr(image, "transform"):
        checked(image)
        return image.transform
    if not hasattr(image, "pixel_to_plane"):
        raise TypeError(f"image: expected an Image or a transform, got {type(image).__name__}")
    refuse_tracers("pictures are made outside", image=image)
    if np.ndim(image.crval) != 1:
        raise ValueError("image: expected one transform, got a stack")
    return image


def as_psf(psf):
    """One PSF: an image's, the one given, or a stamp made into one."""
    if isinstance(psf, Image):
        if psf.psf is None:
            raise ValueError("psf: the image has none; pass psf= on building it")
        ny, nx = psf.shape
        psf = psf.psf.at((nx - 1) / 2, (ny - 1) / 2)
    psf = psf if isinstance(psf, PSF) else make_psf(psf)
    if psf.data.ndim != 2:
        raise ValueError(f"psf: expected one stamp, got a stack with data of shape {psf.data.shape}")
    return psf


def check_pixels(pixels, shape):
    """Pixel numbers (N, 2) as float64; by default the middle one of an image, (0, 0) where its shape is unknown."""
    if pixels is None:
        pixels = (0, 0) if shape is None else (shape[1] // 2, shape[0] // 2)
    numbers = np.asarray(pixels, np.float64)
    if numbers.size == 0 or numbers.ndim not in (1, 2) or numbers.shape[-1] != 2 or not np.all(np.isfinite(numbers)):
        raise ValueError(f"pixels: expected (i, j), or a sequence of them, got {pixels!r}")
    return np.atleast_2d(numbers)


def draw_rectangles(ax, transform, pixels, footprint=WHOLE_PIXEL, **style):
    """Draw the same rectangle of each pixel, and return the pixel coordinates and plane positions of its border."""
    side = np.linspace(-0.5, 0.5, 17)
    half = np.full_like(side, 0.5)
    u, v = np.concatenate([side, half, -side, -half]), np.concatenate([-half, side, half, -side])
    (li, lj), (si, sj) = [np.asarray(pair, np.float64) for pair in footprint]
    i, j = pixels[:, :1] + li + si * u, pixels[:, 1:] + lj + sj * v
    x, y = _on_plane(transform, i, j)
    ax.add_collection(PolyCollection(np.stack([x, y], -1), **style))
    return i, j, x, y


def add_bar(ax, artist, label, bar="right", extend="neither"):
    """A colour bar as long as the axes' side, for `bar` "right" (or True) or "top"; none for False."""
    if not bar:
        return
    is_top = bar == "top"
    place = ax.inset_axes([0, 1.03, 1, 0.045] if is_top else [1.03, 0, 0.045, 1])
    orientation = "horizontal" if is_top else "vertical"
    colorbar = ax.figure.colorbar(artist, cax=place, orientation=orientation, extend=extend)
    if isinstance(artist.norm, FuncNorm):
        colorbar.set_ticks(_ticks(artist.norm))
    power = power_of_ten(max(abs(artist.norm.vmin), abs(artist.norm.vmax)))
    colorbar.formatter = ticker.FuncFormatter(lambda value, _: f"{value / 10.0**power:.6g}".replace("-", "−"))
    colorbar.update_ticks()
    colorbar.minorticks_off()
    colorbar.set_label(f"{label} [$10^{{{power}}}$]" if power else label)
    if is_top:
        place.xaxis.set_ticks_position("top")
        place.xaxis.set_label_position("top")


def power_of_ten(largest):
    """The exponent to take out of numbers up to `largest`, so that they are short; 0 where they are already."""
    return 0 if largest == 0 or 1e-3 <= largest < 1e5 else int(np.floor(np.log10(largest)))


def _ticks(norm, count=5):
    """Round numbers about evenly spaced along a stretched colour bar."""
    even = np.asarray(norm.inverse(np.linspace(0, 1, count)))
    gaps = np.minimum(np.diff(even, prepend=2 * even[0] - even[1]), np.diff(even, append=2 * even[-1] - even[-2]))
    ticks = {float(np.round(value, -int(np.floor(np.log10(gap))))) for value, gap in zip(even, gaps, strict=True)}
    return sorted(tick for tick in ticks if norm.vmin <= tick <= norm.vmax)


def draw_gaussian(ax, best, sigma):
    """A Gaussian out to 3σ, its ±1σ filled, its numbers above."""
    offset = np.linspace(-3, 3, 121)
    density = np.exp(-0.5 * offset**2)
    inside = np.abs(offset) <= 1
    ax.plot(best + sigma * offset, density, color="black", linewidth=1)
    ax.fill_between(best + sigma * offset[inside], density[inside], color="C0", alpha=0.3, linewidth=0)
    ax.set(ylim=(0, 1.12), yticks=[])
    digits = int(np.clip(1 - np.floor(np.log10(sigma)), 0, 9))
    ax.set_title(f"{best:.{digits}f} ± {sigma:.{digits}f}", fontsize=8)


def draw_ellipses(ax, best, covariance):
    """The 1σ and 2σ contours of a Gaussian of two parameters."""
    size, axes = np.linalg.eigh(covariance)
    phase = np.linspace(0, 2 * np.pi, 181)
    outline = axes @ (np.sqrt(np.maximum(size, 0))[:, None] * np.stack([np.cos(phase), np.sin(phase)]))
    for width, alpha in ((2, 0.18), (1, 0.35)):
        x, y = best[:, None] + width * outline
        ax.fill(x, y, facecolor="C0", alpha=alpha, edgecolor="none")
        ax.plot(x, y, color="black", linewidth=0.7)
    ax.plot(*best, "+", color="black", markersize=5)


def write_correlation(ax, value):
    """A correlation coefficient instead of a picture, the darker the stronger."""
    ax.set_axis_off()
    text = f"{value:+.2f}".replace("-", "−") if abs(value) >= 0.005 else "0"
    grey = f"{0.65 * (1 - min(abs(value), 1)):.2f}"
    ax.text(0.5, 0.5, text, transform=ax.transAxes, ha="center", va="center", fontsize=8, color=grey)


def label_corner(ax, xlabel, ylabel):
    """Small slanted numbers where there is a label, none elsewhere."""
    ax.tick_params(direction="in", labelsize=7, labelrotation=45, top=True, right=True)
    ax.xaxis.set_major_locator(ticker.MaxNLocator(3, prune="both"))
    ax.xaxis.set_major_formatter("{x:.8g}")
    ax.xaxis.set_tick_params(labelbottom=bool(xlabel))
    ax.set_xlabel(xlabel, fontsize=8)
    if ax.get_yticks().size:
        ax.yaxis.set_major_locator(ticker.MaxNLocator(3, prune="both"))
        ax.yaxis.set_major_formatter("{x:.8g}")
    ax.yaxis.set_tick_params(labelleft=bool(ylabel))
    ax.set_ylabel(ylabel, fontsize=8)


def render_pixels(image, model, params, sampling):
    """What a model predicts for an image, float64."""
    return np.asarray(render(model, params, image, sampling), np.float64)


def named_parts(model, params, prefix=""):
    """(key path, model, params) of everything that a scene is made of."""
    if not isinstance(model, Scene):
        return [(prefix or "model", model, params)]
    join = f"{prefix}." if prefix else ""
    return [item for name, part in model.parts for item in named_parts(part, params[name], f"{join}{name}")]


def main_ellipse(parts, wanted):
    """Centre, axis ratio and position angle of the component that defines the radius."""
    with_centre = {name: own for name, _, own in parts if isinstance(own, dict) and np.shape(own.get("center")) == (2,)}
    if wanted is not None and wanted not in with_centre:
        raise ValueError(f"part: expected one of {', '.join(with_centre) or 'none'}, got {wanted!r}")
    if not with_centre:
        raise ValueError("model: none of its components has a centre to measure the radius from")
    own = with_centre[wanted if wanted is not None else next(iter(with_centre))]
    return np.asarray(own["center"], np.float64), float(own.get("q", 1.0)), float(own.get("PA", 0.0))


def default_rmax(model, params):
    """Four times the largest of the parameters that are radii, arcsec."""
    declared = dict(leaves_with_names(parameters(model)))
    sizes = [
        float(np.max(value))
        for name, value in leaves_with_names(params)
        if isinstance(declared.get(name), Parameter)
        and (declared[name].unit, declared[name].coordinate) == ("arcsec", "log")
    ]
    return 4 * max(sizes) if sizes else 10.0


def along_major_axis(parts, ellipse, rmax):
    """Radius, and brightness of every extended component along the major axis of one."""
    (x0, y0), _, angle = ellipse
    radius = np.linspace(1e-3, 1, 300) * rmax
    x, y = jnp.asarray(x0 + radius * np.sin(angle)), jnp.asarray(y0 + radius * np.cos(angle))
    extended = [item for item in parts if kind(item[1]) == "extended"]
    if not extended:
        raise ValueError("image: stars have a profile only as an image with its PSF sees them; pass image=")
    return radius, {name: np.asarray(part(own, x, y), np.float64) for name, part, own in extended}


def in_annuli(image, parts, ellipse, rmax, sampling):
    """Mean radius, components' brightness, and the data's with its error, in elliptical annuli."""
    data, good = checked(image)
    (x0, y0), q, angle = ellipse
    area = np.broadcast_to(np.asarray(image.pixel_area_map, np.float64), image.shape)
    x, y = (np.asarray(grid, np.float64) for grid in image.transform.pixel_to_plane(*image.pixel_grid()))
    major = (x - x0) * np.sin(angle) + (y - y0) * np.cos(angle)
    radius = np.hypot(major, ((x - x0) * np.cos(angle) - (y - y0) * np.sin(angle)) / q)
    if not good.any():
        raise ValueError("image: every pixel is masked")
    number, count = annuli(
        radius, good, np.sqrt(np.median(area)), np.percentile(radius[good], 90) if rmax is None else rmax
    )
    seen_through = [("psf", part, own) for _, part, own in parts if kind(part) == "psf"]
    images = {
        name: (kind(part), _alone(image, [("part", part, own), *seen_through], sampling))
        for name, part, own in parts
        if kind(part) not in ("psf", "noise")
    }
    sky = sum(pixels for what, pixels in images.values() if what == "background")
    variance = 1 / np.where(good, np.asarray(image.ivar, np.float64), 1) / area**2
    kept = ~np.isnan(ring_means(radius, number, count))
    pixels_in = np.bincount(number[number >= 0], minlength=count)[kept]
    mean = lambda values: ring_means(values, number, count)[kept]  # noqa: E731
    curves = {name: mean(pixels / area) for name, (what, pixels) in images.items() if what != "background"}
    return mean(radius), curves, mean((data - sky) / area), np.sqrt(mean(variance) / pixels_in)


def _alone(image, parts, sampling):
    """Pixels of a scene of a few (name, model, params)."""
    model, params = Scene(tuple((name, part) for name, part, _ in parts)), {name: own for name, _, own in parts}
    return render_pixels(image, model, params, sampling)


def annuli(radius, good, smallest, largest):
    """Which annulus each used pixel lies in (−1: none), and how many there are; widths grow with the radius."""
    edges = [0.0]
    while edges[-1] < largest:
        edges.append(edges[-1] + max(smallest, 0.12 * edges[-1]))
    number = np.digitize(radius, edges) - 1
    number = np.where(good & (number < len(edges) - 1), number, -1)
    return number, len(edges) - 1


def ring_means(values, number, count):
    """Mean of values over each annulus; NaN over an empty one."""
    inside = number >= 0
    total = np.bincount(number[inside], values[inside], count)
    pixels = np.bincount(number[inside], minlength=count)
    return np.where(pixels > 0, total / np.maximum(pixels, 1), np.nan)
