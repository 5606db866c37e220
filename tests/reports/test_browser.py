"""The page in a browser: hostile text is inert, tables sort and filter, samples open, nothing is loaded, it prints.

One report serves all tests: a made-up run whose every text carries fifteen script payloads.
"""

import json
import re
from pathlib import Path
from urllib.parse import unquote

import pytest

from alignment_bench.reports.render import render
from alignment_bench.results.integrity import write_record
from alignment_bench.results.run_folder import Run

PAYLOADS = [
    "<script>window.pwned=1</script>",
    "<img src=x onerror=window.pwned=2>",
    '"><svg onload=window.pwned=3>',
    "'><a href='javascript:window.pwned=4'>x</a>",
    "</title></style></textarea><script>window.pwned=5</script>",
    "]]><script>window.pwned=6</script><!--",
    "--><script>window.pwned=7</script>",
    "{{ 7 * 7 }} {% raw %} $\\alpha$",
    '</script><script type="module">window.pwned=8</script>',
    "<iframe srcdoc='<script>parent.pwned=9</script>'></iframe>",
    "<body onload=window.pwned=10><details open ontoggle=window.pwned=11>x</details>",
    "<math><mtext><style><img src=x onerror=window.pwned=12></style></mtext></math>",
    "\u2028window.pwned=13//\u2029 \\u003cscript>window.pwned=13\\u003c/script>",
    '<!--<script>"};window.pwned=14;</script>--><style>body{display:none}</style>',
    '<meta http-equiv=refresh content="0;url=https://example.org/"><base href=https://example.org/>'
    "<link rel=stylesheet href=https://example.org/x.css><form action=https://example.org/><input autofocus>",
]
EVERYTHING = " ".join(PAYLOADS)
# a method's label is also a folder's name
HOSTILE = {"ppo": 0.71, **{PAYLOADS[place].replace("/", ""): 0.64 - place / 100 for place in (0, 2, 6, 7)}}
DESK, PHONE = {"width": 1280, "height": 800}, {"width": 360, "height": 740}


@pytest.fixture(scope="module")
def written(tmp_path_factory, make_run):
    """index.html and report.md of the attacked run."""
    run = make_run(tmp_path_factory.mktemp("attacked"), methods=HOSTILE, words=EVERYTHING)
    record, found = run.record, run.summary
    record |= {"run_id": EVERYTHING, "benchmark": EVERYTHING, "created": EVERYTHING, "commands": [EVERYTHING]}
    record["data"] |= {"notes": [EVERYTHING], "source": EVERYTHING, "dropped": {EVERYTHING: 1}}
    record["contract"][EVERYTHING] = EVERYTHING
    record["methods"]["ppo"] = {"name": EVERYTHING, "params": {EVERYTHING: EVERYTHING}, "description": EVERYTHING}
    write_record(run.path / "run.json", record)
    found["warnings"], found["stamps"] = [EVERYTHING], [EVERYTHING]
    found["contract"], found["data"]["source"] = {"model": EVERYTHING}, EVERYTHING
    found["gates"][0] |= {"name": EVERYTHING, "text": EVERYTHING, "passed": False}
    found["comparisons"][0]["verdict"] = EVERYTHING
    found["methods"]["ppo"]["metrics"][f"win_rate.{EVERYTHING}"] = {"mean": 0.6, "low": 0.5, "high": 0.7, "n": 9}
    people = found["judges"]["people"]
    people["file"] = EVERYTHING
    people["judges"][EVERYTHING] = {"subsets": {EVERYTHING: {"pairs": 3, "alpha": 0.5}}}
    found["judges"]["audit"][EVERYTHING] = found["judges"]["audit"]["judge"]
    found["overoptimization"] = {"ppo": {"text": EVERYTHING, "points": [], "fits": {}}}
    run.write_summary(found)
    return render([run])


@pytest.fixture
def problems():
    """Faults of a page: errors, words on the console, dialogs, requests."""
    found: list[str] = []
    yield found
    assert found == []


def open_page(browser, path: Path, problems, size=DESK, scheme="light"):
    page = browser.new_context(viewport=size, color_scheme=scheme).new_page()
    page.set_default_timeout(10_000)
    page.on("pageerror", lambda error: problems.append(f"error: {error}"))
    page.on("console", lambda message: problems.append(f"console: {message.text}"))
    page.on("dialog", lambda dialog: problems.append(f"dialog: {dialog.message}"))
    allowed = (path.as_uri(), "data:,")
    page.on("request", lambda request: request.url in allowed or problems.append(f"request: {request.url}"))
    page.goto(path.as_uri())
    return page


@pytest.fixture
def page(browser, written, problems):
    opened = open_page(browser, written[0], problems)
    yield opened
    opened.context.close()


def test_hostile_text_becomes_no_markup(written, parse):
    source, markdown = (path.read_text(encoding="utf-8") for path in written)
    attacked = parse(source)
    known = {"html", "head", "meta", "link", "title", "style", "body", "script", "noscript"}
    known |= set("a header h1 h2 h3 h4 p span nav ul li main section strong b div code details summary footer".split())
    known |= set(
        "label input fieldset legend table caption thead tbody tr th td figure figcaption select option".split()
    )
    known |= set("button dl dt dd pre svg g path defs clippath rect use text ".split())
    tags = {tag.lower() for tag, _ in attacked.elements}
    assert tags <= known, tags - known
    assert source.count("<script") == 3  # two scripts of ours, one block of data
    assert not any(name.startswith("on") for _, attrs in attacked.elements for name in attrs)
    assert not any("javascript:" in (attrs.get("href") or "") for _, attrs in attacked.elements)
    for payload in PAYLOADS:  # it is all there, as text
        assert " ".join(payload.split()) in attacked.text
    prose = [line for line in markdown.splitlines() if not line.startswith("    ")]  # the rest is a block of code
    assert not re.search(r"<[a-z/!]", "\n".join(prose))


def test_hostile_text_does_nothing_in_a_browser(page):
    assert page.evaluate("window.pwned") is None
    assert page.url.startswith("file:") and page.title().startswith("><input autofocus> on >")
    page.locator("#samples details").nth(1).locator("summary").click()
    shown = page.locator("#samples details").nth(1).locator(".response .text").first.text_content()
    for payload in PAYLOADS:  # the browser shows every character
        assert payload in shown
    for _ in range(5):
        page.get_by_role("button", name="Next").click()
    page.wait_for_timeout(200)
    assert page.evaluate("window.pwned") is None
    assert (
        page.evaluate("document.querySelectorAll('iframe, img, form, main style, main meta, main script[src]').length")
        == 0
    )


def column(page, place):
    return page.locator(f"#t-leaderboard tbody tr > :nth-child({place + 1})").evaluate_all(
        "cells => cells.filter(c => !c.parentElement.hidden).map(c => c.dataset.value)"
    )


def test_the_leaderboard_sorts_by_mouse_and_keyboard(page):
    before = column(page, 0)
    head = page.locator("#t-leaderboard th[data-column='1']")
    head.get_by_role("button").click()
    values = column(page, 1)
    assert head.get_attribute("aria-sort") == "descending"
    assert values[-1] == ""  # SFT has no win rate against itself here; what is missing comes last
    assert [float(v) for v in values[:-1]] == sorted(map(float, values[:-1]), reverse=True)
    head.get_by_role("button").focus()
    page.keyboard.press("Enter")
    values = column(page, 1)
    assert head.get_attribute("aria-sort") == "ascending" and values[-1] == ""
    assert [float(v) for v in values[:-1]] == sorted(map(float, values[:-1]))
    method = page.locator("#t-leaderboard th[data-column='0']")
    method.get_by_role("button").click()
    assert method.get_attribute("aria-sort") == "ascending" and head.get_attribute("aria-sort") is None
    names = column(page, 0)
    assert sorted(names) == sorted(before) and names.index("ppo") < names.index("sft")
    method.get_by_role("button").click()
    assert column(page, 0) == names[::-1]


def test_the_leaderboard_filters_methods_and_columns(page):
    page.get_by_label("Filter methods").fill("pPo")
    assert column(page, 0) == ["ppo"]
    assert page.locator("#leaderboard [role=status]").text_content() == "1 of 6 methods"
    page.get_by_label("Filter methods").fill("")
    assert len(column(page, 0)) == 6
    memory = page.locator("#t-leaderboard th", has_text="Peak memory")
    assert not memory.is_visible()
    page.get_by_label("Further costs").check()
    assert memory.is_visible()
    page.get_by_label("Further costs").uncheck()
    assert not memory.is_visible() and not page.locator("#t-leaderboard td", has_text="1.77 GiB").first.is_visible()


def test_samples_open_filter_search_and_turn(page, written):
    source = written[0].read_text(encoding="utf-8")
    rows = json.loads(re.search(r'id="samples-data">(.*?)</script>', source)[1])["rows"]
    cards, status = page.locator("#sample-list details"), page.locator("#sample-status")
    assert status.text_content() == "1 to 10 of 60" and cards.count() == 10
    assert cards.first.locator(".response").count() == 6  # SFT and five methods, side by side
    assert cards.nth(1).locator(".response").count() == 0
    cards.nth(1).locator("summary").focus()
    page.keyboard.press("Enter")
    cards.nth(1).locator(".response").first.wait_for()
    page.get_by_role("button", name="Next").click()
    assert status.text_content() == "11 to 20 of 60"
    assert page.get_by_role("button", name="Previous").is_enabled()
    page.get_by_label("Search prompts and responses").fill("in pot 17?")
    page.locator("#sample-status", has_text="1 to 1 of 1 (60 in all)").wait_for()
    assert cards.locator(".note").first.text_content() == "quick-17"
    page.get_by_label("Search prompts and responses").fill("")
    page.locator("#sample-status", has_text=re.compile("^1 to 10 of 60$")).wait_for()
    ahead = {row["id"]: row["responses"][1]["scores"][0][0] - row["responses"][0]["scores"][0][0] for row in rows}
    for show, sign in (("Biggest wins", -1), ("Biggest losses", 1)):
        page.locator("#sample-show").select_option(show)
        expected = sorted((sign * lead, key) for key, lead in ahead.items() if sign * lead < 0)
        assert cards.first.locator(".note").text_content() == expected[0][1]
        assert status.text_content() == f"1 to {min(10, len(expected))} of {len(expected)} (60 in all)"
    page.locator("#sample-show").select_option("Judge and reward model disagree")
    differ = [row["id"] for row in rows if {row["responses"][1]["scores"][place][1] for place in (1, 2)} == {0.0, 1.0}]
    assert status.text_content() == f"1 to {min(10, len(differ))} of {len(differ)} (60 in all)"
    assert cards.first.locator(".note").text_content() == differ[0]


def test_differences_from_sft_are_marked(browser, page):
    """By hand: of "a small red fox ran" against "the red fox walked and ran", SFT lacks "a small"; "ran" is kept."""
    texts = {0: "the red fox walked and ran", 1: "a small red fox ran"}
    source = page.content()
    data = json.loads(re.search(r'id="samples-data">(.*?)</script>', source)[1])
    for place, text in texts.items():
        data["rows"][0]["responses"][place]["text"] = text
    scripts = re.findall(r"<script>(.*?)</script>", source, flags=re.DOTALL)
    fresh = browser.new_context().new_page()
    section = re.search(r'<section id="samples".*?</section>', source, flags=re.DOTALL)[0]
    section = re.sub(r'(id="sample-list">).*?(<div class="pager")', r"\1</div>\2", section, flags=re.DOTALL)
    section = re.sub(r"(<select[^>]*>).*?</select>", r'\1<option value="all"></select>', section, flags=re.DOTALL)
    block = re.escape('id="samples-data">') + ".*?</script>"
    section = re.sub(
        block, lambda _: f'id="samples-data">{json.dumps(data).replace("<", chr(92) + "u003c")}</script>', section
    )
    fresh.set_content(section)
    fresh.add_script_tag(content=scripts[1])
    responses = fresh.locator("#sample-list details").first.locator(".response")
    assert responses.nth(0).locator("mark").count() == 0
    assert responses.nth(1).locator("mark").all_text_contents() == ["a small"]
    assert responses.nth(1).locator(".text").text_content() == texts[1]
    fresh.locator("#sample-marks").uncheck()
    assert responses.nth(1).locator("mark").count() == 0
    fresh.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_needs_no_sideways_scrolling(browser, written, problems, scheme):
    phone = open_page(browser, written[0], problems, PHONE, scheme)
    assert phone.evaluate("document.documentElement.scrollWidth") <= 360
    phone.context.close()


def test_everything_that_can_be_used_has_a_name(page):
    unnamed = page.evaluate(
        """[...document.querySelectorAll('input, select, button')].filter(
            e => !(e.labels?.length || e.textContent.trim() || e.getAttribute('aria-label'))).length"""
    )
    assert unnamed == 0
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the verdict"
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"


def test_it_prints(page):
    """In print: dark ink on white, no controls, closed parts unfolded, and a table's end is not cut off."""
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).color") == "rgb(0, 0, 0)"
    assert not page.locator("nav").is_visible()
    assert not page.get_by_label("Filter methods").is_visible()
    assert page.locator("#c-comparisons").is_visible()
    assert page.evaluate("getComputedStyle(document.querySelector('.scroll')).overflowX") == "visible"
    assert page.pdf(format="A4").startswith(b"%PDF")


def test_thousands_of_samples_stay_quick(browser, page):
    """5,000 prompts are sorted by lead and drawn within a second."""
    source = page.content()
    data = json.loads(re.search(r'id="samples-data">(.*?)</script>', source)[1])
    for row in data["rows"]:
        for response in row["responses"]:
            response["text"] = response["text"][-100:]
    data["rows"] = [
        {**data["rows"][n % 60], "id": f"p-{n}", "prompt": [["user", f"question {n}"]]} for n in range(5_000)
    ]
    fresh = browser.new_context().new_page()
    section = re.search(r'<section id="samples".*?</section>', source, flags=re.DOTALL)[0]
    section = re.sub(r"(<select[^>]*>).*?</select>", r'\1<option value="all"><option value="wins"></select>', section)
    block = re.escape('id="samples-data">') + ".*?</script>"
    text = json.dumps(data).replace("<", "\\u003c")
    section = re.sub(block, lambda _: f'id="samples-data">{text}</script>', section, flags=re.DOTALL)
    fresh.set_content(section)
    fresh.add_script_tag(content=re.findall(r"<script>(.*?)</script>", source, flags=re.DOTALL)[1])
    took = fresh.evaluate(
        """() => { const started = performance.now();
            const show = document.getElementById('sample-show'); show.value = 'wins'; 
            show.dispatchEvent(new Event('change'));
            return performance.now() - started; }"""
    )
    assert fresh.locator("#sample-status").text_content().startswith("1 to 10 of ")
    assert took < 1000
    fresh.context.close()


def test_an_overview_of_hostile_runs(browser, tmp_path, written, problems):
    """Two runs with contracts that differ: a table each that sorts alone, links to the reports, nothing runs."""
    attacked = Run(written[0].parent.parent)
    runs = []
    for name, budget in (("one", 1), ("two", 2)):
        runs.append(Run(tmp_path / "runs" / name))
        record = attacked.record | {"run_id": f"{name} {PAYLOADS[1]}"}
        record["contract"] = record["contract"] | {"budget": budget}
        write_record(runs[-1].path / "run.json", record)
        runs[-1].write_summary({**attacked.summary, "equal_length": {}, "reward_models": {}})
    overview = render(runs, tmp_path / "out", formats=("html",))[0]
    page = open_page(browser, overview, problems)
    assert page.evaluate("window.pwned") is None
    assert page.locator("#verdict").get_by_text("the budgets differ").is_visible()
    assert page.locator("table.leaderboard").count() == 2
    first, second = (page.locator(f"#t-leaderboard-{n}") for n in (1, 2))
    first.locator("th[data-column='1'] button").click()
    assert first.locator("[aria-sort]").count() == 1 and second.locator("[aria-sort]").count() == 0
    for link in page.get_by_role("link", name="The whole report").all():
        assert (overview.parent / unquote(link.get_attribute("href"))).is_file()
    page.context.close()
