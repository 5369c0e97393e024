"""Pixel ↔ tangent plane ↔ sky. One file a kind of transform; `protocol` says what each of them offers."""
