"""The pages without a browser: sessions, CSRF, what each role sees, and the texts."""

import shutil
from datetime import timedelta

import pytest

from evermodel.control.auth.session import SESSION_COOKIE
from evermodel.control.ui.renderer import format_action, format_duration, format_reason
from evermodel.reports.page import stylesheet
from tests.support import ROOT
from tests.support.ledger_history import HELD_RUN, NAME
from tests.unit.control.control_cases import Client, ControlHarness, hidden_field, token, write_tokens

PAGE = f"/use-cases/{NAME}"
HTML = {"accept": "text/html"}


def sign_in(control: ControlHarness, name: str) -> Client:
    client = control.client(**HTML)
    csrf = hidden_field(client.get("/sign-in").text, "csrf")
    answer = client.submit("/sign-in", {"csrf": csrf, "token": token(name)})
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    return client


def test_without_a_session_only_the_sign_in_form_is_shown(unchanged: ControlHarness) -> None:
    for path in ("/", PAGE, f"{PAGE}/rollback"):
        answer = unchanged.client(**HTML).get(path)
        assert answer.status_code == 401 and 'name="token"' in answer.text
        assert NAME not in answer.text


def test_the_cookie_has_no_token_and_is_hidden_from_scripts(unchanged: ControlHarness) -> None:
    client = unchanged.client(**HTML)
    csrf = hidden_field(client.get("/sign-in").text, "csrf")
    answer = client.submit("/sign-in", {"csrf": csrf, "token": token("ops")}, headers={"x-forwarded-proto": "https"})
    (cookie,) = [text for text in answer.headers.get_list("set-cookie") if text.startswith(SESSION_COOKIE)]
    assert token("ops") not in cookie
    assert {"HttpOnly", "SameSite=strict", "Secure", "Path=/"} <= set(cookie.split("; "))


@pytest.mark.parametrize(("name", "status"), [("nobody", 401), ("am", 403), ("prom", 403), ("app", 403)])
def test_only_admins_and_viewers_sign_in(unchanged: ControlHarness, name: str, status: int) -> None:
    client = unchanged.client(**HTML)
    csrf = hidden_field(client.get("/sign-in").text, "csrf")
    assert client.submit("/sign-in", {"csrf": csrf, "token": token(name)}).status_code == status
    assert client.get("/").status_code == 401


def test_a_sign_in_form_of_another_site_is_refused(unchanged: ControlHarness) -> None:
    assert unchanged.client(**HTML).submit("/sign-in", {"csrf": "0" * 64, "token": token("ops")}).status_code == 403


def test_a_viewer_sees_no_buttons_and_may_not_act(unchanged: ControlHarness) -> None:
    client = sign_in(unchanged, "eve")
    page = client.get(PAGE).text
    assert "Decisions" in page and f"{PAGE}/rollback" not in page
    assert f"{PAGE}/rollback" in sign_in(unchanged, "ops").get(PAGE).text
    csrf = hidden_field(page, "csrf")
    assert client.submit(f"{PAGE}/rollback", {"csrf": csrf, "reason": "x"}).status_code == 403


def test_a_session_ends_after_its_time_with_its_token_and_by_sign_out(control: ControlHarness) -> None:
    client = sign_in(control, "ops")
    assert client.get("/").status_code == 200
    control.now += timedelta(hours=12)
    assert client.get("/").status_code == 401
    control.now -= timedelta(hours=11)
    assert client.get("/").status_code == 200
    assert control.tokens is not None
    write_tokens(control.tokens, {"eve": "viewer"})
    assert client.get("/").status_code == 401
    other = sign_in(control, "eve")
    assert other.submit("/sign-out", {"csrf": hidden_field(other.get("/").text, "csrf")}).status_code == 303
    assert other.get("/").status_code == 401


def test_a_forged_session_is_rejected(unchanged: ControlHarness) -> None:
    client = sign_in(unchanged, "eve")
    payload, time, signature = client.cookies[SESSION_COOKIE].split(".")
    other = "A" if signature[0] != "A" else "B"
    for cookie in (
        f"{payload}x.{time}.{signature}",
        f"{payload}.{time[:-1]}.{signature}",
        f"{payload}.{time}.{other}{signature[1:]}",
        f"{payload}.{time}",
        payload,
        f".{signature}",
        "e30.é",
        "é.é.é",
        "eyJuYW1lIjogIm9wcyJ9.00ff",  # the format of earlier versions
    ):
        answer = unchanged.client(**HTML).get("/", headers={"cookie": f"{SESSION_COOKIE}={cookie}".encode()})  # type: ignore[dict-item]
        assert answer.status_code == 401


def test_a_rollback_needs_a_form_of_this_session_and_a_reason(control: ControlHarness) -> None:
    client, other = sign_in(control, "ops"), sign_in(control, "ops")
    page = client.get(f"{PAGE}/rollback").text
    fields = {
        "csrf": hidden_field(page, "csrf"),
        "expected_champion": hidden_field(page, "expected_champion"),
        "reason": "complaints",
    }
    for wrong in ({**fields, "csrf": ""}, {**fields, "csrf": hidden_field(other.get(PAGE).text, "csrf")}):
        answer = client.submit(f"{PAGE}/rollback", wrong)
        assert answer.status_code == 403 and "Nothing was changed" in answer.text
    assert client.submit(f"{PAGE}/rollback", {**fields, "reason": "  "}).status_code == 422
    assert client.submit(f"{PAGE}/rollback", {**fields, "reason": "x" * 501}).status_code == 422
    assert len(control.service.ledger.promotions(NAME)) == 4
    answer = client.submit(f"{PAGE}/rollback", fields)
    assert (answer.status_code, answer.headers["location"]) == (303, f"{PAGE}?done=rollback")
    row = control.service.ledger.promotions(NAME)[-1]
    assert (row.action, row.actor, row.reason) == ("rollback", "ops", "complaints")
    assert "The previous champion is back" in client.get(answer.headers["location"]).text


def test_the_local_profile_checks_forms_too(local: ControlHarness) -> None:
    client = local.client(**HTML)
    page = client.get(f"{PAGE}/rollback").text
    assert "local user" in page and "Sign out" not in page
    stranger = local.client(**HTML)
    fields = {"csrf": hidden_field(page, "csrf"), "reason": "x"}
    assert stranger.submit(f"{PAGE}/rollback", fields).status_code == 403
    assert client.submit(f"{PAGE}/rollback", fields).status_code == 303
    assert local.service.ledger.promotions(NAME)[-1].actor == "local user"


def test_the_promotion_page_shows_the_gates_verdict(control: ControlHarness) -> None:
    client = sign_in(control, "ops")
    page = client.get(f"{PAGE}/promote").text
    assert HELD_RUN in page and "the gate says hold" in page
    fields = {"csrf": hidden_field(page, "csrf"), "run": HELD_RUN, "reason": "good enough"}
    answer = client.submit(f"{PAGE}/promote", fields)
    assert answer.status_code == 409 and "the gate says hold" in answer.text and "good enough" in answer.text
    assert client.submit(f"{PAGE}/promote", {**fields, "override": "yes"}).status_code == 303


def test_a_form_starts_a_retrain(control: ControlHarness) -> None:
    client = sign_in(control, "ops")
    fields = {"csrf": hidden_field(client.get(f"{PAGE}/retrain").text, "csrf"), "reason": "why not"}
    answer = client.submit(f"{PAGE}/retrain", {**fields, "windows": "yesterday"})
    assert answer.status_code == 409 and "START..END" in answer.text
    assert client.submit(f"{PAGE}/retrain", fields).status_code == 303
    control.launcher.wait(5)
    assert [decision.reason for decision in control.started] == ["asked for by ops: why not"]


def test_markup_in_a_reason_is_shown_as_text(control: ControlHarness) -> None:
    client = sign_in(control, "ops")
    fields = {"csrf": hidden_field(client.get(PAGE).text, "csrf"), "reason": '<script>alert("x")</script>'}
    client.submit(f"{PAGE}/rollback", fields)
    page = client.get(PAGE).text
    assert "&lt;script&gt;" in page and "<script" not in page
    assert 'style="' not in page, "the content security policy allows no inline style"


@pytest.mark.parametrize("path", ["/use-cases/nobody", f"{PAGE}/delete", "/refused", "/nowhere"])
def test_an_unknown_page_is_reported_on_a_page(unchanged: ControlHarness, path: str) -> None:
    answer = sign_in(unchanged, "eve").get(path)
    assert answer.status_code == 404 and "<h1>" in answer.text


def test_a_use_case_without_a_champion_has_a_page(control: ControlHarness) -> None:
    shutil.copy(ROOT / "use_cases" / "fraud.yaml", control.service.project.profile.root / "use_cases")
    client = sign_in(control, "ops")
    assert "train the first one" in client.get("/use-cases/fraud").text
    for verb, text in (
        ("rollback", "no earlier champion"),
        ("promote", "No judged release"),
        ("retrain", "from scratch"),
    ):
        assert text in client.get(f"/use-cases/fraud/{verb}").text


def test_an_empty_table_says_what_fills_it_and_a_quiet_day_is_named(control: ControlHarness) -> None:
    shutil.copy(ROOT / "use_cases" / "fraud.yaml", control.service.project.profile.root / "use_cases")
    client = sign_in(control, "eve")
    assert client.get("/use-cases/fraud").text.count("No rows. ") == 6
    page = client.get(PAGE).text
    assert "No rows" in page, "serving is not asked in this test"
    assert "keep: no alerts" in page and "keep: no alerts" not in client.get("/use-cases/fraud").text


def test_the_shared_style_and_the_uis_own_rules_are_one_file(unchanged: ControlHarness) -> None:
    style = unchanged.client().get("/style.css").text
    assert style.startswith(stylesheet()) and ".bar {" in style


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (100, "1 min 40 s"), (3600, "1 h"), (86_400, "1 day"), (2 * 86_400 + 9 * 3600 + 61, "2 days 9 h")],
)
def test_a_duration_is_shown_by_its_two_largest_units(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("in 2026-01-31T00:00:00Z..2026-02-01T00:00:00Z: drift", "in 2026-01-31: drift"),
        ("in 2026-01-12T00:00:00Z..2026-01-19T00:00:00Z", "in 2026-01-12 to 2026-01-19"),
        ("in 2026-01-12T06:00:00Z..2026-01-13T00:00:00Z", "in 2026-01-12 06:00 to 2026-01-13"),
        ("since 2026-01-12T09:30:15.123456+00:00", "since 2026-01-12 09:30"),
        ("T00 is no time", "T00 is no time"),
    ],
)
def test_times_in_a_reason_are_shown_as_days_and_minutes(text: str, shown: str) -> None:
    assert format_reason(text) == shown


def test_only_a_quiet_day_is_called_quiet() -> None:
    assert format_action("keep", "no alert against champion abc") == "keep: no alerts"
    assert format_action("keep", "a retrain is running; one at a time") == "keep"
    assert format_action("retrain", "no alert") == "retrain"
