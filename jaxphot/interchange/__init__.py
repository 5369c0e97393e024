"""Set-ups and images of other tools in and out: GALFIT, imfit, AstroPhot, photutils."""
