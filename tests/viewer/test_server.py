# SPDX-License-Identifier: Apache-2.0
"""The pages over HTTP: only for this machine, and always up to date."""

import http.client
import threading

import pytest

from helpers.dumped_trees import even_tree, origin, write_tree
from recipe.treepo.dumps.reader import Dump
from recipe.treepo.viewer.selection import page_name, select
from recipe.treepo.viewer.server import make_server


@pytest.fixture
def serve():
    servers = []

    def start(dump: Dump, **chosen):
        server = make_server(dump, lambda dump: select(dump, **chosen), port=0)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def get(server, path="/", *, method="GET", host=None, hosts=None):
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=20)
    connection.putrequest(method, path, skip_host=True)
    for name in hosts if hosts is not None else [host or f"127.0.0.1:{server.server_port}"]:
        connection.putheader("Host", name)
    connection.endheaders()
    reply = connection.getresponse()
    body = reply.read()
    connection.close()
    return reply, body


def test_index_and_trees_are_served_with_their_policy(serve, dump):
    server = serve(dump)
    for path in ("/", "/index.html", *[f"/{page_name(entry)}" for entry in dump.trees()]):
        reply, body = get(server, path)
        assert reply.status == 200 and reply.headers["Content-Type"] == "text/html; charset=utf-8"
        policy = reply.headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; script-src 'sha256-")
        assert policy.endswith("; frame-ancestors 'none'")
        assert policy.removesuffix("; frame-ancestors 'none'").encode() in body
    reply, body = get(server, method="HEAD")
    assert (reply.status, body) == (200, b"") and int(reply.headers["Content-Length"]) > 1_000
    assert get(server, "/favicon.ico")[0].status == 204


@pytest.mark.parametrize(
    "hosts",
    [["evil.example"], ["evil.example:8765"], ["127.0.0.1.evil.example"], ["localhost.evil.example:80"], [],
     ["localhost", "evil.example"], ["10.0.0.1"], ["[::1]"]],
)  # fmt: skip
def test_a_page_of_another_site_gets_nothing(serve, dump, hosts):
    reply, body = get(serve(dump), hosts=hosts)
    assert reply.status == 403 and b"trees in" not in body


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1", "localhost:9000"])
def test_this_machine_may_have_any_port(serve, dump, host):
    assert get(serve(dump), host=host)[0].status == 200


@pytest.mark.parametrize("path", ["/nothing.html", "/../../etc/passwd", "/%2e%2e/x", "/index.html/x", "/?a=/"])
def test_other_paths_are_not_files(serve, dump, path):
    assert get(serve(dump), path)[0].status == (200 if path.startswith("/?") else 404)
    assert get(serve(dump), "/", method="POST")[0].status == 501


def test_a_running_training_shows_up(serve, tmp_path, words):
    dump = Dump(tmp_path)
    server = serve(dump, step=10)
    assert b"0 trees in" in get(server)[1]
    small = even_tree(words, levels=2, segment=5, width=2)
    write_tree(tmp_path, small, origin(0), words.decode)
    write_tree(tmp_path, small, origin(1, step=20), words.decode)
    assert b"1 tree in" in get(server)[1]
    damaged = tmp_path / "train_000010/other.jsonl.gz"
    damaged.write_bytes(b"not a dump of trees, but long")
    status, body = get(server)
    assert status.status == 200 and b"1 tree in" in body and b"Some trees are missing: " in body


def test_a_damaged_tree_is_reported(serve, tmp_path, words):
    write_tree(tmp_path, even_tree(words, levels=2, segment=5, width=2), origin(0), words.decode, advantages=False)
    (path,) = tmp_path.rglob("*.jsonl.gz")
    data = bytearray(path.read_bytes())
    data[-20] ^= 1
    path.write_bytes(data)
    dump = Dump(tmp_path)
    server = serve(dump)
    assert b"1 tree in" in get(server)[1]
    reply, body = get(server, f"/{page_name(dump.trees()[0])}")
    assert reply.status == 500 and b"is damaged: the line at byte 0 cannot be read" in body


def test_the_default_port_may_be_taken(dump):
    first = make_server(dump, select)
    try:
        second = make_server(dump, select)
        assert second.server_port != first.server_port and second.server_address[0] == "127.0.0.1"
        second.server_close()
        with pytest.raises(OSError, match="in use"):
            make_server(dump, select, port=first.server_port)
    finally:
        first.server_close()
