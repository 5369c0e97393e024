"""Models of a point-spread function, reached as `jaxphot.psf_models`.

A PSF model is an ordinary model on the plane: sizes in arcsec, position angles East of North, whatever the pixels are;
so images of different scale or orientation may share one. What a PSF is normalised by is not among its parameters: its
centre is the origin and its amplitude 1 (`unit`), and the stamp made of it sums to 1. A sum of PSFs is a scene:
``unit(scene(core=models.gaussian, wings=models.moffat))``.
"""

from dataclasses import dataclass, replace

import jax.numpy as jnp
import numpy as np

from jaxphot.models import grids, profiles
from jaxphot.models.combinators import Scene, kind, radial
from jaxphot.models.metrics import circle, ellipse
from jaxphot.numerics import bessel_j1_over_x
from jaxphot.parameters import Flux, Length, parameters


def airy_profile(r, *, lam_over_D: Length, flux: Flux):
    """Diffraction at a circular aperture, ``F π/(4 s²) (2 J1(u)/u)²`` with ``u = π r/s`` and s = λ/D.

    Airy 1835; Born & Wolf, Principles of Optics, 8.5.2. FWHM = 1.029 λ/D, first dark ring at 1.22 λ/D.

    Parameters
    ----------
    r : array
        Radius, arcsec.
    lam_over_D : scalar
        Wavelength ÷ diameter of the aperture, in arcsec (206265 times the ratio).
    flux : scalar
        Total flux F; rings beyond r hold about 0.2 λ/D ÷ r of it.

    Examples
    --------
    >>> round(float(airy_profile(1.2197, lam_over_D=1.0, flux=1.0)), 6)
    0.0
    """
    amplitude = 2 * bessel_j1_over_x(np.pi * r / lam_over_D)
    return flux * (np.pi / 4) / lam_over_D**2 * amplitude**2


airy_profile.start = lambda source: {"lam_over_D": source.Re / 0.53}


@dataclass(frozen=True)
class Unit:
    """A model at the origin whose amplitude is 1, or only at the origin; made by `unit`."""

    model: object
    amplitude: bool
    kind = "extended"

    def parameters(self):
        """The model's without `center` and without its amplitude, or the first number of it."""
        declared = {name: parameter for name, parameter in parameters(self.model).items() if name != "center"}
        name, shape = self._given()
        if shape == ():
            del declared[name]
        elif name is not None:
            declared[name] = replace(declared[name], shape=(declared[name].shape[0] - 1,))
        return declared

    def _given(self):
        """Name of the amplitude and the shape of what is left out of it: () for all, (1,) for the first number."""
        declared = parameters(self.model) if self.amplitude else {}
        linear = [(name, p) for name, p in declared.items() if getattr(p, "linear", False)]
        if len(linear) != 1 or len(linear[0][1].shape) > 1:
            return None, None
        name, parameter = linear[0]
        return name, () if parameter.shape == () else (1,)  # (of one number nothing is left: a shape of (0,))

    def __call__(self, params, x, y):
        """Brightness (flux/arcsec²) at plane positions x, y (arcsec)."""
        dtype = jnp.result_type(x, y, float) if not hasattr(x, "dtype") else x.dtype
        full, (name, shape) = dict(params), self._given()
        if "center" in parameters(self.model):
            full["center"] = jnp.zeros(2, dtype)
        if name is not None:
            one = jnp.ones(shape, dtype)
            full[name] = one if shape == () else jnp.concatenate([one, params[name]])
        return self.model(full, x, y)


def unit(model):
    """A model as a PSF: at the origin, its amplitude 1, so that nothing of it is degenerate with sources' parameters.

    `center` is left out of its parameters, and so is the amplitude, if there is just one: a scalar such as `flux` or
    `I0` is 1; of a vector, such as an mge's `fluxes` or the `weights` of a basis, the first entry is 1 and the others
    are relative to it. A grid's values are left as they are: in a fit with free values hold a star's flux.

    In a scene, the first part's amplitude is 1 and those of the others are relative to it.

    Parameters
    ----------
    model : model
        Extended; one made by `unit` already is returned as it is.

    Returns
    -------
    model

    Examples
    --------
    >>> import jaxphot as jp
    >>> list(jp.parameters(unit(jp.models.moffat)))
    ['q', 'PA', 'n', 'Rd']
    >>> jp.parameters(unit(jp.models.mge(3)))["fluxes"].shape
    (2,)
    """
    return _unit(model, True)


def _unit(model, amplitude):
    if isinstance(model, Unit):
        return model
    if isinstance(model, Scene):
        return Scene(
            tuple((name, _unit(part, amplitude and not number)) for number, (name, part) in enumerate(model.parts))
        )
    if not callable(model) or kind(model) != "extended":
        raise TypeError(f"psf_model: expected an extended model such as jp.psf_models.moffat, got {model!r}")
    return Unit(model, amplitude)


@dataclass(frozen=True)
class LivePsf:
    """The part of a scene that is its PSF; made by `with_psf`."""

    model: object
    shape: tuple
    oversample: int
    kind = "psf"

    def parameters(self):
        """Those of the PSF model."""
        return parameters(self.model)

    def __call__(self, params, x, y):
        """Brightness (arcsec⁻², not normalised) at positions x, y (arcsec) from the source."""
        return self.model(params, x, y)


def with_psf(scene, psf_model, shape, *, oversample=1):
    """A scene seen through a PSF that has parameters: a fit determines it together with all sources, which share it.

    The parameters are the scene's and, under ``psf``, those of `psf_model`. At every evaluation a stamp is made of it
    as by `psf_from_model`, with the scale and orientation that the image has in its middle; an image's own PSF is not
    used. Centre and amplitude of the PSF are no parameters (see `unit`, which is applied to `psf_model`).

    Parameters
    ----------
    scene : model
        Made by `scene`.
    psf_model : model
        Such as ``psf_models.moffat``, or an extended model such as ``models.moffat``.
    shape : (int, int)
        (h, w) of the stamp in cells (static), such as the ``image.psf.shape`` of a measured one.
    oversample : int
        Cells a pixel (static): 3 and more for a PSF that is undersampled.

    Returns
    -------
    model

    Raises
    ------
    TypeError, ValueError
        No scene, no PSF model, a scene that has a part called psf.

    Examples
    --------
    >>> import jaxphot as jp
    >>> model = with_psf(jp.scene(star=jp.models.point_source), jp.psf_models.round_moffat, (25, 25))
    >>> sorted(jp.parameters(model)["psf"])
    ['Rd', 'n']
    """
    if not isinstance(scene, Scene):
        raise TypeError(f"scene: expected what jp.scene(star=…) makes, got {type(scene).__name__}")
    if "psf" in dict(scene.parts):
        raise ValueError("scene: it has a part called psf already")
    return Scene((*scene.parts, ("psf", LivePsf(unit(psf_model), *check_stamp(shape, oversample)))))


def check_stamp(shape, oversample):
    """(h, w) and cells a pixel as integers."""
    sides = tuple(int(side) for side in shape)
    if len(sides) != 2 or sides != tuple(shape) or min(sides) < 1:
        raise ValueError(f"shape: expected (h, w) of the stamp, got {shape!r}")
    if isinstance(oversample, bool) or int(oversample) != oversample or oversample < 1:
        raise ValueError(f"oversample: expected an integer ≥ 1, got {oversample!r}")
    return sides, int(oversample)


gaussian = unit(radial(profiles.gaussian, ellipse))
round_gaussian = unit(radial(profiles.gaussian, circle))
moffat = unit(radial(profiles.moffat, ellipse))
round_moffat = unit(radial(profiles.moffat, circle))
airy = unit(radial(airy_profile, circle))


def pixelated(shape, kernel=grids.linear):
    """`models.pixelated` as a PSF: its `values` are normalised with the stamp, so one of them has no meaning alone."""
    return unit(grids.pixelated(shape, kernel))


def basis(n, shape, kernel=grids.linear):
    """`models.basis` as a PSF: the first image has weight 1, `weights` are those of the other n − 1."""
    return unit(grids.basis(n, shape, kernel))


def zernike(order):
    """`models.zernike` as a PSF: the weight of Z_1 is 1, `weights` begins with that of Z_2. A fit has to hold `Rd`."""
    return unit(grids.zernike(order))
