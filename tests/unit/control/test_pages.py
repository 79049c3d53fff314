"""The page without a browser: sessions, forms that are ours and forms that aren't, what each role sees."""

from datetime import timedelta

import pytest

from evermodel.control.auth.session import SESSION
from tests.support.ledger_history import HELD_RUN, NAME
from tests.unit.control.control_cases import Client, Desk, field, token, write_tokens

PAGE = f"/use-cases/{NAME}"
HTML = {"accept": "text/html"}


def signed_in(desk: Desk, who: str) -> Client:
    client = desk.client(**HTML)
    csrf = field(client.get("/sign-in").text, "csrf")
    answer = client.send("/sign-in", {"csrf": csrf, "token": token(who)})
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    return client


def test_a_stranger_sees_the_sign_in_form_and_nothing_else(watched: Desk) -> None:
    for path in ("/", PAGE, f"{PAGE}/rollback"):
        answer = watched.client(**HTML).get(path)
        assert answer.status_code == 401 and 'name="token"' in answer.text
        assert NAME not in answer.text


def test_the_cookie_holds_no_token_and_no_script_can_read_it(watched: Desk) -> None:
    client = watched.client(**HTML)
    csrf = field(client.get("/sign-in").text, "csrf")
    answer = client.send("/sign-in", {"csrf": csrf, "token": token("ops")}, headers={"x-forwarded-proto": "https"})
    (cookie,) = [text for text in answer.headers.get_list("set-cookie") if text.startswith(SESSION)]
    assert token("ops") not in cookie
    assert {"HttpOnly", "SameSite=strict", "Secure", "Path=/"} <= set(cookie.split("; "))


@pytest.mark.parametrize(("who", "status"), [("nobody", 401), ("am", 403), ("prom", 403), ("app", 403)])
def test_only_people_sign_in(watched: Desk, who: str, status: int) -> None:
    client = watched.client(**HTML)
    csrf = field(client.get("/sign-in").text, "csrf")
    assert client.send("/sign-in", {"csrf": csrf, "token": token(who)}).status_code == status
    assert client.get("/").status_code == 401


def test_a_sign_in_form_of_another_site_is_refused(watched: Desk) -> None:
    assert watched.client(**HTML).send("/sign-in", {"csrf": "0" * 64, "token": token("ops")}).status_code == 403


def test_a_viewer_sees_no_buttons_and_has_none(watched: Desk) -> None:
    client = signed_in(watched, "eve")
    page = client.get(PAGE).text
    assert "Decisions" in page and f"{PAGE}/rollback" not in page
    assert f"{PAGE}/rollback" in signed_in(watched, "ops").get(PAGE).text
    csrf = field(page, "csrf")
    assert client.send(f"{PAGE}/rollback", {"csrf": csrf, "reason": "x"}).status_code == 403


def test_a_session_is_over_after_its_time_with_its_token_and_by_sign_out(desk: Desk) -> None:
    client = signed_in(desk, "ops")
    assert client.get("/").status_code == 200
    desk.now += timedelta(hours=12)
    assert client.get("/").status_code == 401
    desk.now -= timedelta(hours=11)
    assert client.get("/").status_code == 200
    assert desk.service.tokens is not None
    from pathlib import Path

    write_tokens(Path(desk.service.tokens._path), {"eve": "viewer"})
    assert client.get("/").status_code == 401
    other = signed_in(desk, "eve")
    assert other.send("/sign-out", {"csrf": field(other.get("/").text, "csrf")}).status_code == 303
    assert other.get("/").status_code == 401


def test_a_forged_session_is_none(watched: Desk) -> None:
    client = signed_in(watched, "eve")
    text, _, signature = client.cookies[SESSION].partition(".")
    for cookie in (f"{text}x.{signature}", f"{text}.{signature[:-1]}0", text, f".{signature}", "e30.é", "é.é"):
        answer = watched.client(**HTML).get("/", headers={"cookie": f"{SESSION}={cookie}".encode()})  # type: ignore[dict-item]
        assert answer.status_code == 401


def test_a_rollback_takes_a_form_of_this_session_and_a_reason(desk: Desk) -> None:
    client, other = signed_in(desk, "ops"), signed_in(desk, "ops")
    page = client.get(f"{PAGE}/rollback").text
    fields = {"csrf": field(page, "csrf"), "leave": field(page, "leave"), "reason": "complaints"}
    for wrong in ({**fields, "csrf": ""}, {**fields, "csrf": field(other.get(PAGE).text, "csrf")}):
        answer = client.send(f"{PAGE}/rollback", wrong)
        assert answer.status_code == 403 and "Nothing was changed" in answer.text
    assert client.send(f"{PAGE}/rollback", {**fields, "reason": "  "}).status_code == 422
    assert client.send(f"{PAGE}/rollback", {**fields, "reason": "x" * 501}).status_code == 422
    assert len(desk.service.ledger.promotions(NAME)) == 4
    answer = client.send(f"{PAGE}/rollback", fields)
    assert (answer.status_code, answer.headers["location"]) == (303, f"{PAGE}?done=rollback")
    row = desk.service.ledger.promotions(NAME)[-1]
    assert (row.action, row.actor, row.reason) == ("rollback", "ops", "complaints")
    assert "The previous champion is back" in client.get(answer.headers["location"]).text


def test_in_local_forms_are_checked_all_the_same(local: Desk) -> None:
    client = local.client(**HTML)
    page = client.get(f"{PAGE}/rollback").text
    assert "local user" in page and "Sign out" not in page
    stranger = local.client(**HTML)
    fields = {"csrf": field(page, "csrf"), "reason": "x"}
    assert stranger.send(f"{PAGE}/rollback", fields).status_code == 403
    assert client.send(f"{PAGE}/rollback", fields).status_code == 303
    assert local.service.ledger.promotions(NAME)[-1].actor == "local user"


def test_the_page_of_a_promotion_shows_what_the_gate_said(desk: Desk) -> None:
    client = signed_in(desk, "ops")
    page = client.get(f"{PAGE}/promote").text
    assert HELD_RUN in page and "the gate says hold" in page
    fields = {"csrf": field(page, "csrf"), "run": HELD_RUN, "reason": "good enough"}
    answer = client.send(f"{PAGE}/promote", fields)
    assert answer.status_code == 409 and "the gate says hold" in answer.text and "good enough" in answer.text
    assert client.send(f"{PAGE}/promote", {**fields, "override": "yes"}).status_code == 303


def test_a_retrain_is_started_from_its_form(desk: Desk) -> None:
    client = signed_in(desk, "ops")
    fields = {"csrf": field(client.get(f"{PAGE}/retrain").text, "csrf"), "reason": "why not"}
    answer = client.send(f"{PAGE}/retrain", {**fields, "windows": "yesterday"})
    assert answer.status_code == 409 and "START..END" in answer.text
    assert client.send(f"{PAGE}/retrain", fields).status_code == 303
    desk.runs.wait(5)
    assert [decision.reason for decision in desk.started] == ["asked for by ops: why not"]


def test_what_comes_from_outside_is_text_and_not_markup(desk: Desk) -> None:
    client = signed_in(desk, "ops")
    fields = {"csrf": field(client.get(PAGE).text, "csrf"), "reason": '<script>alert("x")</script>'}
    client.send(f"{PAGE}/rollback", fields)
    page = client.get(PAGE).text
    assert "&lt;script&gt;" in page and "<script" not in page
    assert 'style="' not in page, "the policy of content allows no inline style"


@pytest.mark.parametrize("path", ["/use-cases/nobody", f"{PAGE}/delete", "/refused", "/nowhere"])
def test_what_is_not_there_is_said_on_a_page(watched: Desk, path: str) -> None:
    answer = signed_in(watched, "eve").get(path)
    assert answer.status_code == 404 and "<h1>" in answer.text


def test_a_use_case_without_a_champion_has_a_page(desk: Desk) -> None:
    import shutil

    from tests.support.ledger_history import ROOT

    shutil.copy(ROOT / "use_cases" / "fraud.yaml", desk.service.project.profile.root / "use_cases")
    client = signed_in(desk, "ops")
    assert "train the first one" in client.get("/use-cases/fraud").text
    for verb, said in (
        ("rollback", "no earlier champion"),
        ("promote", "No judged release"),
        ("retrain", "from scratch"),
    ):
        assert said in client.get(f"/use-cases/fraud/{verb}").text
