"""What the report shows of inversion: pictures only where they were asked for, every control, the floor, the worst."""

from __future__ import annotations

import base64
import io
import json
import re
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from midguard.engine.errors import InputError, MidguardError
from midguard.reports import figures
from midguard.reports.evidence import read
from midguard.reports.html import render_html
from midguard.reports.markdown import render_markdown
from midguard.reports.pdf import render_pdf
from midguard.reports.pictures import content_of, picture
from midguard.reports.sections import compose

from .test_report import (
    CARD,
    HOSTILE,
    PEM,
    POLICY,
    as_bytes,
    drawn,
    linear,
    marked,
    overflowing,
    pages,
    parsed,
    sample_evidence,
    words,
    worst_first_page,
)

Evidence = dict[str, Any]
MI_FACE, ALIGNMENT, UPDATES = "inversion.mi_face", "inversion.knowledge_alignment", "inversion.update_leaks"
CRASH = "the loss became NaN at step 120"
NUMBERS = ("mse", "ssim", "feature", "identified", "rank1", "gap")
#: A record that must never be seen unasked: no other file holds these values.
PLANTED = np.random.default_rng(20261128).integers(0, 256, (8, 8), dtype=np.uint8)


def png(values: Any, mode: str = "L", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(values, dtype=np.uint8), mode).save(buffer, "PNG", **options)
    return buffer.getvalue()


def encoded(values: Any, mode: str = "L") -> str:
    return base64.b64encode(png(values, mode)).decode()


def row(name: str, kind: str, base: float | None = 0.05, reason: str = "", targets: int = 10) -> Evidence:
    numbers = [None] * 6 if base is None else [base, 1 - 5 * base, 3 * base, 0.7, 0.8, 0.4 * base]
    return {
        "name": name,
        "kind": kind,
        **dict(zip(NUMBERS, numbers, strict=True)),
        "targets": targets,
        "reason": reason,
    }


CLASS_ROWS = [
    row("this model", "attack", 0.031),
    row("leaky twin", "control", 0.021),
    row("null", "control", 0.06),
    row("untrained", "control", 0.061),
    row("without the class", "control", None, f"it stopped: {CRASH}", 0),
    row("nonmembers", "control", 0.033),
    row("global mean", "no model", 0.062),
    row("class mean", "no model", 0.055),
    row("random record of the class", "no model", 0.07),
    row("class mean of the members", "oracle", 0.035),
    row("nearest auxiliary record", "oracle", 0.041),
]
RECORD_ROWS = [
    row("this model", "attack", None, CRASH, 0),
    row("leaky twin", "control", 0.02),
    row("null", "control", 0.06),
    row("label-only floor", "control", 0.05, "behind a release of the label alone"),
    row("class mean", "no model", 0.058),
]
EVALUATORS = [
    {"name": "nearest neighbour", "accuracy": 0.9412, "falsePositives": 0.1},
    {"name": "eigen-features", "accuracy": 0.911, "falsePositives": 0.05},
    {"name": "network", "accuracy": 0.963, "falsePositives": None},
]


def tiles(n: int, pictures: bool, planted: Any = PLANTED) -> list[Evidence]:
    rng = np.random.default_rng(5)
    return [
        {
            "target": i,
            "distance": 0.02 + 0.003 * i,
            "baseline": 0.06,
            "identified": (True, False, None)[i % 3],
            "pictures": {
                "target": encoded(planted if i == 0 else rng.integers(0, 256, (8, 8))),
                "reconstruction": encoded(rng.integers(0, 256, (8, 8))),
                "baseline": encoded(np.full((8, 8), 90 + i)),
            }
            if pictures
            else None,
        }
        for i in range(n)
    ]


def inversion_evidence(shown: bool = False, n: int = 10, **changes: Any) -> Evidence:
    """Evidence with three goals: a class attack one of whose controls crashed, a record attack that did, an update."""
    evidence = sample_evidence()
    by_name = {a["name"]: a for a in evidence["attacks"]}
    update = by_name[MI_FACE] | {"name": UPDATES, "queries": 77, "seconds": 3.25}
    update["threat"] = update["threat"] | {"goal": "update-reconstruction"}
    evidence["attacks"].append(update)
    inversion = {"metric": "mse", "goal": "class-representative", "rows": CLASS_ROWS, "evaluators": EVALUATORS}
    by_name[MI_FACE]["inversion"] = inversion
    by_name[ALIGNMENT]["inversion"] = inversion | {
        "goal": "record-reconstruction", "rows": RECORD_ROWS, "evaluators": [],
    }  # fmt: skip
    update["inversion"] = inversion | {
        "goal": "update-reconstruction", "rows": [row("this model", "attack", 0.044)], "evaluators": [],
    }  # fmt: skip
    for name in ("membership.loss", "membership.modified_entropy", "membership.label"):
        by_name[name]["inversion"] = None
    worst = [{"target": 3, "distance": 0.0201, "baseline": 0.0602}, {"target": 1, "distance": 0.0211, "baseline": 0.06}]
    evidence["figures"]["distances"][0] |= {"floor": 0.0523, "worst": worst}
    evidence["figures"]["gallery"] = {
        "shown": shown,
        "attacks": [
            {"attack": MI_FACE, "goal": "class-representative", "tiles": tiles(n, shown)},
            {"attack": UPDATES, "goal": "update-reconstruction", "tiles": tiles(2, shown)},
        ],
    }
    return json.loads(json.dumps(evidence | changes))


def section(page: ElementTree.Element) -> ElementTree.Element:
    return next(e for e in page.iter("section") if e.get("id") == "inversion")


def with_attribute(root: ElementTree.Element, name: str) -> dict[str, ElementTree.Element]:
    return {str(e.get(name)): e for e in root.iter() if e.get(name) is not None}


def images(page: ElementTree.Element) -> list[ElementTree.Element]:
    return list(page.iter("img"))


@pytest.fixture(scope="module")
def hidden() -> ElementTree.Element:
    return section(parsed(render_html(inversion_evidence(), CARD)))


@pytest.fixture(scope="module")
def shown() -> ElementTree.Element:
    return section(parsed(render_html(inversion_evidence(shown=True), CARD)))


# ----------------------------------------------------------------------------------------------------------- pictures


def test_without_the_flag_there_are_tiles_and_no_picture(hidden):
    assert images(hidden) == []
    found = [e for e in hidden.iter() if e.get("data-tile") is not None]
    assert len(found) == 12
    assert all(words(tile).count("not shown") == 3 for tile in found)
    assert "says nothing about how much they show" in words(hidden)
    assert "midguard check policy.yaml model.pt --seed 1234 --show-reconstructions" in words(hidden)


def test_no_value_of_a_record_is_in_anything_that_is_written_unasked():
    """The picture is searched as bytes, as Base64 at each of its three phases, and by its pixels."""
    evidence = inversion_evidence()
    page = render_html(evidence, CARD)
    written = render_pdf(evidence, as_bytes(evidence), POLICY.encode(), PEM, CARD)
    for document in (page.encode(), written, as_bytes(evidence)):
        assert b"iVBORw0KGgo" not in document
        assert b"\x89PNG" not in document
        assert b"data:image" not in document
    assert b"/Subtype /Image" not in written
    assert "img-src" not in page


def test_with_the_flag_each_tile_shows_target_reconstruction_and_guess(shown):
    found = with_attribute(shown, "data-tile")
    assert list(found)[:3] == ["class 0", "class 1", "class 2"]
    assert [len(images(tile)) for tile in found.values()] == [3] * len(found)
    first = images(found["class 0"])
    assert [e.get("alt") for e in first] == [
        f"{part}, class 0, {MI_FACE}" for part in ("target", "reconstruction", "guess without the model")
    ]
    seen = np.asarray(Image.open(io.BytesIO(content_of(first[0].get("src")))))
    assert seen.shape == (192, 192)
    assert np.array_equal(seen[12::24, 12::24], PLANTED)
    assert np.array_equal(seen, np.kron(PLANTED, np.ones((24, 24), dtype=np.uint8)))  # every value a square
    assert "not shown" not in words(shown)


def test_the_pdf_holds_exactly_the_pictures_opaque_and_as_they_are():
    evidence = inversion_evidence(shown=True, n=3)
    written = render_pdf(evidence, as_bytes(evidence), POLICY.encode(), PEM, CARD)
    objects = re.findall(rb"/Subtype /Image.*?stream", written, re.DOTALL)
    page = parsed(render_html(evidence, CARD))
    assert len(objects) == len({e.get("src") for e in images(page)})  # the same picture is stored once
    assert len(objects) >= 7
    assert all(b"/Interpolate false" in o for o in objects)  # PDF/A-3, 6.2.8: no smoothing
    assert not any(b"/SMask" in o for o in objects)


def test_pictures_are_announced_on_the_first_page_and_among_the_limits():
    silent, loud = (words(parsed(render_html(inversion_evidence(shown=s), CARD))) for s in (False, True))
    assert "PERSONAL DATA" not in silent
    assert "This report holds no record and no reconstruction of one." in silent
    assert "PERSONAL DATA" in loud.split("Verdict")[0]
    assert "holds records and reconstructions of them" in loud
    assert "holds no record and no reconstruction" not in loud
    laid_out = pages(None, worst_first_page() | {"figures": inversion_evidence(shown=True)["figures"]})
    assert "contents" in laid_out[1].anchors  # the first page holds it all


def test_only_a_page_with_pictures_lets_them_be_drawn_and_nothing_else():
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', render_html(inversion_evidence(shown=True), CARD))
    assert policy is not None
    assert "img-src data:;" in policy[1]
    assert "default-src &#39;none&#39;" in policy[1]


def test_evidence_that_holds_pictures_which_it_denies_gives_no_report():
    """The evidence is attached to the PDF: what the report leaves out would travel with it."""
    evidence = inversion_evidence(shown=True)
    evidence["figures"]["gallery"]["shown"] = False
    with pytest.raises(MidguardError, match="holds pictures of inversion"):
        compose(evidence, CARD)


def test_shown_is_true_and_nothing_that_looks_like_it():
    evidence = inversion_evidence()
    evidence["figures"]["gallery"]["shown"] = "true"
    assert "Targets, without their pictures" in words(section(parsed(render_html(evidence, CARD))))


def test_of_many_targets_twenty_have_a_tile_and_the_others_are_counted():
    page = section(parsed(render_html(inversion_evidence(n=33), CARD)))
    trial = with_attribute(page, "data-trial")[MI_FACE]
    assert len(with_attribute(trial, "data-tile")) == 20
    assert "13 more targets not drawn" in words(trial)


def test_no_tile_is_cut_by_the_end_of_a_page():
    """Every tile's three pictures lie on one page, whole."""
    laid_out = pages(CARD, inversion_evidence(shown=True, n=20))
    seen = []
    for page in laid_out:
        area = page._page_box
        bottom = area.position_y + area.margin_top + area.height
        boxes = [b for b in area.descendants() if b.element is not None and (b.element.get("class") == "tile")]
        whole = {id(b.element): b for b in boxes if hasattr(b, "position_y")}
        for box in whole.values():
            assert box.position_y + box.height <= bottom + 1
            assert sum(d.element_tag == "img" for d in box.descendants()) == 3
            seen.append(id(box.element))
    assert len(seen) == len(set(seen)) == 22
    assert [texts for texts in map(overflowing, laid_out) if texts] == []


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("not base64!", "no PNG"),
        (base64.b64encode(b"<svg onload='alert(1)'/>").decode(), "no PNG"),
        (base64.b64encode(png(PLANTED)[:60]).decode(), "no PNG"),
        (encoded(np.zeros((1, 1025))), "at most 1024"),
    ],
)
def test_what_is_no_small_picture_gives_no_report(content, says):
    evidence = inversion_evidence(shown=True)
    evidence["figures"]["gallery"]["attacks"][0]["tiles"][1]["pictures"]["baseline"] = content
    with pytest.raises(MidguardError, match=says):
        compose(evidence, CARD)


def test_transparency_is_laid_on_white_and_hidden_text_stays_behind():
    clear = np.zeros((4, 4, 4))
    clear[0, 0] = (200, 10, 20, 255)
    info = PngImagePlugin.PngInfo()
    info.add_text("person", "Erika Mustermann")
    content = png(clear, "RGBA", pnginfo=info)
    again = content_of(picture(base64.b64encode(content).decode(), "").source)
    seen = Image.open(io.BytesIO(again))
    assert seen.mode == "RGB"
    assert seen.getpixel((0, 0)) == (200, 10, 20)
    assert seen.getpixel((191, 191)) == (255, 255, 255)
    assert b"Erika" in content
    assert b"Erika" not in again


def test_a_target_that_is_no_image_has_a_tile_that_says_so():
    evidence = inversion_evidence(shown=True)
    for tile in evidence["figures"]["gallery"]["attacks"][0]["tiles"]:
        tile["pictures"] = None
    trial = with_attribute(section(parsed(render_html(evidence, CARD))), "data-trial")[MI_FACE]
    assert words(trial).count("no picture") == 30
    assert "says nothing about how much it would show" in words(trial)


# ----------------------------------------------------------------------------------------------------------- controls


def test_every_row_stands_beside_the_attack_with_its_numbers(hidden):
    found = with_attribute(with_attribute(hidden, "data-trial")[MI_FACE], "data-row")
    assert list(found) == [r["name"] for r in CLASS_ROWS]
    for entry in CLASS_ROWS:
        numbers = [float(d.get("value")) for d in found[entry["name"]].iter("data")]
        assert numbers == [entry[name] for name in NUMBERS if entry[name] is not None]


def test_a_control_that_crashed_has_its_row_and_its_reason(hidden):
    trial = with_attribute(hidden, "data-trial")[MI_FACE]
    table = next(t for t in trial.iter("table") if "rows" in t.get("class", ""))
    lines = list(table.iter("tr"))
    at = next(i for i, tr in enumerate(lines) if tr.get("data-row") == "without the class")
    assert words(lines[at + 1]) == f"No numbers. It stopped: {CRASH}."
    cells = [words(cell) for cell in lines[at].iter("td")]
    assert cells == ["–"] * 6 + ["0"]


def test_an_attack_that_crashed_is_there_with_its_controls_and_is_no_sign_of_safety(hidden):
    trial = with_attribute(hidden, "data-trial")[ALIGNMENT]
    assert f"It stopped. {CRASH}. That is no sign of safety" in words(trial)
    assert list(with_attribute(trial, "data-row")) == [r["name"] for r in RECORD_ROWS]


def test_goals_never_share_a_table_of_distances(hidden):
    trials = with_attribute(hidden, "data-trial")
    assert [words(next(t.iter("h3"))) for t in trials.values()] == [
        f"{MI_FACE} (class-representative)",
        "inversion.gradient (class-representative)",
        f"{ALIGNMENT} (record-reconstruction)",
        f"{UPDATES} (update-reconstruction)",
    ]
    tables = [t for t in hidden.iter("table") if with_attribute(t, "data-row")]
    inside = [t for trial in trials.values() for t in trial.iter("table") if with_attribute(t, "data-row")]
    assert len(tables) == len(inside) == 3  # one each, and none elsewhere


def test_evaluators_stand_beneath_with_their_false_positives(hidden):
    found = with_attribute(with_attribute(hidden, "data-trial")[MI_FACE], "data-evaluator")
    assert [[words(c) for c in tr] for tr in found.values()] == [
        ["nearest neighbour", "94.12 %", "10 %"],
        ["eigen-features", "91.1 %", "5 %"],
        ["network", "96.3 %", "–"],
    ]


def test_queries_and_time_of_every_inversion_attack_are_in_one_table(hidden):
    found = with_attribute(hidden, "data-cost")
    assert list(found) == [MI_FACE, "inversion.gradient", ALIGNMENT, UPDATES]
    assert [words(c) for c in found[UPDATES]] == [UPDATES, "update-reconstruction", "Ran", "77", "3.25"]
    assert [words(c) for c in found[ALIGNMENT]][2] == "Crashed"


def test_each_requirement_names_the_goal_that_decided_it(hidden):
    found = {name: words(list(tr)[-1]) for name, tr in with_attribute(hidden, "data-decision").items()}
    assert found == {
        "inversion-distance": f"{MI_FACE} goal: class-representative",
        "inversion-ssim": f"{MI_FACE} goal: class-representative",
        "inversion-identification": "nothing",
        "record-reconstruction": f"{ALIGNMENT} goal: record-reconstruction",
    }


def test_without_inversion_attacks_the_report_says_that_nothing_was_measured():
    evidence = sample_evidence()
    evidence["attacks"] = evidence["attacks"][:3]
    assert "No inversion attack was planned" in words(section(parsed(render_html(evidence, CARD))))


def test_older_evidence_renders_and_says_what_it_lacks():
    page = section(parsed(render_html(sample_evidence(), CARD)))
    trial = with_attribute(page, "data-trial")[MI_FACE]
    assert "holds no rows for its controls" in words(trial)
    assert "holds no gallery. That says nothing" in words(trial)
    captions = " ".join(f.caption for f in compose(sample_evidence(), CARD).figures)
    assert "worst protected" not in captions
    assert "floor" not in captions


def test_hostile_names_are_text_in_tables_tiles_and_captions():
    evidence = inversion_evidence(shown=True)
    entry = next(a for a in evidence["attacks"] if a["name"] == MI_FACE)["inversion"]
    for part in (entry["rows"][0], entry["rows"][1], entry["evaluators"][0]):
        part["name"] = HOSTILE
    entry["rows"][2] |= {"reason": HOSTILE, "kind": HOSTILE}
    evidence["figures"]["gallery"]["attacks"][0]["tiles"][0]["target"] = HOSTILE
    evidence["figures"]["distances"][0]["worst"][0]["target"] = HOSTILE
    page = render_html(evidence, CARD)
    assert "<script>alert" not in page
    assert len(list(parsed(page).iter("script"))) == 1  # the place of the attestation
    assert HOSTILE in [e.get("data-row") for e in parsed(page).iter("tr")]


# ------------------------------------------------------------------------------------------------- the figure, the rest


def test_the_floor_lies_where_the_ticks_say_and_is_named():
    attack, guess = [0.03, 0.05, 0.08], [0.06, 0.05, 0.10]
    distances = figures.Distances("mse", [0, 1, 2], attack, guess, "mean", 0.8, 0.125)
    root = drawn(figures.distance_plot("k", "a", distances))
    y = linear(marked(root, "tick-y"), "y")
    (floor,) = marked(root, "floor")
    assert [y(float(floor.get(end))) for end in ("y1", "y2")] == pytest.approx([0.125, 0.125], abs=5e-4)
    assert floor.get("stroke-dasharray") not in (None, "")
    legend = [e.text for e in marked(root, "legend")]
    assert "floor: 0.125 by the label alone, which no output defence can beat" in legend
    dots = [e for e in root if e.tag.endswith("circle") and e.get("fill") != "#ffffff"]
    assert [y(float(d.get("cy"))) for d in dots] == pytest.approx(attack, abs=1e-3)


@pytest.mark.parametrize("floor", [None, float("nan"), float("inf")])
def test_a_floor_that_is_not_known_is_not_drawn(floor):
    root = drawn(figures.distance_plot("k", "a", figures.Distances("mse", [0, 1], [0.1, 0.2], [0.2, 0.2], floor=floor)))
    assert marked(root, "floor") == []
    assert not any("floor" in e.text for e in marked(root, "legend"))


def test_the_caption_names_floor_and_worst_targets():
    caption = next(f.caption for f in compose(inversion_evidence(), CARD).figures if "worst protected" in f.caption)
    assert caption.endswith(
        "The worst protected of the targets (5 %, at most 20): class 3 (0.0201, guess 0.0602) and class 1 (0.0211, "
        "guess 0.06)."
    )
    assert "no output defence can keep it farther away" in caption


def test_of_many_records_the_first_are_named_and_the_others_counted():
    evidence = inversion_evidence()
    entry = evidence["figures"]["distances"][0]
    entry["goal"] = "record-reconstruction"
    entry["worst"] = [{"target": i, "distance": 0.01 + i / 1000, "baseline": 0.06} for i in range(20)]
    caption = next(f.caption for f in compose(evidence, CARD).figures if "worst protected" in f.caption)
    assert caption.count("record of rank") == 5
    assert caption.endswith("record of rank 4 (0.014, guess 0.06) and 15 more up to 0.029.")
    entry["goal"] = "class-representative"
    caption = next(f.caption for f in compose(evidence, CARD).figures if "worst protected" in f.caption)
    assert caption.count("class ") == 20


def test_an_untrained_network_is_no_null_of_records():
    """Its answers tell of a record whatever it learnt; of a class they must tell nothing."""
    evidence = inversion_evidence()
    entry = next(a for a in evidence["attacks"] if a["name"] == ALIGNMENT)["inversion"]
    entry["rows"] = [*RECORD_ROWS, row("untrained", "control", 0.02)]
    notes = {
        t.attack["name"]: {r.name: r.note for g in t.groups for r in g.rows}
        for t in compose(evidence, CARD).inversion.trials
    }
    assert notes[MI_FACE]["untrained"] == "Must fall to the guesses"
    assert "fall" not in notes[ALIGNMENT]["untrained"]


def test_markdown_says_goal_and_worst_target():
    text = render_markdown(inversion_evidence())
    line = next(t for t in text.splitlines() if t.startswith("|") and "inversion-distance" in t)
    assert "class-representative" in line
    said = "closest target of inversion.mi_face (class-representative): class 3, mse 0.0201 against 0.0602 without"
    assert said in text.replace("\\", "")
    assert "closest target" not in render_markdown(sample_evidence())


def test_evidence_whose_worst_targets_cannot_be_read_is_refused():
    evidence = inversion_evidence()
    evidence["figures"]["distances"][0]["worst"] = "class 3"
    with pytest.raises(InputError, match="worst"):
        read(evidence)


# ------------------------------------------------------------------------------------------------- as a user meets it

ASKED = "id: distance, measure: inversion.distance, min: 0.5, attacks: [inversion.knowledge_alignment]"


def pictured(evidence: Evidence) -> list[Evidence]:
    return [tile["pictures"] for entry in evidence["figures"]["gallery"]["attacks"] for tile in entry["tiles"]]


def shades(image: Any) -> bytes:
    """A digit's own 64 values, as 256 shades of grey, however large it is drawn."""
    step = len(image) // 8
    return np.asarray(image)[step // 2 :: step, step // 2 :: step].astype(np.uint8).tobytes()


def test_a_check_shows_members_only_where_it_is_asked_to(midguard, careless, write_policy, tmp_path):
    """The pictures are held against the members' own file, which no report reads."""
    command = ("check", write_policy(ASKED), careless / "model.pt", "--seed", "7", "--format", "json")
    silent, loud = midguard(*command), midguard(*command, "--show-reconstructions")
    assert silent.code == loud.code
    assert silent.code in {0, 1, 3}, silent.err
    before, after = json.loads(silent.out), json.loads(loud.out)
    assert len(pictured(before)) == len(pictured(after)) == 20
    assert not any(pictured(before))
    assert "iVBORw0KGgo" not in silent.out
    assert "Personal data" not in silent.err
    assert "Personal data: pass them only to those who may see the records" in loud.err
    assert after["findings"] == before["findings"]
    with np.load(careless / "members.npz") as file:
        members = {shades(np.round(image * 255)) for image in file["x"][:, 0]}
    seen = [Image.open(io.BytesIO(base64.b64decode(pictures["target"]))) for pictures in pictured(after)]
    assert {shades(image) for image in map(np.asarray, seen)} <= members


def test_report_adds_no_pictures_to_evidence_that_was_made_without(midguard, tmp_path):
    (tmp_path / "silent.json").write_bytes(as_bytes(inversion_evidence()))
    refused = midguard("report", "silent.json", "--out", "reports", "--show-reconstructions")
    assert refused.code == 2
    assert "it was made without pictures" in refused.err
    assert "midguard check policy.yaml model.pt --seed 1234 --show-reconstructions" in refused.err
    assert not (tmp_path / "reports").exists()


def test_report_draws_what_the_evidence_shows_and_changes_nothing_of_it(midguard, tmp_path):
    content = as_bytes(inversion_evidence(shown=True, n=2, signed=False))
    (tmp_path / "shown.json").write_bytes(content)
    drawn_again = midguard("report", "shown.json", "--out", "reports", "--show-reconstructions")
    assert drawn_again.code == 0
    assert "Personal data" in drawn_again.err
    assert (tmp_path / "reports" / "evidence.json").read_bytes() == content
    assert len(images(parsed((tmp_path / "reports" / "report.html").read_text()))) == 12
