"""YAML documents: every value knows its place, hostile files are given up at once, YAML 1.1 is gone."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from midguard.engine.composer import MAX_DEPTH, MAX_NODES, MAX_PROBLEMS
from midguard.engine.document import Document, read, violations
from midguard.engine.errors import InputError, Problem


def document(folder: Path, text: str | bytes) -> Document:
    path = folder / "x.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read(path)


def refusal(folder: Path, text: str | bytes) -> str:
    """The error's text, with the file's folder taken out."""
    with pytest.raises(InputError) as caught:
        document(folder, text)
    return str(caught.value).replace(f"{folder}/", "")


class TestPlaces:
    TEXT = "a: 1\nb:\n  - x\n  - {c: 'two words', d: 3}\né: [yes]\n"

    def test_values_and_their_places(self, tmp_path: Path) -> None:
        found = document(tmp_path, self.TEXT)
        assert found.root == {"a": 1, "b": ["x", {"c": "two words", "d": 3}], "é": ["yes"]}
        where = found.place(("b", 1, "c"))
        assert (where.line, where.column, where.width) == (4, 9, len("'two words'"))
        assert where.text == "  - {c: 'two words', d: 3}"
        assert str(found.keys["b", 1, "d"]).endswith("x.yaml:4:22")
        assert str(found.place(("é", 0))).endswith("x.yaml:5:5")

    def test_a_missing_value_stands_at_the_mapping_around_it(self, tmp_path: Path) -> None:
        found = document(tmp_path, self.TEXT)
        assert found.place(("b", 1, "nothing", "here")) == found.place(("b", 1))
        assert found.place(("nothing",)).line == 1

    def test_bytes_text_and_digest_are_those_of_the_file(self, tmp_path: Path) -> None:
        found = document(tmp_path, b"\xef\xbb\xbf" + self.TEXT.encode())
        assert found.text == self.TEXT
        assert found.sha256 == hashlib.sha256(b"\xef\xbb\xbf" + self.TEXT.encode()).hexdigest()
        assert found.value(("b", 0)) == "x"
        with pytest.raises(KeyError):
            found.value(("c",))

    def test_windows_line_ends(self, tmp_path: Path) -> None:
        found = document(tmp_path, b"a: 1\r\nb: 2\r\n")
        assert (found.place(("b",)).line, found.place(("b",)).text) == (2, "b: 2")

    def test_an_alias_is_written_out_and_stands_where_it_was_anchored(self, tmp_path: Path) -> None:
        found = document(tmp_path, "a: &x {k: [1, 2]}\nb: *x\n")
        assert found.root == {"a": {"k": [1, 2]}, "b": {"k": [1, 2]}}
        assert found.place(("b", "k", 1)) == found.place(("a", "k", 1))

    def test_a_very_long_line_is_not_quoted(self, tmp_path: Path) -> None:
        assert document(tmp_path, f"a: {'x' * 500}\n").place(("a",)).text == ""

    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.text("abc xyz:-#'\"é", max_size=8),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", min_size=1), inner, max_size=3),
            max_leaves=12,
        ).filter(lambda value: isinstance(value, list | dict))
    )
    def test_what_pyyaml_writes_is_read_back(self, tmp_path_factory: pytest.TempPathFactory, value: object) -> None:
        text = yaml.safe_dump(value, allow_unicode=True)
        assert document(tmp_path_factory.mktemp("d"), text).root == value


class TestPlainValues:
    @pytest.mark.parametrize(
        ("text", "value"),
        [
            ("1e-5", 1e-5),
            ("1.0e-5", 1e-5),
            ("-2.5E+3", -2500.0),
            (".5", 0.5),
            ("1.", 1.0),
            ("+3", 3),
            ("-0", 0),
            ("no", "no"),
            ("on", "on"),
            ("Yes", "Yes"),
            ("off", "off"),
            ("true", True),
            ("FALSE", False),
            ("~", None),
            ("null", None),
            ("", None),
            ("2026-11-22", "2026-11-22"),
            ("017", "017"),
            ("0o17", "0o17"),
            ("0x1F", "0x1F"),
            ("1:30", "1:30"),
            ("1_000", "1_000"),
            ("1.0.0", "1.0.0"),
            ("inf", "inf"),
            ("nan", "nan"),
            ("'1'", "1"),
            ('"true"', "true"),
        ],
    )
    def test_yaml_1_2_and_decimal(self, tmp_path: Path, text: str, value: object) -> None:
        found = document(tmp_path, f"a: {text}\n").value(("a",))
        assert (found, type(found)) == (value, type(value))

    @pytest.mark.parametrize("text", [".inf", "-.inf", ".nan", ".NaN", "1e999", "-1e999", "9" * 41])
    def test_no_number_that_is_not_finite(self, tmp_path: Path, text: str) -> None:
        assert refusal(tmp_path, f"a: {text}\n").startswith("x.yaml:1:4: ")


class TestRefusals:
    def test_exact_words_and_every_problem_at_once(self, tmp_path: Path) -> None:
        assert refusal(tmp_path, "a: 1\na: 2\n1: x\nb: .inf\nc: !!python/object:os.system {}\n") == (
            "x.yaml:2:1: the field 'a' is given twice, it already stands in line 1; keep one of the two\n"
            "    a: 2\n"
            "    ^\n"
            "x.yaml:3:1: this field's name is not text, put it in quotes\n"
            "    1: x\n"
            "    ^\n"
            "x.yaml:4:4: .inf is not a number that anything could be held against, write a finite decimal number\n"
            "    b: .inf\n"
            "       ^^^^\n"
            "x.yaml:5:4: the tag !!python/object:os.system is not understood here, "
            "write the value without it (text goes in quotes)\n"
            "    c: !!python/object:os.system {}\n"
            "       ^"
        )

    @pytest.mark.parametrize(
        ("text", "where", "words"),
        [
            ("", "x.yaml:", "the file is empty"),
            ("# only a comment\n", "x.yaml:", "the file is empty"),
            ("---\n...\n", "x.yaml:", "the file is empty"),
            ("null", "x.yaml:", "the file is empty"),
            ("a: 1\n\tb: 2\n", "x.yaml:2:1:", "a tab, use spaces"),
            ("a: 1 # x\ty\n", "x.yaml:1:9:", "a tab"),
            (b"a: 1\nb: \xff\n", "x.yaml:2:1:", "not UTF-8: byte 0xff at offset 8, save the file as UTF-8"),
            (b"\xef\xbb\xbfa: \xff", "x.yaml:1:1:", "byte 0xff at offset 6"),
            ("a: 1".encode("utf-16"), "x.yaml:1:1:", "not UTF-8"),
            (b"a: \xed\xa0\x80", "x.yaml:1:1:", "not UTF-8"),
            ("a: 1\n---\nb: 2\n", "x.yaml:2:1:", "a second document starts here"),
            ("a: {b: 1, b: 2}\n", "x.yaml:1:11:", "the field 'b' is given twice"),
            ("no: 1\n'no': 2\n", "x.yaml:2:1:", "the field 'no' is given twice"),
            ("true: 1\n", "x.yaml:1:1:", "name is not text"),
            ("? [a]\n: 1\n", "x.yaml:1:3:", "name is not text"),
            ("<<: {a: 1}\n", "x.yaml:1:1:", "merge keys"),
            ("a: !x 1\n", "x.yaml:1:4:", "the tag !x"),
            ("a: !!str 1\n", "x.yaml:1:4:", "the tag !!str"),
            ("a: *b\n", "x.yaml:1:4:", "the alias *b has no anchor before it"),
            ("a: &a [*a]\n", "x.yaml:1:8:", "the alias *a stands inside itself"),
            ("a: b: c\n", "x.yaml:1:5:", "not valid YAML"),
            ("a: [1, 2\nb: 3\n", "x.yaml:2:2:", "that starts in line 1"),
            ("a: 'x\n", "x.yaml:2:1:", "a quote is not closed"),
            ("a: @x\n", "x.yaml:1:4:", "put the value in quotes"),
            ("a: 1\nb\n", "x.yaml:3:1:", "a field is written as 'name: value'"),
            ("a: \u202eb\n", "x.yaml:1:4:", "the invisible character U+202E"),
            ("a: b\u2028c\n", "x.yaml:1:5:", "the invisible character U+2028"),
            ("a: \x1b[31m\n", "x.yaml:1:4:", "the invisible character U+001B"),
            ('a: "\\e[31m"\n', "x.yaml:1:4:", "the text holds the invisible character U+001B"),
            ('a: "\\ud800"\n', "x.yaml:1:7:", "not valid YAML"),
            ("[" * 100, "x.yaml:1:65:", f"nested more than {MAX_DEPTH} levels deep"),
        ],
    )
    def test_one_problem(self, tmp_path: Path, text: str | bytes, where: str, words: str) -> None:
        found = refusal(tmp_path, text)
        assert found.startswith(where)
        assert words in found

    def test_the_parser_in_python_says_the_same(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        text = "a: 1\na: 2\nb: [&x {c: .nan}, *x]\n"
        with_c = refusal(tmp_path, text)
        monkeypatch.delattr(yaml, "CSafeLoader", raising=False)
        assert refusal(tmp_path, text) == with_c
        assert document(tmp_path, "a: [1e-5, no]\n").root == {"a": [1e-5, "no"]}

    def test_many_problems_end_somewhere(self, tmp_path: Path) -> None:
        lines = [line for line in refusal(tmp_path, "a: 1\n" * 200).splitlines() if line[0] != " "]
        assert len(lines) == MAX_PROBLEMS + 1
        assert "more than these" in lines[-1]

    def test_not_a_readable_file(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="there is no such file"):
            read(tmp_path / "none.yaml")
        with pytest.raises(InputError, match="this is a folder"):
            read(tmp_path)
        with pytest.raises(InputError, match="cannot be read"):
            read(tmp_path / ("x" * 300))

    def test_as_many_values_as_allowed_and_one_more(self, tmp_path: Path) -> None:
        assert len(document(tmp_path, "- 1\n" * (MAX_NODES - 1)).root) == MAX_NODES - 1  # type: ignore[arg-type]
        assert "more than 10,000 values" in refusal(tmp_path, "- 1\n" * MAX_NODES)

    def test_aliases_count_as_often_as_they_are_used(self, tmp_path: Path) -> None:
        anchors = "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1]\nb: &b [*a, *a, *a, *a, *a, *a, *a, *a, *a]\n"
        assert document(tmp_path, anchors + "c: &c [*b, *b]\n").value(("c", 1, 8, 8)) == 1
        hostile = anchors + "".join(f"k{i}: *b\n" for i in range(120))
        assert "more than 10,000 values, aliases written out" in refusal(tmp_path, hostile)

    def test_long_text_counts_as_often_as_it_is_used(self, tmp_path: Path) -> None:
        text = f"a: &a {'x' * 500_000}\n" + "".join(f"k{i}: *a\n" for i in range(30))
        assert "more than 10,000 values" in refusal(tmp_path, text)

    def test_aliases_cannot_nest_deeper_than_allowed(self, tmp_path: Path) -> None:
        deep = f"a: &a {'[' * 40}{']' * 40}\n"
        assert f"nested more than {MAX_DEPTH}" in refusal(tmp_path, deep + f"b: {'[' * 40}*a{']' * 40}\n")


HOSTILE = {
    "larger than 1 MiB": b"a" * (10 << 20),
    "nested more than": b"[" * 100_000 + b"]" * 100_000,
    "nested more": b"{a: " * 100_000,
    "levels deep": b"- " * 100_000,
    "more than 10,000 values": b"\n".join(
        b"k%d: &a%d [%s]" % (i, i, b", ".join([b"*a%d" % (i - 1)] * 9) if i else b"1, 1") for i in range(200)
    ),
    "aliases written out": b"- 1\n" * 200_000,
    "is given twice": b"a: 1\n" * 5_000,
    "the file is empty": b"\n" * 1_000_000,
    "a tab": b"\t\n" * 500_000,
    "not UTF-8": b"a" * 1_000_000 + b"\xff",
    "invisible character": b"a: \x00" * 200_000,
    "not valid YAML": b"a: '" + b"x" * 1_000_000,
}


@pytest.mark.parametrize("words", HOSTILE)
def test_hostile_files_end_in_a_clear_error_soon(tmp_path: Path, words: str) -> None:
    """In a process of its own, so that a hang, a crash of the parser or a lack of memory fails this test alone."""
    path = tmp_path / "x.yaml"
    path.write_bytes(HOSTILE[words])
    code = (
        "import resource, sys; from pathlib import Path; from midguard.engine.errors import InputError;"
        "resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30));"
        "from midguard.engine.document import read\n"
        "try: read(Path(sys.argv[1]))\n"
        "except InputError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, timeout=20, check=True
    )
    assert words in done.stdout
    assert len(done.stdout) < 20_000


SCHEMA = {
    "type": "object",
    "additionalProperties": False,
    "required": ["id", "version"],
    "oneOf": [{"required": ["max"]}, {"required": ["min"]}],
    "properties": {
        "id": {"type": "string", "pattern": "^[a-z]+$", "patternErrorMessage": "expected lower-case letters"},
        "code": {"type": "string", "pattern": "^[0-9]+$", "minLength": 2, "maxLength": 3},
        "version": {"type": "string"},
        "word": {"type": "string", "minLength": 1},
        "share": {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
        "steps": {"type": "integer", "minimum": 1, "exclusiveMaximum": 10},
        "severity": {"enum": ["critical", "high"]},
        "kind": {"const": "Policy"},
        "list": {"type": "array", "minItems": 1, "maxItems": 4, "uniqueItems": True, "items": {"type": "string"}},
        "named": {"type": "object", "minProperties": 1, "patternProperties": {"^x": {}}, "additionalProperties": False},
        "choice": {
            "anyOf": [
                {"enum": ["loss", "label"]},
                {
                    "type": "object",
                    "properties": {"name": {"const": "loss"}, "steps": {"type": "integer"}},
                    "required": ["name"],
                    "additionalProperties": False,
                },
                {
                    "type": "object",
                    "properties": {"name": {"const": "label"}},
                    "required": ["name"],
                    "additionalProperties": False,
                },
            ]
        },
        "either": {"anyOf": [{"type": "string"}, {"type": ["array", "null"]}]},
        "both": {"oneOf": [{"type": "number"}, {"type": "integer"}]},
        "never": {"not": {}},
        "forbidden": False,
        "odd": {"multipleOf": 2},
        "max": {"type": "number"},
        "min": {"type": "number"},
    },
}
GOOD = "id: x\nversion: a\nmax: 1\n"


def found_in(folder: Path, text: str) -> list[str]:
    """The first line of each problem, without the file's name."""
    return [str(p).splitlines()[0].split("x.yaml:")[-1] for p in violations(document(folder, text), SCHEMA)]


class TestViolations:
    def test_nothing_wrong(self, tmp_path: Path) -> None:
        assert found_in(tmp_path, GOOD + "choice: {name: loss, steps: 3}\nlist: [a]\nnamed: {x1: 2}\ncode: 007\n") == []

    @pytest.mark.parametrize(
        ("text", "problem"),
        [
            ("kindd: Policy", "4:1: unknown field 'kindd', did you mean 'kind'?"),
            ("named: {y: 1}", "4:9: unknown field 'y', expected no field here"),
            ("severity: hihg", "4:11: unknown value 'hihg', did you mean 'high'?"),
            ("severity: zzz", "4:11: unknown value 'zzz', expected critical or high"),
            ("severity: 3", "4:11: expected critical or high, found 3"),
            ("severity: {a: 1}", "4:11: expected critical or high, found a mapping"),
            ("kind: Polizy", "4:7: unknown value 'Polizy', did you mean 'Policy'?"),
            ("code: a1", "4:7: 'a1' is not acceptable, expected text that matches ^[0-9]+$"),
            ("code: '1'", "4:7: expected at least 2 characters, found 1"),
            ("code: '1234'", "4:7: expected at most 3 characters, found 4"),
            ("word: ''", "4:7: this text is empty, write something"),
            ("code: 1.10", '4:7: expected text, found 1.1, put it in quotes: "1.10"'),
            ("code: true", '4:7: expected text, found true, put it in quotes: "true"'),
            ("code:", "4:6: expected text, found nothing, write a value or take the field out"),
            ("share: 2", "4:8: expected a value <= 1, found 2"),
            ("share: 0", "4:8: expected a value > 0, found 0"),
            ("share: '0.5'", "4:8: expected a number, found the text '0.5', write it without quotes: 0.5"),
            (
                "share: 1:30",
                "4:8: expected a number, found the text '1:30', write a plain decimal number, such as 0.05 or 1e-5",
            ),
            ("share: [1]", "4:8: expected a number, found a list"),
            ("steps: 1.5", "4:8: expected a whole number, found 1.5"),
            ("steps: 0", "4:8: expected a value >= 1, found 0"),
            ("steps: 10", "4:8: expected a value < 10, found 10"),
            ("list: []", "4:7: this list is empty, at least one entry is needed"),
            ("list: [a, b, c, d, e]", "4:7: expected at most 4 entries, found 5"),
            ("list: [a, b, a]", "4:14: this entry is given twice, keep one"),
            ("list: a", "4:7: expected a list, found the text 'a', write a list: [a]"),
            ("named: {}", "4:8: this mapping is empty, at least one entry is needed"),
            ("choice: los", "4:9: unknown value 'los', did you mean 'loss'?"),
            ("choice: {name: lable}", "4:16: unknown value 'lable', did you mean 'label'?"),
            ("choice: {name: loss, stepps: 1}", "4:22: unknown field 'stepps', did you mean 'steps'?"),
            ("choice: {name: label, steps: 1}", "4:23: unknown field 'steps', expected name"),
            ("choice: {name: loss, steps: x}", "4:29: expected a whole number, found the text 'x'"),
            ("choice: {nam: loss}", "4:10: unknown field 'nam', did you mean 'name'?"),
            ("choice: [loss]", "4:9: expected loss or label or a mapping, found a list"),
            ("either: 3", "4:9: expected text or a list or nothing, found 3"),
            ("both: 3", "4:7: this can be read in more than one way"),
            ("never: 1", "4:1: this does not belong here, take it out"),
            ("odd: 3", "4:6: not acceptable: 3 is not a multiple of 2"),
            ("min: 2", "4:1: 'max' and 'min' cannot both stand here, keep one of them"),
        ],
    )
    def test_one_problem(self, tmp_path: Path, text: str, problem: str) -> None:
        found = found_in(tmp_path, GOOD + text)
        assert len(found) == 1
        assert found[0].startswith(problem)

    def test_the_schema_false(self, tmp_path: Path) -> None:
        assert any("does not belong here" in line for line in found_in(tmp_path, GOOD + "forbidden: 1"))

    def test_missing_fields_stand_at_the_mapping(self, tmp_path: Path) -> None:
        assert found_in(tmp_path, "share: 1") == [
            "1:1: the field 'id' is missing",
            "1:1: the field 'version' is missing",
            "1:1: one of the fields 'max' or 'min' is missing",
        ]

    def test_a_misspelt_field_is_not_missing_too(self, tmp_path: Path) -> None:
        assert found_in(tmp_path, "id: x\nverson: a\nmaxx: 1\n") == [
            "2:1: unknown field 'verson', did you mean 'version'?",
            "3:1: unknown field 'maxx', did you mean 'max'?",
        ]

    def test_something_else_than_a_mapping(self, tmp_path: Path) -> None:
        assert found_in(tmp_path, "- 1\n") == ["1:1: expected a mapping, found a list"]

    def test_all_problems_in_the_order_of_the_file(self, tmp_path: Path) -> None:
        found = found_in(tmp_path, "severity: hihg\nid: X\nversion: 1.0\nshare: 2\nmax: a\n")
        assert [line.split(":")[0] for line in found] == ["1", "2", "3", "4", "5"]

    def test_a_part_of_the_document(self, tmp_path: Path) -> None:
        whole = document(tmp_path, "top:\n  - id: x\n    version: 1.0\n    max: 1\n")
        problems = violations(whole, SCHEMA, ("top", 0))
        assert [str(p).split("x.yaml:")[1] for p in problems] == [
            '3:14: expected text, found 1.0, put it in quotes: "1.0"\n        version: 1.0\n                 ^^^'
        ]
        with pytest.raises(KeyError):
            violations(whole, SCHEMA, ("nowhere",))

    def test_many_problems_end_somewhere(self, tmp_path: Path) -> None:
        problems = violations(document(tmp_path, "".join(f"max{i}: 1\n" for i in range(3000))), SCHEMA)
        assert len(problems) == MAX_PROBLEMS + 1
        assert all(isinstance(problem, Problem) for problem in problems)

    def test_a_page_of_text_is_quoted_in_part_and_never_compared(self, tmp_path: Path) -> None:
        (line,) = found_in(tmp_path, f"{GOOD}severity: {'h' * 5000}\n")
        assert len(line) < 200
        assert "did you mean" not in line
