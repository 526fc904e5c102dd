"""One optimizer step: pixels of a batch in, loss and hits out, nothing read off the device.

Tensor letters: N images in a batch, C classes, S the image size.
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
    """A step of one epoch, with what does not change between steps made once."""

    def __init__(self, state: TrainState, config: TrainConfig, ranks: Ranks, epoch: int) -> None:
        self._state, self._config, self._math = state, config, state.compute
        self._ranks, self._epoch = ranks, epoch
        labels = torch.from_numpy(state.task.train.labels)
        self._loss = make_loss(config, labels, state.task.num_classes).to(state.compute.device)
        self._mixer = make_mixer(config, state.task.num_classes)

    def __call__(self, batch: Batch) -> Tensor:
        """Learn from this rank's share of a step; (2,): sum of losses, number correct.

        Raises:
            NonFiniteLossError: On a CPU, before the step is applied. On other devices looking
                would make the host wait: there the device leaves the step out, and the epoch's
                sum tells.
        """
        compute = self._math
        pixels, labels = self._on_device(batch)
        inputs = self._state.task.preprocessing.normalised(pixels)
        inputs, targets = self._mixer(inputs, labels) if self._mixer else (inputs, labels)
        with compute.autocast():
            logits = self._state.train_module(compute.to_memory_format(inputs))
        loss = self._loss(logits.float(), targets)
        share = self._apply(loss, targets)
        correct = (logits.detach().argmax(dim=1) == labels).sum()
        images = batch.num_in_step / self._ranks.world_size
        loss_sum = loss.detach().to(compute.accumulator_dtype) * share * images
        return torch.stack([loss_sum, correct.to(compute.accumulator_dtype)])

    def _on_device(self, batch: Batch) -> tuple[Tensor, Tensor]:
        task, device = self._state.task, self._math.device
        changed = augment_batch(
            to_device(batch.pixels, device),
            batch.positions,
            augment=self._config.augment,
            epoch=self._epoch,
            random_seed=self._config.random_seed,
            size=task.preprocessing.image_size,
            steps=task.train_steps,
        )
        return changed, to_device(batch.labels, device)

    def _apply(self, loss: Tensor, targets: Tensor) -> Tensor:
        """Step down the gradient; what the loss was multiplied by, 1 where there is one rank.

        Ranks' gradients are averaged: the share undoes that unequal batches would count alike.
        """
        state = self._state
        counted = self._counted(targets)
        is_spoilt = (~loss.detach().isfinite()).to(counted.dtype)
        num_spoilt, counted_by_all = self._ranks.sum(torch.stack([is_spoilt, counted]))
        found_inf = num_spoilt.clamp(max=1)
        share: Tensor = counted * self._ranks.world_size / counted_by_all
        if self._math.device.type == "cpu" and bool(found_inf):
            where = "" if bool(is_spoilt) else " on another rank"
            raise NonFiniteLossError(
                f"the training loss is no longer a number{where} in epoch {self._epoch}"
            )
        state.optimizer.zero_grad(set_to_none=True)
        state.scaler.scale(loss * share).backward()
        if self._config.clip_grad_norm is not None:
            state.scaler.unscale_(state.optimizer)
            parameters = state.train_module.parameters()
            torch.nn.utils.clip_grad_norm_(parameters, self._config.clip_grad_norm)
        if not state.scaler.is_enabled():
            # Fused optimizers leave a step out on the device where this tensor is not 0.
            state.optimizer.found_inf = found_inf  # type: ignore[attr-defined]
        state.scaler.step(state.optimizer)
        state.scaler.update()
        state.scheduler.step()
        if state.statistics is not None:
            state.statistics.update()
        if state.average is not None:
            state.average.update_parameters(state.network)
        return share

    def _counted(self, targets: Tensor) -> Tensor:
        """What the loss divides its sum by: images, or the weights of their classes."""
        weight = self._loss.weight
        if weight is None or targets.ndim > 1:
            return torch.full((), float(len(targets)), device=targets.device)
        counted: Tensor = weight[targets].sum()
        return counted
