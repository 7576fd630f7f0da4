"""Shards are read alike from a folder, over HTTP, and from whatever else fsspec knows."""

import functools
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from data.batch import StepData
from data.manifest import Manifest, SplitManifest, read_manifest, write_manifest
from data.shards import read_samples, write_shard
from data.storage import beside, locate

SAMPLES = [{"__key__": f"{number:04d}", "mp4": bytes([number]) * 700, "json": b"{}"} for number in range(5)]


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None: ...


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shards = [write_shard(tmp_path / f"train-{n}.tar", SAMPLES[part]) for n, part in enumerate([slice(3), slice(3, 5)])]
    splits = {"train": SplitManifest(shards=shards, identities=[], sentences=[])}
    manifest = Manifest(
        kind="pixels", fps=24, sample_rate=24_000, resolution=8, num_frames=4, splits=splits, seed=0, command="make it",
        generator={},
    )  # fmt: skip
    write_manifest(tmp_path, manifest)
    return tmp_path


@pytest.fixture
def url(folder: Path) -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def contents(where: Path | str) -> list[tuple[str, bytes]]:
    return [(sample["__key__"], sample["mp4"]) for sample in read_samples(where, "train")]


EXPECTED = [(sample["__key__"], sample["mp4"]) for sample in SAMPLES]


def test_http_gives_what_the_disk_gives(folder: Path, url: str):
    assert contents(url) == contents(f"{url}/") == contents(folder) == EXPECTED


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
