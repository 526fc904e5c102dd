"""One optimizer step: a batch in, its loss and number of correct predictions out.

On a GPU, a step copies nothing back to the host. Tensor letters: N images in a batch, C classes,
S the image size.
"""

import torch
from torch import Tensor

from trialrun.config import TrainConfig
from trialrun.distributed import Ranks
from trialrun.engine.compute.device import to_device
from trialrun.engine.compute.torch_errors import NonFiniteLossError
from trialrun.engine.inputs.augment import augment_batch
from trialrun.engine.inputs.batches import Batch
from trialrun.engine.optim import make_loss, make_mixer
from trialrun.engine.state import TrainState


class TrainingStep:
    """The training step of one epoch; loss and MixUp are made once."""

    def __init__(self, state: TrainState, config: TrainConfig, ranks: Ranks, epoch: int) -> None:
        self._state, self._config, self._compute = state, config, state.compute
        self._ranks, self._epoch = ranks, epoch
        labels = torch.from_numpy(state.data.train.labels)
        self._loss = make_loss(config, labels, state.data.num_classes).to(state.compute.device)
        self._mixer = make_mixer(config, state.data.num_classes)

    def __call__(self, batch: Batch) -> Tensor:
        """Train on this rank's share of a step; return (2,): sum of losses, number correct.

        Raises:
            NonFiniteLossError: On a CPU, before the step is applied. On other devices a check would
                make the host wait: there the device skips the step, and the epoch's loss sum is
                not finite.
        """
        compute = self._compute
        pixels, labels = self._prepare_batch(batch)
        inputs = self._state.data.preprocessing.normalised(pixels)
        inputs, targets = self._mixer(inputs, labels) if self._mixer else (inputs, labels)
        with compute.autocast():
            logits = self._state.train_module(compute.to_memory_format(inputs))
        loss = self._loss(logits.float(), targets)
        loss_scale = self._apply_step(loss, targets)
        correct = (logits.detach().argmax(dim=1) == labels).sum()
        num_images = batch.num_images_in_step / self._ranks.world_size
        loss_sum = loss.detach().to(compute.accumulator_dtype) * loss_scale * num_images
        return torch.stack([loss_sum, correct.to(compute.accumulator_dtype)])

    def _prepare_batch(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return augmented pixels and labels on the device."""
        data, device = self._state.data, self._compute.device
        pixels = augment_batch(
            to_device(batch.pixels, device),
            batch.positions,
            augment=self._config.augment,
            epoch=self._epoch,
            random_seed=self._config.random_seed,
            size=data.preprocessing.image_size,
            steps=data.train_steps,
        )
        return pixels, to_device(batch.labels, device)

    def _apply_step(self, loss: Tensor, targets: Tensor) -> Tensor:
        """Run backward and the optimizer step; return the loss scale."""
        state = self._state
        loss_scale, found_inf = self._compute_loss_scale(loss, targets)
        state.optimizer.zero_grad(set_to_none=True)
        state.grad_scaler.scale(loss * loss_scale).backward()
        if self._config.clip_grad_norm is not None:
            state.grad_scaler.unscale_(state.optimizer)
            parameters = state.train_module.parameters()
            torch.nn.utils.clip_grad_norm_(parameters, self._config.clip_grad_norm)
        if not state.grad_scaler.is_enabled():
            # Fused optimizers skip the step on the device if this tensor is not 0.
            state.optimizer.found_inf = found_inf  # type: ignore[attr-defined]
        state.grad_scaler.step(state.optimizer)
        state.grad_scaler.update()
        state.scheduler.step()
        if state.batch_norm_statistics is not None:
            state.batch_norm_statistics.update()
        if state.ema is not None:
            state.ema.update_parameters(state.network)
        return loss_scale

    def _compute_loss_scale(self, loss: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return this rank's loss scale, and 1 if the loss of any rank is not finite, else 0.

        The loss scale is 1 on a single rank. DDP averages the gradients of all ranks, so each
        rank's loss is weighted by its share of the images.
        """
        weight = self._sum_weights(targets)
        is_non_finite = (~loss.detach().isfinite()).to(weight.dtype)
        num_non_finite, total_weight = self._ranks.sum(torch.stack([is_non_finite, weight]))
        found_inf = num_non_finite.clamp(max=1)
        loss_scale: Tensor = weight * self._ranks.world_size / total_weight
        if self._compute.device.type == "cpu" and bool(found_inf):
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
