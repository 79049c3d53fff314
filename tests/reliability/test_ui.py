"""The pages in a real Chromium: sign-in, a rollback with a reason, and requests of another site's page.

The tests drive Chromium through chromedriver (W3C WebDriver) over HTTP; Debian's packages are `chromium` and
`chromium-driver`. With SCREENSHOT=docs/images/ui.png in the environment, a test renews the picture of the documentation.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from evermodel.control.actions import RunLauncher
from evermodel.control.app import create_control
from evermodel.control.auth.session import Sessions, session_key
from evermodel.control.service import Service
from evermodel.credentials import Tokens
from evermodel.ledger import Ledger
from evermodel.workflow import Project
from tests.support import ledger_history
from tests.support.ledger_history import NAME, NOW
from tests.support.servers import free_port
from tests.support.waiting import wait_until

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
ROLES = {"anna": "admin", "eve": "viewer"}
pytestmark = [
    pytest.mark.server,
    pytest.mark.slow,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="no Chromium here: apt-get install chromium chromium-driver"),
]


def wait(condition: Callable[[], Any]) -> Any:
    return wait_until(condition, 30, "the page does not change")


class Browser:
    """One Chromium session: the commands that the tests need."""

    def __init__(self, driver: str, profile: Path) -> None:
        arguments = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--window-size=1280,900"]
        arguments += [f"--user-data-dir={profile}", "--disable-dev-shm-usage", "--no-first-run"]
        options = {"binary": CHROMIUM, "args": arguments}
        self._http = httpx.Client(base_url=driver, timeout=60, trust_env=False)
        wanted = {"browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        session = self._command("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
        self._session = f"/session/{session['sessionId']}"

    def _command(self, method: str, path: str, body: Any = None) -> Any:
        answer = self._http.request(method, path, json=body if method == "POST" else None).json()["value"]
        if isinstance(answer, dict) and "error" in answer:
            raise AssertionError(f"{path}: {answer['error']}: {answer['message']}")
        return answer

    def open(self, url: str) -> None:
        self._command("POST", f"{self._session}/url", {"url": url})

    @property
    def url(self) -> str:
        return str(self._command("GET", f"{self._session}/url"))

    def find_all(self, selector: str, using: str = "css selector") -> list[str]:
        elements = self._command("POST", f"{self._session}/elements", {"using": using, "value": selector})
        return [element[ELEMENT] for element in elements]

    def find(self, selector: str, using: str = "css selector") -> str:
        return str(wait(lambda: self.find_all(selector, using))[0])

    def text(self, selector: str = "body") -> str:
        """The visible text; read in one step, because the page may change meanwhile."""
        return str(self.run("return document.querySelector(arguments[0])?.innerText ?? ''", selector))

    def click(self, selector: str, using: str = "css selector") -> None:
        self._command("POST", f"{self._session}/element/{self.find(selector, using)}/click", {})

    def type(self, selector: str, text: str) -> None:
        self._command("POST", f"{self._session}/element/{self.find(selector)}/value", {"text": text})

    def run(self, script: str, *args: Any) -> Any:
        return self._command("POST", f"{self._session}/execute/sync", {"script": script, "args": list(args)})

    def console_messages(self) -> list[str]:
        """For example about a refused style or script."""
        return [entry["message"] for entry in self._command("POST", f"{self._session}/se/log", {"type": "browser"})]

    def devtools(self, command: str, **parameters: Any) -> Any:
        body = {"cmd": command, "params": parameters}
        return self._command("POST", f"{self._session}/goog/cdp/execute", body)

    def close(self) -> None:
        self._command("DELETE", self._session)
        self._http.close()


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    port = free_port()
    log = (tmp_path_factory.mktemp("driver") / "log").open("wb")
    with log, subprocess.Popen([str(DRIVER), f"--port={port}"], stdout=log, stderr=log) as process:
        url = f"http://127.0.0.1:{port}"

        def is_ready() -> bool:
            try:
                return bool(httpx.get(f"{url}/status", trust_env=False).json()["value"]["ready"])
            except httpx.TransportError:
                return False

        wait(is_ready)
        yield url
        process.terminate()


@pytest.fixture
def browser(driver: str, tmp_path: Path) -> Iterator[Browser]:
    browser = Browser(driver, tmp_path / "chromium")
    yield browser
    browser.close()


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return ledger_history.project_with_history(tmp_path / "project")


def serving_status(ledger: Ledger) -> dict[str, Any]:
    """The status of a serving with two arms beside its champion."""
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
            serving=lambda: serving_status(project.ledger()),
            sync_aliases=lambda _project, _name: None,
        )
        sessions = Sessions(session_key(None), clock=self.service.clock)
        app = create_control(self.service, sessions=sessions, launcher=RunLauncher(self.service, run=lambda *_: None))
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._server = uvicorn.Server(uvicorn.Config(app, port=self.port, log_level="warning", access_log=False))
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        wait(lambda: self._server.started)

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(10)


@pytest.fixture
def control(project: Project, tmp_path: Path) -> Iterator[Control]:
    entries = [
        {"name": name, "role": role, "sha256": hashlib.sha256(f"{name}-token".encode()).hexdigest()}
        for name, role in ROLES.items()
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
    wait(lambda: "Use cases" in browser.text("main"))


def test_a_person_signs_in_and_rolls_back(browser: Browser, control: Control) -> None:
    ledger = control.service.ledger
    before, previous = ledger.champion(NAME), ledger.previous(NAME)
    assert before is not None and previous is not None
    sign_in(browser, control, "anna")
    browser.click("a.card")
    wait(lambda: before.id in browser.text(".tiles"))
    assert len(browser.find_all("svg.chart circle")) == 12 and len(browser.find_all("svg.chart .promotion")) == 4
    assert "the window is quarantined" in browser.text("main")
    browser.click("Roll back…", "link text")
    wait(lambda: previous.id in browser.text("form.stack"))
    browser.click("form.stack button")  # without a reason the browser does not send the form
    assert browser.url.endswith("/rollback")
    browser.type("#reason", "orders fell since noon")
    browser.click("form.stack button")
    wait(lambda: "The previous champion is back" in browser.text("main"))
    row = ledger.promotions(NAME)[-1]
    assert (row.version, row.release, row.action) == (5, previous, "rollback")
    assert (row.actor, row.reason) == ("anna", "orders fell since noon")
    assert not ledger.verify_chain(NAME)
    assert "orders fell since noon" in browser.text("main") and previous.id in browser.text(".tiles")
    assert browser.run("return document.cookie") == "", "no script sees the session"
    browser.click("header form button")
    wait(lambda: "Token" in browser.text("main"))
    messages = [message for message in browser.console_messages() if "401" not in message]  # of the first page
    assert messages == []


def test_a_form_with_a_wrong_csrf_token_changes_nothing(browser: Browser, control: Control) -> None:
    sign_in(browser, control, "anna")
    browser.open(f"{control.url}/use-cases/{NAME}/rollback")
    browser.run("document.querySelector('form.stack input[name=csrf]').value = '0'.repeat(64)")
    browser.type("#reason", "x")
    browser.click("form.stack button")
    wait(lambda: "Nothing was changed" in browser.text("main"))
    assert len(control.service.ledger.promotions(NAME)) == 4


def test_another_sites_page_can_neither_send_a_form_nor_frame_a_page(
    browser: Browser, control: Control, tmp_path: Path
) -> None:
    """The browser does not send the session cookie from another origin, and refuses to frame the page."""
    sign_in(browser, control, "anna")
    form = f"<form method=post action='{control.url}/use-cases/{NAME}/rollback'><input name=reason value=x><button>x</button></form>"
    evil = tmp_path / "evil.html"
    evil.write_text(f"<body>{form}<iframe src='{control.url}/'></iframe></body>")
    browser.open(evil.as_uri())
    browser.click("button")
    wait(lambda: "/rollback" in browser.url)
    assert "another site" in browser.text() or "Sign in" in browser.text()
    assert len(control.service.ledger.promotions(NAME)) == 4
    browser.open(evil.as_uri())
    assert any("frame" in message.lower() for message in wait(browser.console_messages))


def test_a_viewer_has_no_buttons(browser: Browser, control: Control) -> None:
    sign_in(browser, control, "eve")
    browser.open(f"{control.url}/use-cases/{NAME}")
    assert "Decisions" in browser.text("main") and browser.find_all(".actions") == []
    browser.open(f"{control.url}/use-cases/{NAME}/rollback")
    assert browser.find_all("form.stack") == [] or "Cancel" in browser.text("main")


def test_the_local_profile_needs_no_sign_in_and_fits_every_screen(
    browser: Browser, local: Control, tmp_path: Path
) -> None:
    for theme in ("dark", "light"):
        browser.devtools("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": theme}])
        browser.open(f"{local.url}/use-cases/{NAME}")
        assert "local user" in browser.text("header")
        page = browser.run("return getComputedStyle(document.body).backgroundColor")
        assert page == ("rgb(15, 18, 24)" if theme == "dark" else "rgb(246, 247, 249)")
    wide = "return document.documentElement.scrollWidth <= document.documentElement.clientWidth"
    assert browser.run(wide), "the page is wider than the window"
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
    assert browser.run(wide), "the page is wider than a phone"
    assert browser.console_messages() == []
