"""Queue, time, drain, failure, counts, and the command itself."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from live_server import PATIENCE_S, TOKENIZER, Told, make_engine, wait_until

from tempa import cli
from tempa.align.records import load_pairs
from tempa.model import save_model
from tempa.serve.settings import ServeConfig


def test_a_full_queue_answers_429_and_when_to_come_back(start) -> None:
    engine = Told(is_open=False)
    live = start(engine, max_queue=2)
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(live.chat, max_tokens=1) for _ in range(2)]
        wait_until(lambda: live.runner.num_waiting == 2)
        response = live.chat(max_tokens=1)
        assert (response.status_code, response.json()["error"]["code"]) == (429, "queue_full")
        assert response.headers["retry-after"] == "1"
        engine.is_open = True
        assert [one.result().status_code for one in waiting] == [200, 200]


def test_a_request_that_takes_too_long_is_ended(start) -> None:
    engine = Told(is_open=False)
    live = start(engine, max_request_s=0.1)
    response = live.chat(max_tokens=1)
    assert (response.status_code, response.json()["error"]["code"]) == (504, "timeout")
    wait_until(lambda: not engine.running)
    lines = live.chat(max_tokens=1, stream=True).text.split("\n\n")
    assert json.loads(lines[1].removeprefix("data: "))["error"]["code"] == "timeout"
    wait_until(lambda: not engine.running)


def test_draining_finishes_what_runs_and_refuses_what_comes(start) -> None:
    engine = Told(is_open=False)
    live = start(engine)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(live.chat, max_tokens=3)
        wait_until(lambda: engine.num_running == 1)
        live.drain()
        wait_until(lambda: live.http.get("/health").status_code == 503)
        assert live.http.get("/health").json() == {"status": "draining"}
        response = live.chat()
        assert (response.status_code, response.json()["error"]["code"]) == (503, "shutting_down")
        engine.is_open = True
        assert running.result().json()["choices"][0]["message"]["content"] == "xxx"
    live.thread.join(PATIENCE_S)
    assert live.status == 0


def test_a_drain_has_an_end(start) -> None:
    live = start(Told(is_open=False), drain_s=0.1)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(live.chat)
        wait_until(lambda: live.runner.num_calls == 1)
        live.drain()
        assert running.result().status_code == 503
    live.thread.join(PATIENCE_S)
    assert live.status == 0


def test_an_engine_that_fails_ends_the_server(start) -> None:
    engine = Told()
    live = start(engine)
    engine.error = MemoryError("no more")
    response = live.chat()
    assert response.status_code == 500
    assert response.json()["error"]["message"] == "the engine failed: MemoryError"
    live.thread.join(PATIENCE_S)
    assert live.status == 1


def test_a_request_that_the_engine_refuses_is_the_clients_mistake(start) -> None:
    live = start(make_engine(cache_bytes=20_000), max_tokens=400)
    response = live.chat("a" * 300, max_tokens=100, n=2)
    assert response.status_code == 400
    assert "cache" in response.json()["error"]["message"]
    assert live.runner.num_calls == 0


def test_counts_and_times_are_told_to_prometheus(start) -> None:
    live = start(Told())
    live.chat("hi", max_tokens=4)
    live.chat(temperature=-1)
    live.http.get("/made/up")
    lines = live.http.get("/metrics").text.splitlines()
    for line in (
        'tempa_responses_total{path="/v1/chat/completions",status="200"} 1',
        'tempa_responses_total{path="/v1/chat/completions",status="400"} 1',
        'tempa_responses_total{path="other",status="404"} 1',
        "tempa_prompt_tokens_total 5",
        "tempa_new_tokens_total 4",
        "tempa_time_to_first_token_seconds_count 1",
        "tempa_inter_token_seconds_count 3",
        "tempa_requests_waiting 0",
    ):
        assert line in lines
    # Every sample belongs to a family that says its kind, as the format asks.
    families = {line.split()[2] for line in lines if line.startswith("# TYPE")}
    for line in lines:
        name = line.split("{")[0].split()[0]
        bare = name.removesuffix("_bucket").removesuffix("_sum").removesuffix("_count")
        assert line.startswith("#") or {name, bare} & families


def test_preferences_are_pairs_for_dpo(start, tmp_path) -> None:
    file = tmp_path / "pairs.jsonl"
    live = start(Told(), preferences=file)
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi\u2028"}]
    pair = {"messages": messages, "chosen": "good", "rejected": "bad\n"}
    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(lambda _: live.http.post("/preferences", json=pair).status_code, range(8)))
    assert done == [204] * 8
    pairs = load_pairs(file)
    assert len(pairs) == 8
    assert (list(pairs[0].messages), pairs[0].chosen, pairs[0].rejected) == (messages, "good", "bad\n")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("chosen", ""),
        ("chosen", " "),
        ("rejected", "good"),
        ("messages", []),
        ("messages", [{"role": "assistant", "content": "a"}]),
        ("path", "/etc/passwd"),
    ],
)
def test_a_pair_that_dpo_could_not_read_is_refused(start, tmp_path, field, value) -> None:
    live = start(Told(), preferences=tmp_path / "pairs.jsonl")
    pair = {"messages": [{"role": "user", "content": "hi"}], "chosen": "good", "rejected": "bad"}
    assert live.http.post("/preferences", json={**pair, field: value}).status_code == 400
    assert not (tmp_path / "pairs.jsonl").exists()


def test_no_preferences_are_taken_without_a_file(live) -> None:
    assert live.http.post("/preferences", json={}).status_code == 404


@pytest.mark.parametrize(
    ("name", "value"),
    [("port", 70_000), ("max_queue", 0), ("max_request_s", float("nan")), ("drain_s", -1.0)],
)
def test_a_setting_out_of_range_is_named(tmp_path, name, value) -> None:
    with pytest.raises(ValueError, match=name):
        ServeConfig(model=tmp_path, **{name: value})


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    path = tmp_path_factory.mktemp("serve") / "tiny"
    save_model(path, make_engine().model, TOKENIZER)
    return path


def test_the_command_serves_until_sigterm_and_ends_well(directory) -> None:
    command = [sys.executable, "-m", "tempa", "serve", "--model", str(directory), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        try:
            line = server.stdout.readline()
            assert line.startswith("tiny at http://127.0.0.1:"), line + server.stderr.read()
            port = int(line.rpartition(":")[2])
            body = json.dumps({"model": "tiny", "prompt": "a", "max_tokens": 400, "stream": True}).encode()
            with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as client:
                head = f"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n"
                client.sendall(head.encode() + b"content-type: application/json\r\n\r\n" + body)
                begin = client.recv(100)
                assert begin.startswith(b"HTTP/1.1 200 ")
                server.send_signal(signal.SIGTERM)
                # What runs is finished, to the mark of the end.
                assert b"data: [DONE]" in begin + client.makefile("rb").read()
            assert server.wait(PATIENCE_S) == 0
            assert server.stderr.read() == ""
        finally:
            server.kill()


def test_a_taken_port_and_a_missing_extra_are_one_line(directory, capsys, monkeypatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert cli.run(["serve", "--model", str(directory), "--port", str(port)]) == 1
    assert capsys.readouterr().err.startswith(f"tempa serve: cannot listen at 127.0.0.1:{port}: address")
    monkeypatch.setattr("tempa.cli.serve.find_spec", lambda name: None)
    assert cli.run(["serve", "--model", str(directory)]) == 1
    message = "serving needs fastapi, llguidance, uvicorn: pip install 'tempa[serve]'"
    assert message in capsys.readouterr().err


def test_help_teaches(capsys) -> None:
    with pytest.raises(SystemExit) as status:
        cli.run(["serve", "--help"])
    assert status.value.code == 0
    out = capsys.readouterr().out
    assert "curl 127.0.0.1:8000/v1/chat/completions" in out
    assert "--max-queue" in out


def test_many_chats_at_once_are_those_of_one_after_the_other(live) -> None:
    def ask(seed: int) -> str:
        return live.chat(max_tokens=12, seed=seed).json()["choices"][0]["message"]["content"]

    alone = [ask(seed) for seed in range(8)]
    together: dict[int, str] = {}
    threads = [
        threading.Thread(target=lambda seed=seed: together.update({seed: ask(seed)})) for seed in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [together[seed] for seed in range(8)] == alone
