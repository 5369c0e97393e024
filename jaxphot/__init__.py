"""jaxphot: forward-model photometry of astronomical images in JAX.

Images are immutable pytrees that carry their pixel → tangent-plane transform; models are pure functions of parameter
pytrees; a batch is `jax.vmap` over one jit-compiled Levenberg–Marquardt step.
"""

import importlib

from jaxphot import fitting, likelihood, models, priors, sampling, units
from jaxphot.about import info
from jaxphot.deblend import deblend
from jaxphot.detections import windows_from_segmentation
from jaxphot.fitting.batch import BatchError, fit_batch
from jaxphot.fitting.compiled import compile_fit, enable_compilation_cache
from jaxphot.fitting.history import fit_history
from jaxphot.fitting.iterative import fit_iterative
from jaxphot.fitting.result import Fit, status_message
from jaxphot.fitting.solve import fit
from jaxphot.fitting.stream import fit_stream
from jaxphot.image import (
    Image,
    crop,
    estimate_variance,
    make_image,
    rebin,
    stack_images,
    unstack_images,
)
from jaxphot.image_sets import separate
from jaxphot.initialize import initialize
from jaxphot.models import metrics, profiles, psf_models
from jaxphot.models.combinators import background, extended, linked, point, radial, scene
from jaxphot.models.copies import many, pad_sources
from jaxphot.models.psf_models import with_psf
from jaxphot.models.totals import total_flux
from jaxphot.parameters import Parameter, parameters
from jaxphot.planes import share_plane
from jaxphot.psf import PSF, make_psf
from jaxphot.render import apply, prepare, render
from jaxphot.scene_start import initialize_scene
from jaxphot.stamps import psf_from_model
from jaxphot.transforms.cmos import make_cmos
from jaxphot.transforms.linear import make_linear
from jaxphot.transforms.sip import make_sip
from jaxphot.transforms.sky import pixel_to_sky, plane_to_sky, sky_to_pixel, sky_to_plane
from jaxphot.transforms.wcs import transform_from_wcs
from jaxphot.varying_psf import GridPSF, PolynomialPSF, make_grid_psf, make_polynomial_psf

__version__ = "0.1.0"

# These need astropy or matplotlib, or are for few: loaded when first used (PEP 562).
_LAZY = {
    "plot": "jaxphot.plot",
    "fits": "jaxphot.fits",
    "catalog": "jaxphot.catalog",
    "inference": "jaxphot.inference",
    "refits": "jaxphot.refits",
    "read_fits": "jaxphot.fits",
    "read_psf": "jaxphot.fits",
    "read_psfex": "jaxphot.psf_files",
    "read_psf_grid": "jaxphot.psf_files",
    "from_ccddata": "jaxphot.ccddata",
    "to_ccddata": "jaxphot.ccddata",
    "write_fits": "jaxphot.fits",
    "to_table": "jaxphot.catalog",
    "to_source_table": "jaxphot.source_table",
    "save_fit": "jaxphot.catalog",
    "load_fit": "jaxphot.catalog",
    "log_density": "jaxphot.density",
    "log_likelihood": "jaxphot.inference",
    "from_photutils": "jaxphot.interchange.photutils",
    "read_astrophot": "jaxphot.interchange.astrophot",
    "read_galfit": "jaxphot.interchange.galfit",
    "read_imfit": "jaxphot.interchange.imfit",
    "write_galfit": "jaxphot.interchange.feedme",
    "write_imfit": "jaxphot.interchange.imfit",
    "to_arviz": "jaxphot.export",
    "to_xarray": "jaxphot.export",
    "write_table": "jaxphot.export",
    "simulate": "jaxphot.inference",
    "propagate": "jaxphot.inference",
    "robust_errors": "jaxphot.inference",
    "laplace": "jaxphot.inference",
    "bootstrap": "jaxphot.refits",
    "profile_likelihood": "jaxphot.refits",
    "find_modes": "jaxphot.refits",
    "fit_optax": "jaxphot.fitting.gradient",
}

__all__ = [
    "BatchError",
    "Fit",
    "GridPSF",
    "Image",
    "PSF",
    "Parameter",
    "PolynomialPSF",
    "apply",
    "background",
    "compile_fit",
    "crop",
    "deblend",
    "enable_compilation_cache",
    "estimate_variance",
    "extended",
    "fit",
    "fit_batch",
    "fit_history",
    "fit_iterative",
    "fit_stream",
    "fitting",
    "info",
    "initialize",
    "initialize_scene",
    "likelihood",
    "linked",
    "make_cmos",
    "make_grid_psf",
    "make_image",
    "make_linear",
    "make_polynomial_psf",
    "make_psf",
    "make_sip",
    "many",
    "metrics",
    "models",
    "pad_sources",
    "parameters",
    "pixel_to_sky",
    "plane_to_sky",
    "point",
    "prepare",
    "priors",
    "profiles",
    "psf_from_model",
    "psf_models",
    "radial",
    "rebin",
    "render",
    "sampling",
    "scene",
    "separate",
    "share_plane",
    "sky_to_pixel",
    "sky_to_plane",
    "stack_images",
    "status_message",
    "total_flux",
    "transform_from_wcs",
    "units",
    "unstack_images",
    "windows_from_segmentation",
    "with_psf",
    *_LAZY,
]


def __getattr__(name):
    if name not in _LAZY:
        raise AttributeError(f"module 'jaxphot' has no attribute {name!r}")
    module = importlib.import_module(_LAZY[name])
    return module if _LAZY[name].rpartition(".")[2] == name else getattr(module, name)


def __dir__():
    return sorted(set(globals()) | set(__all__))
