"""The finished shards of an ingest, one line each, so that a call continues where another ended."""

import fcntl
import json
import shutil
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from data.footage.batches import Batch
from data.footage.cutting import Record
from data.footage.sources import Split
from data.manifest import Shard, is_whole
from gwm.files.outputs import PARTIAL, whole_file
from gwm.files.texts import decode_json

LEDGER_NAME = "ingest.jsonl"
LOCK_NAME = "ingest.lock"


class Ledger:
    """The finished batches of a folder. A line appears when its shard is in place.

    Until it is closed, no other process can write to the folder; the lock of a process that was killed is free.

    Raises:
        ValueError: the folder was made with other settings, or holds a ledger that cannot be read.
        RuntimeError: another process writes to the folder.
    """

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        self.path, self.batches = folder / LEDGER_NAME, list[Batch]()
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = (folder / LOCK_NAME).open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._read(folder, settings)
        except BlockingIOError as error:
            self.close()
            raise RuntimeError(
                f"out={folder} is being written by another data.ingest. Wait for it, or name another folder."
            ) from error
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let other processes write to the folder."""
        self._lock.close()

    def _read(self, folder: Path, settings: dict[str, Any]) -> None:
        for left in folder.glob(f"{PARTIAL}*"):  # of a process that was killed: no other one writes here now
            shutil.rmtree(left)
        lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True) if self.path.is_file() else []
        # The last line may have been cut off.
        whole = [decode_json(line, f"{self.path}, line {n}") for n, line in enumerate(lines, 1) if line.endswith("\n")]
        if not whole:
            self.path.write_text(json.dumps({"settings": settings}) + "\n", encoding="utf-8")
            return
        check_settings(folder, whole[0]["settings"], settings)
        batches = [_batch(fields) for fields in whole[1:]]
        self.batches = [b for b in batches if b.shard is None or is_whole(folder, b.shard)]
        if len(self.batches) < len(lines) - 1:
            self._rewrite(settings)

    def add(self, batch: Batch) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(batch)) + "\n")
        self.batches.append(batch)

    @property
    def records(self) -> list[Record]:
        return [record for batch in self.batches for record in batch.records]

    @property
    def splits(self) -> dict[str, Split]:
        """By person."""
        return {record.person: batch.split for batch in self.batches for record in batch.records}

    def _rewrite(self, settings: dict[str, Any]) -> None:
        lines = [json.dumps({"settings": settings}), *(json.dumps(asdict(batch)) for batch in self.batches)]
        with whole_file(self.path) as partial:
            partial.write_text("\n".join(lines) + "\n", encoding="utf-8")


def check_settings(folder: Path, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    differ = sorted(key for key in found.keys() | wanted.keys() if found.get(key) != wanted.get(key))
    if differ:
        raise ValueError(
            f"out={folder} was made with other settings ({', '.join(differ)}), must be an empty folder or one made "
            "with the same: choose another out, or delete the folder."
        )


def tally(records: Iterable[Record]) -> dict[str, dict[str, int]]:
    """By reason: files, how many of them gave no clip at all, and frames."""
    files, lost, frames = Counter[str](), Counter[str](), Counter[str]()
    for record in records:
        for reason, count in record.dropped.items():
            files[reason] += 1
            lost[reason] += not record.clips
            frames[reason] += count
    return {r: {"files": files[r], "files_without_clip": lost[r], "frames": frames[r]} for r in sorted(files)}


def _batch(fields: dict[str, Any]) -> Batch:
    shard = fields["shard"]
    records = [Record(**record) for record in fields["records"]]
    return Batch(fields["name"], fields["split"], Shard(**shard) if shard else None, records)
