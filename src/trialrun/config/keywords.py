"""Types of the keyword parameters of `trialrun.train` and the other library functions.

Written by `make generate` from the settings that `trialrun.config` declares.
"""

from collections.abc import Sequence
from os import PathLike
from typing import Literal, TypedDict


class TrainKeywords(TypedDict, total=False):
    """Settings of a training run."""

    model: str | PathLike[str]
    train_data: str | PathLike[str]
    valid_data: str | PathLike[str] | None
    epochs: int
    batch_size: int
    learning_rate: float | Literal["auto"]
    random_seed: int
    patience: int
    valid_fraction: float
    group_column: str | None
    group_pattern: str | None
    image_size: int | Literal["auto"]
    progressive_resize: int | Literal["off", "on"]
    fit: Literal["auto", "crop", "squash", "pad"]
    value_range: str | None
    augment: Literal["none", "flip", "standard", "strong"]
    transforms: str | PathLike[str] | None
    optimizer: Literal["sgd", "adamw"]
    weight_decay: float
    decay_norms: bool
    clip_grad_norm: float | Literal["auto"] | None
    schedule: Literal["cosine", "constant", "polynomial", "onecycle"]
    warmup_steps: int
    warmup_epochs: float
    warmup_fraction: float
    label_smoothing: float
    class_weights: Literal["none", "balanced"]
    class_sampling: Literal["natural", "balanced"]
    mixup: float
    cutmix: float
    ema: float
    freeze: Literal["none", "backbone"]
    freeze_epochs: int | Literal["auto"]
    head_start: Literal["auto", "random", "probe"]
    batch_norm: Literal["auto", "batch", "frozen"]
    layer_decay: float
    dropout: float | None
    weights: str | PathLike[str] | Literal["auto"] | None
    precision: Literal["auto", "fp32", "bf16", "fp16"]
    device: str
    tf32: bool
    compile: bool
    scale_learning_rate: bool
    max_minutes: float | None
    min_delta: float
    min_gain: float
    accumulate_steps: int | Literal["auto"]
    data_mode: Literal["auto", "cache", "stream"]
    strict: bool
    smoke: bool
    experiment: str | None
    run_name: str | None
    register_as: str | None
    offline: bool
    flush_seconds: float
    checkpoint_dir: str | PathLike[str] | None
    checkpoint_minutes: float
    pytorch_flavor: bool
    checkpoint_artifacts: bool
    report: bool
    audit: bool
    data_layout: Literal["auto", "classes", "splits"]
    file_column: str | None
    label_column: str | None
    label_pattern: str | None
    classes: str | PathLike[str] | None
    follow_links: bool
    archive_encoding: str
    case_sensitive_labels: bool


class EvaluateKeywords(TypedDict, total=False):
    """Settings of an evaluation."""

    confidence: float
    group_column: str | None
    group_pattern: str | None
    report: bool
    audit: bool
    abstain: float | None
    register: str | None
    allow_overlap: bool
    allow_model_code: bool
    sha256: str | None
    device: str
    experiment: str | None
    run_name: str | None
    data_layout: Literal["auto", "classes", "splits"]
    file_column: str | None
    label_column: str | None
    label_pattern: str | None
    classes: str | PathLike[str] | None
    follow_links: bool
    archive_encoding: str


class ScoreKeywords(TypedDict, total=False):
    """Settings of bulk scoring."""

    sha256: str | None
    device: str
    batch_size: int | Literal["auto"]
    top_k: int | None
    embeddings: str | PathLike[str] | None
    spark: str | None
    data_layout: Literal["auto", "classes", "splits"]
    file_column: str | None
    label_column: str | None
    label_pattern: str | None
    classes: str | PathLike[str] | None
    follow_links: bool
    archive_encoding: str


class PromoteKeywords(TypedDict, total=False):
    """Settings of a promotion."""

    alias: str
    metric: Literal["accuracy", "macro_f1", "balanced_accuracy", "log_loss"]
    require: Literal["better", "not-worse"]
    margin: float
    min: str | None
    min_estimate: str | None
    min_coverage: float | None
    max_latency_ms: float | None
    max_size_mb: float | None
    max_class_drop: float | None
    min_class_images: int | None
    baseline: str | None
    group_column: str | None
    group_pattern: str | None
    allow_ungrouped: bool
    allow_overlap: bool
    allow_class_change: bool
    allow_model_code: bool
    dry_run: bool
    confidence: float
    reason: str | None
    device: str
    experiment: str | None
    run_name: str | None
    data_layout: Literal["auto", "classes", "splits"]
    file_column: str | None
    label_column: str | None
    label_pattern: str | None
    classes: str | PathLike[str] | None
    follow_links: bool
    archive_encoding: str


class ResumeKeywords(TypedDict, total=False):
    """Settings of a resumption."""

    train_data: str | PathLike[str] | None
    valid_data: str | PathLike[str] | None
    checkpoint_dir: str | PathLike[str] | None


class ReproduceKeywords(TypedDict, total=False):
    """Settings of a reproduction."""

    train_data: str | PathLike[str] | None
    valid_data: str | PathLike[str] | None
    device: str | None
    tolerance: float
    allow_changed_data: bool


class CompareKeywords(TypedDict, total=False):
    """Settings of a comparison of runs."""

    group_column: str | None
    group_pattern: str | None
    confidence: float


class SearchKeywords(TypedDict, total=False):
    """Settings of a search; those of `train` also as a range or a choice."""

    model: str | PathLike[str] | Sequence[str | PathLike[str]]
    train_data: str | PathLike[str]
    valid_data: str | PathLike[str] | None
    epochs: int | str | Sequence[int]
    batch_size: int | str | Sequence[int]
    learning_rate: float | Literal["auto"] | str | Sequence[float | Literal["auto"]]
    random_seed: int
    patience: int | str | Sequence[int]
    valid_fraction: float
    group_column: str | None
    group_pattern: str | None
    image_size: int | Literal["auto"] | str | Sequence[int | Literal["auto"]]
    progressive_resize: int | Literal["off", "on"] | str | Sequence[int | Literal["off", "on"]]
    fit: (
        Literal["auto", "crop", "squash", "pad"]
        | str
        | Sequence[Literal["auto", "crop", "squash", "pad"]]
    )
    value_range: str | None
    augment: (
        Literal["none", "flip", "standard", "strong"]
        | str
        | Sequence[Literal["none", "flip", "standard", "strong"]]
    )
    transforms: str | PathLike[str] | None
    optimizer: Literal["sgd", "adamw"] | str | Sequence[Literal["sgd", "adamw"]]
    weight_decay: float | str | Sequence[float]
    decay_norms: bool | str | Sequence[bool]
    clip_grad_norm: float | Literal["auto"] | str | Sequence[float | Literal["auto"] | None] | None
    schedule: (
        Literal["cosine", "constant", "polynomial", "onecycle"]
        | str
        | Sequence[Literal["cosine", "constant", "polynomial", "onecycle"]]
    )
    warmup_steps: int | str | Sequence[int]
    warmup_epochs: float | str | Sequence[float]
    warmup_fraction: float | str | Sequence[float]
    label_smoothing: float | str | Sequence[float]
    class_weights: Literal["none", "balanced"] | str | Sequence[Literal["none", "balanced"]]
    class_sampling: Literal["natural", "balanced"] | str | Sequence[Literal["natural", "balanced"]]
    mixup: float | str | Sequence[float]
    cutmix: float | str | Sequence[float]
    ema: float | str | Sequence[float]
    freeze: Literal["none", "backbone"] | str | Sequence[Literal["none", "backbone"]]
    freeze_epochs: int | Literal["auto"] | str | Sequence[int | Literal["auto"]]
    head_start: (
        Literal["auto", "random", "probe"] | str | Sequence[Literal["auto", "random", "probe"]]
    )
    batch_norm: (
        Literal["auto", "batch", "frozen"] | str | Sequence[Literal["auto", "batch", "frozen"]]
    )
    layer_decay: float | str | Sequence[float]
    dropout: float | str | Sequence[float | None] | None
    weights: str | PathLike[str] | Literal["auto"] | None
    precision: (
        Literal["auto", "fp32", "bf16", "fp16"]
        | str
        | Sequence[Literal["auto", "fp32", "bf16", "fp16"]]
    )
    device: str
    tf32: bool
    compile: bool
    scale_learning_rate: bool
    max_minutes: float | None
    min_delta: float | str | Sequence[float]
    min_gain: float | str | Sequence[float]
    accumulate_steps: int | Literal["auto"]
    data_mode: Literal["auto", "cache", "stream"]
    strict: bool
    smoke: bool
    experiment: str | None
    run_name: str | None
    register_as: str | None
    offline: bool
    flush_seconds: float
    checkpoint_dir: str | PathLike[str] | None
    checkpoint_minutes: float
    pytorch_flavor: bool
    checkpoint_artifacts: bool
    report: bool
    audit: bool
    data_layout: Literal["auto", "classes", "splits"]
    file_column: str | None
    label_column: str | None
    label_pattern: str | None
    classes: str | PathLike[str] | None
    follow_links: bool
    archive_encoding: str
    case_sensitive_labels: bool
    trials: int
    workers: int | Literal["auto"]
    study: str | None
    storage: str | None
    timeout: float | None
    sampler: Literal["tpe", "gp", "random", "grid", "cmaes"]
    pruner: Literal["median", "hyperband", "none"]
    metric: str
    direction: str
    replicates: int
    finalists: int
    enqueue: str | PathLike[str] | None
    from_study: str | None
    retries: int
    heartbeat_seconds: int
