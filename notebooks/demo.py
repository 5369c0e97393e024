"""Fit six real galaxies: read → initialise → fit → table and pictures. Run it with `make demo`.

Writes `demo_output/catalogue.ecsv`, a `.fits` file with the full result of each fit, and a picture of each.
"""

import time
from pathlib import Path

import jax

jax.config.update("jax_enable_x64", True)  # bright galaxies with small errors: worth float64

import matplotlib as mpl
import numpy as np
from astropy.io import fits
from astropy.table import vstack

import jaxphot as jp

mpl.use("Agg")
ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "tests" / "data"
OUTPUT = ROOT / "demo_output"
MODEL = jp.scene(galaxy=jp.models.sersic, sky=jp.models.flat_sky)


def kids(name):
    """A KiDS galaxy; other sources are masked by the segmentation map."""
    path = DATA / "kids"
    segments = fits.getdata(path / f"{name}segim.fits")
    ny, nx = segments.shape
    others = (segments > 0) & (segments != segments[ny // 2, nx // 2])
    flagged = fits.getdata(path / f"{name}mskim.fits") > 0
    return jp.read_fits(
        path / f"{name}fitim.fits",
        std=path / f"{name}sigma.fits",
        psf=path / f"{name}psfim.fits",
        mask=others | flagged,
        pixelscale=0.2,
        zeropoint=0.0,
        dtype=np.float64,
    )


def legacy(band):
    """A Legacy Survey galaxy; a bright neighbour that the lower edge cuts is masked."""
    y, x = np.mgrid[:128, :128]
    return jp.read_fits(
        DATA / "legacysurvey" / "decals_59.1067_-30.4848_rz_128.fits",
        hdu=f"IMAGE_{band}",
        ivar=f"INVVAR_{band}",
        psf=f"PSF_{band}",
        mask=np.hypot(x - 58, y) < 35,
        zeropoint=22.5,
        dtype=np.float64,
    )


def ic3478():
    """IC 3478 from SDSS, in counts above the sky; the noise is that of photons and read-out."""
    path = DATA / "imfit" / "ic3478rss_256.fits"
    counts = fits.getdata(path).astype(float)
    std = np.sqrt((counts + 130.14) / 4.725 + (4.3 / 4.725) ** 2)
    return jp.read_fits(
        path,
        std=std,
        mask=DATA / "imfit" / "ic3478rss_256_mask.fits",
        psf=DATA / "imfit" / "psf_moffat_51.fits",
        pixelscale=0.396,
        dtype=np.float64,
    )


def main():
    """Fit, print, write."""
    OUTPUT.mkdir(exist_ok=True)
    images = {name: kids(name) for name in ("G265911", "G267199", "G279148")}
    images |= {"DECaLS_r": legacy("R"), "DECaLS_z": legacy("Z"), "IC3478": ic3478()}
    tables = []
    print(f"{'galaxy':10} {'n':>13} {'Re/arcsec':>15} {'q':>13} {'PA/deg':>13} {'χ²/dof':>7}  steps  seconds  status")
    for name, image in images.items():
        began = time.perf_counter()
        result = jp.fit(MODEL, jp.initialize(MODEL, image), image)
        jax.block_until_ready(result)
        seconds = time.perf_counter() - began
        print(summary(name, result, seconds))
        tables.append(jp.to_table(result, ids=[name], model=MODEL, zeropoint=float(image.zeropoint)))
        jp.save_fit(OUTPUT / f"{name}.fits", result, overwrite=True)
        axes = jp.plot.triptych(image, MODEL, result.params)
        axes[0].set_title(name)
        axes[0].figure.savefig(OUTPUT / f"{name}.png", dpi=110, bbox_inches="tight")
    vstack(tables, metadata_conflicts="silent").write(OUTPUT / "catalogue.ecsv", overwrite=True)
    print(f"\nWrote {OUTPUT.name}/catalogue.ecsv and, for each galaxy, a picture (.png) and its full result (.fits).")


def summary(name, result, seconds):
    """One line of the printed table; the seconds contain compilation where the image's shape is a new one."""
    value, error = result.params["galaxy"], result.stderr["galaxy"]
    columns = [f"{float(value[key]):7.3f}±{float(error[key]):.3f}" for key in ("n", "Re", "q")]
    angle = f"{np.rad2deg(float(value['PA'])):7.2f}±{np.rad2deg(float(error['PA'])):.2f}"
    chi2 = float(result.chi2) / int(result.dof)
    message = jp.status_message(result.status)
    return (
        f"{name:10} {columns[0]:>13} {columns[1]:>15} {columns[2]:>13} {angle:>13} {chi2:7.3f}"
        f"  {int(result.steps):5d}  {seconds:7.2f}  {message}"
    )


if __name__ == "__main__":
    main()
