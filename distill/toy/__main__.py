"""Distillation of a Markov chain with an exact score, through the project's own losses.

python -m distill.toy                     the shipped recipe: docs/toy.json and docs/toy.svg
python -m distill.toy compare=true        every gradient mode and both contexts as well; goes on where it was stopped
"""

import json
import logging
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from time import process_time

import matplotlib
import torch
from hydra.utils import instantiate
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from omegaconf import DictConfig

from configs.command.main import command
from distill.dmd import DMDRules
from distill.gan import GAN, Head
from distill.student_forcing import RolloutRequest, student_rollout
from distill.toy.chain import Chain, ChainCritic, ChainStudent, ExactTeacher, measures, toy_contract
from distill.toy.toy_stages import (
    WARMUP,
    Jump,
    Recipe,
    Start,
    adam,
    distilled,
    learner,
    made_consistent,
    sampled,
    teacher_forced,
)
from gwm.condition.inputs import Conditions
from gwm.contract import CommitMode, Contract, Solver
from gwm.files.outputs import whole_file
from gwm.weights import write_json
from train.learner import Learner

log = logging.getLogger(__name__)

LAST_LOW = 0.3  # a noise level of which few values lie between the two states

Measures = dict[str, dict[str, float]]  # by row


@dataclass(frozen=True)
class Variant:
    """Settings of one row of the comparison."""

    init: ChainStudent
    rules: DMDRules
    recipe: Recipe
    context: CommitMode
    sigmas: tuple[float, ...]


class Toy:
    """The stages on one chain: data -> many steps -> few steps -> distilled; every variant starts from a copy."""

    def __init__(self, chain: Chain, start: Start) -> None:
        self.chain, self.start = chain, start
        torch.manual_seed(start.seed)
        contract = toy_contract(chain, sigmas=(1.0,), context="clean")
        student = learner(ChainStudent(contract.dit), start.rate, start.steps, ema_decay=0.99)
        teacher_forced(student, chain, contract, steps=start.steps, batch_size=start.batch_size)
        self.causal: ChainStudent = student.ema_model

    def jump(self, recipe: Jump) -> ChainStudent:
        """The causal model after consistency distillation."""
        student = learner(_copy(self.causal), recipe.rate, recipe.steps, ema_decay=0.95)
        made_consistent(student, self.chain, self._contract((1.0,), "clean"), recipe)
        return student.ema_model

    def distil(self, variant: Variant) -> ChainStudent:
        contract, recipe = self._contract(variant.sigmas, variant.context), variant.recipe
        student_steps = -(-recipe.steps // recipe.critic_per_student)
        student = learner(_copy(variant.init), recipe.student_rate, student_steps, ema_decay=recipe.ema_decay)
        torch.manual_seed(recipe.seed)
        scorer = ChainCritic(ExactTeacher(self.chain, contract.dit), num_frames=self.chain.num_frames)
        # The critic's rate ends at half its start: it has to follow the student to the last step.
        critic = learner(scorer, recipe.critic_rate, 2 * recipe.steps, ema_decay=recipe.ema_decay)
        distilled(student, critic, self.chain, contract, variant.rules, recipe, discriminator(scorer, recipe))
        return student.ema_model

    def measured(
        self, model: ChainStudent, sigmas: tuple[float, ...], *, context: CommitMode, solver: Solver = "renoise"
    ) -> dict[str, float]:
        contract = self._contract(sigmas, context).replace(solver=solver)
        return sampled(model, self.chain, contract, count=100_000, seed=1)

    def _contract(self, sigmas: tuple[float, ...], context: CommitMode) -> Contract:
        return toy_contract(self.chain, sigmas=sigmas, context=context)


def discriminator(critic: ChainCritic, recipe: Recipe) -> GAN | None:
    """On all that the critic's layers make of a clip."""
    if not recipe.gan_weight:
        return None
    head = partial(Learner[Head], optimizer=adam(recipe.head_rate), warmup_steps=WARMUP, ema_decay=recipe.ema_decay)
    width, layers = critic.output.in_features, range(len(critic.layers))
    return GAN(
        features=width,
        num_layers=len(layers),
        layers=layers,
        width=width,
        weight=recipe.gan_weight,
        schedule_steps=2 * recipe.steps,
        head=head,
    )


def _copy(model: ChainStudent) -> ChainStudent:
    return deepcopy(model).requires_grad_(True)


def variants(causal: ChainStudent, shipped: Variant) -> dict[str, Variant]:
    """The comparison: one choice changed at a time, then what helps single values most, and choices beside it."""
    recipe, rules = shipped.recipe, shipped.rules
    recommit = replace(recipe, gradient="recommit")
    gan = replace(recipe, gan_weight=0.1)
    ratio, steps = 2 * recipe.critic_per_student, 2 * recipe.steps
    noisy = replace(shipped, context="noisy")
    often = replace(recipe, critic_per_student=ratio, steps=steps)
    one = {
        "gradient recommit": replace(shipped, recipe=recommit),
        "context noisy": noisy,
        "context noisy, recommit": replace(noisy, recipe=recommit),
        "no consistency before": replace(shipped, init=causal),
        "gradient replay": replace(shipped, recipe=replace(recipe, gradient="replay")),
        "GAN head, weight 0.1": replace(shipped, recipe=gan),
        "twice the critic's updates": replace(shipped, recipe=often),
        "low noise levels, shift 1/3": replace(shipped, rules=replace(rules, shift=rules.shift / 3)),
        "twice as long": replace(shipped, recipe=replace(recipe, steps=steps)),
    }
    if len(shipped.sigmas) == 1:
        return one
    low = replace(shipped, sigmas=(*shipped.sigmas[:-1], LAST_LOW))
    both, name = replace(low, recipe=often), f"last step {LAST_LOW}"
    return one | {
        name: low,
        f"{name}, critic x2": both,
        f"{name}, critic x2, noisy, recommit": replace(
            both, context="noisy", recipe=replace(often, gradient="recommit")
        ),
        f"{name}, critic x2, GAN head": replace(both, recipe=replace(often, gan_weight=gan.gan_weight)),
        f"{name}, critic x2, twice as long": replace(both, recipe=replace(often, steps=2 * steps)),
    }


def measured_before(path: Path, found: Measures) -> Measures:
    """Rows of an earlier table, if all that it shares with `found` are equal to the last digit: then they were made by
    this code, with these settings, on a machine like this one."""
    before: Measures = json.loads(path.read_text())["measures"] if path.is_file() else {}
    return before if all(before.get(name) == row for name, row in found.items()) else {}


def run(
    *, chain: Chain, start: Start, jump: Jump, rules: DMDRules, recipe: Recipe, sigmas: list[float],
    context: CommitMode, compare: bool, out: str,
) -> Measures:  # fmt: skip
    """Make and measure every variant, and leave a table (JSON) and a picture in `out`, anew after every row."""
    torch.set_num_threads(1)  # the networks are too small for two
    levels, few, began, folder = tuple(sigmas), f"{len(sigmas)} steps", process_time(), Path(out)
    toy, found = Toy(chain, start), {}
    found["data"] = measures(chain, chain.clips(100_000, torch.Generator().manual_seed(1)))
    many = tuple(1 - k / 50 for k in range(50))
    found["teacher forcing, 50 steps"] = toy.measured(toy.causal, many, context="clean", solver="ode")
    found[f"teacher forcing, {few}"] = toy.measured(toy.causal, levels, context="clean")
    shipped = Variant(toy.jump(jump), rules, recipe, context, levels)
    found[f"consistency, {few}"] = toy.measured(shipped.init, levels, context="clean")
    student = toy.distil(shipped)
    found[f"DMD, {few}"] = toy.measured(student, levels, context=context)
    spent = round(process_time() - began)
    log.info("DMD after %d s of CPU: %s", spent, found[f"DMD, {few}"])
    settings = {name: asdict(part) for name, part in (("chain", chain), ("start", start), ("jump", jump))}
    settings |= {"rules": asdict(rules), "recipe": asdict(recipe), "sigmas": sigmas, "context": context}
    folder.mkdir(parents=True, exist_ok=True)
    found |= measured_before(folder / "toy.json", found)

    def keep() -> None:
        write_json(folder / "toy.json", {"measures": found, "cpu_s": spent, **settings})
        draw(folder / "toy.svg", chain, found, student, toy_contract(chain, sigmas=levels, context=context))

    keep()
    for name, variant in variants(toy.causal, shipped).items() if compare else ():
        if name not in found:
            found[name] = toy.measured(toy.distil(variant), variant.sigmas, context=variant.context)
            log.info("%s: %s", name, found[name])
            keep()
    return found


@command("toy", verbatim=("out",))
def main(cfg: DictConfig) -> None:
    run(**{key: value for key, value in instantiate(cfg, _convert_="all").items() if key != "hydra"})


if __name__ == "__main__":
    main()


matplotlib.use("Agg")  # no screen
BINS = torch.linspace(-2, 2, 61).tolist()
DATA, STUDENT = "#64748b", "#2563eb"


def draw(
    path: Path, chain: Chain, found: Mapping[str, Mapping[str, float]], student: ChainStudent, contract: Contract
) -> None:
    """Write the picture; the student generates the clips that it shows."""
    generator = torch.Generator().manual_seed(2)
    data = chain.clips(20_000, generator)
    with torch.no_grad():
        request = RolloutRequest(len(contract.sigmas) - 1, "none", generator)
        rollout = student_rollout(student, contract, request, data[:, :1], Conditions(), chain.num_frames)
    made = torch.cat([data[:, :1], rollout.x0], dim=1)
    figure = Figure(figsize=(11, 8), layout="constrained")
    grid = figure.add_gridspec(2, 6, height_ratios=(2, 3))
    top_left, top_right = figure.add_subplot(grid[0, :3]), figure.add_subplot(grid[0, 3:])
    _clips(top_left, made)
    for clips, name, colour in ((data, "data", DATA), (made, "student", STUDENT)):
        top_right.hist(clips[:, 1:].flatten(), BINS, density=True, histtype="step", color=colour, label=name)
    top_right.set_title("values of generated frames")
    top_right.legend(frameon=False)
    names = [name for name in found if name != "data"]
    paths, single, flips = (figure.add_subplot(grid[1, 2 * column : 2 * column + 2]) for column in range(3))
    _bars(paths, "total variation of paths (aim 0.06)", names, [found[n]["path_tv"] for n in names], 0.06)
    _bars(single, "total variation of values", names, [found[n]["emission_tv"] for n in names], 0.0)
    _bars(flips, f"frames that flip (data {chain.flip:g})", names, [found[n]["flips"] for n in names], chain.flip)
    for axes in (single, flips):
        axes.set_yticklabels([])  # as on the left
    with whole_file(path) as partial:
        figure.savefig(partial, metadata={"Date": None})


def _clips(axes: Axes, made: torch.Tensor) -> None:
    for clip in made[:24].flatten(1):
        axes.plot(clip, color=STUDENT, alpha=0.35, linewidth=1)
    axes.set_title("24 clips of the student; frame 0 is the reference")
    axes.set_xlabel("latent frame")


def _bars(axes: Axes, title: str, names: list[str], values: list[float], aim: float) -> None:
    axes.barh(names, values, color=STUDENT)
    axes.axvline(aim, color=DATA, linestyle="--")
    axes.invert_yaxis()
    axes.set_title(title)
