"""Show in the documentation what lies elsewhere in the repository: README and its like, the notebooks.

Formulas become MathML, which browsers draw by themselves: the pages need no network, neither when built nor when read.
"""

import html
import re
from pathlib import Path

import nbformat
from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
SHOWN = ("*.md", "benchmarks/RESULTS.md", "benchmarks/GPU.md", "notebooks/*.md", "studies/README.md")
LINKED = ("LICENSE*", "*.yml", "studies/*.py", "pyproject.toml", "Makefile", "CITATION.cff")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """List every notebook in the navigation, with its number."""
    notebooks = next(entry for entry in config.nav if "Notebooks" in entry)
    notebooks["Notebooks"] = [
        {f"{path.stem[:2]} {title(path)}": f"notebooks/{path.stem}.md"}
        for path in sorted((ROOT / "notebooks").glob("*.ipynb"))
    ]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what is shown and what that links to, under the names they have in the repository."""
    for path in sorted(path for pattern in SHOWN + LINKED for path in ROOT.glob(pattern)):
        name = path.relative_to(ROOT).as_posix()
        files.append(File(name, str(ROOT), config.site_dir, config.use_directory_urls))
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        page = f"notebooks/{path.stem}.md"
        files.append(File.generated(config, page, content=notebook_as_markdown(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links to notebooks and into the repository lead to pages, badges be words, and pictures be found."""
    if page.file.src_uri == "symbols.md":  # where a symbol is explained comes before where it is used
        page.meta["search"] = {"boost": 10}
    markdown = re.sub(r"!\[([^\]]*)\]\(https:[^)\s]*\)", r"\1", markdown)  # nothing is loaded from elsewhere
    markdown = markdown.replace(f"]({config.repo_url}/blob/HEAD/", "](../")
    markdown = re.sub(r"(\]\((?!https?:)[^)\s]*)\.ipynb\)", r"\1.md)", markdown)
    markdown = markdown.replace("](docs/", "](").replace("](../docs/", "](../")
    markdown = markdown if "/" in page.file.src_uri else markdown.replace("](../", "](")
    return re.sub(r"<!-- gl\.explain\.(\w+) -->", lambda found: moving_picture(found[1]), markdown)


def on_page_content(content: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn the formulas that arithmatex has found into MathML; wide ones scroll, with the keyboard too."""
    formula = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)
    displays = {"span": "inline", "div": "block"}
    content = formula.sub(lambda found: convert(html.unescape(found[2]), display=displays[found[1]]), content)
    return content.replace('display="block"', 'display="block" tabindex="0"')


def title(path: Path) -> str:
    """Return what comes before the colon in a notebook's title."""
    return nbformat.read(path, as_version=4).cells[0].source.split("\n")[0].lstrip("# ").split(":")[0]


def moving_picture(name: str) -> str:
    """Return the HTML of gl.explain.<name>(), which needs no network either."""
    from gmfl_lite import explain

    return getattr(explain, name)()._repr_html_()


def notebook_as_markdown(path: Path) -> str:
    """Return a notebook with its outputs; nbconvert's Markdown would lose the pictures' alternative texts."""
    cells = []
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "markdown":
            cells.append(cell.source)
        else:
            cells += [f"```python\n{cell.source}\n```", *map(output_as_markdown, cell.outputs)]
    return "\n\n".join(cells)


def output_as_markdown(output: nbformat.NotebookNode) -> str:
    """Return a table as HTML, a picture with its alternative text, and everything else as text."""
    data = output.get("data", {"text/plain": output.get("text", "")})
    if "text/html" in data:
        return f"<div>{re.sub(r'<style.*?</style>', '', data['text/html'], flags=re.DOTALL)}</div>"
    if "image/png" in data:
        alt = html.escape(output.metadata["image/png"]["alt"])
        return f'<img alt="{alt}" src="data:image/png;base64,{data["image/png"].strip()}">'
    return f"```text\n{data['text/plain']}\n```"
