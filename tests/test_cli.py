"""The command line: what it understands, writes and prints, and that a run that was killed goes on."""

import base64
import contextlib
import csv
import html.parser
import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import zlib
from pathlib import Path

import jax
import numpy as np
import pyarrow.parquet
import pytest
from astropy.io import fits
from astropy.table import QTable, Table

import jaxphot as jp
from jaxphot.cli import batch
from jaxphot.cli import main as cli
from jaxphot.cli.catalogue import read_catalogue
from jaxphot.cli.expressions import declared_leaves, parse_bounds, parse_model, parse_values
from jaxphot.cli.manifest import read_manifest
from jaxphot.cli.page import png
from jaxphot.cli.sources import Sources
from jaxphot.cli.store import Record, Store
from jaxphot.fitting.result import NOT_FITTED

SIDE = 12
MODEL = "gaussian + flat_sky"
MADE = jp.scene(galaxy=jp.models.gaussian, sky=jp.models.flat_sky)


@pytest.fixture(autouse=True)
def alone(monkeypatch, tmp_path):
    """Run in an empty folder, leave the compilation cache and JAX's strictness as they are."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("jaxphot.fitting.compiled.enable_compilation_cache", lambda: None)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def _pixels(count, seed=3):
    """Cutouts (N, ny, nx) of round and flat Gaussians with unit noise, and the truth."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SIDE, :SIDE]
    flux, sigma = rng.uniform(300, 600, count), rng.uniform(1.4, 2.2, count)
    center = 5.5 + rng.uniform(-0.8, 0.8, (count, 2))
    q = rng.uniform(0.5, 0.9, count)
    shape = (..., None, None)
    r2 = (x - center[:, 0][shape]) ** 2 + ((y - center[:, 1][shape]) / q[shape]) ** 2
    data = (flux / (2 * np.pi * q * sigma**2))[shape] * np.exp(-0.5 * r2 / (sigma**2)[shape]) + 2
    return data + rng.normal(size=data.shape), {"flux": flux, "sigma": sigma, "center": center, "q": q}


def _cube(count=6, **columns):
    data, truth = _pixels(count)
    fits.PrimaryHDU(data).writeto("cube.fits")
    with open("rows.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", *columns])
        writer.writerows([f"g{n}", *(values[n] for values in columns.values())] for n in range(count))
    return data, truth


BATCH = ["batch", "rows.csv", "--image", "cube.fits", "--sigma", "1.0", "--model", MODEL, "--quiet", "--out", "out"]


# --- expressions ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "model"),
    [
        ("sersic + flat_sky", jp.scene(galaxy=jp.models.sersic, sky=jp.models.flat_sky)),
        ("b=sersic+d : exponential", jp.scene(b=jp.models.sersic, d=jp.models.exponential)),
        (
            "sersic + sersic + point_source",
            jp.scene(galaxy=jp.models.sersic, galaxy2=jp.models.sersic, star=jp.models.point_source),
        ),
        (
            "radial(sersic, superellipse)",
            jp.scene(galaxy=jp.radial(jp.profiles.sersic, jp.metrics.superellipse)),
        ),
        (
            "radial(truncate(exponential, inner=true), fourier((3, 4)))",
            jp.scene(
                galaxy=jp.radial(
                    jp.models.modifiers.truncate(jp.profiles.exponential, inner=True), jp.metrics.fourier((3, 4))
                )
            ),
        ),
        ("mge(3) + poly_sky(2)", jp.scene(galaxy=jp.models.mge(3), sky=jp.models.poly_sky(2))),
        ("by_flux(sersic)", jp.scene(galaxy=jp.models.views.by_flux(jp.models.sersic))),
        ("stars=many(point_source)", jp.scene(stars=jp.many(jp.models.point_source))),
    ],
)
def test_expressions(text, model):
    assert parse_model(text) == model


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "expected an expression"),
        ("sersik", "did you mean sersic"),
        ("sersic +", "expected a name, got the end"),
        ("sersic flat_sky", r"expected '\+', got 'flat_sky'"),
        ("a=sersic + a=sersic", "two parts are called a"),
        ("sersic(n=4)", "takes no settings"),
        ("mge", "expects its settings in brackets"),
        ("mge(99999999999)", "more than anything here may be"),
        ("mge(1, 2, 3)", "mge: "),
        ("__import__('os').system('true')", "expected a name, got '_'"),
        ("radial(" * 100 + "sersic", "too many brackets|no profile or metric"),
        ("poly_sky([[[[[[[[[[[[[[[[[[[[[[[[", "too many brackets"),
    ],
)
def test_expressions_that_make_no_sense(text, problem):
    with pytest.raises(ValueError, match=problem):
        parse_model(text)


def test_values_are_as_tables_have_them():
    declared = declared_leaves(parse_model("sersic + flat_sky"))
    tree = parse_values("--fix", ["galaxy.n=4", "galaxy.PA=30", "galaxy.center=1,-2.5", "galaxy.q"], declared)
    assert tree["galaxy"]["q"] is None
    assert float(tree["galaxy"]["n"]) == 4
    np.testing.assert_allclose(tree["galaxy"]["PA"], np.pi / 6)
    np.testing.assert_array_equal(tree["galaxy"]["center"], [1, -2.5])
    low, high = parse_bounds(["galaxy.n=0.5:"], declared)["galaxy"]["n"]
    assert (float(low), float(high)) == (0.5, np.inf)
    for text, problem in (("galaxy.m=1", "no parameter 'galaxy.m'"), ("galaxy.n=x", "expected a number"),
                          ("galaxy.center=1", "expected \\(2,\\) numbers"), ("galaxy.n=nan", "NaN")):  # fmt: skip
        with pytest.raises(ValueError, match=problem):
            parse_values("--fix", [text], declared)
    for text in ("galaxy.n=3", "galaxy.n=5:2"):
        with pytest.raises(ValueError, match="--bounds"):
            parse_bounds([text], declared)


# --- manifests and images -------------------------------------------------------------------------------------------


def test_manifests_of_all_formats():
    declared = declared_leaves(MADE)
    columns = {
        "name": ["a", "b"], "image": ["a.fits", ""], "galaxy.PA": [90.0, np.nan], "galaxy.center[0]": [1.0, 2.0],
        "galaxy.center[1]": [3.0, 4.0], "zmag": [1, 2],
    }  # fmt: skip
    table = Table(columns)
    table.write("m.fits")
    table.write("m.ecsv")
    table.write("m.csv", format="ascii.csv")
    table.write("m.parquet")
    for name in ("m.fits", "m.ecsv", "m.csv", "m.parquet"):
        manifest = read_manifest(name, declared)
        assert manifest.ids == ["a", "b"]
        assert manifest.cell("image", 0) == "a.fits"
        assert manifest.cell("image", 1) is None
        assert manifest.unused == ["zmag"]
        np.testing.assert_allclose(manifest.start(0)["galaxy"]["PA"], np.pi / 2)
        assert list(manifest.start(1)["galaxy"]) == ["center"]
        np.testing.assert_array_equal(manifest.start(1)["galaxy"]["center"], [2, 4])
    table["name"] = ["a", "a"]
    table.write("m.csv", format="ascii.csv", overwrite=True)
    with pytest.raises(ValueError, match="the id 'a' is there twice"):
        read_manifest("m.csv", declared)


def test_images_are_those_of_read_fits(data_dir):
    """A file, a plane of a cube, a cutout by pixels and one by the sky are the same pixels, noise, PSF and place."""
    path = data_dir / "legacysurvey" / "decals_59.1067_-30.4848_rz_128.fits"
    whole = jp.read_fits(path, hdu="IMAGE_R", ivar="INVVAR_R", psf="PSF_R", zeropoint=22.5)
    window = (50, 82, 100, 132)  # over the upper edge
    expected = jp.crop(whole, window)
    ra, dec = (float(v) for v in jp.pixel_to_sky(whole.transform, 66.2, 116.1))
    Table({"x": [66.2, np.nan], "y": [116.1, np.nan], "ra": [np.nan, ra], "dec": [np.nan, dec]}).write("rows.ecsv")
    given = {"image": f"{path}[IMAGE_R]", "ivar": "INVVAR_R", "psf": "PSF_R", "zeropoint": 22.5, "size": 32}
    sources = Sources(read_manifest("rows.ecsv", {}), given, np.dtype("float32"))
    for row in (0, 1):
        image = sources.image(row)
        for ours, theirs in zip(jax.tree.leaves(image), jax.tree.leaves(expected), strict=True):
            np.testing.assert_array_equal(np.nan_to_num(ours), np.nan_to_num(theirs))
    sources.close()
    Table({"x": [5000.0], "y": [2.0]}).write("off.ecsv")
    sources = Sources(read_manifest("off.ecsv", {}), given, np.dtype("float32"))
    with pytest.raises(ValueError, match="is off the image of 128 × 128"):
        sources.image(0)
    sources.close()


def test_what_write_fits_wrote_needs_no_more_words():
    stamp = jp.make_psf(np.outer([1, 2, 1], [1, 2, 1]), oversample=1)
    image = jp.make_image(np.arange(30.0).reshape(5, 6), std=0.5, psf=stamp, gain=2.0, zeropoint=25.0)
    jp.write_fits("image.fits", image)
    Table({"image": ["image.fits"]}).write("rows.ecsv")
    sources = Sources(read_manifest("rows.ecsv", {}), {}, np.dtype("float64"))
    again = sources.image(0)
    sources.close()
    for ours, theirs in zip(jax.tree.leaves(again), jax.tree.leaves(image), strict=True):
        np.testing.assert_array_equal(ours, theirs)


# --- fit, batch, show -----------------------------------------------------------------------------------------------


def test_fit(capsys):
    data, truth = _pixels(1)
    fits.PrimaryHDU(data[0]).writeto("galaxy.fits")
    arguments = ["fit", "galaxy.fits", "--sigma", "1.0", "--model", MODEL, "--zeropoint", "25", "--fix", "galaxy.PA=0"]
    assert cli.main(arguments) == 0
    printed = capsys.readouterr().out
    assert "converged" in printed
    assert re.search(r"galaxy\.flux +\d+\.\d ± \d", printed)
    table = QTable.read("galaxy/catalogue.ecsv")
    assert "galaxy.flux_mag" in table.colnames
    assert abs(table["galaxy.flux"][0] - truth["flux"][0]) < 5 * table["galaxy.flux_err"][0]
    fit = jp.load_fit("galaxy/fit.fits")
    assert float(fit.params["galaxy"]["PA"]) == 0
    assert "PA" not in fit.stderr["galaxy"]
    with fits.open("galaxy/images.fits") as hdus:
        np.testing.assert_allclose(hdus["DATA"].data - hdus["MODEL"].data, hdus["RESIDUAL"].data, rtol=1e-9, atol=1e-9)
    assert os.path.getsize("galaxy/triptych.png") > 10_000
    assert cli.main(["show", "galaxy", "--html", "page.html"]) == 0
    assert len(_page("page.html").pictures) == 1
    assert "galaxy.flux" in capsys.readouterr().out


def test_batch_equals_fit_batch_and_goes_on(capsys):
    data, _ = _cube(6)
    assert cli.main(BATCH) == 0
    assert "6 rows, 0 failed; 6 fitted now" in capsys.readouterr().out
    images = [jp.make_image(one, std=1.0) for one in data]
    starts = jp.initialize(MADE, images)
    expected = jp.to_table(jp.fit_batch(MADE, starts, images, progress=False), [f"g{n}" for n in range(6)], model=MADE)
    table = QTable.read("out/catalogue.ecsv")
    assert table["row"].tolist() == list(range(6))
    for name in expected.colnames:
        np.testing.assert_array_equal(table[name], expected[name], err_msg=name)
    # again: nothing to do; with a row more, only that; with a row changed, only that
    assert cli.main(BATCH) == 0
    assert "0 fitted now" in capsys.readouterr().out
    lines = Path("rows.csv").read_text().splitlines()
    Path("rows.csv").write_text("\n".join([*lines[:-1], "changed"]))
    assert cli.main(BATCH) == 0
    assert "6 rows, 0 failed; 1 fitted now" in capsys.readouterr().out
    assert read_catalogue("out")["id"].tolist()[-1] == "changed"
    # other settings do not mix
    assert cli.main([*BATCH, "--fix", "galaxy.q=0.5"]) == 1
    assert "made with another known" in capsys.readouterr().err
    assert cli.main([*BATCH, "--fix", "galaxy.q=0.5", "--restart"]) == 0
    assert np.all(read_catalogue("out")["galaxy.q"] == 0.5)


def test_bad_rows_are_rows(capsys):
    data, _ = _pixels(4)
    for n, one in enumerate(data):
        fits.PrimaryHDU(one).writeto(f"{n}.fits")
    fits.PrimaryHDU(np.full((SIDE, SIDE), np.nan)).writeto("nan.fits")
    os.truncate("1.fits", 3000)
    names = ["0.fits", "1.fits", "missing.fits", "nan.fits", "2.fits", "3.fits[7]", "3.fits"]
    Table({"image": names}).write("rows.csv", format="ascii.csv")
    arguments = ["batch", "rows.csv", "--sigma", "1.0", "--model", MODEL, "--quiet", "--out", "out"]
    assert cli.main(arguments) == 3
    table = read_catalogue("out")
    assert table["status"].tolist() == [0, 6, 6, 6, 0, 6, 0]
    for row, words in ((1, "truncated"), (2, "there is no file"), (3, "no usable pixel"), (5, "there is no HDU 7")):
        assert words in table["message"][row]
        assert np.isnan(table["galaxy.flux"][row])
    assert status_counts(capsys.readouterr().out) == (7, 4)
    fits.PrimaryHDU(data[1]).writeto("1.fits", overwrite=True)
    assert cli.main(arguments) == 3, "what failed is not tried again unless asked for"
    assert status_counts(capsys.readouterr().out) == (7, 4)
    assert cli.main([*arguments, "--retry"]) == 3
    assert read_catalogue("out")["status"].tolist() == [0, 0, 6, 6, 0, 6, 0]
    capsys.readouterr()
    assert cli.main(["show", "out", "--html", "page.html", "--plot", "sheet.png", "--catalogue", "t.parquet"]) == 3
    printed = capsys.readouterr().out
    assert "7 fits" in printed
    assert "4  converged" in printed
    assert "missing.fits" in printed
    page = _page("page.html")
    assert (page.rows, len(page.pictures)) == (7, 4)
    assert page.heads[:3] == ["picture", "row", "id"]
    assert {"0", "6"} <= set(page.statuses)
    assert pyarrow.parquet.read_table("t.parquet").column_names == table.colnames
    assert os.path.getsize("sheet.png") > 5000


def status_counts(printed):
    rows, failed = re.search(r"(\d+) rows, (\d+) failed", printed).groups()
    return int(rows), int(failed)


class _Page(html.parser.HTMLParser):
    """What is in a page; raises for tags that do not match."""

    def __init__(self):
        super().__init__()
        self.rows, self.pictures, self.heads, self.statuses, self.open, self.loads = 0, [], [], [], [], []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.loads += [value for name, value in attrs.items() if name in ("src", "href")]
        if tag in ("meta", "img", "input"):
            if tag == "img":
                self.pictures.append(attrs["src"])
            return
        self.open.append(tag)
        if tag == "tr" and "data-status" in attrs:
            self.rows += 1
            self.statuses.append(attrs["data-status"])
            json.loads(attrs["data-chi2"].replace("NaN", "null"))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "th":
            self.heads.append(data)


def _page(path):
    page = _Page()
    page.feed(Path(path).read_text(encoding="utf-8"))
    page.close()
    assert not page.open
    assert all(address.startswith("data:image/png;base64,") for address in page.loads), "self-contained"
    for address in page.pictures:
        assert base64.b64decode(address.partition(",")[2])[:8] == b"\x89PNG\r\n\x1a\n"
    return page


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_page_in_a_browser():
    _cube(3)
    assert cli.main(BATCH) == 0
    assert cli.main(["show", "out", "--html", "page.html"]) == 0
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", f"file://{os.getcwd()}/page.html"]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120).stdout
    assert '<b id="shown">3</b>' in shown, "the script ran"


def test_png_is_what_other_tools_read():
    from matplotlib.image import imread

    picture = np.random.default_rng(1).integers(0, 255, (5, 7, 3), np.uint8)
    Path("p.png").write_bytes(png(picture))
    np.testing.assert_array_equal(np.round(imread("p.png")[..., :3] * 255).astype(np.uint8), picture)


# --- the store ------------------------------------------------------------------------------------------------------


def _filled(path, count=40):
    with Store(path) as store:
        for row in range(count):
            store.add([Record(row, f"g{row}", row, NOT_FITTED, "x" * 500)])
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


def test_a_record_that_does_not_add_up_is_done_again():
    _filled("s.sqlite", 3)
    with contextlib.closing(sqlite3.connect("s.sqlite")) as connection, connection:
        connection.execute("UPDATE fits SET status = 0 WHERE row = 1")
    with Store("s.sqlite") as store:
        assert sorted(store.done()) == [0, 2]


@pytest.mark.parametrize("harm", ["cut", "overwritten", "no database at all"])
def test_a_damaged_store_keeps_what_can_be_read(harm):
    _filled("s.sqlite")
    content = bytearray(Path("s.sqlite").read_bytes())
    if harm == "cut":
        del content[-6000:]
    elif harm == "overwritten":
        content[-9000:-5000] = bytes(4000)
    else:
        content[:] = b"junk" * 1000
    Path("s.sqlite").write_bytes(content)
    with Store("s.sqlite") as store:
        kept = store.done()
        assert set(kept) <= set(range(40))
        assert store.remark or harm == "overwritten"
        assert len(kept) > 20 or harm == "no database at all"
        store.add([Record(99, "g99", 99, NOT_FITTED)])
    with Store("s.sqlite") as store:
        assert sorted(store.done()) == [*sorted(kept), 99]


def test_a_full_disk_is_an_error_and_costs_nothing_that_was_stored(capsys):
    _cube(6)
    assert cli.main([*BATCH, "--chunk", "2"]) == 0
    capsys.readouterr()
    with Store("out/fits.sqlite") as store:
        pages = store._connection.execute("PRAGMA page_count").fetchone()[0]
        store._connection.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(OSError, match=r"full.*what was stored before is safe"):
            store.add([Record(row, "x", 1, NOT_FITTED, "y" * 5000) for row in range(100, 110)])
        assert sorted(store.done()) == list(range(6))


# --- interrupted runs -----------------------------------------------------------------------------------------------


def _start_process(*more):
    environment = {**os.environ, "XDG_CACHE_HOME": os.path.abspath("cache"), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "jaxphot", *BATCH, "--chunk", "4", *more]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _finish():
    process = _start_process()
    _, error = process.communicate()
    assert process.returncode == 0, error


def _stored():
    try:
        with contextlib.closing(sqlite3.connect("file:out/fits.sqlite?mode=ro", uri=True)) as connection:
            return connection.execute("SELECT COUNT(*) FROM fits").fetchone()[0]
    except sqlite3.Error:
        return 0


def _killed_at(count, how):
    """Start a run, kill it when so many rows are stored (or it is done), and say how many there were then."""
    process = _start_process()
    while process.poll() is None and _stored() < count:
        time.sleep(0.002)
    process.send_signal(how)
    process.communicate()
    return process.returncode


@pytest.mark.parametrize(
    ("rows", "moments"), [(160, 2), pytest.param(1200, 10, marks=pytest.mark.full)], ids=["two", "ten"]
)
def test_killed_and_resumed_equals_uninterrupted(rows, moments):
    _cube(rows)
    rng = np.random.default_rng(8)
    codes = [_killed_at(int(count), signal.SIGKILL) for count in np.sort(rng.integers(1, rows - 20, moments))]
    assert -signal.SIGKILL in codes, "one at least was killed before it was done"
    _finish()
    resumed = QTable.read("out/catalogue.ecsv")
    shutil.rmtree("out")
    _finish()
    whole = QTable.read("out/catalogue.ecsv")
    assert len(whole) == rows
    assert whole.colnames == resumed.colnames
    for name in whole.colnames:
        np.testing.assert_array_equal(whole[name], resumed[name], err_msg=name)


@pytest.mark.full
def test_terminated_politely():
    _cube(400)
    code = _killed_at(20, signal.SIGTERM)
    assert code == 143
    assert _stored() >= 20


def test_parts_make_the_whole(capsys):
    """What n processes or machines fit, each with a store of its own, is one catalogue."""
    _cube(5)
    assert cli.main(BATCH) == 0
    whole = read_catalogue("out")
    shutil.rmtree("out")
    for k in range(2):
        assert cli.main([*BATCH, "--part", f"{k}/2"]) == 0
    assert sorted(os.listdir("out"))[:2] == ["catalogue.00000-of-00002.ecsv", "catalogue.00001-of-00002.ecsv"]
    parts = read_catalogue("out")
    for name in whole.colnames:
        np.testing.assert_array_equal(whole[name], parts[name], err_msg=name)
    assert cli.main([*BATCH, "--part", "2/2"]) == 1
    assert "--part: expected K/N" in capsys.readouterr().err


def test_processes_that_jax_distributed_brings_together():
    """Two on this machine (gloo): each fits its part and writes its own files; together they are the whole."""
    _cube(7)
    assert cli.main(BATCH) == 0
    whole = read_catalogue("out")
    shutil.rmtree("out")
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    processes = [_start_process("--coordinator", address, "--part", f"{k}/2") for k in range(2)]
    said = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    assert [status_counts(out) for out, _ in said] == [(4, 0), (3, 0)]
    assert len(QTable.read("out/catalogue.00001-of-00002.ecsv")) == 3
    together = read_catalogue("out")
    assert together.colnames == whole.colnames
    for name in whole.colnames:
        if whole[name].dtype.kind == "f":  # another size of chunk is another program
            np.testing.assert_allclose(together[name], whole[name], rtol=1e-6, err_msg=name)
        else:
            np.testing.assert_array_equal(together[name], whole[name], err_msg=name)


# --- what users get wrong -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["fit", "none.fits"], "there is no file none.fits"),
        (["fit", "rows.csv", "--sigma", "1.0"], "not a readable FITS file"),
        (["fit", "cube.fits", "--model", "sersik"], "did you mean sersic"),
        (["fit", "cube.fits", "--sigma", "1.0", "--variance", "2.0"], "--sigma and --variance: give one"),
        (["fit", "cube.fits", "--window", "1,2"], "--window: expected four"),
        (["batch", "none.csv"], "there is no file none.csv"),
        (["batch", "rows.txt"], "expected a name that ends in"),
        (["batch", "rows.csv", "--start", "galaxy.n"], "--start: expected galaxy.n=value"),
        (["batch", "rows.csv", "--out", "rows.csv/x"], "--out: "),
        (["show", "nothing"], "there are no results"),
        (["batch", "rows.csv", "--coordinator", "here", "--part", "0/2"], "--coordinator: expected HOST:PORT"),
        (["batch", "rows.csv", "--coordinator", "here:1234"], "--coordinator: give --part K/N"),
        (["batch", "rows.csv", "--distributed", "--part", "0/2"], "--part: --distributed finds K and N by itself"),
    ],
)
def test_errors_are_one_line(arguments, words, capsys):
    _cube(2)
    assert cli.main(arguments) == 1
    error = capsys.readouterr().err
    assert error.startswith("jaxphot: error: ")
    assert words in error
    assert error.count("\n") == 1
    assert "Traceback" not in error


def test_usage(capsys):
    assert cli.main([]) == 2
    for arguments in (
        ["--nonsense"],
        ["fit"],
        ["fit", "a.fits", "--starts", "0"],
        ["batch", "a", "--precision", "half"],
    ):
        with pytest.raises(SystemExit) as end:
            cli.main(arguments)
        assert end.value.code == 2
    for command in ("fit", "batch", "show"):
        with pytest.raises(SystemExit) as end:
            cli.main([command, "--help"])
        assert end.value.code == 0
        printed = capsys.readouterr().out
        assert "examples:" in printed
        assert "exit codes:" in printed
    assert cli.main(["info"]) == 0
    assert "precision" in capsys.readouterr().out


def test_a_header_of_absurd_size_is_refused_before_memory_is_asked_for(capsys):
    header = fits.PrimaryHDU(np.zeros((4, 4))).header
    header["NAXIS1"], header["NAXIS2"] = 2_000_000, 2_000_000
    Path("huge.fits").write_bytes(header.tostring().encode() + bytes(2880))
    assert cli.main(["fit", "huge.fits", "--sigma", "1.0", "--model", "flat_sky"]) == 1
    assert "huge.fits is not a readable FITS file" in capsys.readouterr().err
    packed = fits.CompImageHDU(np.zeros((8, 8), np.float32))
    packed.writeto("packed.fits")
    content = Path("packed.fits").read_bytes()
    for key in (b"ZNAXIS1", b"ZNAXIS2"):
        at = content.index(key)
        content = content[:at] + f"{key.decode():8}= {9_000_000:>20}".encode() + content[at + 30 :]
    Path("packed.fits").write_bytes(content)
    assert cli.main(["fit", "packed.fits", "--sigma", "1.0", "--model", "flat_sky"]) == 1
    assert "9000000 × 9000000 pixels" in capsys.readouterr().err


# --- malformed inputs -----------------------------------------------------------------------------------------------


def _malformed(rng, number):
    """Bytes of a FITS file with something wrong with it, and a name."""
    data = np.ones((8, 8), np.float32)
    hdus = fits.HDUList([fits.PrimaryHDU(data), fits.ImageHDU(data, name="SIGMA")])
    hdus[0].header.update({"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 10.0, "CRVAL2": 20.0, "CD1_1": 1e-4,
                           "CD2_2": 1e-4, "CRPIX1": 4.0, "CRPIX2": 4.0, "MAGZERO": 25.0})  # fmt: skip
    hdus.writeto(f"{number}.fits")
    content = bytearray(Path(f"{number}.fits").read_bytes())
    kind = number % 8
    if kind == 0:  # truncated anywhere
        del content[int(rng.integers(0, len(content))) :]
    elif kind == 1:  # cards overwritten
        for at in 80 * rng.integers(0, 36, 4):
            content[at + 10 : at + 30] = bytes(rng.integers(32, 127, 20, np.uint8))
    elif kind == 2:  # any bytes of the header
        for at in rng.integers(0, 2880, 12):
            content[at] = int(rng.integers(0, 256))
    elif kind == 3:  # a number that makes no sense
        key = rng.choice([b"NAXIS1  ", b"NAXIS2  ", b"BITPIX  ", b"NAXIS   ", b"CRVAL2  ", b"CD1_1   ", b"CRPIX1  "])
        value = rng.choice(["-3", "99999999999", "0", "1E400", "NaN", "T", "'x'", "7"])
        at = content.index(bytes(key))
        content[at + 10 : at + 30] = f"{value:>20}".encode()
    elif kind == 4:  # NaN and infinity everywhere
        values = np.full((8, 8), rng.choice([np.nan, np.inf, -np.inf]), ">f4")
        content[2880 : 2880 + 256] = values.tobytes()
    elif kind == 5:  # no FITS at all
        content = bytearray(rng.integers(0, 256, int(rng.integers(0, 6000)), np.uint8).tobytes())
    elif kind == 6:  # a WCS of another world
        at = content.index(b"CTYPE1  ")
        content[at + 10 : at + 20] = rng.choice([b"'RA---ZZZ'", b"'GLON-TAN'", b"'WAVE    '", b"'RA---TPV'"])
    else:  # half of the cards swapped
        cards = [content[at : at + 80] for at in range(0, 1440, 80)]
        rng.shuffle(cards)
        content[:1440] = b"".join(cards)
    return bytes(content), rng.choice([".fits", ".fits", ".fit", ".fits.gz", ".csv", ".txt"])


LEAKS = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")


@LEAKS  # astropy leaves open what it cannot read
@pytest.mark.parametrize("count", [32, pytest.param(200, marks=pytest.mark.full)])
def test_malformed_inputs_get_a_message_each(count, capsys):
    """Read alone, and as rows of one batch that goes on with the good one."""
    rng = np.random.default_rng(17)
    names = []
    for number in range(count):
        content, suffix = _malformed(rng, number)
        names.append(f"bad{number}{suffix}")
        Path(names[-1]).write_bytes(content)
    for name in names:
        code = cli.main(["fit", name, "--sigma", "1.0", "--model", "flat_sky", "--no-plot", "--out", "fitted"])
        printed = capsys.readouterr()
        assert code in (0, 1, 3), name
        assert "Traceback" not in printed.err
        if code == 1:
            assert re.fullmatch(r"jaxphot: error: .{10,}\n", printed.err, re.DOTALL), (name, printed.err)
            assert "--traceback" not in printed.err, (name, printed.err)
    fits.PrimaryHDU(np.ones((8, 8), np.float32)).writeto("good.fits")
    Table({"image": [*names, "good.fits"]}).write("rows.csv", format="ascii.csv")
    code = cli.main(["batch", "rows.csv", "--sigma", "1.0", "--model", "flat_sky", "--quiet", "--out", "all"])
    assert code == 3
    table = read_catalogue("all")
    assert len(table) == count + 1
    assert table["status"][-1] == 0
    assert all(len(message) > 8 for message in table["message"])


@LEAKS
@pytest.mark.parametrize("kind", ["csv", "ecsv", "fits", "parquet"])
def test_malformed_manifests(kind, capsys):
    rng = np.random.default_rng(4)
    Table({"id": ["a", "b"], "image": ["x.fits", "y.fits"], "x": [1.0, 2.0]}).write(
        f"good.{kind}", format={"csv": "ascii.csv", "ecsv": "ascii.ecsv"}.get(kind, kind)
    )
    content = Path(f"good.{kind}").read_bytes()
    for trial in range(8):
        bad = bytearray(content)
        if trial % 2:
            del bad[int(rng.integers(0, len(bad))) :]
        for at in rng.integers(0, max(len(bad), 1), 6 if bad else 0):
            bad[at] = int(rng.integers(0, 256))
        Path(f"bad.{kind}").write_bytes(bad)
        shutil.rmtree("out", ignore_errors=True)
        code = cli.main(["batch", f"bad.{kind}", "--model", "flat_sky", "--quiet", "--out", "out"])
        error = capsys.readouterr().err
        assert code in (1, 3)
        assert "Traceback" not in error
        assert code == 3 or error.startswith("jaxphot: error: ")


def test_settings_tell_what_a_result_depends_on():
    task = batch.Task.from_options("sersic + flat_sky", fix=["galaxy.n=4"], given={"size": 32, "psf": None})
    other = batch.Task.from_options("sersic+flat_sky", fix=["galaxy.n=4"], given={"size": 32})
    assert task.settings() == other.settings()
    assert task.settings() != batch.Task.from_options("sersic + flat_sky", given={"size": 32}).settings()
    assert zlib.crc32(task.settings().encode())
