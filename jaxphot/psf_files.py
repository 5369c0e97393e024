"""Files of PSFs that vary over the frame: PSFEx, and the grids that photutils reads."""

from pathlib import Path

import numpy as np
from astropy.io import fits

from jaxphot.varying_psf import make_grid_psf, make_polynomial_psf

_TAPS = 4  # half-width of the Lanczos interpolation, which is PSFEx's own


def read_psfex(path, *, dtype=None):
    """Read a PSFEx model (.psf) as a PSF that varies over the frame.

    PSFEx samples what pixels collect, at steps of PSF_SAMP pixels. It is brought to the next finer step of 1/k pixel by
    Lanczos-4 interpolation, as PSFEx and SExtractor do it, and the pixel is divided out (``effective=True`` of
    `make_polynomial_psf`).

    Parameters
    ----------
    path : str or path-like
    dtype : dtype, optional
        By default JAX's own.

    Returns
    -------
    PolynomialPSF

    Raises
    ------
    FileNotFoundError, ValueError
        No such file; one that is no PSFEx model, or a model of more than the position (X_IMAGE, Y_IMAGE).
    """
    with _opened(path) as hdus:
        tables = [
            hdu for hdu in hdus if "POLNAXIS" in hdu.header and "PSF_MASK" in getattr(hdu, "columns", _NONE).names
        ]
        if not tables:
            raise ValueError(f"path: {path} is no PSFEx model: no table with PSF_MASK and POLNAXIS")
        header, basis = tables[0].header, np.array(tables[0].data["PSF_MASK"][0], np.float64)
    basis = basis if basis.ndim == 3 else basis[None]
    axes = int(header["POLNAXIS"])
    names = [str(header[f"POLNAME{n + 1}"]).strip() for n in range(axes)]
    is_position = [
        name.startswith((f"{axis}_IMAGE", f"{axis}WIN_IMAGE")) for name, axis in zip(names, "XY", strict=False)
    ]
    if axes not in (0, 2) or (axes and (not all(is_position) or int(header.get("POLNGRP", 1)) != 1)):
        raise ValueError(f"path: {path} varies with {', '.join(names)}; expected X_IMAGE, Y_IMAGE, or nothing")
    degree = int(header["POLDEG1"]) if axes else 0
    zero = [float(header[f"POLZERO{n + 1}"]) - 1 for n in range(axes)] or (0.0, 0.0)
    scale = [float(header[f"POLSCAL{n + 1}"]) for n in range(axes)] or (1.0, 1.0)
    step = float(header.get("PSF_SAMP", 1.0)) or 1.0
    k = max(1, int(np.ceil(1 / step - 1e-6)))
    if abs(step * k - 1) > 1e-6:
        basis = _resampled(basis, 1 / (step * k))
    return make_polynomial_psf(basis, degree, zero=zero, scale=scale, oversample=k, effective=True, dtype=dtype)


class _NONE:
    names = ()


def read_psf_grid(path, *, oversample=None, effective=True, dtype=None):
    """Read a grid of PSFs, as photutils' ``GriddedPSFModel`` does: STScI's STDPSF files, or those of STPSF (WebbPSF).

    Parameters
    ----------
    path : str or path-like
    oversample : int, optional
        Samples a pixel; by default what the header says (OVERSAMP), or 4, as STDPSF files have it.
    effective : bool
        The files hold effective PSFs (see `make_polynomial_psf`).
    dtype : dtype, optional
        By default JAX's own.

    Returns
    -------
    GridPSF

    Raises
    ------
    FileNotFoundError, ValueError
        No such file, or neither of the two formats.
    """
    with _opened(path) as hdus:
        cubes = [hdu for hdu in hdus if hdu.is_image and hdu.data is not None and hdu.data.ndim in (3, 4)]
        if not cubes:
            raise ValueError(f"path: {path} has no cube of PSFs")
        header, cube = cubes[0].header, np.array(cubes[0].data, np.float64)
    cube = cube.reshape(-1, *cube.shape[-2:])
    if "NXPSFS" in header:
        columns, rows = (
            [float(header[f"{key}{n:02d}"]) - 1 for n in range(1, int(header[count]) + 1)]
            for key, count in (("IPSFX", "NXPSFS"), ("JPSFY", "NYPSFS"))
        )
        positions = [(i, j) for j in rows for i in columns]
    elif "DET_YX0" in header:
        texts = [str(header[f"DET_YX{n}"]).strip(" ()").split(",") for n in range(len(cube))]
        positions = [(float(x), float(y)) for y, x in texts]
    else:
        raise ValueError(f"path: {path} is no grid of PSFs: neither NXPSFS (STDPSF) nor DET_YX0 (STPSF) in its header")
    k = int(header.get("OVERSAMP", 4)) if oversample is None else oversample
    h, w = cube.shape[1:]
    center = ((w - 1) / 2, (h - 1) / 2)
    return make_grid_psf(cube, positions, oversample=k, center=center, effective=effective, dtype=dtype)


def _opened(path):
    if not Path(path).exists():
        raise FileNotFoundError(f"path: there is no file {path}")
    try:
        return fits.open(path)
    except OSError as error:
        raise ValueError(f"path: {path} is no FITS file ({error})") from None


def _resampled(stamps, fine):
    """Stamps (K, h, w) at steps `fine` times as small, about the same middle (w // 2); sides stay odd."""
    ways = []
    for size in stamps.shape[1:]:
        half = int(np.floor((size // 2) * 1 / fine))
        position = size // 2 + np.arange(-half, half + 1) * fine
        offset = position[:, None] - np.arange(size)[None, :]
        weights = np.where(np.abs(offset) < _TAPS, np.sinc(offset) * np.sinc(offset / _TAPS), 0)
        ways.append(weights / weights.sum(axis=1, keepdims=True))  # of themselves they add up to 1 within 0.6 %
    return np.einsum("ay,kyx,bx->kab", ways[0], stamps, ways[1])
