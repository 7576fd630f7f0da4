"""Shards are read alike from a folder, over HTTP, and from whatever else fsspec knows."""

import functools
import http.server
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec
import pytest

from data.batch import StepData
from data.manifest import Manifest, SplitManifest, read_manifest, write_manifest
from data.shards import read_samples, write_shard
from data.storage import beside, locate
from gwm.optional import MissingPackageError
from gwm.resolution import Resolution

SAMPLES = [{"__key__": f"{number:04d}", "mp4": bytes([number]) * 700, "json": b"{}"} for number in range(5)]


DATE = "Sat, 21 Nov 2026 12:00:00 GMT"


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None: ...


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shards = [write_shard(tmp_path / f"train-{n}.tar", SAMPLES[part]) for n, part in enumerate([slice(3), slice(3, 5)])]
    splits = {"train": SplitManifest(shards=shards, identities=[], sentences=[])}
    manifest = Manifest(
        kind="pixels", fps=24, sample_rate=24_000, resolution=Resolution(8, 8), num_frames=4, splits=splits, seed=0,
        command="make it", generator={},
    )  # fmt: skip
    write_manifest(tmp_path, manifest)
    return tmp_path


@contextmanager
def serving(handler: Any) -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def url(folder: Path) -> Iterator[str]:
    with serving(functools.partial(Quiet, directory=str(folder))) as url:
        yield url


class Bucket(http.server.BaseHTTPRequestHandler):
    """As much of S3 as a reader needs: sizes, parts of objects, and lists, which are empty."""

    def __init__(self, *request: Any, objects: Path) -> None:
        self.objects = objects
        super().__init__(*request)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        file = self.objects / path.removeprefix("/bucket/shards/")
        if "list-type" in query:
            self.answer(200, b"<ListBucketResult><KeyCount>0</KeyCount></ListBucketResult>")
        elif not file.is_file():
            self.answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
        elif "Range" in self.headers:
            first, last = (int(n) for n in self.headers["Range"].removeprefix("bytes=").split("-"))
            self.answer(206, file.read_bytes()[first : last + 1])
        else:
            self.answer(200, file.read_bytes())

    def answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), "ETag": '"1"', "Last-Modified": DATE}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None: ...


@pytest.fixture
def bucket(folder: Path) -> Iterator[str]:
    pytest.importorskip("s3fs", reason="s3fs is not installed")
    with serving(functools.partial(Bucket, objects=folder)) as url:
        fsspec.config.conf["s3"] = {"anon": True, "endpoint_url": url, "use_listings_cache": False}
        yield "s3://bucket/shards"
        del fsspec.config.conf["s3"]


def contents(where: Path | str) -> list[tuple[str, bytes]]:
    return [(sample["__key__"], sample["mp4"]) for sample in read_samples(where, "train")]


EXPECTED = [(sample["__key__"], sample["mp4"]) for sample in SAMPLES]


def test_http_gives_what_the_disk_gives(folder: Path, url: str):
    assert contents(url) == contents(f"{url}/") == contents(folder) == EXPECTED


def test_s3_gives_what_the_disk_gives(folder: Path, bucket: str):
    assert contents(bucket) == contents(f"{bucket}/") == EXPECTED
    (folder / "train-1.tar").write_bytes(b"short")
    with pytest.raises(ValueError, match=r"s3://bucket/shards/train-1\.tar has 5 bytes, must have \d+ .*make it"):
        read_manifest(bucket)
    (folder / "train-1.tar").unlink()
    with pytest.raises(FileNotFoundError, match=r"bucket/shards/train-1\.tar must exist"):
        read_manifest(bucket)


def test_any_file_system_of_fsspec_will_do(folder: Path):
    """The way that s3:// and gs:// go, without their servers."""
    memory = fsspec.filesystem("memory")
    for path in folder.iterdir():
        memory.pipe(f"/bucket/shards/{path.name}", path.read_bytes())
    assert contents("memory://bucket/shards") == EXPECTED


def test_a_cached_url_is_read_again_without_its_server(folder: Path, url: str, tmp_path: Path):
    options = {"simplecache": {"cache_storage": str(tmp_path / "cache")}}
    fsspec.config.conf.update(options)
    cached = f"simplecache::{url}"
    try:
        assert contents(cached) == EXPECTED
        (folder / "train-0.tar").write_bytes(b"x" * (folder / "train-0.tar").stat().st_size)
        assert contents(cached) == EXPECTED
    finally:
        del fsspec.config.conf["simplecache"]


def test_a_url_survives_the_data_module(url: str):
    data = StepData(shards=url, batch_size=1, num_workers=0, seed=0)
    assert data.shards == url and beside(data.shards, "manifest.json") == f"{url}/manifest.json"
    assert locate("shards/nano") == Path("shards/nano")


def test_a_truncated_shard_is_found_over_http(folder: Path, url: str):
    (folder / "train-1.tar").write_bytes(b"short")
    with pytest.raises(ValueError, match=r"http://.*/train-1\.tar has 5 bytes, must have \d+ .*make it"):
        read_manifest(url)


def test_what_is_missing_is_named_with_its_url(folder: Path, url: str):
    (folder / "train-1.tar").unlink()
    with pytest.raises(FileNotFoundError, match=r"http://.*train-1\.tar must exist"):
        read_manifest(url)
    with pytest.raises(FileNotFoundError, match=r"http://.*/nothing/manifest\.json must exist"):
        read_manifest(f"{url}/nothing")


@pytest.mark.parametrize(
    ("url", "package"), [("s3a://bucket/shards", "s3fs"), ("simplecache::gs://bucket/shards", "gcsfs")]
)
def test_a_missing_package_is_named_with_its_command(url: str, package: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    with pytest.raises(MissingPackageError, match=rf"'{package}' is not installed.* pip install {package}"):
        read_manifest(url)
