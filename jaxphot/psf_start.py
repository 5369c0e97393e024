"""Starting values of a live PSF, from the moments of stars."""

import numpy as np

from jaxphot.parameters import Parameter


def psf_start(declared, known, ellipse, prefix, missing, number=0):
    """Values for the parameters of a PSF model.

    Parameters
    ----------
    declared : dict of Parameter
        Nested for a sum of PSFs.
    known : dict
        Values to take as they are.
    ellipse : (q, PA, sigma)
        Of the Gaussian that is like the PSF; PA in rad, sigma in arcsec.
    prefix : str
        Key path of the PSF.
    missing : list
        Key paths without a rule are added to it.
    number : int
        Of a part of a sum: each further one starts twice as wide, and a tenth as bright.

    Returns
    -------
    dict
    """
    start = {}
    values = _values(*ellipse, number)
    for place, (key, parameter) in enumerate(declared.items()):
        name = f"{prefix}.{key}" if prefix else key
        if not isinstance(parameter, Parameter):
            start[key] = psf_start(parameter, known.get(key, {}), ellipse, name, missing, place)
        elif key in known or key in values:
            start[key] = known.get(key, values.get(key))
        elif key in ("fluxes", "sigmas", "qs"):
            start[key] = _ladder(key, parameter.shape, declared["sigmas"].shape, values)
        elif key == "weights":
            start[key] = np.zeros(parameter.shape)
        else:
            missing.append(name)
    return start


def _values(q, PA, sigma, number):
    """By name; a Moffat profile of n = 3 and an Airy disc of the FWHM of a Gaussian of that sigma."""
    sigma = sigma * 2**number
    sizes = {"sigma": sigma, "Rd": 2.31 * sigma, "Re": 1.18 * sigma, "lam_over_D": 2.29 * sigma}
    return {"q": min(q, 0.97), "PA": PA, "n": 3.0, **sizes, **dict.fromkeys(("flux", "I0", "Ie"), 0.1)}


def _ladder(key, shape, sigmas, values):
    """Vectors of a multi-Gaussian expansion: from 0.8 of the width on, each 1.8 times as wide and 0.4 as bright."""
    steps = np.arange(*sigmas)[-shape[0] :] if shape[0] else np.zeros(0)
    return {
        "fluxes": 0.4**steps,
        "sigmas": 0.8 * values["sigma"] * 1.8**steps,
        "qs": np.full(shape, values["q"]),
    }[key]
