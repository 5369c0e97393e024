"""The command line: `main` reads it, `batch` runs through a manifest, `store` keeps what is done, `show` draws it."""
