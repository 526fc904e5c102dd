"""Lists of transforms: random steps in training, fixed steps in inference."""

import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from trialrun.engine.inputs.augment import augment_batch
from trialrun.errors import InvalidParameterError
from trialrun.images.decoding.header import UndecodableError
from trialrun.images.decoding.preprocessing import Preprocessing
from trialrun.images.decoding.transforms import (
    TransformStep,
    compute_side_after,
    parse_step,
    read_transforms,
    select_fixed_steps,
    split_at_random_step,
)
from trialrun.runs.training.plan import plan_training

KNOWN: list[list[object]] = [
    ["Resize", 40],
    ["CenterCrop", 32],
    ["Pad", [2, 3]],
    ["ColorJitter", {"brightness": 0.4}],
    ["RandomResizedCrop", {"size": 24, "scale": [0.5, 1.0]}],
    ["RandomCrop", 20],
    ["RandomHorizontalFlip", {}],
    ["RandomVerticalFlip", 0.5],
    ["RandomRotation", 10],
    ["RandomAffine", {"degrees": 5, "translate": [0.1, 0.1]}],
    ["RandomPerspective", 0.2],
]


def steps_of(*entries: Sequence[object]) -> tuple[TransformStep, ...]:
    """Parse steps from their JSON pairs."""
    return tuple(parse_step(entry) for entry in entries)


def make_batch(num_images: int, size: int) -> torch.Tensor:
    """Create random pixels, (N, 3, S, S) uint8."""
    noise = np.random.default_rng(3).integers(0, 256, (num_images, 3, size, size), dtype=np.uint8)
    return torch.from_numpy(noise)


def encode_png(image: Image.Image) -> bytes:
    """Encode an image as a PNG file's content."""
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def test_azure_transformation_directory_is_read(azure: Path) -> None:
    """A TransformationDirectory of Init Image Transformation is read."""
    steps = read_transforms(str(azure / "transformation_directory"))
    assert [step.name for step in steps] == ["Resize", "CenterCrop", "RandomHorizontalFlip"]
    assert compute_side_after(select_fixed_steps(steps)) == 224


def test_augmentation_of_an_image_does_not_depend_on_its_batch() -> None:
    """With all transforms, an image gets the same pixels in batches of any order and size."""
    steps = steps_of(*KNOWN)
    pixels = make_batch(4, 48)

    def augment_rows(positions: list[int]) -> torch.Tensor:
        return augment_batch(
            pixels[positions],
            np.asarray(positions),
            augment="none",
            epoch=2,
            random_seed=9,
            size=32,
            steps=steps,
        )

    whole = augment_rows([0, 1, 2, 3])
    assert whole.shape == (4, 3, 32, 32)
    assert torch.equal(augment_rows([3, 1]), whole[[3, 1]])
    assert not torch.equal(whole[0], pixels[0, :, :32, :32])


@pytest.mark.parametrize("augment", ["none", "flip", "standard", "strong"])
def test_images_with_a_margin_are_cropped_to_size(augment: str) -> None:
    """Larger cached images are cropped to the network's size, deterministically."""
    pixels, positions = make_batch(6, 37), np.arange(6)

    def augment_rows(chosen: list[int]) -> torch.Tensor:
        return augment_batch(
            pixels[chosen],
            positions[chosen],
            augment=augment,
            epoch=1,
            random_seed=1,
            size=32,
        )

    whole = augment_rows([0, 1, 2, 3, 4, 5])
    assert whole.shape == (6, 3, 32, 32)
    assert whole.dtype == torch.uint8
    assert torch.equal(augment_rows([4, 0]), whole[[4, 0]])


def test_inference_applies_only_the_fixed_steps() -> None:
    """Resize, CenterCrop and Pad are stored in model.json and read back unchanged."""
    steps = select_fixed_steps(steps_of(*KNOWN))
    assert [step.name for step in steps] == ["Resize", "CenterCrop", "Pad"]
    preprocessing = Preprocessing(36, steps=steps)
    again = Preprocessing.from_json(json.loads(json.dumps(preprocessing.to_json())))
    data = encode_png(Image.fromarray(make_batch(1, 50)[0].permute(1, 2, 0).numpy()))
    pixels = preprocessing.decode(data)
    assert pixels.shape == (3, 36, 36)
    assert torch.equal(again.decode(data), pixels)


def test_invalid_preprocessing_of_a_model_is_rejected() -> None:
    """Random steps, unknown keys and invalid values in model.json are rejected."""
    valid = Preprocessing(8).to_json()
    for invalid in (
        {"steps": [["RandomCrop", 4]]},
        {"steps": [["Compose", {}]]},
        {"steps": [["Resize", 10**9]]},
        {"steps": "Resize"},
        {"loader": "os.system"},
    ):
        with pytest.raises(ValueError, match=r".+"):
            Preprocessing.from_json({**valid, **invalid})


def test_steps_before_the_first_random_one_are_cached() -> None:
    """The steps are split before the first random one."""
    fixed, rest = split_at_random_step(steps_of(["Resize", 64], ["RandomCrop", 32], ["Pad", 2]))
    assert [step.name for step in fixed] == ["Resize"]
    assert [step.name for step in rest] == ["RandomCrop", "Pad"]
    assert compute_side_after(rest) == 36


@pytest.mark.parametrize(
    "content",
    [
        '{"Resize": 3}',
        '[["Lambda", "os.system"]]',
        '[["Resize", "big"]]',
        '[["Resize", 0]]',
        '[["Resize", {}]]',
        '[["Resize", {"interpolation": 2}]]',
        '[["RandomHorizontalFlip", 2]]',
        '[["CenterCrop", [1, 2, 3]]]',
        '[[["a"], 1]]',
        '[["ColorJitter", {"brightness": -1}]]',
        '[["ColorJitter", {"brightness": [2, 1]}]]',
        '[["ColorJitter", {"hue": 0.6}]]',
        '[["RandomResizedCrop", {"size": 24, "scale": 5}]]',
        '[["RandomResizedCrop", {"size": 24, "scale": null}]]',
        '[["RandomResizedCrop", {"size": 24, "ratio": [0, 1]}]]',
        '[["RandomRotation", -10]]',
        '[["RandomRotation", [1, 2, 3]]]',
        '[["RandomRotation", {"degrees": 5, "center": 3}]]',
        '[["RandomAffine", {"degrees": 5, "translate": [0.1, 1.1]}]]',
        '[["RandomAffine", {"degrees": 5, "shear": [1, 2, 3]}]]',
        '[["RandomHorizontalFlip", null]]',
        '[["RandomVerticalFlip", [0.5]]]',
        '[["RandomPerspective", 2]]',
        '[["Pad", {"padding": 2, "fill": [1, 2]}]]',
        f'[["Pad", 1{"0" * 400}]]',
        '[["Pad", 4096], ["Pad", 4096]]',
        '[["Resize", [4096, 4096]], ["Pad", 4096]]',
        "[" * 100_000,
        "[[]]",
        "not json",
    ],
)
def test_invalid_list_is_rejected(tmp_path: Path, content: str) -> None:
    """An invalid list is rejected before training."""
    path = tmp_path / "transforms.json"
    path.write_text(content)
    with pytest.raises(InvalidParameterError, match="transforms="):
        plan_training({"transforms": str(path)})


ACCEPTED: list[list[object]] = [
    ["Resize", [20, 30]],
    ["Pad", {"padding": [1, 2, 3, 4], "fill": [1, 2, 3]}],
    ["Pad", {"padding": [1], "fill": None}],
    ["ColorJitter", {"brightness": [0, 2], "contrast": None, "hue": [-0.5, 0.5]}],
    ["ColorJitter", {"saturation": 3, "hue": 0.5}],
    ["RandomResizedCrop", {"size": [24, 20], "scale": [0, 1.2], "ratio": [1, 1]}],
    ["RandomCrop", {"size": 20, "padding": None, "pad_if_needed": True, "fill": 3}],
    ["RandomCrop", {"size": [60], "padding": [1, 2], "pad_if_needed": True}],
    ["RandomRotation", {"degrees": [-5, 5], "expand": True, "fill": None}],
    ["RandomRotation", {"degrees": 5, "center": [3, 4], "fill": [1]}],
    ["RandomAffine", {"degrees": 0, "scale": [0.5, 2], "shear": [1, 2, -3, 4], "fill": 9}],
    ["RandomAffine", {"degrees": [1, 2], "translate": None, "scale": None, "shear": 3}],
    ["RandomAffine", {"degrees": 1, "shear": [-3, 3], "center": None}],
    ["RandomPerspective", {"distortion_scale": 1, "p": 1, "fill": [1, 2, 3]}],
]


@pytest.mark.parametrize("entry", ACCEPTED, ids=str)
def test_accepted_steps_are_accepted_by_torchvision(entry: list[object]) -> None:
    """A list that passes the check does not fail in training."""
    for epoch in range(3):
        augmented = augment_batch(
            make_batch(2, 48),
            np.arange(2),
            augment="none",
            epoch=epoch,
            random_seed=9,
            size=32,
            steps=steps_of(entry),
        )
        assert augmented.shape == (2, 3, 32, 32)


def test_image_that_padding_makes_too_large_is_skipped() -> None:
    """The size is checked before memory is allocated."""
    long = encode_png(Image.new("L", (60_000, 10)))
    with pytest.raises(UndecodableError, match="too large to be padded"):
        Preprocessing(8, steps=steps_of(["Pad", 1000])).decode(long)


def test_pickled_list_is_not_loaded(tmp_path: Path) -> None:
    """An older TransformationDirectory contains a pickle, which could execute code."""
    (tmp_path / "_meta.yaml").write_text("type: TransformationDirectory\ntransform_type: Pickle\n")
    (tmp_path / "_transforms.pkl").write_bytes(b"\x80\x04.")
    with pytest.raises(InvalidParameterError, match=r"is Pickle\); pickled transforms can execute"):
        read_transforms(str(tmp_path))


def test_random_transforms_and_augment_exclude_each_other(tmp_path: Path) -> None:
    """A list of fixed transforms goes with `augment`; a list with a random one replaces it."""
    path = tmp_path / "t.json"
    path.write_text('[["Resize", 32]]')
    settings = {"transforms": str(path), "augment": "standard"}
    assert len(plan_training(settings).transforms) == 1
    path.write_text('[["Resize", 32], ["RandomHorizontalFlip", {}]]')
    with pytest.raises(InvalidParameterError, match="both set"):
        plan_training(settings)
