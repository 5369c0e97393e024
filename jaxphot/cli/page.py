"""One self-contained page of results: a table that sorts and filters in the browser, thumbnails in it. No network."""

import base64
import html
import json
import struct
import zlib

import numpy as np

from jaxphot.hdus import written_at_once

_STYLE = """
body { font: 14px/1.4 system-ui, sans-serif; margin: 1.5rem; color: #222; background: #fff; }
h1 { font-size: 1.3rem; margin: 0 0 .3rem; } p { margin: .2rem 0 .8rem; color: #555; }
form { display: flex; gap: 1rem; flex-wrap: wrap; margin: .8rem 0; } input, select { font: inherit; width: 9em; }
table { border-collapse: collapse; } td, th { padding: .25rem .6rem; border-bottom: 1px solid #ddd; text-align: right; }
th { cursor: pointer; position: sticky; top: 0; background: #f4f4f4; white-space: nowrap; }
th[aria-sort=ascending]::after { content: " ▲"; } th[aria-sort=descending]::after { content: " ▼"; }
td.text { text-align: left; } img { image-rendering: pixelated; height: 84px; display: block; }
tr.bad td { background: #fdf1ee; }
"""

_SCRIPT = """
const body = document.querySelector('tbody'), rows = [...body.rows], heads = [...document.querySelectorAll('th')];
const shown = document.getElementById('shown');
const number = (row, key) => parseFloat(row.dataset[key]);
function filter() {
  const status = document.getElementById('status').value, text = document.getElementById('text').value.toLowerCase();
  const low = parseFloat(document.getElementById('low').value);
  const high = parseFloat(document.getElementById('high').value);
  let count = 0;
  for (const row of rows) {
    const chi2 = number(row, 'chi2');
    const keep = (!status || row.dataset.status === status) && !(chi2 < low) && !(chi2 > high)
      && ((isNaN(low) && isNaN(high)) || !isNaN(chi2)) && (!text || row.textContent.toLowerCase().includes(text));
    row.hidden = !keep;
    count += keep;
  }
  shown.textContent = count;
}
document.querySelector('form').addEventListener('input', filter);
heads.forEach((head, column) => head.addEventListener('click', () => {
  const down = head.getAttribute('aria-sort') === 'ascending';
  heads.forEach(other => other.removeAttribute('aria-sort'));
  head.setAttribute('aria-sort', down ? 'descending' : 'ascending');
  const key = row => { const cell = row.cells[column]; const value = parseFloat(cell.dataset.value);
    return isNaN(value) ? cell.textContent : value; };
  rows.sort((a, b) => { const x = key(a), y = key(b);
    const order = typeof x === typeof y ? (x < y ? -1 : x > y ? 1 : 0) : (typeof x === 'number' ? -1 : 1);
    return down ? -order : order; });
  body.append(...rows);
}));
filter();
"""


def write_page(path, title, remarks, table, pictures):
    """Write the page.

    Parameters
    ----------
    path : str or path-like
        Replaced at once if it exists.
    title : str
    remarks : sequence of str
        Lines beneath the title.
    table : Table
        A catalogue: its columns `status`, `message`, `chi2`, `dof` are used for the filters.
    pictures : dict
        Row number → (height, width, 3) uint8 array.
    """
    columns = [name for name in table.colnames if not _is_left_out(name)]
    statuses = dict(zip(np.asarray(table["status"]).tolist(), np.asarray(table["message"]).tolist(), strict=True))
    heads = ["picture", *columns]
    lines = [
        "<!DOCTYPE html>", '<html lang="en"><head><meta charset="utf-8">', f"<title>{html.escape(title)}</title>",
        f"<style>{_STYLE}</style></head><body>", f"<h1>{html.escape(title)}</h1>",
        *(f"<p>{html.escape(remark)}</p>" for remark in remarks),
        "<form onsubmit='return false'><label>status <select id=status><option value=''>all</option>",
        *(f"<option value='{code}'>{html.escape(_short(text))}</option>" for code, text in sorted(statuses.items())),
        "</select></label><label>χ²/dof from <input id=low type=number step=any></label>",
        "<label>to <input id=high type=number step=any></label><label>text <input id=text></label>",
        "<span><b id=shown></b> shown</span></form>",
        "<table><thead><tr>", *(f"<th>{html.escape(name)}</th>" for name in heads), "</tr></thead><tbody>",
    ]  # fmt: skip
    lines += [_row(table, row, columns, pictures.get(row)) for row in range(len(table))]
    lines += ["</tbody></table>", f"<script>{_SCRIPT}</script>", "</body></html>"]
    with written_at_once(path, overwrite=True) as temporary:
        temporary.write_text("\n".join(lines), encoding="utf-8")


def _short(text):
    return text.partition(":")[0].partition(";")[0]


def _is_left_out(name):
    return name in ("failed", "steps", "round", "multimodal") or name.endswith("_mag_err")


def _row(table, row, columns, picture):
    status = int(table["status"][row])
    reduced = _number(table["chi2"][row]) / max(int(table["dof"][row]), 1) if "chi2" in columns else float("nan")
    cells = ["<td></td>" if picture is None else f'<td><img alt="" loading="lazy" src="{data_url(picture)}"></td>']
    for name in columns:
        value = table[name][row]
        number = _number(value)
        if number is None:
            cells.append(f'<td class="text">{html.escape(str(value))}</td>')
        else:
            cells.append(f'<td data-value="{number!r}">{"" if np.isnan(number) else f"{number:.5g}"}</td>')
    bad = ' class="bad"' if status else ""
    return f'<tr{bad} data-status="{status}" data-chi2="{json.dumps(reduced)}">{"".join(cells)}</tr>'


def _number(value):
    value = getattr(value, "value", value)
    if isinstance(value, (str, bytes, np.str_)):
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def data_url(picture):
    """A picture, first row at the bottom, as a PNG in a ``data:`` address."""
    return "data:image/png;base64," + base64.b64encode(png(picture[::-1])).decode("ascii")


def png(picture):
    """The bytes of a PNG file of (height, width, 3) uint8 values."""
    height, width, _ = picture.shape
    raw = np.zeros((height, 1 + 3 * width), np.uint8)  # each line begins with its filter: none
    raw[:, 1:] = picture.reshape(height, -1)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(raw.tobytes(), 6)), (b"IEND", b""))
    chunks = (struct.pack(">I", len(d)) + kind + d + struct.pack(">I", zlib.crc32(kind + d)) for kind, d in parts)
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)
