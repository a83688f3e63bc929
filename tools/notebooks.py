"""Run notebooks with papermill, measure them, and write what follows from them all.

python tools/notebooks.py link notebooks/*.ipynb      all of them: badges, the first cell, links to the neighbours
python tools/notebooks.py refresh notebooks/*.ipynb   the committed outputs, and the time and memory that are stated
python tools/notebooks.py index notebooks/*.ipynb     all of them: the tables in README.md and on the teachers' page
python tools/notebooks.py html notebooks/*.ipynb      pages in build/html, which need no network
python tools/notebooks.py demo notebooks/00-start-here.ipynb      run it and print its last table
"""

import inspect
import json
import math
import os
import re
import sys
import tempfile
from pathlib import Path

import doors
import nbformat
import papermill
import tracks
from guards import REFERENCE, STATED, Cost, faults, overruns, stated_cost

ROOT = Path(__file__).parent.parent
INDEX = f"[All notebooks]({doors.HERE}README.md#the-notebooks)"
PAGES = {
    ROOT / "README.md": ("<!-- notebooks: written by `make notebooks` -->", "<!-- end of notebooks -->"),
    ROOT / "notebooks" / "for-teachers.md": ("<!-- tracks: written by `make notebooks` -->", "<!-- end of tracks -->"),
}
"""Where a table of the notebooks stands, and between which two lines."""
GRID = (10, 15, 20, 30, 45, 60, 75, 90, 120, 180)
"""Seconds that a notebook may state."""


def execute(source: Path, target: Path, parameters: dict | None = None) -> nbformat.NotebookNode:
    """Run a notebook in its own folder, refusing parameters that it does not have."""
    known = papermill.inspect_notebook(str(source))
    unknown = set(parameters or {}) - set(known)
    if unknown:
        raise ValueError(f"{source.name} has no parameter {sorted(unknown)}; it has {sorted(known)}")
    papermill.execute_notebook(
        str(source),
        str(target),
        parameters or {},
        cwd=str(source.parent),
        kernel_name="python3",
        progress_bar=False,
        extra_arguments=["--IPKernelApp.log_level=ERROR"],  # a kernel of our own need not warn of its connection
    )
    return nbformat.read(target, as_version=4)


def _measure(path: str, reference: float) -> None:
    """Write what this process has taken since it began, seconds and memory at its peak, and how slow the machine is."""
    import json
    import re
    import resource
    import time
    from pathlib import Path

    import psutil

    status = Path("/proc/self/status")  # its peak, unlike getrusage's, is not handed down from the parent process
    if status.exists():
        peak = 1024 * int(re.search(r"VmHWM:\s*(\d+)", status.read_text(encoding="utf-8"))[1])
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    me, spent = psutil.Process(), resource.getrusage(resource.RUSAGE_CHILDREN)  # of children that have ended
    alive = [child.cpu_times() for child in me.children(recursive=True)]
    children = spent.ru_utime + spent.ru_stime + sum(times.user + times.system for times in alive)
    worked = time.process_time() + children / 2  # on two cores
    # Where others keep the cores busy the clock runs on and the processors' time does not: the smaller one counts.
    seconds = min(time.time() - me.create_time(), worked)
    begun, total = time.process_time(), 0
    for number in range(5_000_000):
        total += number
    slowness = max(1.0, (time.process_time() - begun) / reference)
    Path(path).write_text(json.dumps([seconds, peak / 2**30, slowness]), encoding="utf-8")


def measured_copy(source: Path, folder: Path) -> Path:
    """Copy a notebook into an empty folder, with a last cell that leaves there what the run has cost."""
    notebook = nbformat.read(source, as_version=4)
    code = f"{inspect.getsource(_measure)}\n\n_measure({str(folder / 'cost.json')!r}, {REFERENCE})"
    notebook.cells.append(nbformat.v4.new_code_cell(code))
    nbformat.write(notebook, folder / source.name)
    return folder / source.name


def cost(folder: Path) -> Cost:
    """Return what the run of a `measured_copy` has cost."""
    return Cost(*json.loads((folder / "cost.json").read_text(encoding="utf-8")))


def refresh(path: Path) -> None:
    """Run a notebook with its defaults and store its outputs, without what differs from run to run."""
    with tempfile.TemporaryDirectory() as folder:
        notebook = execute(measured_copy(path, Path(folder)), Path(folder) / "ran.ipynb")
        measured = cost(Path(folder)).as_elsewhere()
    notebook.cells.pop()
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for cell in notebook.cells:
        cell.metadata = {key: cell.metadata[key] for key in ("jupyter", "tags") if cell.metadata.get(key)}
        for output in cell.get("outputs", []):  # a widget is gone with its kernel: what stays is its text
            output.get("data", {}).pop("application/vnd.jupyter.widget-view+json", None)
    restate(notebook, measured)
    nbformat.write(notebook, path)
    wrong = faults(path) + overruns(stated_cost(notebook) or Cost(math.inf, math.inf), measured)
    print(f"{path.name}: {measured.seconds:.0f} s, {measured.gigabytes:.2f} GB", *wrong, sep="\n  wrong: ", flush=True)


def restate(notebook: nbformat.NotebookNode, measured: Cost) -> None:
    """Correct what is stated of time, rounded up, and of memory, unless it is still about true."""
    stated = stated_cost(notebook)
    if stated is None:
        return
    seconds, gigabytes, _ = stated
    if not seconds / 2 <= measured.seconds <= seconds:
        seconds = next((step for step in GRID if step >= 1.1 * measured.seconds), math.ceil(measured.seconds))
    if abs(measured.gigabytes - gigabytes) > 0.05:
        gigabytes = measured.gigabytes
    said = rf"*Time: {seconds:.0f} seconds on two cores\2. Memory: {gigabytes:.2f} GB."
    notebook.cells[0].source = STATED.sub(said, notebook.cells[0].source)


def linked(notebooks: dict[str, nbformat.NotebookNode]) -> dict[str, nbformat.NotebookNode]:
    """Return notebooks, by file name in reading order, whose first and last cells point to their neighbours.

    The last lines of the first cell also name its track and point to the index. Each of them opens from anywhere
    (tools/doors.py).
    """
    names = list(notebooks)

    def end_with(cell: nbformat.NotebookNode, *links: str) -> None:
        kept = [
            line
            for line in cell.source.split("\n")
            if not line.startswith(("Before: [", "Next: [", "[All notebooks](", tracks.MARK))
        ]
        cell.source = "\n\n".join(["\n".join(kept).rstrip(), " · ".join(links)]).rstrip()

    def to(word: str, name: str) -> str:
        return f"{word}: [{title(notebooks[name]).split(':')[0]}]({name})"

    core = [name for name in names if tracks.track_of(Path(name).stem) == "core"]
    for name, notebook in notebooks.items():
        doors.open_doors(name, notebook)
        way = core if name in core[:-1] else names  # the core leads to itself, and then to the rest
        before = neighbour(core if name in core else names, name, -1)
        after, aside = neighbour(way, name, 1), neighbour(names, name, 1)
        around = " · ".join([*(to("Before", other) for other in before), INDEX])
        end_with(notebook.cells[0], f"{tracks.line(Path(name).stem)}\n\n{around}")
        beyond = [to("Off the core track", other) for other in aside if aside != after]
        end_with(notebook.cells[-1], *(to("Next", other) for other in after), *beyond)
    return notebooks


def neighbour(names: list[str], name: str, step: int) -> list[str]:
    """Return the name before (step −1) or after (1) another one, in a list that is empty at the ends.

    >>> neighbour(["a", "b"], "a", 1), neighbour(["a", "b"], "a", -1)
    (['b'], [])
    """
    position = names.index(name) + step
    return names[position : position + 1] if position >= 0 else []


def title(notebook: nbformat.NotebookNode) -> str:
    return notebook.cells[0].source.split("\n")[0].lstrip("# ")


def index(notebooks: dict[str, nbformat.NotebookNode]) -> str:
    """Return a table of notebooks, by file name in reading order, with what they state of their cost."""
    stated = {name: stated_cost(notebook) for name, notebook in notebooks.items()}
    rows = [
        f"| [{name[:2]}](notebooks/{name}) | {title(notebook)} | {tracks.track_of(Path(name).stem)} "
        f"| {stated[name].seconds:.0f} s | {stated[name].gigabytes:.2f} GB | {doors.links(name)} |"
        for name, notebook in notebooks.items()
    ]
    minutes = sum(spent.seconds for spent in stated.values()) / 60
    most = max(spent.gigabytes for spent in stated.values())
    rows.append(f"| | all of them, one after the other | | {minutes:.0f} min | {most:.2f} GB | |")
    head = "| | notebook | track | time on two cores | memory | open in |\n|---|---|---|---|---|---|"
    return "\n".join([head, *rows])


def by_track(notebooks: dict[str, nbformat.NotebookNode]) -> str:
    """Return the table of the teachers' page: the tracks, what is on them, how long they compute."""
    titles = {Path(name).stem: title(notebook) for name, notebook in notebooks.items()}
    return tracks.table(titles, {Path(name).stem: stated_cost(one).seconds for name, one in notebooks.items()})


def write_index(notebooks: dict[str, nbformat.NotebookNode]) -> None:
    """Put the tables of notebooks between their marks in README.md and on the teachers' page."""
    for (page, (begin, end)), table in zip(PAGES.items(), (index(notebooks), by_track(notebooks)), strict=True):
        before, _, rest = page.read_text(encoding="utf-8").partition(begin)
        _, found, after = rest.partition(end)
        if not found:
            raise ValueError(f"{page.name} has not got the lines {begin} and {end}")
        page.write_text(f"{before}{begin}\n{table}\n{end}{after}", encoding="utf-8")


def as_page(path: Path) -> str:
    """Return a notebook as a page that loads nothing, with pictures' alternative texts, which nbconvert's own omits."""
    from nbconvert import HTMLExporter

    notebook = nbformat.read(path, as_version=4)
    notebook.metadata["title"] = title(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = with_drawn_formulas(cell.source)
    page = HTMLExporter(template_file=str(Path(__file__).parent / "page.html.j2")).from_notebook_node(notebook)[0]
    return re.sub(r'href="([\w-]+)\.ipynb"', r'href="\1.html"', page)


def with_drawn_formulas(markdown: str) -> str:
    """Return Markdown with MathML, which browsers draw by themselves, in place of TeX; code stays as it is.

    >>> with_drawn_formulas("`$a$` and $a$").partition(" and ")[0]
    '`$a$`'
    """
    from latex2mathml.converter import convert

    def drawn(found: re.Match[str]) -> str:
        code, block, inline = found.groups()
        if code:
            return code
        shown = convert(block or inline, display="block" if block else "inline")
        return shown.replace('display="block"', 'display="block" tabindex="0"')  # a wide one scrolls, by keyboard, too

    return re.sub(r"(```.*?```|`[^`]*`)|\$\$(.+?)\$\$|\$(.+?)\$", drawn, markdown, flags=re.DOTALL)


def demo(path: Path) -> None:
    """Run a notebook and print the text of the last table that it shows."""
    with tempfile.TemporaryDirectory() as folder:
        print(f"running {path} (a minute or two) …", flush=True)
        notebook = execute(path, Path(folder) / path.name)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    print([output.data["text/plain"] for output in outputs if "text/html" in output.get("data", {})][-1])


def read(paths: list[Path]) -> dict[str, nbformat.NotebookNode]:
    return {path.name: nbformat.read(path, as_version=4) for path in sorted(paths)}


def main(command: str, paths: list[Path]) -> None:
    if command == "link":
        for path, notebook in zip(sorted(paths), linked(read(paths)).values(), strict=True):
            nbformat.write(notebook, path)
    elif command == "index":
        write_index(read(paths))
    elif command == "html":
        folder = ROOT / "build" / "html"
        folder.mkdir(parents=True, exist_ok=True)
        for path in paths:
            (folder / path.with_suffix(".html").name).write_text(as_page(path), encoding="utf-8")
    else:
        for path in paths:
            {"refresh": refresh, "demo": demo}[command](path)


if __name__ == "__main__":
    os.environ["TQDM_DISABLE"] = "1"  # bars are for people who wait; a stored one shows nothing
    main(sys.argv[1], [Path(path) for path in sys.argv[2:]])
