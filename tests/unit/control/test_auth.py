"""Access rules: each route without a token, with a wrong one and with each role; other sites, other hosts, large bodies."""

import pytest
from fastapi.routing import APIRoute

from tests.support.ledger_history import NAME
from tests.unit.control.control_cases import Client, ControlHarness, bearer

OPEN_PATHS = {"/healthz", "/readyz", "/style.css", "/icon.svg", "/sign-in"}


def routes(control: ControlHarness) -> list[tuple[str, str]]:
    routes = [route for route in control.app.routes if isinstance(route, APIRoute)]
    paths = [
        (route.path.format(use_case=NAME, name=NAME, verb="rollback"), method)
        for route in routes
        for method in route.methods
    ]
    return [*paths, ("/nowhere", "GET"), ("/api/v1/openapi.json", "GET"), ("/", "POST"), ("/api/v1/x/y/z", "PUT")]


def test_every_route_rejects_a_missing_or_wrong_token(unchanged: ControlHarness) -> None:
    tried = routes(unchanged)
    assert len(tried) > 20
    for path, method in tried:
        if path in OPEN_PATHS:
            continue
        for headers in ({}, {"authorization": "Bearer wrong"}, {"cookie": "evermodel_session=e30.00"}):
            answer = unchanged.client(**headers).request(
                method, path, json={"reason": "x"} if method != "GET" else None
            )
            assert answer.status_code == 401, (method, path, headers, answer.text)
            assert answer.json()["code"] == "unauthenticated"


@pytest.mark.parametrize(
    ("name", "method", "path", "status"),
    [
        ("eve", "GET", f"/api/v1/{NAME}/runs", 200),
        ("ops", "GET", f"/api/v1/{NAME}/runs", 200),
        ("am", "GET", f"/api/v1/{NAME}/runs", 403),
        ("prom", "GET", f"/api/v1/{NAME}/runs", 403),
        ("app", "GET", "/api/v1/use-cases", 403),
        ("prom", "GET", "/metrics", 200),
        ("am", "GET", "/metrics", 403),
        ("app", "GET", "/metrics", 403),
        ("eve", "POST", f"/api/v1/{NAME}/rollback", 403),
        ("am", "POST", f"/api/v1/{NAME}/retrain", 403),
        ("prom", "POST", f"/api/v1/{NAME}/promote", 403),
        ("eve", "POST", "/api/v1/alertmanager", 403),
        ("am", "POST", "/api/v1/alertmanager", 200),
        ("ops", "GET", "/", 401),  # pages need a session, not a token
    ],
)
def test_each_role_reaches_only_its_own_routes(
    unchanged: ControlHarness, name: str, method: str, path: str, status: int
) -> None:
    body = {"version": "4", "alerts": []} if path.endswith("alertmanager") else {"reason": "x"}
    answer = unchanged.client(**bearer(name)).request(method, path, json=body if method == "POST" else None)
    assert answer.status_code == status, answer.text


def test_probes_are_open_and_reveal_nothing(unchanged: ControlHarness) -> None:
    client = unchanged.client()
    assert (client.get("/healthz").json(), client.get("/readyz").json()) == ({"status": "ok"}, {"ready": True})


def test_every_answer_has_the_security_headers(unchanged: ControlHarness) -> None:
    for path in ("/healthz", "/sign-in", "/nowhere", "/style.css", f"/api/v1/{NAME}/runs"):
        headers = unchanged.client().get(path).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert (headers["x-frame-options"], headers["x-content-type-options"]) == ("DENY", "nosniff")


@pytest.mark.parametrize(
    ("headers", "content", "status", "code"),
    [
        ({"content-type": "text/plain"}, b'{"reason": "x"}', 415, "not_json"),
        ({"content-type": "application/json", "sec-fetch-site": "cross-site"}, b'{"reason": "x"}', 403, "cross_site"),
        ({"content-type": "application/json"}, b" " * (4 * 1024 * 1024 + 1), 413, "too_large"),
        ({"content-type": "application/json"}, b"{", 422, "invalid_json"),
        ({"content-type": "application/json"}, b'{"reason": ""}', 422, "invalid"),
        ({"content-type": "application/json"}, b'{"reason": "x", "wy": 1}', 422, "invalid"),
    ],
)
def test_an_invalid_request_is_answered_with_code_field_and_reason(
    unchanged: ControlHarness, headers: dict[str, str], content: bytes, status: int, code: str
) -> None:
    answer = unchanged.client(**bearer("ops")).post(f"/api/v1/{NAME}/rollback", content=content, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert set(answer.json()) == {"code", "field", "reason"}


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "GET"])
@pytest.mark.parametrize("headers", [{}, {"content-type": "text/plain"}, {"sec-fetch-site": "cross-site"}])
def test_an_unknown_caller_learns_only_that_he_is_unknown(
    unchanged: ControlHarness, method: str, headers: dict[str, str]
) -> None:
    answer = unchanged.client().request(method, f"/api/v1/{NAME}/retrain", headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated")


def test_the_local_profile_answers_to_this_machine_only(local: ControlHarness) -> None:
    assert local.client().get("/").status_code == 200
    for host, status in (
        ("localhost:8080", 200),
        ("[::1]:8080", 200),
        ("evil.example:8080", 421),
        ("127.0.0.1.nip.io", 421),
    ):
        assert Client(local.app, {}, host).get("/", headers={"host": host}).status_code == status


def test_in_the_local_profile_another_sites_page_changes_nothing(local: ControlHarness) -> None:
    """Another site's page can send a form or plain text to 127.0.0.1 without a preflight request, but not JSON."""
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        answer = local.client().post(
            f"/api/v1/{NAME}/rollback", content=b'{"reason": "x"}', headers={"content-type": kind}
        )
        assert answer.status_code == 415
    assert local.service.ledger.promotions(NAME)[-1].version == 4


def test_a_browser_is_rejected_with_a_page(unchanged: ControlHarness) -> None:
    html = {"accept": "text/html", "sec-fetch-site": "cross-site", "content-type": "application/x-www-form-urlencoded"}
    answer = unchanged.client(**html).post(f"/use-cases/{NAME}/rollback", content=b"reason=x")
    assert answer.status_code == 401 and "<h1>" in answer.text and "Sign in" in answer.text


def test_an_internal_error_reveals_nothing(unchanged: ControlHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unchanged.service, "use_case", lambda _name: 1 / 0)
    answer = unchanged.client(**bearer("ops")).get(f"/api/v1/{NAME}/runs")
    assert (answer.status_code, answer.json()["code"]) == (500, "internal")
    assert "ZeroDivision" not in answer.text and answer.headers["x-frame-options"] == "DENY"
