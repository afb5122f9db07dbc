from __future__ import annotations

import csv
import io
import json
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from evaluator.page import PageFeed, Pages, listen, serve_page
from stream.log import Record
from stream.log.local import LocalLogStore
from stream.messages import Lifetime, ModelScore, Segment, Window, dump, parse
from stream.topics import WINDOWS
from tests.evaluator.messages import alarm, grafted, letters, lifetime, masked, progress
from tests.evaluator.page.json_schema import complaints
from tests.evaluator.page.site import Answer, Sent, Site, served
from tests.evaluator.runs import drifting_run, score, window

RUN = [
    *drifting_run(size=100, windows=20, start=800),
    masked(4, 1_900, top=(200, 40, None), bottom=(100, 30, 0.5)),
    masked(5, 1_950, top=(200, 50, 0.25)),
    lifetime(0, 2_000),
    alarm(1_500),
    progress("dense", 1.0, 500, lag_events=3, lag_seconds=0.5),
    progress("dense", 3.0, 1_500),
    progress("sparse", 1.0, 0, waiting_for="the first mask"),
]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Serve a run that nobody adds to."""
    with served(tmp_path_factory.mktemp("site"), *RUN) as site:
        yield site


def rows(answer: Answer) -> list[list[str]]:
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    assert answer.headers["content-disposition"].startswith('attachment; filename="')
    return list(csv.reader(io.StringIO(answer.text)))


def test_the_page_and_all_that_it_needs_are_served(site: Site) -> None:
    page = site.get("/")
    assert (page.status, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    for name in ("page.js", "words.js", "page.css", "icon.svg", "uplot/uPlot.iife.min.js"):
        assert site.get(f"/static/{name}").status == 200, name
    licence = site.get("/static/uplot/LICENSE").text
    assert "MIT License" in licence
    assert "no-cache" in site.get("/static/page.js").headers["cache-control"]


def test_the_browser_is_told_to_load_nothing_from_elsewhere(site: Site) -> None:
    policy = site.get("/").headers["content-security-policy"]
    assert policy.startswith("default-src 'self'; ")
    assert "http" not in policy


def test_the_run_is_summed_up(site: Site) -> None:
    found = site.get("/api/run").json
    expected = {
        "about": {"run": "x"},
        "live": True,
        "state": "live",
        "offset": len(RUN) - 1,
        "events": 2_000,
        "sizes": [100],
        "bands": [{"begin": 1_000, "end": 2_000, "drift": ["gradual"]}],
    }
    assert {name: found[name] for name in expected} == expected
    assert [one["name"] for one in found["models"]] == ["dense", "sparse", "never_rebuilt"]
    assert [one["name"] for one in found["panels"]][:4] == [
        *("relative_ce", "ne", "calibration", "click_rate")
    ]
    titles = [entry["title"] for entry in found["timeline"]]
    assert titles[:3] == [
        "first mask promoted",
        "rebuild 2 (divergence) promoted",
        "the click rate has changed",
    ]
    assert found["columns"][:3] == ["weight", "clicks", "click_rate"]


def test_windows_are_told_by_column(site: Site) -> None:
    found = site.get("/api/windows?size=100&columns=dense.ne,sparse.relative_ce&begin=600&end=1000")
    assert found.json == {
        "size": 100,
        "offset": len(RUN) - 1,
        "windows": 4,
        "end": [700, 800, 900, 1_000],
        "columns": {
            "dense.ne": [pytest.approx(0.8 + 0.2 / (n + 1)) for n in (6, 7, 8, 9)],
            "sparse.relative_ce": [None, None, pytest.approx(0.004), pytest.approx(0.004)],
        },
    }


def test_without_being_asked_for_more_it_is_the_smallest_windows_and_all_columns(
    site: Site,
) -> None:
    found = site.get("/api/windows").json
    assert (found["size"], found["end"]) == (100, list(range(100, 2_001, 100)))
    assert {"dense.ce", "sparse.ne", "never_rebuilt.relative_ce"} < set(found["columns"])


def test_windows_as_csv_are_all_there(site: Site) -> None:
    head, *body = rows(site.get("/api/windows.csv?columns=sparse.ne,click_rate"))
    assert head == ["end", "sparse.ne", "click_rate"]
    assert [int(row[0]) for row in body] == list(range(100, 2_001, 100))
    assert body[0] == ["100", "", "0.2"]
    assert float(body[-1][1]) == pytest.approx(2 * 1.004 * (0.4 + 0.1 / 20))


def test_scores_so_far_are_told_in_full(site: Site) -> None:
    found = site.get("/api/scores?size=100").json
    assert Window.model_validate(found["window"]) == RUN[19]
    assert [Lifetime.model_validate(one) for one in found["lifetimes"]] == [lifetime(0, 2_000)]


def test_scores_and_segments_are_there_as_csv_with_the_bounds_of_their_errors(
    tmp_path: Path,
) -> None:
    rich = score(0.8, roc_auc=0.75).model_copy(update={"errors": {"roc_auc": 0.0015}})
    relative = ModelScore(
        versions=(1,),
        metrics={"relative_ce": 0.02},
        intervals={"relative_ce": (0.01, 0.03)},
    )
    models: dict[str, ModelScore | None] = {"dense": rich, "sparse": relative}
    segment = Segment(
        feature="site",
        value="7",
        events=40,
        weight=40,
        clicks=8,
        click_rate=0.2,
        models=models,
        bayes_ce=None,
    )
    more = {"models": models, "segments": (segment,)}
    with served(
        tmp_path, window(100, 0, {"dense": 0.4}).model_copy(update=more), lifetime(0, 100)
    ) as site:
        scores, segments = (
            rows(site.get(f"/api/{n}.csv?size=100")) for n in ("scores", "segments")
        )
        plain = site.get("/api/scores?size=100").json["window"]["models"]["dense"]
    assert (plain["metrics"]["roc_auc"], plain["errors"]["roc_auc"]) == (0.75, 0.0015)
    assert scores[0] == ["model", "figure", "value", "error", "low", "high", "on", "begin", "end"]
    assert scores[1:6] == [
        ["dense", "ce", "0.4", "", "", "", "window", "0", "100"],
        ["dense", "ne", "0.8", "", "", "", "window", "0", "100"],
        ["dense", "calibration", "1.0", "", "", "", "window", "0", "100"],
        ["dense", "roc_auc", "0.75", "0.0015", "", "", "window", "0", "100"],
        ["sparse", "relative_ce", "0.02", "", "0.01", "0.03", "window", "0", "100"],
    ]
    assert {row[6] for row in scores[6:]} == {"lifetime"}
    assert segments[0][:5] == ["feature", "segment", "model", "figure", "value"]
    assert segments[4] == [
        *("site", "7", "dense", "roc_auc", "0.75", "0.0015", "", "", "40", "0.2", "0", "100")
    ]
    assert len(segments) == 6


def test_layers_are_told_over_the_masks_that_took_over(site: Site) -> None:
    found = site.get("/api/layers").json
    assert found["numbers"] == [1, 2, 4, 5]
    assert found["counts"] == [800, 1_200, 1_900, 1_950]
    assert found["layers"] == [
        {"name": "top", "sparsity": [None, None, 0.8, 0.75], "overlap": [None, None, None, 0.25]},
        {
            "name": "bottom",
            "sparsity": [None, None, 0.7, None],
            "overlap": [None, None, 0.5, None],
        },
    ]
    table = rows(site.get("/api/layers.csv"))
    assert table[0] == ["count", "rebuild", "layer", "sparsity", "overlap"]
    assert ["1950", "5", "top", "0.75", "0.25"] in table


def test_grafts_are_told_by_where_they_took_place_and_what_share_moved(tmp_path: Path) -> None:
    grafts = [grafted(count, top=(50, count // 100), low=(150, 0)) for count in (900, 1_000)]
    with served(tmp_path, *RUN, *grafts, grafts[1], grafted(1_100, "twin", top=(50, 50))) as site:
        expected = {"number": 2, "counts": [900, 1_000], "moved": [0.045, 0.05]}
        assert site.get("/api/run").json["grafts"] == expected
        table = rows(site.get("/api/grafts.csv"))
        assert table == [["count", "moved"], ["900", "0.045"], ["1000", "0.05"]]
        entries = site.get("/api/run").json["timeline"]
        assert all(entry["count"] not in (900, 1_000) for entry in entries)
        site.append(grafted(1_200, top=(50, 5), low=(150, 5)))
        viewer = site.follow(seen=str(len(RUN) + 3))
        assert parse(read(viewer, 1)[0].data.encode()).kind == "mask_change"
        assert site.get("/api/run").json["grafts"]["moved"][-1] == 0.05


def test_of_very_many_grafts_the_last_are_told_and_all_are_in_the_csv(tmp_path: Path) -> None:
    with served(tmp_path, *(grafted(10 * n, top=(50, n % 2)) for n in range(1, 1_201))) as site:
        found = site.get("/api/run").json["grafts"]
        assert (found["number"], len(found["counts"]), len(found["moved"])) == (1_200, 1_000, 1_000)
        assert (found["counts"][0], found["counts"][-1]) == (2_010, 12_000)
        assert len(rows(site.get("/api/grafts.csv"))) == 1_201


def test_workers_are_told_by_the_wall_clock(site: Site) -> None:
    dense, sparse = site.get("/api/workers").json["workers"]
    assert dense["name"] == "dense"
    assert dense["time_ms"] == [1_700_000_001_000, 1_700_000_003_000]
    assert dense["columns"] == {
        "count": [500, 1_500],
        "events_per_second": [None, 500],
        "lag_events": [3, None],
        "lag_seconds": [0.5, None],
    }
    assert sparse["last"]["waiting_for"] == "the first mask"
    table = rows(site.get("/api/workers.csv"))
    assert table[0][:4] == ["worker", "time_ms", "count", "events_per_second"]
    assert table[2][:4] == ["dense", "1700000003000", "1500.0", "500.0"]


def test_what_happened_is_there_as_csv(site: Site) -> None:
    head, *body = rows(site.get("/api/timeline.csv"))
    assert head == ["count", "begin", "kind", "outcome", "title", "text"]
    assert ["1500", "1300", "alarm", "click_rate", "the click rate has changed", "it moved"] in body


def test_every_reply_is_as_its_schema_says(site: Site) -> None:
    schemas = site.get("/api/schema").json
    replies = {
        "RunReply": "/api/run",
        "WindowsReply": "/api/windows",
        "ScoresReply": "/api/scores",
        "LayersReply": "/api/layers",
        "WorkersReply": "/api/workers",
    }
    assert set(schemas) == set(replies)
    for name, path in replies.items():
        found, schema = site.get(path).json, schemas[name]
        assert complaints(found, schema, schema) == []
        for field in found:
            assert complaints({k: v for k, v in found.items() if k != field}, schema, schema)
        assert complaints({**found, "more": 1}, schema, schema)
    windows = schemas["WindowsReply"]
    spoilt: dict[str, Any] = {**site.get("/api/windows").json, "end": ["x"]}
    assert complaints(spoilt, windows, windows) == ["$.end[0]: 'x' is no integer"]


@pytest.mark.parametrize(
    ("path", "status", "complaint"),
    [
        ("/api/windows?size=7777", 404, "there are no windows of 7,777 events; sizes: 100"),
        ("/api/scores.csv?size=7", 404, "there are no windows of 7 events; sizes: 100"),
        ("/api/segments.csv?size=x", 400, "size is 'x'; it must be a whole number from 0 on"),
        ("/api/windows?size=x", 400, "size is 'x'; it must be a whole number from 0 on"),
        ("/api/windows?points=0", 400, "points is '0'; it must be a whole number from 1 on"),
        ("/api/windows?begin=-1", 400, "begin is '-1'; it must be a whole number from 0 on"),
        (f"/api/windows?end={10**30}", 400, "it must be a whole number from 0 on"),
        ("/api/windows?columns=dense.xe", 404, "no column 'dense.xe'; columns: weight, clicks"),
        ("/api/windows.csv?columns=ne", 404, "no column 'ne'; columns: weight, clicks"),
        ("/api/scores?size=5", 404, "there are no windows of 5 events"),
        ("/api/workers?points=many", 400, "points is 'many'"),
        ("/api/stream?offset=x", 400, "offset is 'x'; it must be a whole number, or -1"),
        ("/nowhere", 404, "Not Found"),
        ("/static/../server.py", 404, "Not Found"),
    ],
)
def test_what_cannot_be_answered_is_told_in_words(
    path: str, status: int, complaint: str, site: Site
) -> None:
    answer = site.get(path)
    assert (answer.status, complaint in answer.text) == (status, True), answer.text


def test_an_id_that_is_none_of_ours_is_refused(site: Site) -> None:
    assert site.get("/api/stream", {"Last-Event-ID": "--5"}).status == 400


def test_a_run_of_which_nothing_is_known_is_shown_too(tmp_path: Path) -> None:
    with served(tmp_path) as site:
        found = site.get("/api/run").json
        assert (found["offset"], found["sizes"], found["timeline"]) == (-1, [], [])
        assert found["grafts"] == {"number": 0, "counts": [], "moved": []}
        assert site.get("/api/windows").json["columns"] == {}
        assert site.get("/api/windows?columns=dense.ne").json["columns"] == {"dense.ne": []}
        assert site.get("/api/scores").json == {"window": None, "lifetimes": []}
        for path in ("windows", "scores", "segments", "layers", "grafts", "workers", "timeline"):
            assert len(rows(site.get(f"/api/{path}.csv"))) == 1


def read(events: Iterator[Sent], count: int) -> list[Sent]:
    """Take so many messages of the log, and see that the log was named before them."""
    first = next(events)
    assert (first.kind, first.id) == ("log", None)
    return list(islice(events, count))


def test_the_stream_tells_every_message_as_it_stands_in_the_log(site: Site) -> None:
    found = read(site.follow(), len(RUN))
    assert [sent.data.encode() for sent in found] == [dump(message) for message in RUN]
    assert [sent.id for sent in found] == [str(offset) for offset in range(len(RUN))]
    assert [sent.kind for sent in found] == [parse(dump(message)).kind for message in RUN]


@pytest.mark.parametrize("recent", [1, 3, 1_000])
@pytest.mark.parametrize("seen", [-1, 0, 7, len(RUN) - 2])
def test_who_was_cut_off_gets_what_lies_behind_and_nothing_twice(
    seen: int, recent: int, tmp_path: Path
) -> None:
    more = [window(100, number, {"dense": 0.4}) for number in range(20, 23)]
    with served(tmp_path, *RUN, recent=recent) as site:
        # An id of the page wins over where it once began.
        events = site.follow("/api/stream?offset=2", seen=str(seen))
        found = read(events, len(RUN) - 1 - seen)
        for message in more:
            site.append(message)
            found += islice(events, 1)
    assert [int(sent.id or -1) for sent in found] == list(range(seen + 1, len(RUN) + len(more)))
    expected = [dump(message) for message in (*RUN, *more)[seen + 1 :]]
    assert [sent.data.encode() for sent in found] == expected


def test_a_repeat_in_the_log_is_told_once(tmp_path: Path) -> None:
    one, other = window(100, 0, {"dense": 0.4}), window(100, 1, {"dense": 0.4})
    for recent in (1, 100):
        with served(tmp_path / str(recent), one, one, one, other, recent=recent) as site:
            found = read(site.follow(), 2)
            assert [sent.id for sent in found] == ["0", "3"]


def test_the_stream_names_the_log_so_that_another_run_is_told_apart(site: Site) -> None:
    (first,) = islice(site.follow(), 1)
    assert first == Sent("log", None, site.get("/api/run").json["identity"])


def test_what_comes_is_seen_by_all_who_look_on(tmp_path: Path) -> None:
    with served(tmp_path, *RUN) as site:
        viewers = [site.follow(seen=str(len(RUN) - 1)) for _ in range(5)]
        for viewer in viewers:
            read(viewer, 0)
        site.append(window(100, 20, {"dense": 0.4}))
        for viewer in viewers:
            (sent,) = islice(viewer, 1)
            assert parse(sent.data.encode()) == window(100, 20, {"dense": 0.4})
        assert site.get("/api/run").json["events"] == 2_100


def test_probes_are_answered_beside_the_page(tmp_path: Path) -> None:
    probes = {
        "/healthz": lambda _: (503, b'{"status": "stale"}', "application/json"),
        "/metrics": lambda accept: (200, accept.encode(), "text/plain; version=1.0.0"),
    }
    with served(tmp_path, probes=probes) as site:
        health = site.get("/healthz")
        assert (health.status, health.json) == (503, {"status": "stale"})
        metrics = site.get("/metrics", {"Accept": "text/plain"})
        assert (metrics.status, metrics.text) == (200, "text/plain")
        assert metrics.headers["content-type"] == "text/plain; version=1.0.0; charset=utf-8"
        assert metrics.headers["cache-control"] == "no-store"


def test_viewers_are_let_go_when_the_server_closes(tmp_path: Path) -> None:
    before = {thread.name for thread in threading.enumerate()}
    with served(tmp_path, *RUN) as site:
        viewers = [site.follow() for _ in range(3)]
        for viewer in viewers:
            read(viewer, 1)
        port = int(site.url.rstrip("/").rpartition(":")[2])
        site.append(window(100, 20, {"dense": 0.4}), progress("evaluator", 9.0, 2_100, done=True))
        site.server.close()
        for viewer in viewers:
            *found, last = viewer
            # The first one has been read already.
            assert [int(sent.id or -1) for sent in found] == list(range(1, len(RUN) + 2))
            assert (last.kind, last.id) == ("end", None)
            told = json.loads(last.data)
            assert (told["state"], told["live"], told["events"]) == ("finished", False, 2_100)
            assert told["offset"] == len(RUN) + 1
            assert told["timeline"]
    assert {thread.name for thread in threading.enumerate()} == before
    listen("127.0.0.1", port).close()


def test_viewers_that_are_cut_off_in_the_middle_leave_no_word_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever writes on to a socket that is gone is told so by asyncio, once a message."""
    many = [window(100, number, {"dense": 0.4}) for number in range(3_000)]
    with served(tmp_path, *many, recent=len(many)) as site:
        port = int(site.url.rstrip("/").rpartition(":")[2])
        for kilobytes in range(20, 220, 20):
            with socket.create_connection(("127.0.0.1", port)) as viewer:
                viewer.sendall(b"GET /api/stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
                read = 0
                while read < 1_000 * kilobytes:
                    read += len(viewer.recv(65_536))
                # Without a farewell: what is under way is thrown away.
                viewer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        assert site.get("/api/run").status == 200
    assert caplog.messages == []


def test_a_viewer_that_takes_nothing_does_not_hold_the_end_up_for_long(tmp_path: Path) -> None:
    many = [window(100, number, {"dense": 0.4}) for number in range(3_000)]
    with served(tmp_path, *many) as site:
        port = int(site.url.rstrip("/").rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port)) as viewer:
            viewer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            viewer.sendall(b"GET /api/stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert viewer.recv(100)
            begun = time.monotonic()
            site.server.close()
            assert time.monotonic() - begun < 10


def test_a_server_that_is_closed_at_once_lets_everything_go(tmp_path: Path) -> None:
    for _ in range(5):
        with served(tmp_path):
            """Nobody looks on."""


def test_an_address_that_is_taken_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=rf"cannot listen on 127.0.0.1:{port} \(Address already"):
            listen("127.0.0.1", port)


@pytest.mark.parametrize(
    ("host", "shown"),
    [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.1"), ("::1", "[::1]"), ("::", "[::1]")],
)
def test_the_address_is_one_that_people_can_open(host: str, shown: str, tmp_path: Path) -> None:
    if ":" in host and not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    reader = LocalLogStore(tmp_path).reader(WINDOWS)
    with closing(serve_page(listen(host, 0), Pages(PageFeed(reader)))) as server:
        assert server.url.startswith(f"http://{shown}:")


def test_ten_million_events_are_told_in_bounded_size(tmp_path: Path) -> None:
    """20 000 windows of 500 events, one of them a spike that nobody may miss."""
    made = window(500, 0, {"dense": 0.25, "sparse": 0.5, "never_rebuilt": 0.5})
    with served(tmp_path) as site:
        site.writer.append([Record(_numbered(dump(made).decode(), n)) for n in range(20_000)])
        assert sum(1 for _ in islice(site.follow(), 20_001)) == 20_001
        asked = "columns=dense.ne,sparse.ne,never_rebuilt.ne"
        found = site.get(f"/api/windows?{asked}&points=1000").json
        assert found["windows"] == 20_000
        assert 200 < len(found["end"]) <= 1_000
        assert max(found["columns"]["dense.ne"]) == 1.75
        assert (found["end"][0], found["end"][-1]) == (500, 10_000_000)
        assert len(site.get("/api/windows?points=100000").json["end"]) <= 5_000
        closer = site.get(f"/api/windows?{asked}&begin=5000000&end=5100000").json
        assert (closer["windows"], len(closer["end"])) == (200, 200)
        assert len(site.get("/api/run").body) < 20_000


def _numbered(text: str, number: int) -> bytes:
    """Make another window of one, with a figure that rises and falls, or is a spike."""
    ne = 1.75 if number == 12_345 else 0.5 + number % 97 / 1_000
    for name, old, new in (
        ("number", 0, number),
        ("begin", 0, 500 * number),
        ("end", 500, 500 * number + 500),
        ("ne", 0.5, ne),
    ):
        before, found, behind = text.partition(f'"{name}":{old}')
        assert found
        text = f'{before}"{name}":{new}{behind}'
    return text.encode()


def test_what_is_not_valid_is_said_at_the_top(tmp_path: Path) -> None:
    with served(tmp_path, window(100, 0, {"dense": 0.4})) as site:
        assert site.get("/api/run").json["warnings"] == []
        site.append(letters(0, 100, label=2, time=1), window(100, 1, {"dense": 0.4}))
        site.append(letters(100, 200, label=5))
        stream = site.follow("/api/stream?offset=2")
        assert [next(stream).kind for _ in range(2)] == ["log", "dead_letters"]
        assert site.get("/api/run").json["warnings"] == [
            "8 of 208 events so far (3.85%) are not valid and were skipped: label 7, time 1; "
            "`resprout deadletters` shows them"
        ]
