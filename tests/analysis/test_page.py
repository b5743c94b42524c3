"""The page in headless Chromium: silent console, filters that agree with the CSV files, themes, and a phone's width."""

from __future__ import annotations

import base64
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pandas as pd
import pytest
from patience import PATIENCE_S

from analysis.report import ReportPaths, build_report
from xlmr_sweep.storage.files import Storage

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.fixture(scope="module")
def report(formula_table: Callable[[Sequence[str]], pd.DataFrame], tmp_path_factory: pytest.TempPathFactory) -> ReportPaths:
    table = formula_table(("base", "large", "xl")).drop(index=[0, 1, 2, 7])
    timed = table.assign(total_time_s=60.0, num_gpus=1.0, num_ranks=1)
    return build_report(timed, tmp_path_factory.mktemp("page"), mixture_tasks=["rte"])


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    chromium = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)
    chromedriver = shutil.which("chromedriver")
    if chromium is None or chromedriver is None:
        reason = "needs chromium and chromedriver on the PATH"
        if os.environ.get("XLMR_SWEEP_REQUIRE_BROWSER") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1200,900"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=chromedriver))
    driver.set_script_timeout(PATIENCE_S)
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def opened(browser: Any, report: ReportPaths) -> Any:
    browser.get(report.html.as_uri())
    return browser


@pytest.fixture
def page(opened: Any) -> Any:
    """The page as it opens, with all figures drawn. To load it and to draw it takes seconds, so both are done only if needed."""
    opened.execute_async_script(
        """
        const done = arguments[0];
        const boxes = [...document.querySelectorAll("#filters input")];
        const theme = document.documentElement.dataset;
        const is_changed = "theme" in theme || boxes.some((box) => !box.checked);
        boxes.forEach((box) => { box.checked = true; });
        delete theme.theme;
        if (is_changed) document.getElementById("filters").dispatchEvent(new Event("change"));
        const is_drawn = (div) => div.clientWidth === 0 || div.dataset.drawn;
        window.report.settled().then(() => [...document.querySelectorAll(".figure")].every(is_drawn) || window.report.draw())
          .then(() => done());
        """
    )
    return opened


def draw_all(browser: Any) -> None:
    browser.execute_async_script("const done = arguments[0]; window.report.draw().then(() => done());")


def choose(browser: Any, **unchecked: list[str]) -> None:
    """Unticks the given boxes, the last by a click, and waits until the figures followed. Each click draws all of them."""
    boxes = [f'#filters input[name="{key}"][value="{name}"]' for key, names in unchecked.items() for name in names]
    script = """
        const boxes = arguments[0].map((selector) => document.querySelector(selector));
        boxes.slice(0, -1).forEach((box) => { box.checked = false; });
        if (boxes.length) boxes.at(-1).click();
    """
    browser.execute_script(script, boxes)
    settle(browser)


def settle(browser: Any) -> None:
    """Waits until the page has followed what was done to it, of its own accord."""
    browser.execute_async_script("const done = arguments[0]; setTimeout(() => window.report.settled().then(() => done()), 50);")


def mean_traces(browser: Any) -> list[dict[str, Any]]:
    """The lines that can be seen on the curve figures, as plotly has them after drawing."""
    return browser.execute_script(  # type: ignore[no-any-return]
        """
        return [...document.querySelectorAll('.figure[data-name^="curves-"]')].filter((div) => div.clientWidth > 0)
          .flatMap((div) => div._fullData.filter((trace) => trace.visible === true && trace.meta.kind === "mean")
            .map((trace) => ({...trace.meta, x: Array.from(trace.x), y: Array.from(trace.y)})));
        """
    )


def errors(browser: Any) -> list[str]:
    return [entry["message"] for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]


@pytest.fixture(scope="module")
def stored(made: Storage) -> str:
    """The address of a storage's report, with what a bare table has not: failures, predictions, records of time, provenance."""
    return build_report(str(made)).html.as_uri()


def test_the_report_of_a_storage_opens_without_a_word_in_the_console(browser: Any, stored: str) -> None:
    browser.get(stored)
    draw_all(browser)
    assert errors(browser) == []
    figures = browser.execute_script("return [...document.querySelectorAll('.figure')].map((d) => !!d._fullData)")
    assert len(figures) > 5
    assert all(figures)
    assert "DivergedError" in browser.page_source


def test_the_page_opens_offline_without_a_word_in_the_console(page: Any) -> None:
    assert errors(page) == []
    figures = page.execute_script("return [...document.querySelectorAll('.figure')].map((d) => [d.dataset.name, !!d._fullData])")
    assert dict(figures).keys() >= {
        "curves-cb",
        "curves-rte",
        "ipr-by-model",
        "efficiency",
        "seed-spread",
        "completeness",
        "hours",
        "advantage-bands",
        "advantage-against-ipr",
        "ipr-by-overlap",
        "ours-against-paper",
    }
    assert all(drawn for _, drawn in figures)
    loaded = page.execute_script("return performance.getEntriesByType('resource').map((e) => e.name)")
    assert [name for name in loaded if not name.startswith(("data:", "blob:"))] == []


@pytest.mark.parametrize(
    "unchecked",
    [
        {},
        {"model": ["base"]},
        {"paradigm": ["baseline", "prompted"]},
        {"model": ["xl"], "task": ["cb"], "paradigm": ["instructed"]},
    ],
)
def test_after_a_filter_the_visible_traces_equal_the_rows_of_the_csv(
    page: Any, report: ReportPaths, unchecked: dict[str, list[str]]
) -> None:
    choose(page, **unchecked)
    table = pd.read_csv(report.csv["curves"])
    for key, names in unchecked.items():
        table = table[~table[key].isin(names)]
    lines = table.groupby(["model", "task", "paradigm"])
    traces = {(trace["model"], trace["task"], trace["paradigm"]): trace for trace in mean_traces(page)}
    assert set(traces) == {key for key, part in lines if part["mean"].notna().any()}
    assert len(traces) > 1
    for key, trace in traces.items():
        part = lines.get_group(key).sort_values("train_size")
        assert trace["x"] == part["train_size"].tolist()
        assert [y is None for y in trace["y"]] == part["mean"].isna().tolist()
        assert [y for y in trace["y"] if y is not None] == pytest.approx(part["mean"].dropna().tolist())
    titles = page.execute_script(
        "return [...document.querySelectorAll('#ipr h3')].filter((h) => h.offsetParent).map((h) => h.textContent)"
    )
    gone = unchecked.get("paradigm", [])
    for title in ("instructed over prompted", "prompted over baseline", "instructed over baseline"):
        assert (title in titles) == (not any(name in title for name in gone))
    shown = page.execute_script(
        "return [...document.querySelectorAll('#ipr tbody tr')].filter((r) => r.offsetParent).map((r) => r.dataset.model)"
    )
    assert set(shown) <= {"base", "large", "xl"} - set(unchecked.get("model", []))
    assert errors(page) == []


def test_show_all_brings_everything_back(page: Any) -> None:
    before = len(mean_traces(page))
    choose(page, model=["base", "large"])
    assert len(mean_traces(page)) < before
    page.execute_script("document.querySelector('#filters button[type=reset]').click()")
    settle(page)
    assert len(mean_traces(page)) == before
    assert page.execute_script("return document.querySelectorAll('main .filtered').length") == 0


def test_csv_links_give_the_files_beside_the_page(page: Any, report: ReportPaths) -> None:
    links = page.execute_script("return [...document.querySelectorAll('a[download]')].map((a) => [a.download, a.href])")
    assert {name for name, _ in links} >= {"ipr.csv", "curves.csv", "completeness.csv", "prompt_advantage.csv"}
    for name, href in links:
        assert href.startswith("data:text/csv")
        text = base64.b64decode(href.partition("base64,")[2]).decode()
        assert text == (report.html.parent / name).read_text()


def test_the_shown_ipr_table_is_that_of_its_csv(page: Any, report: ReportPaths) -> None:
    cells = page.execute_script(
        """
        const article = [...document.querySelectorAll('#ipr article')].find((a) => a.querySelector('table'));
        const heads = [...article.querySelectorAll('th')].map((th) => th.textContent);
        return [...article.querySelectorAll('tbody tr')].map((tr) => Object.fromEntries(
          [...tr.children].map((td, i) => [heads[i], td.textContent])));
        """
    )
    table = pd.read_csv(report.csv["ipr"])
    table = table[table["comparison"] == "instructed/prompted"].set_index(["model", "task"])
    assert len(cells) == 3
    for row in cells:
        for task in ("cb", "rte", "average"):
            assert row[task].startswith(f"{table.loc[(row['model'], task), 'mean']:.1f} ± ")


def test_hovers_tell_how_many_seeds_and_the_interval(page: Any, report: ReportPaths) -> None:
    hovers = page.execute_script(
        """
        const div = document.querySelector('.figure[data-name="curves-rte"]');
        const curve = div._fullData.findIndex((trace) => trace.meta.kind === "mean" && trace.meta.model === "xl");
        Plotly.Fx.hover(div, [{curveNumber: curve, pointNumber: 1}], div._fullData[curve].xaxis + div._fullData[curve].yaxis);
        return [...div.querySelectorAll(".hoverlayer .hovertext")].map((node) => node.textContent);
        """
    )
    points = pd.read_csv(report.csv["curves"])
    row = points.query("task == 'rte' and model == 'xl' and paradigm == 'baseline' and train_size == 32").iloc[0]
    assert len(hovers) == 1
    assert f"mean {row['mean']:.3f}, std {row['std']:.3f}" in hovers[0]
    assert f"3 of 3 seeds95% interval {row['low']:.3f} to {row['high']:.3f}, over seeds" in hovers[0]
    templates = page.execute_script(
        """
        const names = ["ipr-by-overlap", "advantage-against-ipr", "ours-against-paper", "ipr-by-model"];
        return Object.fromEntries(names.map((name) => {
          const trace = document.querySelector(`.figure[data-name="${name}"]`)._fullData[0];
          return [name, trace.hovertemplate];
        }));
        """
    )
    assert "of 3 seeds, 95% interval" in templates["ipr-by-overlap"]
    assert "of 3 seeds" in templates["advantage-against-ipr"]
    assert "values), paper" in templates["ours-against-paper"]
    assert "95% interval" in templates["ipr-by-model"]
    assert errors(page) == []


def test_a_click_on_a_heading_sorts_by_number(page: Any) -> None:
    script = """
        const table = document.querySelector('#ipr table');
        table.querySelectorAll('th')[1].click();
        return [...table.querySelectorAll('tbody tr')].map((tr) => parseFloat(tr.children[1].textContent));
    """
    up = page.execute_script(script)
    down = page.execute_script(script)
    assert up == sorted(up)
    assert down == sorted(up, reverse=True)


def test_light_and_dark_change_page_and_figures(page: Any) -> None:
    script = """
        const text = document.querySelector('.figure .infolayer text, .figure .xtick text');
        return [getComputedStyle(document.body).backgroundColor, getComputedStyle(text).fill];
    """
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": "light"}]})
    settle(page)
    light = page.execute_script(script)
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": "dark"}]})
    settle(page)
    dark = page.execute_script(script)
    assert light[0] == "rgb(255, 255, 255)"
    assert dark[0] == "rgb(20, 23, 28)"
    assert light[1] != dark[1]
    page.execute_script("document.getElementById('theme').click()")
    settle(page)
    assert page.execute_script(script) == light
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert errors(page) == []


def test_names_of_tasks_are_written_once_a_row_of_panels(page: Any) -> None:
    script = """
        const layout = document.querySelector('.figure[data-name="efficiency"]')._fullLayout;
        return ["yaxis", "yaxis2", "yaxis3"].map((name) => [layout[name].visible, layout[name].showticklabels]);
    """
    assert page.execute_script(script) == [[True, True], [True, False], [True, False]]
    choose(page, model=["base"])
    assert page.execute_script(script)[1:] == [[True, True], [True, False]]


def reach(browser: Any, selector: str) -> None:
    """Moves the focus with the Tab key, as someone without a mouse does, until an element has it."""
    from selenium.webdriver import ActionChains, Keys

    for _ in range(80):
        if browser.execute_script("return document.activeElement.matches(arguments[0])", selector):
            return
        ActionChains(browser).send_keys(Keys.TAB).perform()
    pytest.fail(f"the Tab key does not reach {selector}")


def press(browser: Any, *keys: str) -> None:
    from selenium.webdriver import ActionChains

    ActionChains(browser).send_keys(*keys).perform()
    settle(browser)


def test_the_first_screen_answers_by_model_and_how_sure(opened: Any, report: ReportPaths) -> None:
    opened.get(report.html.as_uri())
    rows = opened.execute_script(
        """
        const table = document.querySelector("table.answer");
        return [table.getBoundingClientRect().bottom <= innerHeight, [...table.tBodies[0].rows].map((row) =>
          [...row.cells].filter((cell) => !cell.ariaHidden).map((cell) => cell.textContent))];
        """
    )
    assert rows[0]
    ipr = pd.read_csv(report.csv["ipr"]).query("comparison == 'instructed/prompted' and task == 'average'").set_index("model")
    assert [row[0] for row in rows[1]] == ["base", "large", "xl"]
    for model, text, number, verdict in rows[1]:
        row = ipr.loc[model]
        assert text == f"{row['mean']:+.1f}% (95% interval {row['ci_low']:.1f} to {row['ci_high']:.1f})"
        assert (number, verdict) == (str(row["num_seeds"]), "helped" if row["ci_low"] > 0 else "not clear")


def test_filters_sorting_and_chapter_are_in_the_address_and_come_back(opened: Any, report: ReportPaths) -> None:
    opened.get(report.html.as_uri())
    choose(opened, model=["large"])
    opened.execute_script("const head = document.querySelectorAll('#ipr th')[1]; head.click(); head.click();")
    opened.execute_script("document.querySelector(arguments[0]).click()", 'nav a[href="#curves"]')
    settle(opened)
    address = opened.current_url
    assert address == f"{report.html.as_uri()}#curves?hide-model=large&sort=ipr-0.1.down"
    opened.get("about:blank")
    opened.get(address)
    settle(opened)
    state = opened.execute_script(
        """
        return [document.querySelector('#filters input[value="large"]').checked,
          document.querySelectorAll("#ipr th")[1].ariaSort, document.querySelector("nav a[aria-current]").textContent,
          Math.abs(document.getElementById("curves").getBoundingClientRect().top) < 200,
          [...document.querySelectorAll("#ipr tr[data-model=large]")].some((row) => row.offsetParent)];
        """
    )
    assert state == [False, "descending", "Performance curves", True, False]
    assert errors(opened) == []


def test_filters_and_sorting_work_by_keyboard_and_are_said_aloud(opened: Any, report: ReportPaths) -> None:
    opened.get(report.html.as_uri())
    reach(opened, "a.skip")
    reach(opened, "#filters input[value=large]")
    press(opened, " ")
    assert opened.execute_script("return document.querySelector('#status[role=status]').textContent").startswith(
        "Shown: 2 of 3 models, "
    )
    reach(opened, "#ipr th:nth-child(2) button")
    press(opened, "\n")
    assert opened.execute_script("return document.querySelectorAll('#ipr th')[1].ariaSort") == "ascending"
    nameless = opened.execute_script(
        """
        const named = (node) => node.ariaLabel || node.textContent.trim() || node.closest("label");
        return [...document.querySelectorAll("button, a[href], input, select, [role=img], [tabindex='0']")]
          .filter((node) => !named(node)).map((node) => node.outerHTML);
        """
    )
    assert nameless == []


def test_the_browser_of_examples_filters_and_comes_back(browser: Any, stored: str) -> None:
    browser.get("about:blank")  # The same page with another chapter would not be loaded anew.
    browser.get(f"{stored}#examples?task=wic&which=gained&size=8")
    ready = "const done = arguments[0]; window.report.examplesReady().then(() => done());"
    browser.execute_async_script(ready)
    shown = browser.execute_script(
        """
        return [...document.querySelectorAll("#example tbody tr")].map((row) => [...row.cells].map((cell) => cell.textContent));
        """
    )
    assert [row[0] for row in shown] == ["8", "32"]
    # Prompted wrong and instructed right, by most of the three seeds at size 8.
    prompted, instructed = shown[0][2], shown[0][3]
    assert prompted.count("✗") >= 2 > prompted.count("✓")
    assert instructed.count("✓") >= 2 > instructed.count("✗")
    text = "return document.getElementById('example-count').textContent"
    first = browser.execute_script(text)
    assert first.startswith("Example 1 of ")
    reach(browser, "#browser button[name=next]")
    press(browser, "\n")
    browser.execute_async_script(ready)
    second = browser.execute_script(text)
    assert second.startswith("Example 2 of ")
    address = browser.current_url
    browser.get("about:blank")
    browser.get(address)
    browser.execute_async_script(ready)
    assert browser.execute_script(text) == second
    assert errors(browser) == []


def test_on_a_phone_nothing_is_wider_than_the_screen_and_panels_stack(browser: Any, report: ReportPaths) -> None:
    phone = {"width": 390, "height": 800, "deviceScaleFactor": 2, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    browser.get(report.html.as_uri())
    draw_all(browser)
    # The drawing library's buttons would lie on the legends.
    assert browser.execute_script("return document.querySelectorAll('.modebar-btn').length") == 0
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 390
    domains = browser.execute_script(
        """
        const layout = document.querySelector('.figure[data-name="curves-cb"]')._fullLayout;
        return ["xaxis", "xaxis2", "xaxis3"].map((name) => layout[name].domain);
        """
    )
    assert [domain[0] for domain in domains] == [0, 0, 0]
    overlaps = browser.execute_script(
        """
        const boxes = (div, names) => [...div.querySelectorAll(names)].map((node) => node.getBoundingClientRect());
        const apart = (a, b) => a.bottom <= b.top || b.bottom <= a.top || a.right <= b.left || b.right <= a.left;
        return [...document.querySelectorAll(".figure")].filter((div) => div.clientWidth > 0).filter((div) =>
          boxes(div, ".annotation-text-g text").some((title) =>
            boxes(div, "[class^='g-x'][class$='title'] text, [class$='tick'] text").some((other) => !apart(title, other))))
          .map((div) => div.dataset.name);
        """
    )
    assert overlaps == []
    # Forty columns of squares would lie on each other at their full size, which six have.
    squares = """
        const [columns, done] = arguments;
        const div = document.querySelector('.figure[data-name="completeness"]');
        const others = [...document.querySelectorAll(".figure")].filter((other) => other !== div);
        others.forEach((other) => { other.style.display = "none"; });
        div.layout.meta.columns = columns;
        window.report.draw().then(() => {
          others.forEach((other) => { other.style.display = ""; });
          done([div._fullLayout.xaxis._length, div._fullData[0].marker.size]);
        });
    """
    assert browser.execute_async_script(squares, 6)[1] == 13
    room, size = browser.execute_async_script(squares, 40)
    assert 3 <= size <= room / 40
    titles = "return document.querySelectorAll('.figure .annotation-text-g text, .figure .g-x2title text').length"
    assert browser.execute_script(titles) >= 5 * (3 + 1)
    assert errors(browser) == []
