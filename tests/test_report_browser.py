"""The report as a reader uses it, in headless Chromium from a file: filters, slider, words, sorting, phone, dark."""

import re

import pytest
from browser import chromium
from cells_on_disk import flat, write_cell
from PIL import Image

from likeness.report.page import write_report

HOSTILE = '</script><img src=x onerror="document.title=1">{{ 7 * 7 }} \'"&<b>🦄'
SHOWN = "return [...document.querySelectorAll(arguments[0])].filter(e => e.checkVisibility()).length"
TEXTS = "return [...document.querySelectorAll(arguments[0])].map(e => e.textContent)"


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    root = tmp_path_factory.mktemp("report")
    folders = [
        write_cell(root, "one", lpips=(0.25, 0.5)),
        write_cell(root, "two", subject="bnh", target="lasagne", lpips=(0.1, 0.45)),
        write_cell(root, "three", lpips=(0.4, 0.41), axes={"edit": "global", "target": None, "style": "van gogh"}),
        write_cell(root, "four", target=HOSTILE, success=(0.5, 0.5), lpips=(0.3, 0.2)),
        write_cell(root, "bad", status="failed", error="disk full"),
    ]
    (folders[0] / "attention").mkdir()
    for side, last in (("source", "burger"), ("target", "cake")):
        for number, word in enumerate(f"A painting of a tuki eating {last}".split()):
            Image.new("RGB", (32, 32), (30 * number, 0, 0)).save(
                folders[0] / "attention" / f"{side}-{number:02d}-{word.lower()}.png"
            )
    return write_report(folders, root / "runs" / "report.html", "demo")


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("profile")) as driver:
        driver.set_window_size(1280, 900)
        yield driver


@pytest.fixture
def browser(session, report):
    session.get(report.as_uri())
    yield session
    assert [entry["message"] for entry in session.get_log("browser")] == []  # no error, no blocked load, in any test
    assert session.title == "demo"


def choose(browser, name, value):
    browser.execute_script(
        "const f = document.getElementById('filters').elements[arguments[0]]; f.value = arguments[1];"
        "(f.length && !f.options ? f[0] : f).dispatchEvent(new Event('input', {bubbles: true}))", name, value
    )  # fmt: skip


def shown(browser, selector):
    return browser.execute_script(SHOWN, selector)


def test_filters_reach_pictures_tables_and_plots(browser):
    browser.execute_script("document.querySelectorAll('details.table').forEach(t => t.open = true)")
    assert shown(browser, ".cell") == 4 and shown(browser, "svg a") == 4
    choose(browser, "subject", "bnh")
    for part in (".cell", "svg a", "tr[data-cell]", ".plot:not([hidden]) .row[data-cell]"):
        assert shown(browser, part) == 1, part
    assert browser.execute_script(TEXTS, "#count") == ["1 of 4 cells"]
    choose(browser, "subject", "")
    choose(browser, "style", "van gogh")
    assert shown(browser, "#cell-2") == 1 and shown(browser, ".cell") == 1
    choose(browser, "edit", "local")
    assert shown(browser, ".cell") == 0 and shown(browser, "#none") == 1
    browser.execute_script("document.querySelector('#filters [type=reset]').click()")
    choose(browser, "seed", "2")
    assert shown(browser, ".cell") == 4 and shown(browser, ".seed") == 4
    choose(browser, "text", "LASAGNE eating")
    assert shown(browser, ".cell") == 1


def test_pictures_are_there_and_differ_by_arm(browser):
    sizes = browser.execute_async_script(
        "const done = arguments[0], imgs = [...document.querySelectorAll('#cell-0 .seed img')];"
        "document.querySelector('#cell-0').scrollIntoView();"
        "(function wait() { imgs.every(i => i.complete && i.naturalWidth)"
        " ? done(imgs.map(i => [i.naturalWidth, i.src])) : setTimeout(wait, 30) })()"
    )
    assert len(sizes) == 12 and len({source for _, source in sizes}) == 12
    assert {width for width, _ in sizes} == {flat(0, "source").width}


def test_what_only_a_script_can_do_is_added_by_it_and_named(browser):
    named = "return [...document.querySelectorAll(arguments[0])].map(e => e.getAttribute(arguments[1]))"
    copies = browser.execute_script(named, "#cell-0 .copy", "aria-label")
    assert copies == [
        *(f"copy: draw seed {n} again" for n in range(4)),
        "copy: the cell's command",
        "copy: replay the record",
    ]
    sliders = browser.execute_script(named, "#cell-0 .slide input", "aria-label")
    assert sliders == [f"seed {n}: without, source, with" for n in range(4)]
    assert set(browser.execute_script(named, "#cell-0 .arm a", "title")) == {"open the original"}


def test_the_slider_wipes_between_the_arms_and_follows_keys(browser):
    from selenium.webdriver.common.keys import Keys

    choose(browser, "view", "sliding")
    seed = browser.find_element("css selector", "#cell-0 .seed")
    slider = seed.find_element("css selector", "input[type=range]")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'}); arguments[0].focus()", slider)

    def state():  # what is said, and how much of either arm is cut away, in percent
        clips = [seed.find_element("css selector", f".arm.{arm}").value_of_css_property("clip-path")
                 for arm in ("without", "with")]  # fmt: skip
        return slider.get_attribute("aria-valuetext"), *(sum(map(float, re.findall(r"([\d.]+)%", c))) for c in clips)

    assert state() == ("with", 100, 0)
    slider.send_keys(Keys.HOME)
    assert state() == ("without", 0, 100)
    for _ in range(3):
        slider.send_keys(Keys.ARROW_RIGHT)
    assert state() == ("without over 85 % of the source", 15, 100)
    source = seed.find_element("css selector", ".stops button[value='100']")
    source.send_keys(Keys.ENTER)
    assert state() == ("source", 100, 100) and source.get_attribute("aria-pressed") == "true"


def test_words_show_where_they_act(browser):
    heat = browser.find_element("css selector", "#cell-0 .heat img")
    assert heat.get_attribute("alt") == "where “cake” acts in the target"
    before = heat.get_attribute("src")
    browser.execute_script("document.querySelector('#cell-0 .word[data-side=source]').focus()")
    assert heat.get_attribute("alt") == "where “A” acts in the source" and heat.get_attribute("src") != before
    assert shown(browser, ".word[aria-pressed=true]") == 1


def test_a_click_on_a_heading_sorts_both_ways(browser):
    browser.execute_script("document.querySelectorAll('details.table').forEach(t => t.open = true)")
    table = browser.find_elements("css selector", "table.sortable")[-1]
    heading = next(th for th in table.find_elements("css selector", "th") if "LPIPS to the source" in th.text)
    column = browser.execute_script("return arguments[0].cellIndex", heading)

    def numbers():
        return browser.execute_script(
            "return [...arguments[0].tBodies[0].rows].map(r => Number(r.cells[arguments[1]].dataset.order))",
            table, column,
        )  # fmt: skip

    unsorted = numbers()
    browser.execute_script("arguments[0].click()", heading.find_element("css selector", "button"))
    assert numbers() == sorted(unsorted) != unsorted and heading.get_attribute("aria-sort") == "ascending"
    browser.execute_script("arguments[0].click()", heading.find_element("css selector", "button"))
    assert numbers() == sorted(unsorted, reverse=True) and heading.get_attribute("aria-sort") == "descending"
    subject = table.find_element("css selector", "th button")
    browser.execute_script("arguments[0].click()", subject)
    first = browser.execute_script("return arguments[0].tBodies[0].rows[0].cells[0].textContent", table)
    assert first == "bnh"


def test_every_picture_tells_its_command(browser):
    commands = browser.execute_script(TEXTS, "#cell-0 .seed .command code")
    assert commands == [f"python sweep.py target=cake 'seeds=[{seed}]'" for seed in range(4)]


def test_prompts_stay_text(browser):
    prompt = browser.execute_script(TEXTS, "#cell-3 .prompts q")[1]
    assert HOSTILE in prompt and shown(browser, "#cell-3 .prompts img") == 0


def test_metrics_of_the_difference_plot_can_be_chosen(browser):
    browser.execute_script(
        "const s = document.querySelector('select.metric'); s.value = 'edit_success'; "
        "s.dispatchEvent(new Event('change'))"
    )
    visible = "return [...document.querySelectorAll('.plot')].filter(p => !p.hidden).map(p => p.dataset.metric)"
    assert browser.execute_script(visible) == ["edit_success"]


def test_a_phone_scrolls_down_only(browser):
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}
    )
    try:
        browser.refresh()
        browser.execute_script("document.querySelectorAll('details').forEach(d => d.open = true)")
        for view in ("abreast", "sliding"):
            choose(browser, "view", view)
            assert browser.execute_script("return document.documentElement.scrollWidth") <= 360
        assert shown(browser, "#cell-0 .stops button") == 12
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


CONTRAST = """
const light = c => { const [r, g, b] = c.match(/[\\d.]+/g).map(v => v / 255)
  .map(v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4); return .2126 * r + .7152 * g + .0722 * b };
const back = e => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor;
  if (!/, 0\\)/.test(c)) return c } return 'rgb(255, 255, 255)' };
return arguments[0].map(s => { const e = document.querySelector(s);
  const [a, b] = [getComputedStyle(e).color, back(e)].map(light);
  return (Math.max(a, b) + .05) / (Math.min(a, b) + .05) })
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_readable_in_both_themes(browser, scheme):
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    )
    try:
        parts = ["h1", ".meta", ".lead .with", ".lead .without", ".tile .small", ".cell h2", ".prompts q mark",
                 ".arm.with a", ".arm small", "#filters select", ".row.better .value", ".note", "td"]  # fmt: skip
        ratios = dict(zip(parts, browser.execute_script(CONTRAST, parts), strict=True))
        assert min(ratios.values()) >= 4.5, ratios  # WCAG 2.2, AA
        dark = "return getComputedStyle(document.body).backgroundColor"
        assert (browser.execute_script(dark) == "rgb(255, 255, 255)") == (scheme == "light")
    finally:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
