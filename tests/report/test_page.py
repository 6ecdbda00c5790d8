import itertools
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest

from depthprune.manifest import Estimate, HeldOut, PathPoint, SourceModel
from depthprune.report.page import SECTIONS, dense_held_out, render_page

from .examples import answers, calibration, full, minimal, sample, search

VOID = {"meta", "link", "br", "hr", "img", "input"}


class Page(HTMLParser):
    """The elements, the text and the balance of tags of a page."""

    def __init__(self, source: str):
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(source)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.open or self.open[-1] not in ("script", "style"):
            self.text += data

    def all(self, *tags):
        return [attributes for tag, attributes in self.elements if tag in tags]


@pytest.fixture(scope="module")
def page():
    return Page(render_page(full()))


def words(page):
    return " ".join(page.text.split())


@pytest.mark.parametrize("manifest", [full(), minimal()])
def test_tags_are_balanced(manifest):
    assert Page(render_page(manifest)).open == []


def test_the_answer_comes_first(page):
    text = words(page)
    assert "demo, 6 of 30 blocks removed" in text
    assert (
        "Perplexity on held-out stdlib-prose 24.7 → 46.9 ± 1.9, on stdlib-code 4.11 → 9.04 ± 0.74; "
        "1.22× faster prefill, 1.23× faster decode, 16% fewer parameters." in text
    )


@pytest.mark.parametrize(
    "expected",
    [
        "3, 4, 12–14, 26",
        "134.5M",
        "226.6 MB",
        "+0.643 ± 0.018",
        "+9.87 ± 0.60",
        "1,204 (1,171–1,220)",
        "52% saved",
        "4 min 11 s",
        "Parity: bitwise equal",
        "b3:008f1c0a7e94d265",
        "--search greedy --protect 0,29 -o out/demo",
        "3.874 ± 0.048",
        "returns the number of bytes read from the file",
        "transformers 5.23.0",
    ],
)
def test_the_page_shows(page, expected):
    assert expected in words(page)


def test_nothing_is_fetched(page):
    for _, attributes in page.elements:
        for name in ("src", "href", "xlink:href", "action", "poster", "data", "srcset"):
            assert (attributes.get(name) or "#").startswith(("#", "data:"))
    source = render_page(full())
    assert "@import" not in source
    assert set(re.findall(r"url\((.)", source)) == {"#"}
    assert set(re.findall(r"https?://[^\"' <]+", source)) == {"http://www.w3.org/2000/svg"}


def test_markup_in_what_others_wrote_is_shown_and_not_run():
    evil = '<script>alert(1)</script><img src=x onerror="alert(2)">'
    record = full().held_out[0].model_copy(update={"calibration": evil})
    source = render_page(
        full(
            model=SourceModel(name=evil, kind="folder", model_type=evil, blocks=30, revision=evil),
            calibration=[calibration(evil, 0).model_copy(update={"notes": [evil]})],
            held_out=[record],
            command=evil,
            objective=evil,
            device=evil,
            answers=[answers(evil)],
            sample=sample().model_copy(update={"prompt": evil, "before": evil, "after": evil}),
        )
    )
    parsed = Page(source)
    assert len(parsed.all("script")) == 1
    assert parsed.all("img") == []
    assert evil in parsed.text


def test_only_the_script_of_the_page_may_run(page):
    policy = next(a["content"] for a in page.all("meta") if a.get("http-equiv"))
    assert "default-src 'none'" in policy
    assert "script-src 'sha256-" in policy


@pytest.mark.parametrize(
    ("field", "section"),
    [
        ("held_out", "quality"),
        ("sample", "sample"),
        ("answers", "answers"),
        ("blocks", "blocks"),
        ("path", "path"),
        ("calibration", "calibration"),
        ("search", "search"),
        ("parity", "parity"),
    ],
)
def test_a_section_vanishes_with_its_records(field, section):
    ids = [a.get("id") for a in Page(render_page(full(**{field: None}))).all("section")]
    assert ids == [
        name for name in SECTIONS if name not in (section, "recovery", "target", "draft")
    ]


def test_size_and_speed_share_a_section():
    def shown(**changes):
        return "gains" in [a["id"] for a in Page(render_page(full(**changes))).all("section")]

    assert shown(size=None)
    assert shown(speed=None)
    assert not shown(size=None, speed=None)


def test_a_page_of_surgery_alone_says_that_parity_was_not_checked():
    page = Page(render_page(minimal()))
    assert [a["id"] for a in page.all("section")] == ["mask", "reproduce"]
    assert "Parity not checked" in words(page)


def test_sets_that_were_not_finite_are_named():
    manifest = full(search=search().model_copy(update={"not_finite": [[7], [7, 9]]}))
    assert "behind all others: 7; 7,9." in words(Page(render_page(manifest)))


def test_an_objective_without_perplexity_shows_its_loss():
    before = Estimate(loss=0.0, stderr=0.0, windows=8, tokens=4088)
    after = Estimate(loss=0.412, stderr=0.021, windows=8, tokens=4088)
    record = HeldOut(
        calibration="stdlib-prose", dense=before, pruned=after, increase=0.412, increase_stderr=0.02
    )
    text = words(Page(render_page(full(objective="kl", held_out=[record]))))
    assert "Kl loss on held-out stdlib-prose 0.000 → 0.412 ± 0.021" in text
    assert "erplexity" not in text


def test_the_limit_is_of_the_held_out_loss():
    assert dense_held_out(full()) == pytest.approx(3.203)
    assert dense_held_out(full(path=full().path[1:])) == pytest.approx((3.2051 + 1.4127) / 2)
    manifest = full(search=search().model_copy(update={"max_increase": 0.05}))
    source = render_page(manifest)
    assert "limit 3.363" in source
    assert "grows by at most 5%" in source


def test_the_limit_of_a_negative_loss_lies_above_it():
    path = [PathPoint(k=k, removed=[3] * k, loss=-2.0, held_out=-2.0 + 0.05 * k) for k in (0, 1)]
    changes = {"max_increase": 0.05}
    manifest = full(search=search().model_copy(update=changes), path=path, objective="margin")
    assert "limit −1.900" in render_page(manifest)


def test_a_loss_that_is_not_in_nats_is_not_said_to_be():
    assert "loss, nats a token" in render_page(full())
    source = render_page(full(objective="accuracy"))
    assert "loss, nats a token" not in source
    assert ">loss (accuracy)<" in source


def test_text_that_decided_the_size_is_not_said_to_have_decided_nothing():
    plain, seen = words(Page(render_page(full()))), "neither the search nor its calibration has"
    assert f"{seen} seen it. Errors" in plain
    sized = full(search=search().model_copy(update={"max_increase": 0.05}))
    text = words(Page(render_page(sized)))
    assert f"{seen} seen it; but it decided how many blocks went" in text


def test_losses_of_several_objectives_are_each_named():
    names = ("nll", "option-ce")
    records = [
        record.model_copy(update={"objective": name})
        for record, name in zip(full().held_out, names, strict=True)
    ]
    text = words(Page(render_page(full(objective="nll:0.5+option-ce:0.5", held_out=records))))
    assert "stdlib-prose (nll)" in text
    assert "stdlib-code (option-ce)" in text
    assert "Loss (nll:0.5" not in text


def test_headings_descend_one_level_at_a_time(page):
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))


def test_the_page_has_landmarks_and_a_way_past_them(page):
    tags = [tag for tag, _ in page.elements]
    assert {"header", "nav", "main", "footer"} <= set(tags)
    ids = {attributes.get("id") for _, attributes in page.elements}
    assert {a["href"][1:] for a in page.all("a")} <= ids


def test_tables_have_captions_and_scopes(page):
    assert len(page.all("table")) == len(page.all("caption")) > 5
    assert all(a.get("scope") for a in page.all("th"))


def test_ids_are_unique(page):
    ids = [a["id"] for _, a in page.elements if a.get("id")]
    assert len(ids) == len(set(ids))


def test_the_same_manifest_gives_the_same_page():
    assert render_page(full()) == render_page(full())


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)


def browse(tmp_path, source, *flags):
    (tmp_path / "page.html").write_text(source, encoding="utf-8")
    return subprocess.run(
        [
            CHROMIUM,
            *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
            *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
            *("--enable-logging=stderr", f"--user-data-dir={tmp_path / 'profile'}"),
            *flags,
            (tmp_path / "page.html").as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the path")
@pytest.mark.parametrize("manifest", [full(), minimal()])
def test_a_browser_loads_the_page_without_a_complaint(tmp_path, manifest):
    ran = browse(tmp_path, render_page(manifest), "--dump-dom")
    assert "CONSOLE" not in ran.stderr
    assert ("Copy</button>" in ran.stdout) is bool(manifest.command)


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the path")
def test_a_browser_draws_the_page(tmp_path):
    picture = tmp_path / "page.png"
    browse(tmp_path, render_page(full()), f"--screenshot={picture}", "--window-size=1100,2400")
    assert picture.stat().st_size > 50_000


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the path")
def test_a_browser_refuses_a_script_that_is_not_the_page_s(tmp_path):
    source = render_page(minimal()).replace("</main>", "<script>alert(1)</script></main>")
    assert "Content Security Policy" in browse(tmp_path, source, "--dump-dom").stderr
