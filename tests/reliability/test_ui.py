"""The page in a real Chromium: sign in, look, roll back with a reason, and what another page's form can't do.

Chromium is driven by chromedriver's own protocol (W3C WebDriver) over HTTP: Debian's packages `chromium` and
`chromium-driver`. With SCREENSHOT=docs/images/ui.png in the environment the picture of the documentation is taken anew.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from evermodel.control.actions import Runs
from evermodel.control.app import create_control
from evermodel.control.auth.session import Sessions, session_key
from evermodel.control.service import Service
from evermodel.credentials import Tokens
from evermodel.workflow import Project
from tests.support import ledger_history
from tests.support.ledger_history import NAME, NOW

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
TOKENS = {"anna": "admin", "eve": "viewer"}
pytestmark = [
    pytest.mark.server,
    pytest.mark.slow,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="no Chromium here: apt-get install chromium chromium-driver"),
]


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def until(what: Any, seconds: float = 30.0) -> Any:
    end = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < end, "it didn't come in time"
        time.sleep(0.05)
    return found


class Browser:
    """One Chromium session, as far as the tests need it."""

    def __init__(self, driver: str, profile: Path) -> None:
        arguments = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--window-size=1280,900"]
        arguments += [f"--user-data-dir={profile}", "--disable-dev-shm-usage", "--no-first-run"]
        options = {"binary": CHROMIUM, "args": arguments}
        self._http = httpx.Client(base_url=driver, timeout=60, trust_env=False)
        wanted = {"browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        said = self._ask("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
        self._at = f"/session/{said['sessionId']}"

    def _ask(self, method: str, path: str, body: Any = None) -> Any:
        answer = self._http.request(method, path, json=body if method == "POST" else None).json()["value"]
        if isinstance(answer, dict) and "error" in answer:
            raise AssertionError(f"{path}: {answer['error']}: {answer['message']}")
        return answer

    def open(self, url: str) -> None:
        self._ask("POST", f"{self._at}/url", {"url": url})

    @property
    def url(self) -> str:
        return str(self._ask("GET", f"{self._at}/url"))

    def all(self, selector: str, using: str = "css selector") -> list[str]:
        found = self._ask("POST", f"{self._at}/elements", {"using": using, "value": selector})
        return [one[ELEMENT] for one in found]

    def one(self, selector: str, using: str = "css selector") -> str:
        return str(until(lambda: self.all(selector, using))[0])

    def text(self, selector: str = "body") -> str:
        """What is to be read there; in one step, for a page may go while it is asked."""
        return str(self.run("return document.querySelector(arguments[0])?.innerText ?? ''", selector))

    def click(self, selector: str, using: str = "css selector") -> None:
        self._ask("POST", f"{self._at}/element/{self.one(selector, using)}/click", {})

    def type(self, selector: str, text: str) -> None:
        self._ask("POST", f"{self._at}/element/{self.one(selector)}/value", {"text": text})

    def run(self, script: str, *args: Any) -> Any:
        return self._ask("POST", f"{self._at}/execute/sync", {"script": script, "args": list(args)})

    def complaints(self) -> list[str]:
        """What the console has: a refused style or script is there."""
        return [one["message"] for one in self._ask("POST", f"{self._at}/se/log", {"type": "browser"})]

    def devtools(self, command: str, **parameters: Any) -> Any:
        body = {"cmd": command, "params": parameters}
        return self._ask("POST", f"{self._at}/goog/cdp/execute", body)

    def close(self) -> None:
        self._ask("DELETE", self._at)
        self._http.close()


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    port = free_port()
    log = (tmp_path_factory.mktemp("driver") / "log").open("wb")
    with log, subprocess.Popen([str(DRIVER), f"--port={port}"], stdout=log, stderr=log) as process:
        url = f"http://127.0.0.1:{port}"

        def answers() -> bool:
            try:
                return bool(httpx.get(f"{url}/status", trust_env=False).json()["value"]["ready"])
            except httpx.TransportError:
                return False

        until(answers)
        yield url
        process.terminate()


@pytest.fixture
def browser(driver: str, tmp_path: Path) -> Iterator[Browser]:
    browser = Browser(driver, tmp_path / "chromium")
    yield browser
    browser.close()


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return ledger_history.live(tmp_path / "project")


def serving(ledger: Any) -> dict[str, Any]:
    """What a serving with two arms beside its champion says."""
    releases = [row.release.id for row in ledger.promotions(NAME)]
    arms = {
        "rolled_back": {"release": releases[2], "share": 0.1, "shadow": False},
        "first": {"release": releases[0], "share": 0.0, "shadow": True},
    }
    case = {"release": releases[-1], "since": None, "weights": {"order": 1.0}, "arms": arms, "error": None}
    return {"use_cases": {NAME: case}}


class Control:
    """The control service over a project, on a free port."""

    def __init__(self, project: Project, tokens: Path | None) -> None:
        self.service = Service(
            project,
            clock=lambda: NOW,
            tokens=Tokens.from_file(tokens) if tokens else None,
            serving=lambda: serving(project.ledger()),
            aliases=lambda _project, _name: None,
        )
        sessions = Sessions(session_key(None), clock=self.service.clock)
        app = create_control(self.service, sessions=sessions, runs=Runs(self.service, launch=lambda *_: None))
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._server = uvicorn.Server(uvicorn.Config(app, port=self.port, log_level="warning", access_log=False))
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        until(lambda: self._server.started)

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(10)


@pytest.fixture
def control(project: Project, tmp_path: Path) -> Iterator[Control]:
    entries = [
        {"name": name, "role": role, "sha256": hashlib.sha256(f"{name}-token".encode()).hexdigest()}
        for name, role in TOKENS.items()
    ]
    (tmp_path / "tokens.json").write_text(json.dumps(entries))
    control = Control(project, tmp_path / "tokens.json")
    yield control
    control.stop()


@pytest.fixture
def local(project: Project) -> Iterator[Control]:
    control = Control(project, None)
    yield control
    control.stop()


def sign_in(browser: Browser, control: Control, name: str) -> None:
    browser.open(control.url)
    browser.type("#token", f"{name}-token")
    browser.click("main button")
    until(lambda: "Use cases" in browser.text("main"))


def test_a_person_signs_in_and_rolls_back(browser: Browser, control: Control) -> None:
    ledger = control.service.ledger
    before, previous = ledger.champion(NAME), ledger.previous(NAME)
    assert before is not None and previous is not None
    sign_in(browser, control, "anna")
    browser.click("a.card")
    until(lambda: before.id in browser.text(".tiles"))
    assert len(browser.all("svg.chart circle")) == 12 and len(browser.all("svg.chart .promotion")) == 4
    assert "the window is quarantined" in browser.text("main")
    browser.click("Roll back…", "link text")
    until(lambda: previous.id in browser.text("form.stack"))
    browser.click("form.stack button")  # without a reason the browser itself doesn't send it
    assert browser.url.endswith("/rollback")
    browser.type("#reason", "orders fell since noon")
    browser.click("form.stack button")
    until(lambda: "The previous champion is back" in browser.text("main"))
    row = ledger.promotions(NAME)[-1]
    assert (row.version, row.release, row.action) == (5, previous, "rollback")
    assert (row.actor, row.reason) == ("anna", "orders fell since noon")
    assert not ledger.verify_chain(NAME)
    assert "orders fell since noon" in browser.text("main") and previous.id in browser.text(".tiles")
    assert browser.run("return document.cookie") == "", "no script sees the session"
    browser.click("header form button")
    until(lambda: "Token" in browser.text("main"))
    complaints = [one for one in browser.complaints() if "401" not in one]  # a stranger's first page
    assert complaints == []


def test_without_the_forms_token_nothing_happens(browser: Browser, control: Control) -> None:
    sign_in(browser, control, "anna")
    browser.open(f"{control.url}/use-cases/{NAME}/rollback")
    browser.run("document.querySelector('form.stack input[name=csrf]').value = '0'.repeat(64)")
    browser.type("#reason", "x")
    browser.click("form.stack button")
    until(lambda: "Nothing was changed" in browser.text("main"))
    assert len(control.service.ledger.promotions(NAME)) == 4


def test_another_sites_page_can_neither_send_nor_frame(browser: Browser, control: Control, tmp_path: Path) -> None:
    """From a page of another origin the session's cookie doesn't come along, and the page can't be framed."""
    sign_in(browser, control, "anna")
    form = f"<form method=post action='{control.url}/use-cases/{NAME}/rollback'><input name=reason value=x><button>x</button></form>"
    evil = tmp_path / "evil.html"
    evil.write_text(f"<body>{form}<iframe src='{control.url}/'></iframe></body>")
    browser.open(evil.as_uri())
    browser.click("button")
    until(lambda: "/rollback" in browser.url)
    assert "another site" in browser.text() or "Sign in" in browser.text()
    assert len(control.service.ledger.promotions(NAME)) == 4
    browser.open(evil.as_uri())
    assert any("frame" in one.lower() for one in until(browser.complaints))


def test_a_viewer_has_no_buttons(browser: Browser, control: Control) -> None:
    sign_in(browser, control, "eve")
    browser.open(f"{control.url}/use-cases/{NAME}")
    assert "Decisions" in browser.text("main") and browser.all(".actions") == []
    browser.open(f"{control.url}/use-cases/{NAME}/rollback")
    assert browser.all("form.stack") == [] or "Cancel" in browser.text("main")


def test_in_local_nobody_signs_in_and_it_is_fit_to_be_seen(browser: Browser, local: Control, tmp_path: Path) -> None:
    for theme in ("dark", "light"):
        browser.devtools("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": theme}])
        browser.open(f"{local.url}/use-cases/{NAME}")
        assert "local user" in browser.text("header")
        page = browser.run("return getComputedStyle(document.body).backgroundColor")
        assert page == ("rgb(15, 18, 24)" if theme == "dark" else "rgb(246, 247, 249)")
    wide = "return document.documentElement.scrollWidth <= document.documentElement.clientWidth"
    assert browser.run(wide), "nothing sticks out sideways"
    height = browser.run("return document.querySelector('.columns').getBoundingClientRect().bottom")
    clip = {"x": 0, "y": 0, "width": 1280, "height": height, "scale": 1}
    shot = browser.devtools("Page.captureScreenshot", format="png", clip=clip, captureBeyondViewport=True)
    picture = base64.b64decode(shot["data"])
    assert picture.startswith(b"\x89PNG") and len(picture) > 20_000
    if place := os.environ.get("SCREENSHOT"):
        Path(place).parent.mkdir(parents=True, exist_ok=True)
        Path(place).write_bytes(picture)
    browser.devtools("Emulation.setDeviceMetricsOverride", width=400, height=800, deviceScaleFactor=1, mobile=True)
    browser.open(f"{local.url}/use-cases/{NAME}")
    assert browser.run(wide), "nor on a phone"
    assert browser.complaints() == []
