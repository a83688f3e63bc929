"""What a teacher takes into the room: slides, a handout, the answers, and the exercises for nbgrader.

python tools/kit.py notebooks/*.ipynb      into build/kit  (or: make kit)

Slides are made of the core notebooks' cells that are tagged `slide` (a new one) or `slide-more` (on the same one). They
hold reveal.js 5.2.1 (MIT, 175 kB in tools/reveal, from npm) and need no network.
"""

import ast
import copy
import html
import re
import shutil
import subprocess
import sys
from pathlib import Path

import editions
import nbformat
import tracks
from latex2mathml.converter import convert
from nbconvert import SlidesExporter
from nbconvert.filters import markdown2html

import gmfl_lite as gl

ROOT = Path(__file__).parent.parent
HERE = Path(__file__).parent
SLIDES = {"slide": "slide", "slide-more": "fragment"}
STYLES = ("reveal.css", "simple.css")
NOTEBOOKS = "https://github.com/gmfl-lite/gmfl_lite/blob/HEAD/notebooks/"

COURSE = '''"""What `nbgrader generate_assignment gmfl_lite` leaves in place of a solution: dots, like the notebooks."""

c = get_config()  # noqa: F821
c.ClearSolutions.code_stub = {"python": "...  # your lines"}
'''

_CALL = re.compile(r"^gl\.exercises\.(\w+)\.check\((\w+)\)$", re.MULTILINE)
_BEGINS = re.compile(r"^(?:## |\*\*Exercise \d)", re.MULTILINE)
_FORMULA = re.compile(r"\$\$(.+?)\$\$|\$(.+?)\$", re.DOTALL)


def slides(notebook: nbformat.NotebookNode) -> str:
    """Return the tagged cells of a notebook as slides of reveal.js, figures without the code that drew them."""
    made, formulas = copy.deepcopy(notebook), []
    for cell in made.cells:
        kinds = [SLIDES[tag] for tag in cell.metadata.get("tags", []) if tag in SLIDES]
        cell.metadata["slideshow"] = {"slide_type": kinds[0] if kinds else "skip"}
        if cell.cell_type == "markdown":
            linked = re.sub(r"\]\((\d\d-[\w-]+\.ipynb)\)", rf"]({NOTEBOOKS}\1)", cell.source)  # slides lie elsewhere
            cell.source = kept_apart(linked, formulas)
    template = str(HERE / "slides.html.j2")  # with the pictures' alternative texts
    exporter = SlidesExporter(template_file=template, exclude_input=True, exclude_output_prompt=True)
    reveal = {name: (HERE / "reveal" / name).read_text(encoding="utf-8") for name in ("reveal.js", *STYLES)}
    resources = {
        "title": made.cells[0].source.split("\n")[0].lstrip("# "),
        "reveal_js": reveal["reveal.js"],
        "reveal_css": "".join(reveal[name] for name in STYLES),
    }
    return put_back(exporter.from_notebook_node(made, resources)[0], formulas)


def kept_apart(markdown: str, formulas: list[str]) -> str:
    """Return Markdown with a mark in place of each formula, which is added to `formulas` as MathML."""

    def keep(found: re.Match) -> str:
        formulas.append(convert(found[1] or found[2], display="block" if found[1] else "inline"))
        return f"FORMULA{len(formulas) - 1}END"

    return _FORMULA.sub(keep, markdown)


def put_back(text: str, formulas: list[str]) -> str:
    return re.sub(r"FORMULA(\d+)END", lambda found: formulas[int(found[1])], text)


def has_slides(notebook: nbformat.NotebookNode) -> bool:
    return any(SLIDES.keys() & set(cell.metadata.get("tags", [])) for cell in notebook.cells)


def questions(notebook: nbformat.NotebookNode) -> dict[str, str]:
    """Return the Markdown of each exercise's question by the exercise's name: from its heading on, without code."""
    found, text = {}, ""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            starts = [match.start() for match in _BEGINS.finditer(cell.source)]
            text = cell.source[starts[-1] :] if starts else f"{text}\n\n{cell.source}"
        for name, _ in _CALL.findall(cell.source):
            found[name] = re.sub(r"\n*Replace the `\.\.\.` and run.*$", "", text, flags=re.MULTILINE).strip()
    return found


def assignment(notebook: nbformat.NotebookNode, stem: str) -> nbformat.NotebookNode:
    """Return a notebook's exercises as an assignment of nbgrader, with solutions that it takes out for students.

    Each exercise is a cell for the answer and a locked cell of one point that asks `check`.
    """
    code = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    imports = "\n".join(dict.fromkeys(re.findall(r"^import .*$", code, re.MULTILINE)))
    precise = "\n\ntorch.set_default_dtype(torch.float64)" * ("set_default_dtype" in code)
    asked = questions(notebook)
    own_base = any("`base`" in text for text in asked.values())
    given = '\n\nbase = gl.Experiment(partition="iid", permuted_classes=10)' * own_base
    title = notebook.cells[0].source.split("\n")[0]
    cells = [
        nbformat.v4.new_markdown_cell(
            f"{title}: exercises\n\nThe symbols and words are explained in notebook {stem[:2]}.",
            metadata=_marked(f"{stem}-title", locked=True),
        ),
        nbformat.v4.new_code_cell(imports + precise + given, metadata=_marked(f"{stem}-imports", locked=True)),
    ]
    for cell in notebook.cells:
        for name, variable in _CALL.findall(cell.source):
            check = f'verdict = gl.exercises.{name}.check({variable})\nassert verdict.status == "correct", verdict.text'
            cells += [
                nbformat.v4.new_markdown_cell(asked[name], metadata=_marked(f"{name}-question", locked=True)),
                nbformat.v4.new_code_cell(
                    answer_cell(name, variable, cell.source), metadata=_marked(name, solution=True)
                ),
                nbformat.v4.new_code_cell(check, metadata=_marked(f"{name}-check", grade=True, locked=True, points=1)),
            ]
    for number, cell in enumerate(cells):
        cell.id = f"cell-{number}"
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})


def answer_cell(name: str, variable: str, source: str) -> str:
    """Return the source of an answer's cell: what students are given, and between two marks what nbgrader takes out."""
    one = getattr(gl.exercises, name)
    shown = re.fullmatch(r"```python\n(.*)```", one.solution().text, re.DOTALL)[1]
    if not one.wants_function:
        given = source[: source.index("gl.exercises.")].strip()
        return f"{given}\n\n### BEGIN SOLUTION\n{shown}\n\n{variable} = {name}()\n### END SOLUTION"
    shown = re.sub(rf"^def {name}\(", f"def {variable}(", shown, flags=re.MULTILINE)  # as the notebook calls it
    function = ast.parse(shown).body[0]
    lines = shown.splitlines()
    body = next(number for number, line in enumerate(lines) if line.rstrip().endswith(":"))  # where its head ends
    assert body < function.body[0].lineno
    head, rest = lines[: body + 1], lines[body + 1 :]
    return "\n".join([*head, "    ### BEGIN SOLUTION", *rest, "    ### END SOLUTION"])


def _marked(
    grade_id: str, *, grade: bool = False, solution: bool = False, locked: bool = False, points: int = 0
) -> dict:
    """Return the metadata of a cell as nbgrader documents it, version 3 of its schema."""
    marks = {
        "schema_version": 3,
        "grade_id": grade_id,
        "grade": grade,
        "solution": solution,
        "locked": locked,
        "task": False,
    }
    return {"nbgrader": {**marks, "points": points} if grade else marks}


def answers(notebooks: dict[str, nbformat.NotebookNode]) -> str:
    """Return the answers to all predictions and exercises as a page of their own."""
    parts = ["# Answers", "For teachers: to the predictions and the exercises of the notebooks."]
    keys = editions.key(), editions.key(editions.TRIES)
    for stem, notebook in notebooks.items():
        parts.append(f"## {stem[:2]} {notebook.cells[0].source.split(chr(10))[0].lstrip('# ')}")
        parts += [f"- *{question}* {answer}" for key in keys for question, answer in key.get(stem[:2], [])]
        parts += [editions.solution(one.name) for one in gl.exercises.every() if one.notebook == stem]
    plan = editions.PAGE.read_text(encoding="utf-8")
    parts += [
        "## In the lesson",
        re.search(r"^What you ask, and an answer: (.*?)\n\n", plan, re.DOTALL | re.MULTILINE)[1],
    ]
    return page("Answers", "\n\n".join(parts))


def handout(notebooks: dict[str, nbformat.NotebookNode]) -> str:
    """Return two pages to print: the method with its words, and the core's predictions and exercises for a pencil."""
    front = (HERE / "handout.md").read_text(encoding="utf-8")
    asked = []
    for stem in tracks.TRACKS["core"].notebooks:
        source = "\n".join(cell.source for cell in notebooks[stem].cells if cell.cell_type == "code")
        nodes = list(ast.walk(ast.parse(_python(source))))
        own = {node.target.id: node.value.value for node in nodes if isinstance(node, ast.AnnAssign)}  # its parameters
        for call in (node for node in nodes if isinstance(node, ast.Call)):
            if ast.unparse(call.func) == "gl.predict":
                options = " ".join(
                    f'<span class="option">☐ {_text(option, own)}</span>' for option in call.args[1].elts
                )
                asked.append(f"**{stem[:2]}** {_text(call.args[0], own)} <br> {options}")
    pencil = [
        re.sub(
            r"\*\*Exercise \d: (.)",
            lambda found, n=n: f"**{n}. {found[1].upper()}",
            questions(notebooks[one.notebook])[name],
        )
        for n, (name, one) in enumerate({name: getattr(gl.exercises, name) for name in PENCIL}.items(), start=1)
    ]
    return page(
        "Handout",
        front.replace("PREDICTIONS", "\n\n".join(asked))
        .replace("PENCIL", "\n\n".join(pencil))
        .replace("PICTURE", stored_picture(notebooks, *DRIFT)),
    )


def stored_picture(notebooks: dict[str, nbformat.NotebookNode], stem: str, cell_id: str) -> str:
    """Return the figure that a cell has left in its notebook, as HTML with its alternative text."""
    (cell,) = (cell for cell in notebooks[stem].cells if cell.id == cell_id)
    (output,) = (output for output in cell.outputs if "image/png" in output.data)
    alt = html.escape(output.metadata["image/png"]["alt"])
    return f'<img alt="{alt}" src="data:image/png;base64,{output.data["image/png"].strip()}">'


DRIFT = ("02-one-model-for-all", "7285eb4e")
PENCIL = ("look_ahead", "two_walks", "one_step_ahead", "tipping_nu")
"""Exercises of the core that need no computer."""


def _python(source: str) -> str:
    return re.sub(r"^(\s*)%.*$", r"\1pass", source, flags=re.MULTILINE)  # a magic is no Python


def _text(node: ast.expr, parameters: dict[str, object]) -> str:
    """Return a text, with the notebook's own parameters where they are filled in."""
    return (
        ast.literal_eval(node)
        if isinstance(node, ast.Constant)
        else "".join(
            part.value if isinstance(part, ast.Constant) else f"{parameters[ast.unparse(part.value)]}"
            for part in node.values
        )
    )


def page(title: str, markdown: str) -> str:
    """Return Markdown as an HTML page that needs no network: its formulas are MathML."""
    formulas: list[str] = []
    text = put_back(markdown2html(kept_apart(markdown, formulas)), formulas)
    css = (HERE / "print.css").read_text(encoding="utf-8")
    return (
        f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<title>gmfl_lite: {title}</title>\n'
        f'<style>{css}</style>\n<body class="{title.lower()}">\n{text}\n</body>\n</html>\n'
    )


def as_pdf(source: Path, target: Path) -> bool:
    """Print a page with Chromium; False where there is none."""
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        return False
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--no-pdf-header-footer", f"--print-to-pdf={target}"]
    subprocess.run([browser, *options, source.as_uri()], check=True, capture_output=True, timeout=120)
    return True


def main(paths: list[Path], folder: Path = ROOT / "build" / "kit") -> None:
    notebooks = {path.stem: nbformat.read(path, as_version=4) for path in sorted(paths)}
    source = folder / "nbgrader" / "source" / "gmfl_lite"
    source.mkdir(parents=True, exist_ok=True)
    (folder / "nbgrader" / "nbgrader_config.py").write_text(COURSE, encoding="utf-8")
    for stem, notebook in notebooks.items():
        nbformat.write(assignment(notebook, stem), source / f"{stem[:2]}-to-hand-in.ipynb")  # not the student's edition
    for stem in (stem for stem, notebook in notebooks.items() if has_slides(notebook)):
        (folder / f"slides-{stem[:2]}.html").write_text(slides(notebooks[stem]), encoding="utf-8")
    for name, text in (("answers", answers(notebooks)), ("handout", handout(notebooks))):
        (folder / f"{name}.html").write_text(text, encoding="utf-8")
    printed = as_pdf(folder / "handout.html", folder / "handout.pdf")
    print(f"the kit is in {folder}{'' if printed else '; there is no Chromium to print the handout with'}")


if __name__ == "__main__":
    main([Path(path) for path in sys.argv[1:]])
