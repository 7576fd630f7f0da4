"""Distillation where the answer is known: a Markov chain with its exact score, through the project's own losses.

python -m distill.toy                     the shipped recipe: docs/toy.json and docs/toy.svg, one to two minutes of CPU
python -m distill.toy compare=true        every gradient mode and both contexts as well
"""

import json
import logging
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import process_time

import hydra
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig

from distill.scores import DMDRules
from distill.toy_chain import Chain, ExactTeacher, measures, toy_contract
from distill.toy_ladder import Recipe, distilled, sampled, teacher_forced, trainee
from distill.toy_networks import ChainCritic, ChainStudent
from distill.toy_picture import draw
from gwm.contract import CommitMode
from gwm.weights import write_json

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Start:
    """What the ladder stands on: steps of flow matching on data before distillation."""

    steps: int
    rate: float
    batch_size: int
    seed: int


class Toy:
    """A causal model after flow matching on the chain's clips; each `distil` starts from a copy of it."""

    def __init__(self, chain: Chain, start: Start) -> None:
        self.chain, self.start = chain, start
        torch.manual_seed(start.seed)
        contract = toy_contract(chain, sigmas=(1.0,), context="clean")
        student = trainee(ChainStudent(contract.dit), start.rate, start.steps, ema_decay=0.99)
        teacher_forced(student, chain, contract, steps=start.steps, batch_size=start.batch_size)
        self.student: ChainStudent = student.trained

    def distil(
        self, rules: DMDRules, recipe: Recipe, *, sigmas: tuple[float, ...], context: CommitMode
    ) -> tuple[dict[str, float], ChainStudent]:
        """Measures of the distilled student, and the student."""
        contract = toy_contract(self.chain, sigmas=sigmas, context=context)
        student_steps = -(-recipe.steps // recipe.critic_per_student)
        model = deepcopy(self.student).requires_grad_(True)
        student = trainee(model, recipe.student_rate, student_steps, ema_decay=recipe.ema_decay)
        torch.manual_seed(recipe.seed)
        scorer = ChainCritic(ExactTeacher(self.chain, contract.dit), num_frames=self.chain.num_frames)
        # The critic's rate ends at half its start: it has to follow the student to the last step.
        critic = trainee(scorer, recipe.critic_rate, 2 * recipe.steps, ema_decay=recipe.ema_decay)
        distilled(student, critic, self.chain, contract, rules, recipe)
        return sampled(student.trained, self.chain, contract, count=100_000, seed=1), student.trained

    def undistilled(self, sigmas: tuple[float, ...]) -> dict[str, float]:
        contract = toy_contract(self.chain, sigmas=sigmas, context="clean")
        return sampled(self.student, self.chain, contract, count=100_000, seed=1)


def variants(recipe: Recipe, context: CommitMode) -> dict[str, tuple[Recipe, CommitMode]]:
    """The comparison: one choice changed at a time."""
    return {
        "gradient replay": (replace(recipe, gradient="replay"), context),
        "gradient recommit": (replace(recipe, gradient="recommit"), context),
        "context noisy": (recipe, "noisy"),
        "exit last": (replace(recipe, exit="last"), context),
    }


def run(
    *, chain: Chain, start: Start, rules: DMDRules, recipe: Recipe, sigmas: list[float], context: CommitMode,
    compare: bool, out: str,
) -> dict[str, dict[str, float]]:  # fmt: skip
    """Distil, measure, and leave a table (JSON) and a picture in `out`."""
    torch.set_num_threads(1)  # the networks are too small for two
    levels, began = tuple(sigmas), process_time()
    toy = Toy(chain, start)
    found = {
        "data": measures(chain, chain.clips(100_000, torch.Generator().manual_seed(1))),
        "teacher forcing, 50 steps": toy.undistilled(tuple(1 - k / 50 for k in range(50))),
        f"teacher forcing, {len(levels)} steps": toy.undistilled(levels),
    }
    named = f"DMD, {len(levels)} steps"
    found[named], student = toy.distil(rules, recipe, sigmas=levels, context=context)
    shown = {named: student}
    log.info("%s after %.0f s of CPU: %s", named, process_time() - began, found[named])
    for name, (changed, kept) in variants(recipe, context).items() if compare else ():
        found[name], shown[name] = toy.distil(rules, changed, sigmas=levels, context=kept)
        log.info("%s: %s", name, found[name])
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    settings = {"chain": asdict(chain), "start": asdict(start), "rules": asdict(rules), "recipe": asdict(recipe)}
    write_json(
        folder / "toy.json",
        {"measures": found, "cpu_s": round(process_time() - began), "sigmas": sigmas, "context": context, **settings},
    )
    draw(folder / "toy.svg", chain, found, student, toy_contract(chain, sigmas=levels, context=context))
    log.info("%s", json.dumps(found, indent=1))
    return found


@hydra.main(version_base="1.3", config_path="../configs", config_name="toy")
def main(cfg: DictConfig) -> None:
    run(**{key: value for key, value in instantiate(cfg, _convert_="all").items() if key != "hydra"})


if __name__ == "__main__":
    main()
