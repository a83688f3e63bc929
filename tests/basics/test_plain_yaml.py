"""Settings as YAML: what is written is read back exactly, and what could be something else is a word or refused."""

import codecs

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gmfl_lite.basics.plain_yaml import DEEPEST, LARGEST, YamlError, read, read_file, read_value, written

PLAIN = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
TEXT = st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S", "Zs"), exclude_characters="\ufffe\uffff"))
NAMES = st.from_regex(r"[a-z_]+", fullmatch=True)


@given(
    st.dictionaries(NAMES.filter(lambda name: name not in ("null", "true", "false")), PLAIN | TEXT | st.lists(PLAIN))
)
def test_what_is_written_is_read_back_exactly(values):
    (document,) = read(written(values))
    assert document.values == values
    assert {name: type(value) for name, value in document.values.items()} == {n: type(v) for n, v in values.items()}
    assert [document.lines[(name,)] for name in values] == [*range(1, len(values) + 1)]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-1", 0.1), ("1E2", 100.0), (".5", 0.5), ("5.", 5.0), ("-1.5e+3", -1500.0), ("+7", 7),
        ("0o10", 8), ("0x1F", 31),        ("010", 10), ("null", None), ("~", None), ("", None), ("True", True),
        (".inf", float("inf")), ("-.INF", -float("inf")),
        *((word, word) for word in ("on", "off", "yes", "no", "y", "N", "1:30", "190:20:30", "2026-01-01", "1_000")),
        *((word, word) for word in ("=", "<<", "0b11", "1e", "nan", "inf", "1.2.3", "e5", "nUll")),
        ("'5'", "5"), ('"null"', "null"), ("[0, 1e1, no]", [0, 10.0, "no"]),
    ],
)  # fmt: skip
def test_a_value_is_what_the_core_schema_says(text, value):
    found = read_value(text)
    assert (found, type(found)) == (value, type(value))


def test_another_reader_reads_the_same():
    yaml = pytest.importorskip("ruamel.yaml")
    values = {"a": 1e-05, "b": None, "c": "no", "d": [0, 1], "e": "1:30", "f": "mlp", "g": 1e16, "h": "2026-01-01"}
    assert dict(yaml.YAML(typ="safe").load(written(values))) == values
    import yaml as of_version_1_1

    assert of_version_1_1.safe_load(written({"a": "no", "b": "mlp", "c": "2026-01-01"})) == {
        "a": "no", "b": "mlp", "c": "2026-01-01"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\nb: *a", "line 2: anchors and aliases"),
        ("a: &a [1]", "line 1: anchors and aliases"),
        ("a: 1\nb: !!python/object/apply:os.system [ls]", "line 2: tags ('tag:yaml.org,2002:python"),
        ("a: !x 1", "line 1: tags"),
        ("a: 1\nb: 2\na: 1", "line 3: a is given twice, first in line 1"),
        ("grid:\n  nu: [1]\n  nu: [2]", "line 3: nu is given twice, first in line 2"),
        ("1: 2", "line 1: a setting's name must be a word"),
        ("? [1]\n: 2", "line 1: a setting's name must be a word"),
        ("a: 1\n- 2", "line 2: not YAML"),
        ("a: [1,\nb", "line 2: not YAML"),
        ("a: 1\n\tb: 2", "line 2: not YAML"),
        ("a: 1\nb: \x07", "line 2: not YAML: it holds the character '\\x07'"),
        ("- 1", "line 1: must be settings"),
        ("nu=1", "line 1: must be settings"),
        ("a: 1\n---\n", "must be settings"),
        ("a: " + "[" * 10_000, f"line 1: more than {DEEPEST} levels"),
        ("a: " + "9" * 5000, "line 1: a number of thousands of digits"),
    ],
)
def test_what_is_refused_names_its_line(text, said):
    with pytest.raises(YamlError) as error:
        read(text)
    assert said in str(error.value)


def test_files(tmp_path):
    path = tmp_path / "settings.yaml"
    for content in (b"a: 1\r\nb: \xce\xbd\r\n", codecs.BOM_UTF8 + "a: 1\nb: ν".encode(), "a: 1\nb: ν".encode("utf-16")):
        path.write_bytes(content)
        (document,) = read_file(path)
        assert document.values == {"a": 1, "b": "ν"}
        assert document.lines == {(): 1, ("a",): 1, ("b",): 2}
    path.write_bytes(b"a: 1\nb: \xff")
    with pytest.raises(YamlError, match="line 2: the file is not text in UTF-8"):
        read_file(path)
    path.write_bytes(b"a: 1\n" + b"#" * LARGEST)
    with pytest.raises(YamlError, match="larger than 64 KiB"):
        read_file(path)
    path.write_text("")
    assert read_file(path) == []
