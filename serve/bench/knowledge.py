"""Whether a character finds in its documents what it is asked: python -m serve.bench.knowledge out=knowledge.json

The documents are this repository's own (docs/), the questions those of `knowledge_questions.yaml`: half of them in the
documents' words, half of them in others. JSON: how often the passage that answers is among the first three, by BM25
alone, by vectors alone and by both fused; what sentence a server without a language model quotes; and how long a
question takes.
"""

import asyncio
import logging
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
import yaml
from jaxtyping import Float
from omegaconf import DictConfig
from sqlalchemy.orm import Session as Db

from configs.command.main import command
from gwm.files.json_text import json_text
from gwm.files.outputs import check_output
from gwm.files.texts import read_text
from serve.bench.live_numbers import spread
from serve.bench.report import keep_json, machine
from serve.live.log_lines import log_to_stdout
from serve.live.speech.knowledge import STEM_CHARS, WORD, Passage, asked, content_words, cut, fused
from serve.live.speech.sentence_vectors import NETWORK, SentenceNetwork
from serve.runway_api.document_search import DocumentSearch, PassageWork
from serve.store.database import Store
from serve.store.tables import Avatar, AvatarDocument, Document, PassageVectors

log = logging.getLogger(__name__)

QUESTIONS = Path(__file__).with_name("knowledge_questions.yaml")
KINDS = ("plain", "paraphrased")
FIRST = 3  # passages among which the answer must be


class Vectors:
    """As `SentenceVectors`, at ordinary priority: a question waits for nobody here.

    Raises:
        MissingPackageError, FileNotFoundError, ValueError: as `SentenceNetwork`.
    """

    network = NETWORK

    def __init__(self) -> None:
        self._network = SentenceNetwork()

    async def __call__(self, texts: Sequence[str]) -> Float[np.ndarray, "n 384"]:
        return await asyncio.to_thread(self._network, texts)

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Question:
    ask: str
    document: str
    says: str  # words of the passage that answers

    def is_answered_by(self, passage: Passage) -> bool:
        return passage.document == self.document and _flat(self.says) in _flat(passage.text)


def read_questions(path: Path = QUESTIONS) -> tuple[list[str], dict[str, list[Question]], list[str]]:
    """Names of the documents, questions by kind, and small talk."""
    values = yaml.safe_load(read_text(path))
    questions = {kind: [Question(**each) for each in values[kind]] for kind in KINDS}
    return values["documents"], questions, values["small_talk"]


def fill(db: Db, texts: dict[str, str]) -> str:
    """The id of an avatar that knows these documents."""
    avatar = Avatar(name="Bench", personality="-", voice={}, image="", crops_to_face=True, status="READY")
    db.add(avatar)
    db.flush()
    for place, (name, text) in enumerate(texts.items()):
        document = Document(name=name, content=text)
        db.add(document)
        db.flush()
        db.add(PassageVectors(document_id=document.id))
        db.add(AvatarDocument(avatar_id=avatar.id, document_id=document.id, position=place))
    return avatar.id


def shared_words(question: Question, text: str) -> float:
    """Share of a question's words, by their stems, that the passage that answers it has."""
    wanted = {word[:STEM_CHARS] for word in content_words(question.ask)}
    passage = next(each for each in cut(text) if _flat(question.says) in _flat(each))
    return len(wanted & {word[:STEM_CHARS] for word in content_words(passage)}) / len(wanted)


async def hits(search: DocumentSearch, vectors: Vectors, questions: list[Question]) -> dict[str, Any]:
    """Share of the questions whose passage is among the first, by each way of ranking."""
    found = {"bm25": 0, "vectors": 0, "fused": 0}
    for each in questions:
        words, meaning = search.index.by_words([each.ask]), search.index.by_meaning((await vectors([each.ask]))[0])
        for name, ranked in zip(found, (words, meaning, fused(words, meaning))):
            found[name] += any(map(each.is_answered_by, search.index.read(ranked[:FIRST])))
    return {name: round(count / len(questions), 3) for name, count in found.items()}


async def quotes(search: DocumentSearch, questions: list[Question], texts: dict[str, str]) -> dict[str, int]:
    """How many of the questions a sentence of the right passage is quoted for, another one, and none."""
    counts = {"of the passage": 0, "another": 0, "none": 0}
    for each in questions:
        quoted = await search.sentence(each.ask)
        passages = [Passage(each.document, text) for text in cut(texts[each.document])]
        right = next(set(WORD.findall(passage.text)) for passage in passages if each.is_answered_by(passage))
        is_right = quoted is not None and quoted.document == each.document and set(WORD.findall(quoted.text)) <= right
        counts["none" if quoted is None else "of the passage" if is_right else "another"] += 1
    return counts


async def timed(ask: Callable[[str], Any], questions: list[str]) -> dict[str, Any]:
    """Of a question, until its answer is there, and time of a core: on a busy machine the first waits for others."""
    took_ms, cpu_ms = [], []
    for each in questions:
        begin, cpu_begin = time.perf_counter(), time.process_time()
        await ask(each)
        took_ms.append(1000 * (time.perf_counter() - begin))
        cpu_ms.append(1000 * (time.process_time() - cpu_begin))
    return {"took": spread(took_ms), "cpu": spread(cpu_ms)}


async def bench(store: Store, folder: Path, vectors: Vectors) -> dict[str, Any]:
    names, questions, small_talk = read_questions()
    texts = {name: read_text(folder / f"{name}.md") for name in names}
    every = [each for kind in KINDS for each in questions[kind]]
    load = round(os.getloadavg()[0], 2)
    avatar = await store.run(lambda db: fill(db, texts))
    alone, search = DocumentSearch(store, avatar), DocumentSearch(store, avatar, vectors)
    await vectors(["warm"])
    begin, work = time.process_time(), PassageWork(store, vectors)
    while await work.step():
        pass
    passages = sum(len(list(cut(text))) for text in texts.values())
    each_ms = 1000 * (time.process_time() - begin) / passages
    for one in (alone, search):
        await one.passages([])
    asks, report = [each.ask for each in every], dict[str, Any]()
    for kind, some in {**questions, "all": every}.items():
        shared = float(np.mean([shared_words(each, texts[each.document]) for each in some]))
        quoted = {"words": await quotes(alone, some, texts), "words, then vectors": await quotes(search, some, texts)}
        report[kind] = {
            "questions": len(some),
            "words_shared_with_the_passage": round(shared, 3),
            f"hit_at_{FIRST}": await hits(search, vectors, some),
            "quoted": quoted,
        }
        log.info("%s: %s", kind, json_text(report[kind]))
    return {
        "machine": machine(torch.device("cpu")),
        "load_before": load,
        "network": vectors.network,
        "documents": {"number": len(texts), "chars": sum(map(len, texts.values())), "passages": passages},
        "vectors_of_a_passage_cpu_ms": round(each_ms, 1),
        "questions": report,
        "small_talk": {
            "questions": len(small_talk),
            "quoted": sum([await search.sentence(each) is not None for each in small_talk]),
            "quoted_by_words_alone": sum([await alone.sentence(each) is not None for each in small_talk]),
        },
        "question_ms": {
            "bm25": await timed(lambda ask: alone.passages([ask]), asks),
            "fused": await timed(lambda ask: search.passages([ask]), asks),
            "vector": await timed(lambda ask: vectors([asked([ask])]), asks),
            "sentence": await timed(search.sentence, asks),
        },
    }


def _flat(text: str) -> str:
    return " ".join(text.split())


@command("bench_knowledge", verbatim=("documents", "out"))
def main(cfg: DictConfig) -> None:
    log_to_stdout(as_json=False)
    if cfg.out:
        check_output(Path(cfg.out))
    vectors = Vectors()
    with TemporaryDirectory() as folder:
        store = Store(f"sqlite:///{folder}/gwm.sqlite")
        try:
            report = asyncio.run(bench(store, Path(cfg.documents), vectors))
        finally:
            store.close()
    sys.stdout.write(f"{keep_json(report, cfg.out)}\n")


if __name__ == "__main__":
    main()
