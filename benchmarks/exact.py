"""Exact pixels of a Sérsic galaxy in NumPy: a reference that shares no code with jaxphot."""

import numpy as np
from numpy.polynomial.legendre import leggauss
from scipy.special import gamma, gammainc, gammaincinv


def sersic_pixels(side, *, n, q, Re, x, y, PA, Ie=1.0, cells=1, nodes=40):
    """(cells·side, cells·side) fluxes, by line integrals along the edges of every pixel (or its cells × cells parts).

    x, y and Re in pixels; PA (rad) from +y towards +x. For any brightness f, F(r) = r ∫ s f(s r) ds over s from 0 to 1
    has div F = f, so a pixel's flux is a sum of ∫ F over its four edges. In the frame where isophotes are circles the
    inner integral is an incomplete gamma function, closed; the outer one, with l = d sinh(t) from the foot of the
    perpendicular of length d, takes eight panels of Gauss–Legendre nodes. Relative to the brightest pixel's flux the
    error is rounding (`python benchmarks/exact.py` compares with twice the nodes and with brute force).
    """
    sin, cos = np.sin(PA), np.cos(PA)
    border = np.arange(cells * side + 1) / cells - 0.5
    i, j = np.meshgrid(border - x, border - y)
    u, v = sin * i + cos * j, (cos * i - sin * j) / q
    along_i = _edges(u[:, :-1], v[:, :-1], u[:, 1:], v[:, 1:], n, Re, nodes)
    along_j = _edges(u[:-1], v[:-1], u[1:], v[1:], n, Re, nodes)
    return Ie * q * np.abs(along_i[:-1] + along_j[:, 1:] - along_i[1:] - along_j[:, :-1])


def _edges(ua, va, ub, vb, n, Re, nodes):
    """Signed integrals over the triangles (centre, a, b)."""
    b = gammaincinv(2 * n, 0.5)
    total = n * np.exp(b) * b ** (-2 * n) * gamma(2 * n) * Re**2
    length = np.hypot(ub - ua, vb - va)
    du, dv = (ub - ua) / length, (vb - va) / length
    d = ua * dv - va * du
    near = np.maximum(np.abs(d), 1e-12)
    first, last = np.arcsinh((ua * du + va * dv) / near), np.arcsinh((ub * du + vb * dv) / near)
    at, weight = leggauss(nodes)
    result = np.zeros_like(d)
    for panel in range(8):
        for t, w in zip((panel + (at + 1) / 2) / 8, weight / 16, strict=True):
            R = near * np.cosh(first + (last - first) * t)
            result += w * gammainc(2 * n, b * (R / Re) ** (1 / n)) / R
    return total * d * result * (last - first)


def brute(side, *, n, q, Re, x, y, PA, pixel, panels=60):
    """One pixel (column, row) by panels × panels × 12 × 12 Gauss nodes: right where the profile is smooth."""
    at, weight = leggauss(12)
    at = ((np.arange(panels)[:, None] + (at + 1) / 2) / panels - 0.5).ravel()
    weight = np.tile(weight / 2 / panels, panels)
    i, j = np.meshgrid(pixel[0] + at - x, pixel[1] + at - y)
    r = np.hypot(np.sin(PA) * i + np.cos(PA) * j, (np.cos(PA) * i - np.sin(PA) * j) / q)
    return weight @ np.exp(-gammaincinv(2 * n, 0.5) * ((r / Re) ** (1 / n) - 1)) @ weight


if __name__ == "__main__":
    print("n, q, Re: error of the nodes ÷ brightest; largest relative difference from brute force beyond 1 px, ≥ 1e-8")
    for n, q, Re in [(0.5, 0.05, 0.5), (1, 0.05, 0.5), (2.5, 1, 0.5), (4, 0.2, 10), (6, 0.05, 30), (8, 0.6, 3)]:
        place = {"n": n, "q": q, "Re": Re, "x": 22.4999, "y": 24.5001, "PA": 0.3}
        image, finer = (sersic_pixels(48, **place, nodes=nodes) for nodes in (40, 80))
        off = 0.0
        for pixel in [(23, 26), (24, 26), (22, 22), (23, 29), (30, 24), (5, 40)]:
            true, got = brute(48, **place, pixel=pixel), image[pixel[1], pixel[0]]
            off = max(off, abs(got - true) / max(true, 1e-8 * image.max()))
        print(f"{n:g}, {q:g}, {Re:g}: {np.abs(image - finer).max() / image.max():.0e} {off:.0e}", flush=True)
