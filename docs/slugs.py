"""Anchors of headings."""


def slug(title):
    """As Jupyter makes them, which the notebooks' tables of contents use."""
    return title.replace(" ", "-")
