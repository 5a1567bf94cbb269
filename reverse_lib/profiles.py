"""Profiles: the numbers and names of each stage at five scales. Notebooks, command line and tests run the same code.

In the order of the stages: world, rollouts, search, models, annotation, reward, training, ablations, evaluation; then a
profile, which holds those that change with the scale, and the five.

    profile = get_profile("cpu", **{"grpo.steps": 5, "world.seed": 3})
    profile.path("figures", "05_error_curve.png")       # outputs/cpu/figures/05_error_curve.png, folder made
    profile.save_metrics("05_evaluation", {"within_25km": 0.41})
"""

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any


def variable(name: str) -> str:
    """What a variable of the environment holds, "" where it is not set; keys and addresses are read here only."""
    return os.environ.get(name, "").strip()


@dataclass(frozen=True)
class WorldConfig:
    """The miniature world: which places exist, and how many photos a training is watched on."""

    seed: int = 0  # of places and photos
    places: int = 200  # cities
    val_photos: int = 80  # of the val split: what a training is watched on


@dataclass(frozen=True)
class Budgets:
    """What one rollout may use."""

    zoom: int = 5  # zooms
    image: int = 3  # searches by picture
    text: int = 5  # searches by text
    turns: int = 10  # everything the model writes, its answer included
    nudges: int = 2  # turns that can't be read and are told so; the next such turn ends the rollout

    def __post_init__(self):
        for item in fields(self):
            value, least = getattr(self, item.name), 1 if item.name == "turns" else 0
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"Budgets.{item.name}={value!r}: give a whole number of at least {least}")


TEACHER_BUDGETS = Budgets(nudges=5)  # the paper's: a turn that neither calls nor answers is told so, five times at most
FAILURES_IN_A_ROW = 5  # photos that a teacher, or searches that a judge, could not do: so many stop the run
SAME_REGION_IOU = 0.5  # boxes of annotators, or of reviewers, that overlap this much are one region


@dataclass(frozen=True)
class CacheLimits:
    """What the offline search cache answers, and how much of it."""

    shown: int = 10  # results of an answer, at most
    max_useful: int = 3  # of them labelled useful, at most
    min_iou: float = 0.7  # of the asked box and a recorded one; below it, an image search is a miss
    min_similarity: float = 0.5  # share of words that the asked and a recorded query have in common; below, a miss
    max_age_days: float | None = None  # an older record, or one of unknown age, is a miss; None: it never ages
    batch: int = 1000  # records that are put on disk together where many are made

    def __post_init__(self):
        if not (self.shown >= 1 and self.max_useful >= 0 and self.min_iou > 0 and self.min_similarity > 0):
            raise ValueError(f"{self}: impossible; show at least one result, and use minima above 0")


@dataclass(frozen=True)
class ServiceLimits:
    """What asking one live search service may cost."""

    max_results: int = 10  # asked for
    per_minute: float = 60  # calls at most; further ones wait
    timeout_s: float = 20  # of one attempt
    attempts: int = 4  # of one call, with growing pauses in between
    wait_s: float = 20  # longest pause
    connections: int = 8  # open at a time
    max_bytes: int = 5_000_000  # of an answer; a longer one is a failure
    max_side_px: int = 1024  # of a region that is sent


@dataclass(frozen=True)
class ModelConfig:
    """Which checkpoint a stage starts from: a folder or a Hugging Face id."""

    base: str = "data/models/base"  # pre-trained, before direct SFT
    agent: str = "data/models/agent"  # the trained agent
    device: str = "cpu"  # "cpu", "cuda" or "cuda:1"
    lora_rank: int = 0  # 0 trains every weight
    train_vision: bool = False  # whether the vision tower learns too; LoRA never trains it
    max_turn_tokens: int = 320  # of one turn in evaluation, in tokens; a longer turn is cut

    @property
    def loading(self) -> dict[str, Any]:
        """The arguments of `models.load_model` besides the checkpoint."""
        return {"device": self.device, "lora_rank": self.lora_rank, "train_vision": self.train_vision}


CALLING = ("native", "prompt", "template")  # ways of calling tools on a server, see `models.Endpoint`


@dataclass(frozen=True)
class EndpointConfig:
    """Which chat server is an agent, how it is asked, and how hard."""

    base_url: str  # such as "http://localhost:8000/v1"
    model: str
    key_env: str = "OPENAI_API_KEY"  # NAME of the environment variable with the key; "" where none is needed
    calling: str = "native"  # how tools are called, one of CALLING
    stream: bool = False  # replies in pieces: a slow one is not taken for a silent one
    concurrency: int = 8  # conversations at a time
    requests_per_min: int = 0  # at most, evenly spread; 0 for no limit
    tokens_per_min: int = 0  # read and written, at most; 0 for no limit
    timeout_s: float = 180  # longest silence of the server
    retries: int = 5  # of one request, after its first attempt
    max_tokens: int = 2048  # of one turn; 0 leaves it to the server
    temperature: float | None = 0.7  # None leaves it to the server
    price_in: float = 0.0  # per million tokens read, in any currency
    price_out: float = 0.0  # per million tokens written
    image_px: int = 2048  # longest side of a picture sent; larger ones are scaled down
    image_format: str = "JPEG"  # or "PNG", for exactly the pixels that a local checkpoint would see
    reasoning_field: str = ""  # where the server wants earlier reasoning back, such as "reasoning_content"
    extra: Mapping[str, Any] = field(default_factory=dict)  # more fields for each request: {"reasoning_effort": "low"}

    def __post_init__(self):
        if not self.model:
            raise ValueError("EndpointConfig.model is empty; name a model, or set OPENAI_MODEL")
        if not self.base_url.startswith(("http://", "https://")):
            raise ValueError(f"EndpointConfig.base_url={self.base_url!r}: give an http(s) address that ends in /v1")
        for name, choices in (("calling", CALLING), ("image_format", ("JPEG", "PNG"))):
            if getattr(self, name) not in choices:
                raise ValueError(f"EndpointConfig.{name}={getattr(self, name)!r}: choose one of {', '.join(choices)}")
        for item in fields(self):
            value, least = getattr(self, item.name), {"concurrency": 1, "image_px": 32}.get(item.name, 0)
            if item.type in (int, float) and not value >= least:
                raise ValueError(f"EndpointConfig.{item.name}={value!r}: give a number of at least {least}")
        if not self.timeout_s:
            raise ValueError("EndpointConfig.timeout_s=0: give the seconds after which a silent server has failed")


@dataclass(frozen=True)
class AnnotationConfig:
    """Teacher trajectories, before the filters."""

    photos: int = 2000  # of the train split, one trajectory each
    max_km: float = 200.0  # kept at most this far from the truth
    direct_share: float = 0.15  # of what is saved: confident answers without a call
    vain_share: float = 0.15  # of what is saved: right country, though no search found any evidence
    failing_share: float = 0.05  # of what is saved: sound answers although every search failed


PROCESS_RANGE = (-0.5, 1.0)  # what the process part of a reward is clipped to
FORMAT_PARTIAL = 0.8  # of the format part, where think and answer are there and something else is not in order


@dataclass(frozen=True)
class Weights:
    """Weights of the reward; the first three of the total, the others inside the process part."""

    accuracy: float = 0.6  # for no error at all
    format: float = 0.1  # for a rollout in the grammar throughout
    process: float = 0.3  # for a process part of 1
    look: float = 0.2  # for IoU 1
    query: float = 0.1  # for all of the photo's evidence
    trust: float = 0.3  # for MCC 1, each labelled search
    error: float = -0.05  # each call that the model got wrong


@dataclass(frozen=True)
class SftConfig:
    """Supervised fine-tuning: the direct stage or the multi-turn cold start."""

    samples: int = 640  # trajectories, or photos with their places
    batch_size: int = 16  # samples
    accumulate: int = 1  # batches a step
    learning_rate: float = 1e-3  # the highest; it rises to it at first, then falls along a cosine
    warmup_share: float = 0.01  # of the steps, in which it rises
    final_rate: float = 0.1  # where it ends, of the highest
    weight_decay: float = 0.1  # a step, times the rate
    beta1: float = 0.9  # of AdamW: the running mean of gradients
    beta2: float = 0.95  # and of their squares
    max_grad_norm: float = 1.0  # a longer gradient is shortened to it
    epochs: float = 1.0  # times through the samples
    minutes: float = 4.0  # stops earlier than `epochs` when this is used up
    max_length: int = 2048  # tokens; a longer sample is refused by name
    save_steps: int = 0  # a checkpoint every so many steps; 0 keeps none
    checkpointing: bool = False  # compute activations again for the gradient instead of keeping them
    workers: int = 1  # processes that make batches ahead, on Linux; 0: they are made between the steps


@dataclass(frozen=True)
class GrpoConfig:
    """Reinforcement learning."""

    steps: int = 32  # of the optimiser
    prompts_per_step: int = 8  # photos
    group_size: int = 8  # rollouts of one photo
    batch_size: int = 0  # rollouts that a process computes the loss of at a time; 0: all of the step's
    checkpointing: bool = False  # compute activations again for the gradient instead of keeping them
    learning_rate: float = 2e-4  # at the first step
    schedule: str = "linear"  # of the rate: "linear" falls to zero over the run, "constant" stays
    weight_decay: float = 0.0  # a step, times the rate
    beta1: float = 0.9  # of AdamW: the running mean of gradients
    beta2: float = 0.999  # and of their squares
    max_grad_norm: float = 1.0  # a longer gradient is shortened to it
    clip: float = 0.2  # how far the ratio of new to old probability may leave 1 and still push
    chunks: int = 4  # parts of a batch, by length, that the loss is computed in on a CPU
    temperature: float = 0.8  # of the sampling
    search: str = "record"  # what answers: "offline", the cache alone; "record", and what it misses the live service
    credit: str = "segment"  # who is paid: "segment" (turn, and labels apart), "turn" or "trajectory" (plain GRPO)
    gamma: float = 1.0  # discount a turn, of turn-level credit
    scale: str = "group"  # whose standard deviation advantages are divided by: "group", "batch" or "none"
    easy_share: float = 0.5  # of the photos drawn, first the easy ones alone, then all
    beta: float = 0.0  # weight of the KL term
    max_completion_tokens: int = 896  # of one rollout, tool results and images included
    max_turn_tokens: int = 256  # of one turn
    judged_photos: int = 300  # test-new photos on which notebook 04 compares before and after
    save_steps: int = 10  # a checkpoint to continue from every so many steps; 0 keeps none


FULL = "full method"
START = "before RL"
_TOOLS = ("image_zoom_in_tool", "image_search_tool", "text_search_tool")


@dataclass(frozen=True)
class Variant:
    """One way of training; the defaults are the full method.

    Attributes:
        credit: As in `GrpoConfig`.
        weights: Of the reward that trains; every variant is judged by the usual reward.
        tools: Names of the tools that the agent has, in training and in evaluation.
        trained: False only evaluates the checkpoint that training starts from.
    """

    credit: str = "segment"
    weights: Weights = field(default_factory=Weights)
    tools: tuple[str, ...] = _TOOLS
    trained: bool = True


VARIANTS: Mapping[str, Variant] = {
    START: Variant(trained=False),
    FULL: Variant(),
    "turn credit": Variant(credit="turn"),
    "trajectory credit": Variant(credit="trajectory"),
    "no evidence reward": Variant(weights=Weights(trust=0.0)),
    "no tools": Variant(tools=()),
    "zoom only": Variant(tools=_TOOLS[:1]),
    "image search only": Variant(tools=_TOOLS[1:2]),
    "text search only": Variant(tools=_TOOLS[2:]),
    "no IoU reward": Variant(weights=Weights(look=0.0)),
    "no query reward": Variant(weights=Weights(query=0.0)),
}


@dataclass(frozen=True)
class AblationConfig:
    """Which RL runs notebook 06 compares; each is made with the settings of `GrpoConfig`."""

    make: bool = False  # train what is missing; otherwise only what was made before is read
    variants: str = ""  # names out of VARIANTS, with commas between; "" is all of them
    seeds: int = 3  # runs of each variant
    photos: int = 300  # test-new photos that every run is judged on
    processes: int = 2  # runs made side by side, each with its share of the cores


@dataclass(frozen=True)
class EvaluationConfig:
    """How accuracy is measured."""

    photos: int = 100  # of each split
    batch_size: int = 64  # photos in flight together
    bootstrap: int = 2000  # resamples behind each interval
    samples: int = 4  # answers a photo from which its uncertainty is told
    uncertain_photos: int = 40  # of val, to calibrate, and as many of test-new, to check


@dataclass(frozen=True)
class Judging:
    """What counts as right, as sure and as enough; the same at every scale."""

    near_km: float = 25.0  # an answer no farther off is right
    region_iou: float = 0.2  # a box that overlaps an annotated region this much has looked at it
    fewest_photos: int = 10  # fewer make a bootstrap interval too narrow to be believed
    floor_km: float = 25.0  # added to every spread: answers that agree to the metre are not that sure
    levels: tuple[float, ...] = (0.5, 0.9)  # shares of truths that a radius is to hold


@dataclass(frozen=True)
class Profile:
    """Every stage at one scale."""

    name: str
    seed: int = 0  # of training and sampling; the world has its own
    outputs: str = ""  # folder; empty means outputs/<name>
    timeout_s: int = 1200  # of one notebook
    world: WorldConfig = field(default_factory=WorldConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    annotation: AnnotationConfig = field(default_factory=AnnotationConfig)
    direct: SftConfig = field(default_factory=lambda: SftConfig(samples=1500, epochs=2.0, minutes=2))
    coldstart: SftConfig = field(default_factory=SftConfig)
    grpo: GrpoConfig = field(default_factory=GrpoConfig)
    ablation: AblationConfig = field(default_factory=AblationConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)

    @property
    def folder(self) -> Path:
        """Where this profile's results lie, relative to the repository root."""
        return Path(self.outputs or f"outputs/{self.name}")

    def path(self, *parts: str) -> Path:
        """A file under the profile's folder; the folders above it are made."""
        path = self.folder.joinpath(*parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def input(self, *parts: str, made_by: str) -> Path:
        """A file or folder that an earlier notebook leaves.

        Raises:
            FileNotFoundError: It is not there; the message says which notebook makes it.
        """
        path = self.folder.joinpath(*parts)
        if not path.exists():
            again = f"python -m reverse_lib run --profile {self.name} --only {made_by}"
            raise FileNotFoundError(f"{path}: not there yet; notebook {made_by} makes it: {again}")
        return path

    def save_metrics(self, notebook: str, metrics: Mapping[str, Any]) -> Path:
        """Write `NN_name.metrics.json`; NaN and infinities become null.

        Args:
            notebook: The notebook's name without suffix, for example "03_sft".
            metrics: Numbers, texts, and dicts or lists of them.
        """
        path = self.path(f"{notebook}.metrics.json")
        path.write_text(json.dumps(_plain(metrics), indent=2, ensure_ascii=False, allow_nan=False) + "\n")
        return path


_SMOKE = Profile(
    "smoke",
    timeout_s=400,
    world=WorldConfig(places=40, val_photos=8),
    annotation=AnnotationConfig(photos=24),
    direct=SftConfig(samples=16, batch_size=4, epochs=2.0, minutes=0.25),
    coldstart=SftConfig(samples=16, batch_size=4, epochs=2.0, minutes=0.25),
    grpo=GrpoConfig(steps=2, prompts_per_step=1, group_size=4, judged_photos=8),
    ablation=AblationConfig(True, "before RL, full method, trajectory credit", seeds=1, photos=4),
    evaluation=EvaluationConfig(photos=8, batch_size=8, bootstrap=200, samples=2, uncertain_photos=8),
)
_GPU = Profile(
    "gpu",
    timeout_s=1500,
    world=WorldConfig(places=1000, val_photos=400),
    model=ModelConfig(device="cuda"),
    annotation=AnnotationConfig(photos=10000),
    direct=SftConfig(samples=20000, batch_size=128, epochs=2.0, minutes=4, workers=8),
    coldstart=SftConfig(samples=10000, batch_size=64, minutes=6, workers=8),
    grpo=GrpoConfig(steps=100, prompts_per_step=32),
    ablation=AblationConfig(processes=1),
    evaluation=EvaluationConfig(photos=1000, batch_size=256, samples=8, uncertain_photos=500),
)
_QWEN_SFT = dict(
    batch_size=2, accumulate=64, learning_rate=2e-5, minutes=24 * 60, max_length=16384, checkpointing=True, workers=8
)
_QWEN = Profile(
    "qwen3vl-4b",
    timeout_s=24 * 3600,
    model=ModelConfig(
        "Qwen/Qwen3-VL-4B-Instruct",
        "outputs/qwen3vl-4b/checkpoints/grpo",
        "cuda",
        lora_rank=64,
        max_turn_tokens=2048,
    ),
    annotation=AnnotationConfig(photos=2000),
    direct=SftConfig(samples=100_000, epochs=3, **_QWEN_SFT),
    coldstart=SftConfig(samples=2000, **_QWEN_SFT),
    grpo=GrpoConfig(
        steps=400,
        prompts_per_step=32,
        batch_size=2,
        checkpointing=True,
        learning_rate=1e-6,
        temperature=0.7,
        max_completion_tokens=8192,
        max_turn_tokens=2048,
        search="offline",
        schedule="constant",
    ),
    ablation=AblationConfig(processes=1),
    evaluation=EvaluationConfig(photos=2997, batch_size=16),
)
_CLAIMED = (  # what the claims of `evaluation.replicate` compare
    "before RL, full method, no tools, zoom only, image search only, text search only, no evidence reward, "
    "turn credit, trajectory credit"
)
_REFERENCE = Profile("reference", timeout_s=4 * 3600, ablation=AblationConfig(make=True, variants=_CLAIMED))
PROFILES = {profile.name: profile for profile in (_SMOKE, Profile("cpu"), _REFERENCE, _GPU, _QWEN)}


def get_profile(name: str, /, **overrides: Any) -> Profile:
    """A profile by name, with some of its numbers changed.

    Args:
        name: A key of PROFILES.
        **overrides: Values by dotted name, for example `**{"grpo.steps": 5, "seed": 1}`; a whole number may stand for
            a fraction, other types must match.

    Raises:
        ValueError: The profile or a key is unknown (the message lists the known ones), or a value has the wrong type.
    """
    if name not in PROFILES:
        raise ValueError(f"profile {name!r} is unknown; choose one of {', '.join(PROFILES)}")
    profile = PROFILES[name]
    known = known_keys()
    for key, value in overrides.items():
        if key not in known:
            raise ValueError(f"profile {name}: unknown setting {key!r}; known: {', '.join(known)}")
        profile = _with(profile, key.split("."), _checked(key, value, known[key]))
    return profile


def known_keys() -> dict[str, type]:
    """Every setting that can be overridden, by dotted name, with its type."""
    keys: dict[str, type] = {}
    for outer in fields(Profile):
        value = getattr(PROFILES["cpu"], outer.name)
        if is_dataclass(value):
            keys.update({f"{outer.name}.{inner.name}": type(getattr(value, inner.name)) for inner in fields(value)})
        elif outer.name != "name":
            keys[outer.name] = type(value)
    return keys


def _checked(key: str, value: Any, kind: type) -> Any:
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        raise ValueError(f"{key}={value!r}: expected {kind.__name__}, got {type(value).__name__}")
    return value


def _with(config: Any, path: list[str], value: Any) -> Any:
    head, *rest = path
    return replace(config, **{head: _with(getattr(config, head), rest, value) if rest else value})


def _plain(value: Any) -> Any:
    """JSON types only: numpy numbers unwrapped, NaN and infinities as None."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value
