"""Teacher, student and critic: which of them share frozen weights, and where these are stored."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

from torch import Tensor, nn

from distill.offload import offload
from gwm.contract import Contract
from gwm.dit import DiT
from gwm.files.json_text import JsonConfig
from gwm.lora import LoRAConfig, adapted_as, with_lora
from gwm.weights import fingerprint
from train.learner import Learner
from train.networks import load_dit

StudentBase = Literal["teacher", "own"]


@dataclass(frozen=True, kw_only=True)
class RoleAdapters(JsonConfig):
    """Adapters of each role; None: the role has weights of its own and trains all of them.

    student_base: frozen weights under the student's adapters. teacher: one base for all three roles, if the student
    starts as the teacher with adapters; own: those that it starts from, beside the teacher's.
    """

    student: LoRAConfig | None = None
    critic: LoRAConfig | None = None
    student_base: StudentBase = "teacher"

    def __post_init__(self) -> None:
        if self.student_base not in get_args(StudentBase):
            raise ValueError(f"student_base={self.student_base!r} must be one of {get_args(StudentBase)}.")

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "RoleAdapters":
        roles = {name: LoRAConfig.from_json(values[name]) for name in ("student", "critic") if values.get(name)}
        return super().from_json({**values, **roles})

    def check(self, *, offloaded: bool) -> None:
        """Refuse to offload a teacher whose weights are the student's base.

        Raises:
            ValueError: the teacher's weights are wanted on the host and under the student.
        """
        if offloaded and self.student is not None and self.student_base == "teacher":
            raise ValueError(
                "offload=true must be false with lora.student_base=teacher: every step of a rollout would carry the "
                "student's weights to the device. One base for three roles leaves no teacher to offload."
            )


@dataclass(frozen=True)
class Roles:
    """The three networks of DMD, ready to train."""

    student: Learner[DiT]
    teacher: DiT
    critic: Learner[DiT]
    contract: Contract  # of the student's init
    frozen: str  # fingerprint of all weights that no checkpoint holds


def load_roles(
    init: str,
    teacher: str,
    *,
    student: partial[Learner[DiT]],
    critic: partial[Learner[DiT]],
    adapters: RoleAdapters,
    offloaded: bool,
) -> Roles:
    """Read both folders and build the roles. The critic starts as the teacher.

    offloaded: the teacher's weights stay on the host, see `distill.offload`.

    Raises:
        FileNotFoundError: a stage has not been run; the message has the command.
        ValueError: `init` cannot stand on the teacher's weights, or these cannot be offloaded.
    """
    adapters.check(offloaded=offloaded)
    model, contract = load_dit(init, stage=Path(init).parent.name)
    frozen = load_dit(teacher, stage="bidirectional")[0].eval().requires_grad_(False)
    if adapters.student is not None:
        own = adapters.student_base == "own"
        model = with_lora(model, adapters.student) if own else adapted_as(model, frozen, adapters.student)
    if adapters.critic is None:
        critic_model = load_dit(teacher, stage="bidirectional")[0]
    else:
        critic_model = with_lora(frozen, adapters.critic)
    mark = _fingerprint(frozen, model)
    student_network, critic_network = student(model), critic(critic_model)
    if offloaded:
        ema: Any = critic_network.ema.module
        offload(frozen, [critic_network.model, ema])
    return Roles(student_network, frozen, critic_network, contract, mark)


def keep_out_of_checkpoints(stage: nn.Module, *, teacher: str, learners: Mapping[str, Learner[Any]]) -> None:
    """Leave frozen weights out of the checkpoints of `stage`; a resumed run reads them from their folder again.

    teacher, learners: by the names under which the stage has them.
    """
    frozen = [f"{teacher}.{name}" for name in stage.get_submodule(teacher).state_dict()]
    for name, learner in learners.items():
        still = [key for key, parameter in learner.model.named_parameters() if not parameter.requires_grad]
        frozen += [f"{name}.{part}.{key}" for part in ("model", "ema.module") for key in still]
    stage.register_state_dict_post_hook(partial(_leave_out, frozen))
    stage.register_load_state_dict_pre_hook(partial(_fill_in, frozen))


def check_frozen(saved: str, found: str) -> None:
    """Compare the fingerprint of the frozen weights with that of the checkpoint.

    Raises:
        ValueError: the weights that a checkpoint leaves out are not those that it was trained with.
    """
    if saved != found:
        raise ValueError(
            f"frozen weights {found} must be {saved}, those of the checkpoint: teacher or init was trained again since "
            "this run began. Start over with resume=false, or choose another name=..."
        )


def _fingerprint(teacher: DiT, student: DiT) -> str:
    own = {name: p for name, p in student.named_parameters() if not p.requires_grad}
    # By identity: what the student shares with the teacher is read once.
    distinct = {id(p): (name, p) for name, p in [*own.items(), *teacher.named_parameters(prefix="teacher")]}
    return fingerprint(dict(distinct.values()))


def _leave_out(frozen: list[str], stage: nn.Module, state: dict[str, Tensor], prefix: str, *rest: Any) -> None:
    for name in frozen:
        state.pop(prefix + name, None)


def _fill_in(frozen: list[str], stage: nn.Module, state: dict[str, Tensor], prefix: str, *rest: Any) -> None:
    """What a checkpoint lacks stays as it is."""
    for name in frozen:
        module, _, last = name.rpartition(".")
        parameters = dict(stage.get_submodule(module).named_parameters(recurse=False))
        if prefix + name not in state and last in parameters:
            state[prefix + name] = parameters[last].detach()
