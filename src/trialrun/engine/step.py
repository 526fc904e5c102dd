"""One optimizer step: a batch in, its loss and number of correct predictions out.

On a GPU, a step copies nothing back to the host. Tensor letters: N images in a batch, C classes,
S the image size.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial, reduce

import torch
from torch import Tensor

from trialrun.config import AUTO_TEXT, TrainConfig
from trialrun.distributed import Ranks
from trialrun.engine.compute.device import to_device
from trialrun.engine.compute.kernels import adapt_to_small_maps, list_adaptable
from trialrun.engine.compute.torch_errors import NonFiniteLossError
from trialrun.engine.inputs.augment import augment_batch
from trialrun.engine.inputs.batches import Batch
from trialrun.engine.memory.accumulation import (
    BatchPart,
    count_max_parts,
    retry_in_more_parts,
    sync_gradients,
)
from trialrun.engine.optim import make_loss, make_mixer
from trialrun.engine.snapshot import capture_generators, restore_generators
from trialrun.engine.state import TrainState


class TrainingStep:
    """The training step of one epoch; loss and MixUp are made once.

    `image_size` is the size of the inputs in pixels; None is the full size.
    """

    def __init__(
        self,
        state: TrainState,
        config: TrainConfig,
        ranks: Ranks,
        epoch: int,
        image_size: int | None = None,
    ) -> None:
        self._state, self._config, self._compute = state, config, state.compute
        self._ranks, self._epoch, self._image_size = ranks, epoch, image_size
        labels = torch.from_numpy(state.data.train.labels)
        self._loss = make_loss(config, labels, state.data.num_classes).to(state.compute.device)
        self._mixer = make_mixer(config, state.data.num_classes)
        # Measured on CPUs only; torch.compile would compile the layers again for each size.
        adapts = state.compute.device.type == "cpu" and not config.compile
        self._adaptable = list_adaptable(state.train_module) if adapts else []

    def __call__(self, batch: Batch) -> Tensor:
        """Train on this rank's share of a step; return (2,): sum of losses, number correct.

        Raises:
            NonFiniteLossError: On a CPU, before the step is applied; torch's generators are then
                those before the step. On other devices a check would make the host wait: there the
                device skips the step, and the epoch's loss sum is not finite.
        """
        # Ranks may have one image more or less, but all compute the same number of parts.
        num_images = batch.num_images_in_step // self._ranks.world_size
        compute = partial(self.compute_gradients, batch, num_images)
        with self._restore_if_non_finite(batch):
            totals, found_inf = retry_in_more_parts(self._state, self._config, num_images, compute)
        self._apply_step(found_inf)
        return totals

    @contextmanager
    def _restore_if_non_finite(self, batch: Batch) -> Iterator[None]:
        """Restore torch's generators if the loss is found not to be finite, and name the images."""
        if not self._checks_loss:
            yield
            return
        generators = capture_generators(self._compute.device)
        try:
            yield
        except NonFiniteLossError as error:
            error.positions = batch.positions
            restore_generators(generators, self._compute.device)
            raise

    @property
    def _checks_loss(self) -> bool:
        """Whether the host checks the loss of each step, for which it waits for the device."""
        return self._compute.device.type == "cpu" or self._state.checks_each_step

    def compute_gradients(self, batch: Batch, num_images: int) -> tuple[Tensor, Tensor]:
        """Add up the gradients of the batch's parts; their number depends on `num_images`.

        Returns:
            (2,) sum of losses and number correct; and 1 if a rank's loss is not finite, else 0.
        """
        state = self._state
        parts = self.split_batch(batch, num_images)
        weights = [self._sum_weights(part.targets) for part in parts]
        step_weight = reduce(torch.add, weights)
        state.optimizer.zero_grad()
        statistics = state.changing_statistics()
        if statistics is not None:
            statistics.drop_parts()
        sums: list[tuple[Tensor, Tensor, Tensor]] = []
        for part, weight in zip(parts, weights, strict=True):
            with sync_gradients(state.train_module, is_last=part is parts[-1]):
                sums.append(self._add_gradients(part, weight, step_weight))
            if len(parts) > 1 and statistics is not None:
                statistics.add_part(len(part) / len(batch))
        mean_loss, num_correct, found_inf = (
            reduce(torch.add, column) for column in zip(*sums, strict=True)
        )
        num_images_per_rank = batch.num_images_in_step / self._ranks.world_size
        totals = torch.stack([mean_loss * num_images_per_rank, num_correct])
        return totals, found_inf.clamp(max=1)

    def split_batch(self, batch: Batch, num_images: int) -> list[BatchPart]:
        """Return the parts of the batch, prepared; `num_images` is as in `compute_gradients`."""
        num_parts = min(self._state.num_parts, count_max_parts(num_images, self._state))
        return self.prepare_inputs(batch).split(num_parts)

    def prepare_inputs(self, batch: Batch) -> BatchPart:
        """Return the whole batch as one part: augmented, normalised and mixed, on the device."""
        data, device = self._state.data, self._compute.device
        full_size = data.preprocessing.image_size  # None for features of a frozen backbone
        pixels = augment_batch(
            to_device(batch.pixels, device),
            batch.positions,
            augment=self._config.augment,
            epoch=self._epoch,
            random_seed=self._config.random_seed,
            size=self._image_size if full_size else None,
            full_size=full_size,
            steps=data.train_steps,
            aspects=batch.aspects,
        )
        labels = to_device(batch.labels, device)
        inputs = data.preprocessing.normalised(pixels)
        inputs, targets = self._mixer(inputs, labels) if self._mixer else (inputs, labels)
        return BatchPart(inputs, targets, labels)

    def _add_gradients(
        self, part: BatchPart, weight: Tensor, step_weight: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Run forward and backward; return scaled mean loss, number correct, and `found_inf`."""
        state, compute = self._state, self._compute
        loss, logits = self.compute_loss(part)
        loss_scale, found_inf = self._compute_loss_scale(loss, weight, step_weight)
        with adapt_to_small_maps(self._adaptable):  # checkpointed layers are computed again
            state.grad_scaler.scale(loss * loss_scale).backward()
        correct = (logits.detach().argmax(dim=1) == part.labels).sum()
        mean_loss = loss.detach().to(compute.accumulator_dtype) * loss_scale
        return mean_loss, correct.to(compute.accumulator_dtype), found_inf

    def compute_loss(self, part: BatchPart) -> tuple[Tensor, Tensor]:
        """Run the network; return the mean loss, and the logits (N, C)."""
        with self._compute.autocast(), adapt_to_small_maps(self._adaptable):
            logits = self._state.train_module(self._compute.to_memory_format(part.inputs))
        return self._loss(logits.float(), part.targets), logits

    def _apply_step(self, found_inf: Tensor) -> None:
        """Run the optimizer step with the gradients of all parts."""
        state = self._state
        max_norm = self._config.clip_grad_norm
        if max_norm is not None and max_norm != AUTO_TEXT:  # the session resolves it
            state.grad_scaler.unscale_(state.optimizer)
            parameters = state.train_module.parameters()
            torch.nn.utils.clip_grad_norm_(parameters, float(max_norm))
        if not state.grad_scaler.is_enabled():
            # Fused optimizers skip the step on the device if this tensor is not 0.
            state.optimizer.found_inf = found_inf  # type: ignore[attr-defined]
        state.grad_scaler.step(state.optimizer)
        state.grad_scaler.update()
        state.scheduler.step()
        if (statistics := state.changing_statistics()) is not None:
            statistics.update()
        if state.ema is not None:
            state.ema.update_parameters(state.network)

    def _compute_loss_scale(
        self, loss: Tensor, weight: Tensor, step_weight: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return a part's loss scale, and 1 if the loss of any rank is not finite, else 0.

        The loss scale is 1 for the only part of a single rank. DDP averages the gradients of all
        ranks, so each loss is weighted by its share of the step's images. `weight` is the divisor
        of the part's mean loss, and `step_weight` that of all parts of this rank.
        """
        is_non_finite = (~loss.detach().isfinite()).to(weight.dtype)
        num_non_finite, total_weight = self._ranks.sum(torch.stack([is_non_finite, step_weight]))
        found_inf = num_non_finite.clamp(max=1)
        loss_scale: Tensor = weight * self._ranks.world_size / total_weight
        if self._checks_loss and bool(found_inf):
            where = "" if bool(is_non_finite) else " on another rank"
            raise NonFiniteLossError(
                f"the training loss became NaN or infinite{where} in epoch {self._epoch}"
            )
        return loss_scale, found_inf

    def _sum_weights(self, targets: Tensor) -> Tensor:
        """Return the divisor of the mean loss: the number of images, or their class weights."""
        class_weights = self._loss.weight
        if class_weights is None or targets.ndim > 1:
            return torch.full((), float(len(targets)), device=targets.device)
        weight: Tensor = class_weights[targets].sum()
        return weight
