"""The training loop: one recipe on one fold. Data lie on the device as uint8; whole batches are indexed and augmented there."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from tumorscope.config import Recipe
from tumorscope.data.masks import INSIDE, UNKNOWN
from tumorscope.errors import LossNotFinite, RecipeError
from tumorscope.labels import CLASSES
from tumorscope.models.backbones import trunk_of
from tumorscope.training.checkpoint import State, copy_weights, load_checkpoint, save_checkpoint
from tumorscope.training.losses import make_loss, region_loss
from tumorscope.training.network import FeatureNetwork, Members, Shape, SliceNetwork, in_turn
from tumorscope.training.schedules import rate
from tumorscope.transforms.augment import apply, apply_to_masks, draw, mixed_loss
from tumorscope.transforms.counterfactual import apply_counterfactual, draw_counterfactual
from tumorscope.transforms.oversample import oversample

Epoch = dict[str, float]
#: From the seed of one member to that of the next, so that no run's further members are another run's first.
BETWEEN_MEMBERS = 1_000_003


@dataclass(frozen=True)
class Part:
    """Slices on the device: images uint8 (n, 1, s, s), labels int64 (n,), masks uint8 (n, 1, s, s) where they are used.

    In the images' place a frozen backbone's features may lie, float32 (n, views, d).
    """

    images: Tensor
    labels: Tensor
    masks: Tensor | None = None

    @classmethod
    def of(
        cls, images: np.ndarray, labels: np.ndarray, device: torch.device, masks: np.ndarray | None = None
    ) -> "Part":
        """From uint8 (n, s, s) or features (n, views, d), int64 (n,) and uint8 (n, s, s) as `data.masks` has them."""
        stacks = (None if stack is None else torch.from_numpy(np.array(stack)) for stack in (images, masks))
        planes = (stack if stack is None or stack.dtype != torch.uint8 else stack[:, None] for stack in stacks)
        placed = [None if stack is None else stack.to(device) for stack in planes]
        assert placed[0] is not None
        return cls(placed[0], torch.from_numpy(np.array(labels)).to(device), placed[1])

    def __len__(self) -> int:
        return len(self.labels)

    def of_rows(self, rows: Tensor) -> "Part":
        """Some of the slices, in that order."""
        return Part(self.images[rows], self.labels[rows], None if self.masks is None else self.masks[rows])

    def seen(self) -> tuple[Tensor, Tensor]:
        """Whose mask is known, bool (n,), and the masks, float (n, 1, s, s) of 0 and 1."""
        assert self.masks is not None
        return (self.masks != UNKNOWN).all(dim=(1, 2, 3)), (self.masks == INSIDE).float()


def fit(
    recipe: Recipe,
    seed: int,
    training: tuple[np.ndarray, np.ndarray],
    validation: tuple[np.ndarray, np.ndarray],
    *,
    masks: np.ndarray | None = None,
    features: Shape | None = None,
    fabric: Fabric,
    checkpoint: Path | None = None,
    report: Callable[[Epoch], None] = lambda _: None,
    after_epoch: Callable[[int, nn.Module], None] = lambda *_: None,
    classes: int = len(CLASSES),
) -> tuple[nn.Module, list[Epoch]]:
    """Train `recipe` and give the network to be used (the best one under early stopping) and its history.

    training, validation : images uint8 (n, s, s) and labels int64 (n,); validation may be empty where nothing waits for it,
    its scores are NaN then
    masks : of the training slices, uint8 (n, s, s) as `data.masks` has them, for recipes that need them
    features : channels, rows and columns of a frozen backbone's feature map, where its stored features (and texture behind
    them), float32 (n, views, d), are given in the place of images
    checkpoint : file written after every epoch; where it exists training goes on from it
    report : called with each epoch's row; after_epoch : with the epoch and the network, for analyses

    Of a recipe with members the first is trained as one alone with this seed would be, and rows say whose they are.
    """
    if recipe.training.members > 1:
        return _fit_members(
            *(recipe, seed, training, validation),
            masks=masks,
            features=features,
            fabric=fabric,
            checkpoint=checkpoint,
            report=report,
            after_epoch=after_epoch,
            classes=classes,
        )
    _need_fitting(recipe, masks is not None, len(validation[1]), features is None and fabric.world_size > 1)
    with reproducible(seed, recipe.training.threads, fabric.device):
        train = Part.of(*oversample(*training, recipe.imbalance, seed), fabric.device, masks)
        held_out = Part.of(*validation, fabric.device)
        module: nn.Module = (
            FeatureNetwork(recipe, features, train.images, classes)
            if features
            else SliceNetwork(recipe, train.images, classes)
        )
        state = State(module, _optimiser(recipe, module, fabric), torch.Generator().manual_seed(seed))
        wrapped, optimiser = fabric.setup(module, state.optimiser)
        if checkpoint and checkpoint.exists():
            load_checkpoint(checkpoint, state)
        while not _finished(state, recipe):
            row = _epoch(recipe, state, wrapped, optimiser, train, held_out, fabric)
            if checkpoint and fabric.is_global_zero:
                save_checkpoint(checkpoint, state)
            report(row)
            after_epoch(state.epoch, module)
        if state.best:
            module.load_state_dict(state.best)
        return module.eval(), state.history


def _need_fitting(recipe: Recipe, masked: bool, held_out: int, spread: bool) -> None:
    """Raise `RecipeError` where the recipe asks for masks, a validation part or a single process that it is not given."""
    if recipe.needs_masks and (not masked or recipe.imbalance.method != "none"):
        missing = "has masks, which oversampling has none for" if masked else "needs tumour masks"
        raise RecipeError(f"{recipe.name}: it {missing}; change model, augment or imbalance")
    if not held_out and (recipe.early_stopping.patience or recipe.schedule.plateau_patience):
        raise RecipeError(f"{recipe.name}: it waits for validation losses, and here is no validation part")
    if spread and recipe.model.backbone and recipe.model.backbone.gradual:
        raise RecipeError(f"{recipe.name}: model.backbone.gradual: unfreezing on the way goes with one process; set 0")


def _fit_members(
    recipe: Recipe,
    seed: int,
    training: tuple[np.ndarray, np.ndarray],
    validation: tuple[np.ndarray, np.ndarray],
    *,
    checkpoint: Path | None,
    report: Callable[[Epoch], None],
    **given: Any,
) -> tuple[nn.Module, list[Epoch]]:
    """As `fit`: one member after the other. A finished one's checkpoint stays, so that going on begins behind it."""
    alone = recipe.model_copy(update={"training": recipe.training.model_copy(update={"members": 1})})
    modules: list[Any] = []
    history: list[Epoch] = []
    for member in range(recipe.training.members):
        note = partial(_note_member, member, report)
        file = checkpoint and checkpoint.with_name(f"{checkpoint.stem}-{member}{checkpoint.suffix}")
        module, rows = fit(
            *(alone, seed + member * BETWEEN_MEMBERS, training, validation),
            checkpoint=file,
            report=note,
            **given,
        )
        modules.append(module)
        history += [{"member": member, **row} for row in rows]
    whole: Any = modules[0]  # the scalers are the same: they know the training part alone
    whole.network = Members([module.network for module in modules])
    return whole.eval(), history


def _note_member(member: int, report: Callable[[Epoch], None], row: Epoch) -> None:
    report({"member": member, **row})


def predict(module: nn.Module, images: Tensor, mirror_average: bool = False) -> Tensor:
    """Probabilities float32 (n, classes) of images (n, 1, s, s) or features; the mean over slice and mirror if asked for."""
    if not len(images):
        return torch.empty(0, len(CLASSES))
    with torch.inference_mode():
        batches = [module(batch).softmax(1) for batch in in_turn(images)]
        probabilities = torch.cat(batches)
        if mirror_average:
            turned: Any = module.mirrored
            mirrored = [module(turned(batch)).softmax(1) for batch in in_turn(images)]
            probabilities = (probabilities + torch.cat(mirrored)) / 2
    return probabilities.cpu()


def _epoch(
    recipe: Recipe,
    state: State,
    wrapped: nn.Module,
    optimiser: torch.optim.Optimizer,
    train: Part,
    val: Part,
    fabric: Fabric,
) -> Epoch:
    """One pass over the training part, then the validation part; brings `state` up to date and gives the history row."""
    started = time.perf_counter()
    train_loss, train_accuracy = _pass(recipe, state, wrapped, optimiser, train, fabric)
    # The first process decides for all: batch norm's running statistics, and with them the loss, differ between devices.
    val_loss, val_accuracy, val_balanced = fabric.broadcast(_validate(recipe, state.network, val))
    if len(val):
        _need_finite(recipe, state, val_loss)
    state.epoch += 1
    _keep_best(state, val_loss, recipe)
    row = {
        **{"epoch": state.epoch, "train_loss": train_loss, "train_accuracy": train_accuracy, "val_loss": val_loss},
        **{"val_accuracy": val_accuracy, "val_balanced_accuracy": val_balanced},
        "learning_rate": optimiser.param_groups[0]["lr"],
        "steps": -(-len(train) // recipe.training.batch_size),
        "seconds": time.perf_counter() - started,
    }
    state.history.append(row)
    return row


def _pass(
    recipe: Recipe, state: State, wrapped: nn.Module, optimiser: torch.optim.Optimizer, train: Part, fabric: Fabric
) -> tuple[float, float]:
    """Every training slice once, in random order; mean loss and accuracy as seen on the way."""
    if trunk := trunk_of(state.network):
        trunk.unfreeze(state.epoch)
    state.network.train()
    loss_of = make_loss(recipe.loss, torch.bincount(train.labels))
    val_losses = [row["val_loss"] for row in state.history]
    batches = list(_batches(len(train), recipe.training.batch_size, state.generator, fabric))
    total, right = torch.zeros(2, device=fabric.device)
    seen = 0
    for index, rows in enumerate(batches):
        step, steps = state.epoch * len(batches) + index, recipe.training.epochs * len(batches)
        for group in optimiser.param_groups:
            highest = rate(recipe.schedule, recipe.optimiser.learning_rate, step, steps, len(batches), val_losses)
            group["lr"] = highest * group.get("factor", 1.0)
        batch = train.of_rows(rows)
        if recipe.augment.counterfactual:
            batch = _counterfactual(recipe, batch, state.generator)
        stored = isinstance(state.network, FeatureNetwork)  # whose head draws the views
        drawn = None if stored else draw(recipe.augment, len(rows), recipe.input.size, state.generator)
        images, labels = apply(batch.images.float(), drawn) if drawn else batch.images, batch.labels
        if recipe.model.name == "region_unet":
            logits, pixels = wrapped(images, regions=True)
            known, inside = batch.seen()
            loss = mixed_loss(loss_of, logits, labels, drawn)
            loss = loss + recipe.regions.weight * region_loss(pixels, apply_to_masks(inside, drawn), labels, known)
        else:
            logits = wrapped(images)
            loss = mixed_loss(loss_of, logits, labels, drawn)
        optimiser.zero_grad(set_to_none=True)
        fabric.backward(loss)
        optimiser.step()
        seen += len(rows) * fabric.world_size
        total += loss.detach() * len(rows)
        right += (logits.detach().argmax(1) == labels).sum()
    sums = fabric.all_reduce(torch.stack([total, right]), reduce_op="sum")
    loss_sum, right_sum = torch.as_tensor(sums).tolist()
    _need_finite(recipe, state, loss_sum)
    return loss_sum / seen, right_sum / seen


def _counterfactual(recipe: Recipe, batch: Part, generator: torch.Generator) -> Part:
    """The batch with tumours pasted and removed as the recipe asks; slices whose mask is unknown stay as they are."""
    known, inside = batch.seen()
    masked = (inside.sum(dim=(1, 2, 3)) > 0).cpu()
    drawn = draw_counterfactual(recipe.augment, batch.labels.cpu(), masked, generator)
    drawn = replace(drawn, kind=torch.where(known.cpu(), drawn.kind, 0)).to(batch.labels.device)
    images, inside, labels = apply_counterfactual(batch.images.float(), inside, batch.labels, drawn)
    masks = torch.where(known[:, None, None, None], inside * INSIDE, UNKNOWN).to(torch.uint8)
    return Part(images, labels, masks)


def _need_finite(recipe: Recipe, state: State, loss: float) -> None:
    if not math.isfinite(loss):
        raise LossNotFinite(
            f"{recipe.name}: the loss became {loss} in epoch {state.epoch + 1}; lower optimiser.learning_rate "
            f"(now {recipe.optimiser.learning_rate:g})."
        )


def _batches(count: int, size: int, generator: torch.Generator, fabric: Fabric) -> Iterator[Tensor]:
    """Row indices of each batch, shuffled; under several devices each takes its equal share of every batch."""
    order = torch.randperm(count, generator=generator)
    if missing := -count % fabric.world_size:
        order = torch.cat([order, order[:missing]])
    for batch in order.split(max(1, size // fabric.world_size) * fabric.world_size):
        yield batch[fabric.global_rank :: fabric.world_size].to(fabric.device)


def _validate(recipe: Recipe, module: nn.Module, part: Part) -> tuple[float, float, float]:
    """Mean loss, accuracy and mean recall over a part, without dropout; NaN where it is empty."""
    if not len(part):
        return math.nan, math.nan, math.nan
    loss_of, total, said = make_loss(recipe.loss), 0.0, []
    module.eval()
    with torch.inference_mode():
        batches = in_turn(part.images)
        for images, labels in zip(batches, part.labels.split(len(batches[0])), strict=True):
            logits = module(images)
            total += float(loss_of(logits, labels)) * len(labels)
            said.append(logits.argmax(1))
    right = torch.cat(said) == part.labels
    recalls = [right[part.labels == label].double().mean() for label in part.labels.unique()]
    return total / len(part), float(right.double().mean()), float(torch.stack(recalls).mean())


def _keep_best(state: State, val_loss: float, recipe: Recipe) -> None:
    if not recipe.early_stopping.patience:
        return
    if val_loss < state.best_loss:
        state.best_loss, state.waited, state.best = val_loss, 0, copy_weights(state.network)
    else:
        state.waited += 1


def _finished(state: State, recipe: Recipe) -> bool:
    patience = recipe.early_stopping.patience
    return state.epoch >= recipe.training.epochs or bool(patience and state.waited >= patience)


def _optimiser(recipe: Recipe, module: nn.Module, fabric: Fabric) -> torch.optim.Optimizer:
    kind = torch.optim.AdamW if recipe.optimiser.name == "adamw" else torch.optim.Adam
    module.to(fabric.device)
    trunk = trunk_of(module)
    groups = [(list(module.parameters()), 1.0)] if trunk is None else trunk.rate_groups(module)
    return kind(
        [{"params": parameters, "factor": factor} for parameters, factor in groups],
        lr=recipe.optimiser.learning_rate,
        weight_decay=recipe.optimiser.weight_decay,
        fused=True,
    )


@contextmanager
def reproducible(seed: int, threads: int, device: torch.device) -> Iterator[None]:
    """Same seed, same result: deterministic kernels, a fixed number of threads; the caller's settings come back after."""
    before = torch.are_deterministic_algorithms_enabled(), torch.get_num_threads()
    memory: Any = torch.utils.deterministic
    filled = memory.fill_uninitialized_memory
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        torch.set_num_threads(threads)
        # A few CUDA kernels have no deterministic form; there a warning is the honest answer.
        torch.use_deterministic_algorithms(True, warn_only=device.type == "cuda")
        # Writing NaN into every new tensor finds reads of memory that was never set; it costs a seventh of a step.
        memory.fill_uninitialized_memory = False
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(before[0])
            memory.fill_uninitialized_memory = filled
            torch.set_num_threads(before[1])
