"""What people read is plain British English: a planted mistake of every kind is found, in every kind of text."""

import english
import nbformat
import pytest

WRONG = "receive".replace("ei", "ie")


def test_all_of_it_is_plain_english():
    found = [one for name, text in english.prose() for one in english.mistakes(name, text)]
    assert found + english.misspelled() == []


@pytest.mark.parametrize(
    ("sentence", "found"),
    [
        ("The table is made anew.", "anew"),
        ("It depends upon the seed.", "upon"),
        ("It depends on the seed, and hence on the picks.", "hence"),
        ("The bounds are held against real runs.", "held against"),
        ("A curve beside its bound.", "beside"),
        ("Then ν = 3 is surely ahead.", "surely"),
        ("A run goes on\nfrom its checkpoint.", "goes on from"),
        ("What stands under grid is tried.", "stands under"),
        ("So many agents hold it.", "So many agents"),
        ("A text for who cannot see it.", "for who"),
        ("There are two losses. Asked is the second.", ". Asked is"),
        ("There are forty. Of those, ten are picked.", "Of those,"),
        ("It is such a one.", "such a one"),
        ("That is what it shows.", "That is what"),
        ("Save what there is.", "what there is"),
        ("It takes one local step a round.", "local step a round"),
        ("About 1 GB a student is enough.", "1 GB a student"),
        ("It is the model, that is trained, that has two layers.", "trained, that has"),
        ("The color of a method.", "color"),
        ("Agents personalize it.", "personalize"),
        ("It waits for ever.", "for ever"),
    ],
)
def test_a_planted_mistake_is_found(sentence, found):
    messages = english.mistakes("page", f"First line.\n{sentence}")
    assert [message for message in messages if found in message], messages
    assert messages[0].startswith("page:2: ")


@pytest.mark.parametrize(
    "sentence",
    [
        "We say how many samples an agent holds, and which agent is picked.",
        "McMahan et al.: Communication-efficient learning of deep networks from decentralized data.",
        "Generalized meta federated learning stands for any ν; a biased program is checked in practice.",
    ],
)
def test_what_is_right_is_left_alone(sentence):
    assert english.mistakes("page", english.of_markdown(sentence)) == []


def test_every_kind_of_text_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(english, "ROOT", tmp_path)
    for folder in ("notebooks", "docs", "gmfl_lite"):
        (tmp_path / folder).mkdir()
    (tmp_path / "README.md").write_text("# Title\n\nMade anew.\n```\ncode, made anew\n```\n`anew`, $anew$", "utf-8")
    (tmp_path / "docs" / "page.md").write_text(f"We {WRONG} it anew.", "utf-8")
    (tmp_path / "gmfl_lite" / "module.py").write_text(
        '"""Do it anew.\n\n>>> anew = 1  # anew\n"""\n\nraise ValueError(f"{1}: the run begins anew")\n# Anew.\n',
        "utf-8",
    )
    cells = [nbformat.v4.new_markdown_cell("Try anew.", id="text")]
    cells += [nbformat.v4.new_code_cell("%pip install anew\nanew = 1  # tried anew\nanew2 = 'a b'", id="code")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "notebooks" / "00.ipynb")
    found = [
        one.rpartition(": the common word")[0] for name, text in english.prose() for one in english.mistakes(name, text)
    ]
    code = ["gmfl_lite/module.py:1", "gmfl_lite/module.py:6", "gmfl_lite/module.py:7"]
    assert found == ["README.md:3", "docs/page.md:1", "notebooks/00.ipynb[text]:1", "notebooks/00.ipynb[code]:2", *code]
    assert [WRONG in line for line in english.misspelled()] == [True]
