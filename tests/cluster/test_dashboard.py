"""The dashboard: who is let in, what is served, and a store as Optuna sees it."""

from __future__ import annotations

import http.client
import json
import os
import sys
import threading
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIServer
from wsgiref.util import setup_testing_defaults

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from cluster.commands import dashboard, main
from cluster.execution.suggestions import SearchSettings, Suggestions
from cluster.results.schema import FAILED
from cluster.results.store import Store
from cluster.watching import stored
from cluster.watching.index import index
from cluster.watching.optuna_export import Exporter, distributions
from cluster.watching.pages import Pages
from cluster.watching.server import LOOPBACK, Application, Guard, serve
from cluster.watching.stored import read_trials
from denoise_core.config import uniform
from tests.cluster.stores_toys import curve, filled, row, write

TOKEN = "a-token-that-nobody-guesses"
REPORT = "toy-smoke-grid-ab12cd.html"
PATHS = ["/", f"/reports/{REPORT}", "/dashboard", "/dashboard/studies/0", "/api/studies", "/static/bundle.js", "/none"]


class Answer:
    """What the application answered."""

    def __init__(self, application: Application, path: str, method: str = "GET", **headers: str):
        environ: dict[str, Any] = {"REQUEST_METHOD": method, "HTTP_HOST": "localhost:8080", "SERVER_PORT": "8080"}
        environ["PATH_INFO"], _, environ["QUERY_STRING"] = path.partition("?")
        environ |= {f"HTTP_{name.upper()}": value for name, value in headers.items()}
        environ["wsgi.input"] = BytesIO()
        setup_testing_defaults(environ)
        self.status, self.headers = 0, dict[str, str]()
        self.body = b"".join(application(environ, self._start))

    def _start(self, status: str, headers: list[tuple[str, str]], *more: Any) -> None:
        self.status, self.headers = int(status.split()[0]), dict(headers)
        assert len({name.lower() for name, _ in headers}) == len(headers)

    @property
    def text(self) -> str:
        return self.body.decode()


def ask(application: Application, path: str, method: str = "GET", token: str = TOKEN, **headers: str) -> Answer:
    """A request with the token."""
    return Answer(application, path, method, authorization=f"Bearer {token}", **headers)


def with_report(path: Path) -> Store:
    store = filled(path)
    store.files.write(f"reports/{REPORT}", b"<!doctype html><title>toy</title>the verdict")
    return store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return with_report(tmp_path / "s")


@pytest.fixture
def changing(store: Store) -> Guard:
    """The dashboard of a store that the test changes."""
    pytest.importorskip("optuna_dashboard")
    return Guard(Pages(store), TOKEN)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Guard:
    """The dashboard of a store that stays as it is."""
    pytest.importorskip("optuna_dashboard")
    return Guard(Pages(with_report(tmp_path_factory.mktemp("guarded") / "s")), TOKEN)


# ---- who is let in ----


@pytest.mark.parametrize("path", PATHS)
def test_without_the_token_nothing_is_shown(path: str, guarded: Guard) -> None:
    carried = [
        {},
        {"authorization": "Bearer wrong"},
        {"authorization": f"Basic {TOKEN}"},
        {"cookie": "denoise_token_8080=wrong"},
        {"cookie": f"denoise_token={TOKEN}"},
        {"cookie": "=;;,"},
        {"authorization": "Bearer \udcff\xff"},
    ]
    for headers in carried:
        for method in ("GET", "HEAD", "POST", "DELETE", "OPTIONS"):
            answer = Answer(guarded, path, method, **headers)
            assert answer.status == 401 and answer.text.count("\n") <= 1 and "Set-Cookie" not in answer.headers
    assert Answer(guarded, f"{path}?token=wrong").status == 401
    assert Answer(guarded, f"{path}?token=").status == 401


@pytest.mark.parametrize("path", PATHS)
def test_the_token_is_kept_in_a_cookie_and_taken_out_of_the_address(path: str, guarded: Guard) -> None:
    welcome = Answer(guarded, f"{path}?token={TOKEN}&after=3")
    cookie = welcome.headers["Set-Cookie"]
    assert welcome.status == 200 and TOKEN not in welcome.text and f'url={path}?after=3"' in welcome.text
    assert "HttpOnly" in cookie and "SameSite=Strict" in cookie and "Path=/" in cookie
    status = 404 if path == "/none" else 200
    kept = cookie.partition(";")[0]
    assert kept == f"denoise_token_8080={TOKEN}"  # another dashboard of this machine has another port
    assert Answer(guarded, path, cookie=f'theme=dark; odd={{"a":[1]}}; =; {kept}').status == status
    assert ask(guarded, path).status == status


@pytest.mark.parametrize("path", PATHS)
def test_nothing_can_be_changed(path: str, guarded: Guard) -> None:
    for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS", "BREW"):
        answer = ask(guarded, path, method)
        assert answer.status == 405 and answer.headers["Allow"] == "GET, HEAD"


@pytest.mark.parametrize("path", PATHS)
def test_only_names_of_this_machine_are_answered_to(path: str, guarded: Guard) -> None:
    for host in ("evil.example", "evil.example:8080", "127.0.0.1.evil.example", "[::2]:8080", ""):
        assert ask(guarded, path, host=host).status == 403
    for host in ("localhost", "127.0.0.1:8080", "[::1]:8080", "LOCALHOST:1"):
        assert ask(guarded, path, host=host).status != 403
    assert ask(Guard(guarded.inner, TOKEN, None), path, host="node7.cluster").status != 403


@pytest.mark.parametrize("path", PATHS)
def test_every_answer_tells_the_browser_to_be_careful(path: str, guarded: Guard) -> None:
    for answer in (ask(guarded, path), Answer(guarded, path), Answer(guarded, f"{path}?token={TOKEN}")):
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Referrer-Policy"] == "no-referrer"
        assert answer.headers["X-Frame-Options"] == "DENY"
    assert ask(guarded, "/").headers["Cache-Control"] == "no-store"


def test_going_on_leads_to_no_other_site(guarded: Guard) -> None:
    for path in ("//evil.example/", "/\\evil.example", '/"><script>alert(1)</script>'):
        text = Answer(guarded, f"{path}?token={TOKEN}").text
        target = text.partition("url=")[2].partition('"')[0]
        assert target.startswith("/") and not target.startswith(("//", "/\\")) and "<script" not in text


def test_head_has_no_body(guarded: Guard) -> None:
    for path in ("/", f"/reports/{REPORT}", "/dashboard", "/none"):
        answer = ask(guarded, path, "HEAD")
        assert answer.body == b"" and answer.status == ask(guarded, path).status


# ---- what is served ----


@pytest.mark.parametrize(
    "path", ["../store.json", "..%2fstore.json", "/etc/passwd", ".hidden.html", "", "none.html", "../reports/" + REPORT]
)
def test_only_reports_are_served_as_reports(path: str, store: Store) -> None:
    (Path(store.location) / "reports" / ".hidden.html").write_text("half of a report")
    pages = Pages(store)
    assert ask(Guard(pages, TOKEN), f"/reports/{path}").status == 404


def test_the_index_shows_studies_reports_and_what_failed(store: Store) -> None:
    guarded = Guard(Pages(store), TOKEN)
    live = b'<!doctype html><html><head><META HTTP-EQUIV="refresh" content="20"></head>'
    store.files.write("reports/other-laptop-optuna-ff0011.html", live)
    os.utime(Path(store.location) / "reports" / REPORT, (1, 1))
    page = ask(guarded, "/").text
    assert "4 done · 1 pruned · 1 failed · 2 seeds · smoke · n2c, neighbor2neighbor" in page
    assert "RuntimeError: no" in page and store.location in page and f'href="/reports/{REPORT}"' in page
    assert page.count('class="live"') == 2  # the study and its report
    assert page.index("other-laptop") < page.index("toy-smoke")  # what runs comes first
    assert "the verdict" in ask(guarded, f"/reports/{REPORT}").text
    assert "src=" not in page and "http://" not in page and "https://" not in page


def test_what_a_store_holds_is_text_in_the_page(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path / "s"))
    bad = "<script>alert(1)</script>"
    write(store, row("a" * 16, study=bad, method=bad, error=bad, status=FAILED, config={bad: bad}))
    page = index(f"/{bad}", read_trials(store), [], bad)
    assert bad not in page and page.count("&lt;script&gt;") > 3


def test_an_empty_store_has_a_page(tmp_path: Path) -> None:
    pages = Pages(Store.open(str(tmp_path / "s")))
    assert "holds no trainings yet" in ask(Guard(pages, TOKEN), "/").text


def test_a_remote_store_has_pages(store: Store) -> None:
    remote = Store.open("mock:///bucket/store")
    remote.files.write(f"reports/{REPORT}", store.files.read(f"reports/{REPORT}"))
    write(remote, row("a" * 16))
    pages = Guard(Pages(remote), TOKEN)
    assert f'href="/reports/{REPORT}"' in ask(pages, "/").text and "1 done" in ask(pages, "/").text
    assert "the verdict" in ask(pages, f"/reports/{REPORT}").text
    assert list(exported(remote)) == ["toy, smoke"]


def test_without_optuna_dashboard_the_rest_is_served(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna_dashboard", None)
    bare = Guard(Pages(store), TOKEN)
    for path in ("/dashboard", "/api/studies", "/static/bundle.js"):
        answer = ask(bare, path)
        assert answer.status == 503 and "pip install 'denoise-studies[dashboard]'" in answer.text
    assert ask(bare, f"/reports/{REPORT}").status == 200
    assert "pip install &#x27;denoise-studies[dashboard]&#x27;" in ask(bare, "/").text


def test_optuna_dashboard_shows_what_was_stored_since(store: Store, changing: Guard) -> None:
    def studies() -> list[str]:
        return [one["study_name"] for one in json.loads(ask(changing, "/api/studies").text)["study_summaries"]]

    assert studies() == ["toy, smoke"]
    detail = json.loads(ask(changing, "/api/studies/0").text)
    assert len(detail["trials"]) == 6 and "validation PSNR in dB" in json.dumps(detail)
    write(store, row("e" * 16, study="more", number=9))
    assert studies() == ["toy, smoke"]  # looked at a moment ago
    pages = changing.inner
    assert isinstance(pages, Pages)
    pages.watched._looked -= stored.LOOK_S
    assert studies() == ["toy, smoke", "more, smoke"]


# ---- the command ----


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[WSGIServer]]:
    """Servers that answer one request, made by the command itself, and stop."""
    servers: list[WSGIServer] = []

    def one_request(server: WSGIServer) -> None:
        servers.append(server)
        done = threading.Event()

        def request() -> None:
            connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
            for address in (f"/?token={TOKEN}", "/"):
                connection.request("GET", address, headers={"Authorization": f"Bearer {TOKEN}"})
                connection.getresponse().read()
                connection.close()
            done.set()

        threading.Thread(target=request).start()
        while not done.is_set():
            server.handle_request()
        raise KeyboardInterrupt

    monkeypatch.setattr(WSGIServer, "serve_forever", one_request)
    monkeypatch.setattr(WSGIServer, "timeout", 0.05)
    yield servers


def test_it_listens_on_this_machine_only_and_prints_no_given_token(
    store: Store, served: list[WSGIServer], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(dashboard.TOKEN, TOKEN)
    assert main(["dashboard", "--store", store.location, "--no-open"]) == 0
    seen = capfd.readouterr()
    assert served[0].server_address[0] == "127.0.0.1" and served[0].server_port > 0
    assert f"Dashboard: http://127.0.0.1:{served[0].server_port}/" in seen.out and "Stopped." in seen.out
    assert TOKEN not in seen.out + seen.err and "GET" not in seen.out + seen.err


def test_a_token_of_its_own_is_printed_once(
    store: Store, served: list[WSGIServer], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv(dashboard.TOKEN, raising=False)
    tokens = set()
    for _ in range(2):
        assert main(["dashboard", "--store", store.location, "--no-open"]) == 0
        seen = capfd.readouterr()
        token = seen.out.partition("?token=")[2].split()[0]
        assert len(token) >= 40 and (seen.out + seen.err).count(token) == 1
        tokens.add(token)
    assert len(tokens) == 2


def test_listening_to_others_is_warned_of(
    store: Store, served: list[WSGIServer], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(dashboard.TOKEN, TOKEN)
    assert main(["dashboard", "--store", store.location, "--no-open", "--host", "0.0.0.0"]) == 0
    assert "unencrypted" in capfd.readouterr().err


@pytest.mark.parametrize("token", ["short", "", "ünicode-token-that-is-long", "with space and more of it", "a;b" * 10])
def test_a_token_that_is_none_is_refused(
    token: str, store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(dashboard.TOKEN, token)
    assert main(["dashboard", "--store", store.location, "--no-open"]) == 2
    seen = capsys.readouterr()
    assert "is no token" in seen.err and (not token or token not in seen.err)


def test_a_port_that_is_taken_is_refused(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    taken = serve(lambda environ, start: [], "127.0.0.1", 0)
    port = str(taken.server_port)
    assert main(["dashboard", "--store", store.location, "--no-open", "--port", port]) == 2
    assert f"Nothing can listen on port {port} of 127.0.0.1" in capsys.readouterr().err
    assert main(["dashboard", "--store", store.location, "--no-open", "--port", "99999999"]) == 2
    taken.server_close()


def test_curves_go_where_tensorboard_is_pointed_to(
    store: Store, served: list[WSGIServer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv(dashboard.TOKEN, TOKEN)
    target = tmp_path / "my events"
    assert main(["dashboard", "--store", store.location, "--no-open", "--tensorboard", str(target)]) == 0
    assert f"tensorboard --logdir '{target}'" in capsys.readouterr().out and len(list((target / "toy").iterdir())) == 6
    (tmp_path / "file").write_text("")
    assert main(["dashboard", "--store", store.location, "--tensorboard", str(tmp_path / "file" / "x")]) == 2
    (Path(store.location) / "tensorboard").mkdir()
    assert main(["dashboard", "--store", store.location, "--no-open"]) == 0
    assert f"tensorboard --logdir {store.location}/tensorboard" in capsys.readouterr().out


def test_a_browser_is_told_the_token_in_no_argument(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    page = dashboard._open(f"http://127.0.0.1:1/?token={TOKEN}")
    assert TOKEN not in opened[0] and opened[0].startswith("file://")
    assert TOKEN in page.read_text() and page.stat().st_mode & 0o077 == 0
    page.unlink()


def test_ipv6_loopback(store: Store) -> None:
    try:
        server = serve(Guard(Pages(store), TOKEN, LOOPBACK), "::1", 0)
    except Exception:
        pytest.skip("this machine has no IPv6")
    threading.Thread(target=server.handle_request).start()
    connection = http.client.HTTPConnection("::1", server.server_port, timeout=10)
    connection.request("GET", "/", headers={"Authorization": f"Bearer {TOKEN}"})
    assert connection.getresponse().status == 200
    connection.close()
    server.server_close()


# ---- a store as Optuna sees it ----


def exported(store: Store, exporter: Exporter | None = None) -> dict[str, list[optuna.trial.FrozenTrial]]:
    storage = (exporter or Exporter(store)).export(read_trials(store))
    return {one.study_name: storage.get_all_trials(one._study_id) for one in storage.get_all_studies()}


def test_every_training_is_a_trial_with_its_state_and_value(store: Store) -> None:
    (trials,) = exported(store).values()
    assert [one.state for one in trials] == [TrialState.COMPLETE] * 4 + [TrialState.FAIL, TrialState.PRUNED]
    assert [one.value for one in trials] == [25.0, 25.0, 26.0, 26.0, None, 21.0]
    assert [one.params.get("gamma") for one in trials] == [0.0, 0.0, 2.0, 2.0, None, 9.0]
    assert {one.params["method"] for one in trials} == {"neighbor2neighbor", "n2c"}
    assert [one.user_attrs["seed"] for one in trials] == [0, 1, 0, 1, 0, 0]
    assert trials[4].user_attrs["error"] == "RuntimeError: no" and trials[4].user_attrs["trial id"] == "c0" + "0" * 14
    assert trials[0].intermediate_values == {50: 24.0, 100: 25.0} and "lr" not in trials[0].params
    assert all(one.datetime_start < one.datetime_complete for one in trials if one.datetime_complete)


def test_a_study_for_each_budget_and_none_for_what_has_no_value(store: Store) -> None:
    write(store, row("e" * 16, budget="gpu", number=8))
    write(store, row("f" * 16, budget="gpu", objective=None, number=9))
    found = exported(store)
    assert {name: len(trials) for name, trials in found.items()} == {"toy, smoke": 6, "toy, gpu": 1}
    assert exported(store)["toy, gpu"][0].user_attrs["trial id"] == "e" * 16
    nan = curve("b" * 16, {1: float("nan"), 2: 20.0})
    store.write_trial(row("b" * 16, budget="gpu", objective=float("nan"), status=FAILED), nan, {})
    assert exported(store)["toy, gpu"][0].intermediate_values == {2: 20.0}  # as the earliest


def test_distributions_suit_the_values() -> None:
    settings: list[dict[str, Any]] = [
        {"a": 1, "b": 0.5, "c": "x", "d": True, "e": 1e-4, "f": 1, "g": None},
        {"a": 3, "b": 2, "c": "y", "d": False, "e": 1e-2, "f": 0.5, "g": 1.0},
    ]
    assert distributions(settings) == {
        "a": IntDistribution(1, 3),
        "b": FloatDistribution(0.5, 2.0),
        "c": CategoricalDistribution(["x", "y"]),
        "d": CategoricalDistribution([False, True]),
        "e": FloatDistribution(1e-4, 1e-2, log=True),
        "f": FloatDistribution(0.5, 1.0),
        "g": CategoricalDistribution([1.0, None]),
    }


def test_numbers_stay_when_the_store_grows(store: Store) -> None:
    exporter = Exporter(store)
    exported(store, exporter)
    write(store, row("e" * 16, study="earlier", number=-9))
    write(store, row("0" * 16, config={"gamma": 7.0}, number=-8))
    found = exported(store, exporter)
    assert list(found) == ["toy, smoke", "earlier, smoke"]
    assert found["toy, smoke"][0].user_attrs["trial id"].startswith("a0")
    assert found["toy, smoke"][-1].user_attrs["trial id"] == "0" * 16


def test_a_running_search_is_there_as_its_journal_has_it(store: Store) -> None:
    path = Path(store.location) / "optuna" / "toy-12ab.journal"
    settings = SearchSettings("12ab", "toy", {"gamma": uniform(0.0, 9.0)}, 4, (0,), 4, str(path))
    search = Suggestions(settings, [])
    first, second = search.ask(), search.ask()
    assert first is not None and second is not None
    search.report(first[0], 0, 0, 20.0)
    search.finish_seed(first[0], 22.0)
    (path.parent / "half-34cd.journal").write_bytes(path.read_bytes()[:40])
    exporter = Exporter(store)
    trials = exported(store, exporter)["toy-12ab (search)"]
    assert [one.state for one in trials] == [TrialState.COMPLETE, TrialState.RUNNING] and trials[0].value == 22.0
    path.unlink()
    assert set(exported(store, exporter)) == {"toy, smoke"}
