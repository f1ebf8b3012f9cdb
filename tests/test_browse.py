"""The page to browse an index: its data against picks known by hand, names that are no HTML, errors, and a browser."""

from __future__ import annotations

import base64
import configparser
import io
import json
import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import clip_table
from indexed import BROKEN, DIFFERENCES, EARLY, GONE, LATE, MOTIONLESS, NASTY, ONE, RANKED, SAMPLER, write_index
from PIL import Image

from mgs_dali.index.recorder import MotionRecorder
from mgs_dali.index.released_json import import_json
from mgs_dali.index.store import MotionIndex
from mgs_dali.look import browse
from mgs_dali.look.browse import most_different, note_of_short, page_row, page_selection, write_page
from mgs_dali.look.choices import both_picks, pick_difference
from mgs_dali.sampling import MotionGuided
from mgs_dali.video.file import VideoFile


@pytest.fixture(scope="module")
def indexed(tmp_path_factory: pytest.TempPathFactory) -> tuple[MotionIndex, Path]:
    return write_index(tmp_path_factory.mktemp("indexed"))


def written(indexed: tuple[MotionIndex, Path], paths: list[str], out: Path, *, note: str = "") -> dict[str, str]:
    index, root = indexed
    return write_page(index, paths, out, root=root, sampler=SAMPLER, note=note, progress=False)


def data_of(page: Path) -> dict[str, Any]:
    """The JSON of a page, found as a browser finds it: up to the first end of its script element."""
    text = page.read_text(encoding="utf-8")
    return json.loads(text.partition('<script id="data" type="application/json">')[2].partition("</script")[0])


# --- what the page holds --------------------------------------------------------------------------------------------


def test_most_different_first(indexed: tuple[MotionIndex, Path]) -> None:
    assert most_different(indexed[0], sampler=SAMPLER, progress=False) == RANKED


def write_curves(folder: Path, curves: dict[str, list[float]]) -> MotionIndex:
    """An index of videos that are not there, by what the released code's JSON would hold of them."""
    file = folder / "img_diff.json"
    file.write_text(json.dumps({Path(path).stem: curve for path, curve in curves.items()}))
    import_json(file, clip_table(folder, list(curves)), folder / "index", json_format="differences", progress=False)
    return MotionIndex(folder / "index")


def test_short_videos_come_last(tmp_path: Path) -> None:
    curves = {
        "short.mp4": [1.0, 0.0],  # frames 0, 0, 0, 0 against 0, 1, 1, 2: a third of the length
        "still.mp4": [0.0, 0.0],
        "even.mp4": [1.0] * 59,
        "late.mp4": [0.0] * 40 + [1.0] * 19,  # about as far apart as picks of a long video are
    }
    index = write_curves(tmp_path, curves)
    short, late = (both_picks(index[path], sampler=SAMPLER) for path in ("short.mp4", "late.mp4"))
    assert pick_difference(*short, num_frames=3) == 4 / 12 > pick_difference(*late, num_frames=60)
    ranked = most_different(index, sampler=SAMPLER, progress=False)
    assert ranked == ["late.mp4", "even.mp4", "short.mp4", "still.mp4"]
    assert note_of_short(index, ranked, sampler=SAMPLER) == " 2 have fewer frames than the 4 segments and come last."
    # as many frames as segments are enough
    fewer = MotionGuided(3)
    assert most_different(index, sampler=fewer, progress=False)[0] == "short.mp4"
    assert note_of_short(index, ranked, sampler=fewer) == ""


def test_row_of_a_known_video(indexed: tuple[MotionIndex, Path]) -> None:
    index, root = indexed
    row = page_row(index, EARLY, root=root, sampler=SAMPLER)
    strips = {name: row.pop(name) for name in ("guided_strip", "uniform_strip")}
    assert row.pop("curve") == [255 if 20 <= gap < 38 else 0 for gap in range(59)]
    assert row.pop("cdf") == [round(1000 * min(max(gap - 19, 0), 18) / 18) for gap in range(59)]
    assert row.pop("peak") == pytest.approx(index[EARLY][20])
    assert row.pop("motion") == pytest.approx(index[EARLY][20] * 18 / 59)
    assert row == {
        "path": EARLY, "error": "", "frames": 60, "seconds": pytest.approx(2.4), "codec": "ffv1",
        "width": 64, "height": 48, "difference": 42 / 240, "cdf_frames": 59,
        "guided": [21, 26, 30, 35], "uniform": [7, 22, 37, 52], "guided_hits": 4, "uniform_hits": 2,
        "action": [(21, 37)], "strip": [256, 48],
    }  # fmt: skip
    # odd frames of the action are 20 grey levels lighter
    for name, light in (("guided_strip", [True, False, False, True]), ("uniform_strip", [False, False, True, False])):
        with Image.open(io.BytesIO(base64.b64decode(strips[name]))) as picture:
            assert (picture.format, picture.size) == ("JPEG", (256, 48))
            means = np.asarray(picture).reshape(48, 4, 64, 3).mean(axis=(0, 2, 3))
        assert (means > 100).tolist() == light


def test_row_by_the_inverse_rule(indexed: tuple[MotionIndex, Path]) -> None:
    index, root = indexed
    row = page_row(index, EARLY, root=root, sampler=MotionGuided(3, pick="inverse"))
    assert row["guided"] == [23, 29, 35]  # 1/6, 3/6 and 5/6 of the 18 gaps after frame 20
    assert (row["cdf_frames"], row["cdf"][20], row["cdf"][38]) == (60, 0, 1000)


@pytest.mark.parametrize(("path", "picks"), [(ONE, [0, 0, 0, 0]), (MOTIONLESS, [1, 3, 5, 7])])
def test_row_without_motion(indexed: tuple[MotionIndex, Path], path: str, picks: list[int]) -> None:
    index, root = indexed
    row = page_row(index, path, root=root, sampler=SAMPLER)
    assert row["guided"] == row["uniform"] == picks
    assert (row["difference"], row["motion"], row["peak"], row["cdf"], row["action"]) == (0, 0, 0, [], [])
    assert set(row["curve"]) <= {0}


def test_row_of_a_video_that_is_gone(indexed: tuple[MotionIndex, Path]) -> None:
    index, root = indexed
    row = page_row(index, GONE, root=root, sampler=SAMPLER)
    assert "gone.mkv: no such file" in row["error"]
    assert row["guided"] == [41, 46, 50, 55]
    assert "strip" not in row


def test_row_of_a_video_without_a_curve(indexed: tuple[MotionIndex, Path]) -> None:
    index, root = indexed
    row = page_row(index, BROKEN, root=root, sampler=SAMPLER)
    assert "broken.mp4: cannot be opened as a video" in row["error"]
    assert row["frames"] is None
    assert "difference" not in row


def test_row_where_the_index_tells_no_more_than_the_curve(indexed: tuple[MotionIndex, Path], tmp_path: Path) -> None:
    index, root = indexed
    recorder = MotionRecorder(tmp_path / "recorded")
    recorder.add(EARLY, index[EARLY], video=VideoFile(root / EARLY))
    recorder.flush()
    row = page_row(MotionIndex(tmp_path / "recorded"), EARLY, root=root, sampler=SAMPLER)
    assert (row["frames"], row["difference"], row["strip"]) == (60, 42 / 240, [256, 48])
    assert [row[name] for name in ("seconds", "codec", "width", "height")] == [None] * 4


def test_long_curves_are_shortened() -> None:
    motion = np.zeros(1000, np.float32)
    motion[777] = 2.0
    points = browse._curve_points(motion)
    assert len(points) == 300
    assert np.flatnonzero(points).tolist() == [233]  # 233 * 1000 / 300 = 776.7, 234 * 1000 / 300 = 780
    assert points[233] == 255
    assert browse._cdf_points(np.linspace(0, 1, 599)) == [round(1000 * 2 * i / 598) for i in range(300)]


def test_selection_says_what_is_left_out(indexed: tuple[MotionIndex, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    index = indexed[0]
    assert page_selection(index, RANKED, num_videos=50, sampler=SAMPLER) == (
        [*RANKED, BROKEN],
        "All 6 videos with a motion curve. 1 has fewer frames than the 4 segments and comes last. Also 1 without a "
        "motion curve, with the reason.",
    )
    paths, note = page_selection(index, RANKED, num_videos=2, sampler=SAMPLER)
    assert paths == [GONE, LATE, BROKEN]
    assert note.startswith("The 2 of 6 videos whose picks differ most; the others are not on this page (--num-videos")
    monkeypatch.setattr(browse, "MAX_PAGE_VIDEOS", 6)
    paths, note = page_selection(index, RANKED, num_videos=6, sampler=SAMPLER)
    assert paths == RANKED
    assert "Also 0 of the 1 without a motion curve" in note


# --- the file -------------------------------------------------------------------------------------------------------


def test_page_holds_the_rows_in_order(indexed: tuple[MotionIndex, Path], tmp_path: Path) -> None:
    index, root = indexed
    out = tmp_path / "page.html"
    failed = written(indexed, [*RANKED, BROKEN], out, note="All of them.")
    assert list(failed) == [GONE]
    assert "no such file" in failed[GONE]
    data = data_of(out)
    assert data["about"] == {
        "name": "index", "measure": "pixel", "sampler": "4 segments, mu=0.5, floor=0, pick=nearest",
        "num_segments": 4, "note": "All of them.",
    }  # fmt: skip
    assert [row["path"] for row in data["videos"]] == [*RANKED, BROKEN]
    assert [row.get("difference") for row in data["videos"]] == [*DIFFERENCES, None]
    early = page_row(index, EARLY, root=root, sampler=SAMPLER)
    assert data["videos"][RANKED.index(EARLY)] == json.loads(json.dumps(early))
    assert list(tmp_path.iterdir()) == [out]


class Elements(HTMLParser):
    """Counts the elements of a page, and collects whatever may make a browser load something."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str | None] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href", "srcset", "action", "data")]


def test_names_are_never_html(indexed: tuple[MotionIndex, Path], tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    written(indexed, [NASTY, EARLY], out, note="<script>alert(2)</script><!--")
    written(indexed, [EARLY, LATE], tmp_path / "plain.html")
    found, plain = Elements(), Elements()
    found.feed(out.read_text())
    plain.feed((tmp_path / "plain.html").read_text())
    assert found.tags == plain.tags
    assert found.tags.count("script") == 2
    assert "<script>alert" not in out.read_text()
    assert "<!--" not in out.read_text().partition('type="application/json"')[2]
    assert data_of(out)["videos"][0]["path"] == NASTY
    assert data_of(out)["about"]["note"] == "<script>alert(2)</script><!--"


def test_page_asks_the_network_for_nothing(indexed: tuple[MotionIndex, Path], tmp_path: Path) -> None:
    written(indexed, [EARLY], tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    found = Elements()
    found.feed(text)
    assert found.links == []
    assert set(re.findall(r"https?://[^\s\"']+", text)) == {"http://www.w3.org/2000/svg"}  # a name, not a place
    assert re.search(r"@import|url\(|fetch\(|XMLHttpRequest|import\(", text) is None
    assert "default-src 'none'; img-src data:" in text


def test_wheel_holds_the_page() -> None:
    setup = configparser.ConfigParser()
    setup.read(Path(__file__).parents[1] / "setup.cfg")
    assert "browse.html" in re.split(r"[\s,]+", setup["options.package_data"]["mgs_dali.look"])


def test_errors_teach(indexed: tuple[MotionIndex, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(paths: list[str], out: Path) -> str:
        with pytest.raises(ValueError) as caught:
            written(indexed, paths, out)
        return str(caught.value)

    out = tmp_path / "page.html"
    out.write_text("an earlier page")
    text = out.with_suffix(".txt")
    assert "page.txt: the page is written as HTML. Give a name that ends in .html" in fails([EARLY], text)
    assert "there is no folder" in fails([EARLY], tmp_path / "nowhere" / "page.html")
    assert "a page holds 1 to 10000 videos, found 0" in fails([], out)
    assert "'nowhere.mp4' is not in the motion index" in fails([EARLY, "nowhere.mp4"], out)
    assert "not one of the 1 videos can be shown. The first: " in fails([GONE, BROKEN], out)
    monkeypatch.setattr(browse, "MAX_PAGE_VIDEOS", 1)
    assert "a page holds 1 to 1 videos, found 2. Lower --num-videos" in fails([EARLY, LATE], out)
    assert out.read_text() == "an earlier page"
    assert list(tmp_path.iterdir()) == [out]


def test_ctrl_c_leaves_nothing_behind(
    indexed: tuple[MotionIndex, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def interrupted(*_: object, **__: object) -> None:
        asked.append(1)
        raise KeyboardInterrupt

    monkeypatch.setattr(browse, "page_row", interrupted)
    with pytest.raises(KeyboardInterrupt):
        written(indexed, [EARLY] * 5000, tmp_path / "page.html")
    assert list(tmp_path.iterdir()) == []
    assert len(asked) < 5000


def test_page_of_videos_without_a_curve_only(indexed: tuple[MotionIndex, Path], tmp_path: Path) -> None:
    assert written(indexed, [BROKEN], tmp_path / "page.html") == {}
    assert [row["path"] for row in data_of(tmp_path / "page.html")["videos"]] == [BROKEN]


# --- in a browser ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright (extra test)")
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    program = next((found for name in names if (found := shutil.which(name))), None)
    if program is None:
        pytest.skip(f"needs a browser, none of {', '.join(names)} was found; on Debian: apt-get install chromium")
    with playwright.sync_playwright() as driver:
        # Chromium refuses to sandbox itself where root runs it, as in a container.
        started = driver.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def opened(browser: Any) -> Iterator[Any]:
    """A function that opens a page's file; afterwards nothing must have been wrong or been loaded from elsewhere."""
    wrong: list[str] = []
    asked: list[str] = []
    context = browser.new_context(viewport={"width": 1440, "height": 900})

    def open_file(file: Path, *, theme: str = "light") -> Any:
        page = context.new_page()
        page.emulate_media(color_scheme=theme)
        page.on("console", lambda message: wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("dialog", lambda dialog: wrong.append(dialog.message))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(file.as_uri())
        return page

    yield open_file
    context.close()
    assert wrong == []
    assert [url[:200] for url in asked if not url.startswith(("file:", "data:"))] == []


@pytest.fixture(scope="module")
def page_file(indexed: tuple[MotionIndex, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("page") / "a page #1.html"
    written(indexed, [*RANKED, BROKEN], file, note="<b>All</b> of them.")
    return file


def names(page: Any) -> list[str]:
    """The videos listed, from top to bottom."""
    rows = page.locator("#rows .row").evaluate_all(
        "rows => rows.map(row => [parseInt(row.style.top), row.querySelector('.name').textContent])"
    )
    return [name for _, name in sorted(rows)]


def chosen(page: Any) -> str:
    return page.locator("#rows .row[aria-selected=true] .name").inner_text()


@pytest.mark.slow
def test_list_in_a_browser(opened: Any, page_file: Path) -> None:
    page = opened(page_file)
    assert page.title() == "index: motion-guided against uniform"
    assert "<b>All</b> of them." in page.inner_text("#about")
    assert names(page) == [*RANKED, BROKEN]
    cells = page.locator("#rows .row", has_text=LATE).locator(".number").all_inner_texts()
    assert [cell.strip() for cell in cells[:3]] == ["30.8 %", "60", "2.4"]
    assert [cell.strip() for cell in cells[4:]] == ["4 of 4", "1 of 4"]
    assert "cannot be opened as a video" in page.locator("#rows .row", has_text=BROKEN).inner_text()
    assert "no such file" in page.locator("#rows .row", has_text=GONE).inner_text()
    sizes = page.locator("#rows img").evaluate_all("images => images.map(image => image.naturalWidth)")
    assert sizes == [256] * 6 + [256] * 4  # two strips each of late, early, the nasty one, still, one


@pytest.mark.slow
def test_sorting_in_a_browser(opened: Any, page_file: Path) -> None:
    page = opened(page_file)
    before = page.locator("#head").bounding_box()
    page.get_by_role("button", name="Difference").click()
    # the equal ones stay in the order of their names
    assert names(page) == [MOTIONLESS, NASTY, EARLY, GONE, LATE, ONE, BROKEN]
    page.get_by_role("button", name="Video").click()
    assert names(page) == [NASTY, BROKEN, EARLY, GONE, LATE, ONE, MOTIONLESS]
    page.get_by_role("button", name="Video").click()
    assert names(page) == [MOTIONLESS, ONE, LATE, GONE, EARLY, BROKEN, NASTY]
    page.get_by_role("button", name="Frames").click()  # 60, 9 and 1 frames; of equals the last order is kept
    assert names(page) == [LATE, GONE, EARLY, NASTY, MOTIONLESS, ONE, BROKEN]
    assert page.locator("[aria-sort]").all_inner_texts() == ["Frames"]
    assert page.locator("#head").bounding_box() == before


@pytest.mark.slow
def test_keys_in_a_browser(opened: Any, page_file: Path) -> None:
    page = opened(page_file)
    press = page.keyboard.press
    assert chosen(page) == GONE
    steps = {"j": LATE, "ArrowDown": NASTY, "k": LATE, "ArrowUp": GONE, "PageUp": GONE, "End": BROKEN}
    for key, expected in steps.items():
        press(key)
        assert chosen(page) == expected, key
    press("Home")
    press("j")
    press("Enter")
    details = page.locator("dialog")
    assert details.is_visible()
    assert details.locator("h2").inner_text() == LATE
    assert details.locator(".strip.guided span").all_inner_texts() == ["41", "46", "50", "55"]
    assert details.locator(".strip.guided .hit").all_inner_texts() == ["41", "46", "50", "55"]
    assert details.locator(".strip.uniform span").all_inner_texts() == ["7", "22", "37", "52"]
    assert details.locator(".strip.uniform .hit").all_inner_texts() == ["52"]
    assert details.locator(".stratum").count() == 2  # every second of four
    press("j")
    assert details.locator("h2").inner_text() == NASTY
    press("Escape")
    assert not details.is_visible()
    assert chosen(page) == NASTY
    press("/")
    page.keyboard.type("MKV j")  # a letter like any other here
    assert names(page) == []
    assert page.locator("#none").is_visible()
    press("Backspace")
    assert names(page) == [GONE, LATE, EARLY, ONE, MOTIONLESS]
    assert page.inner_text("#count") == "5 of 7 videos"
    assert page.input_value("#filter") == "MKV "
    press("Enter")
    press("j")
    assert chosen(page) == LATE
    press("/")
    press("Escape")
    assert page.input_value("#filter") == ""
    assert page.inner_text("#count") == "7 videos"
    page.keyboard.type("error no such file")
    assert names(page) == [GONE]
    for key in ("j", "k", "Enter", "Esc", "/"):
        assert key in page.locator("header kbd").all_inner_texts()


@pytest.mark.slow
def test_names_in_a_browser(opened: Any, page_file: Path) -> None:
    """That no script ran is seen to by `opened`, which takes down dialogs."""
    page = opened(page_file)
    row = page.locator("#rows .row", has_text="alert(1)")
    assert row.locator(".name").inner_text() == NASTY
    assert row.locator(".name").get_attribute("title") == NASTY
    row.click()
    assert page.locator("dialog h2").inner_text() == NASTY
    assert page.locator("script").count() == 2


@pytest.mark.slow
def test_thousands_of_rows_in_a_browser(
    opened: Any, indexed: tuple[MotionIndex, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index, root = indexed
    rows = iter(range(5000))
    row = page_row(index, EARLY, root=root, sampler=SAMPLER)
    monkeypatch.setattr(browse, "page_row", lambda *_, **__: row | {"path": f"video {next(rows)}"})
    written(indexed, [EARLY] * 5000, tmp_path / "page.html")
    page = opened(tmp_path / "page.html")
    assert page.locator("#rows .row").count() < 60
    assert names(page)[:3] == ["video 0", "video 1", "video 2"]
    page.keyboard.press("End")
    page.locator("#rows .row", has_text="video 4999").wait_for()
    assert page.locator("#rows .row").count() < 60
    assert chosen(page) == "video 4999"
    page.mouse.move(700, 600)
    page.mouse.wheel(0, -100 * 88)
    page.locator("#rows .row", has_text="video 4890").first.wait_for()
    page.keyboard.press("/")
    page.keyboard.type("video 321")
    assert page.inner_text("#count") == "15 of 5000 videos"  # 321, 3210 to 3219, and 321 after 1 to 4
    assert names(page)[:2] == ["video 321", "video 1321"]


CONTRAST = """selectors => {
  const light = (colour) => {
    const parts = colour.match(/[0-9.]+/g).slice(0, 3).map(part => part / 255)
      .map(part => part <= 0.03928 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2];
  };
  const behind = (node) => {
    const colour = getComputedStyle(node).backgroundColor;
    return /, 0\\)$/.test(colour) ? behind(node.parentElement) : colour;
  };
  return selectors.map(selector => {
    const node = document.querySelector(selector);
    const pair = [light(getComputedStyle(node).color), light(behind(node))].sort((a, b) => a - b);
    return (pair[1] + 0.05) / (pair[0] + 0.05);
  });
}"""


@pytest.mark.slow
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_both_themes_are_readable(opened: Any, page_file: Path, theme: str) -> None:
    """Contrast by the formula of WCAG 2, which asks for 4.5."""
    page = opened(page_file, theme=theme)
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(255, 255, 255)") == (theme == "light")
    parts = ["h1", "header p", ".keys", "kbd", "#head .guided", "#head .uniform", "#head .cell"]
    parts += [f"#rows .row[aria-selected={flag}] {part}" for flag in ("true", "false") for part in (
        ".name", ".about", ".number", ".number.guided", ".number.uniform", ".wrong")]  # fmt: skip
    for part, contrast in zip(parts, page.evaluate(CONTRAST, parts), strict=True):
        assert contrast >= 4.5, part
