"""Versions, devices and precision, for bug reports."""

import importlib.metadata
import os
import platform

import jax

_PACKAGES = ("jax", "jaxlib", "numpy", "astropy", "matplotlib", "optax")


class Info(str):
    """Text that a notebook shows line by line."""

    def __repr__(self):
        return str(self)


def info():
    """What a bug report has to say of the place where jaxphot runs.

    Returns
    -------
    str
        Versions, devices, precision, threads and the compilation cache; a line each.

    Examples
    --------
    >>> import jaxphot as jp
    >>> "precision" in jp.info()
    True
    """
    lines = [("jaxphot", version("jaxphot")), ("python", f"{platform.python_version()} on {platform.platform()}")]
    lines += [(name, version(name)) for name in _PACKAGES]
    try:
        devices = [f"{device.platform}:{device.device_kind}" for device in jax.devices()]
        lines.append(("devices", ", ".join(f"{devices.count(name)} × {name}" for name in dict.fromkeys(devices))))
    except RuntimeError as error:  # a driver that does not answer
        lines.append(("devices", f"none: {error}"))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    is_64 = bool(jax.config.jax_enable_x64)
    lines += [
        ("cores", str(cores)),
        ("precision", f"float64 {'is' if is_64 else 'is not'} enabled (jax_enable_x64 = {is_64})"),
        ("cache", str(jax.config.jax_compilation_cache_dir or "off")),
    ]
    return Info("\n".join(f"{name:<12}{text}" for name, text in lines))


def version(name):
    """The version of an installed package, in words."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
