"""A model package at work, with onnxruntime and without torch: slices in, findings out."""

from collections.abc import Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread
from typing import Any

import numpy as np

from tumorscope.data.decode import as_input, crop_to_head, head_square
from tumorscope.errors import InputRejected, PackageMismatch
from tumorscope.inference import gate
from tumorscope.inference.reading import read_file, read_slices
from tumorscope.inference.reading.nifti import PLANES
from tumorscope.inference.reading.slices import Grid, Slice, Stored
from tumorscope.package.card import AGAIN, Package, load_package

#: Slices asked about together: more are no faster, and 32 take 840 MB where these take 370.
BATCH = 8
#: What a card says of how slices are resized.
RESIZING = ("size", "enlarged_from", "filter")


@dataclass(frozen=True)
class Finding:
    """The answer for one slice.

    status : accepted, warned, refused or error; label : the most likely class, "" where there is no answer
    probabilities : by class, calibrated; prediction_set : classes that cannot be ruled out at the package's error rate
    reasons : for a refusal, a warning or an error; series : the same for slices of one stack of a DICOM series, or ""
    heat : uint8 (h, w) over the slice, where it was asked for; place, stored, rules : see `Slice`
    heatmap, mask : files that they were written to, "" for none
    highest : bool (h, w), the map's highest pixels before it is rounded to 256 levels, of which sure maps fill the last
    """

    path: str
    status: str
    label: str = ""
    probabilities: dict[str, float] | None = None
    prediction_set: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()
    plane: str = ""
    series: str = ""
    heat: np.ndarray | None = None
    grey: np.ndarray | None = None
    highest: np.ndarray | None = None
    place: tuple[Grid, int] | None = None
    stored: Stored | None = None
    rules: str = ""
    heatmap: str = ""
    mask: str = ""

    def plain(self) -> dict[str, Any]:
        """As JSON takes it; pictures stay out."""
        return {
            **{"path": self.path, "status": self.status, "label": self.label or None},
            "probabilities": self.probabilities or {},
            **{"prediction_set": list(self.prediction_set), "reasons": list(self.reasons)},
            **{"plane": self.plane or None, "series": self.series or None},
            **{"heatmap": self.heatmap or None, "mask": self.mask or None},
        }


@dataclass(frozen=True)
class Prepared:
    """A slice that the gate let through: pixels float32 (1, s, s) for the graph, and what is unusual about it."""

    slice: Slice
    pixels: np.ndarray
    warned: tuple[str, ...]


def _ahead(read: "Iterator[Prepared | Finding]") -> "Iterator[list[Prepared | Finding]]":
    """Batches of what is read, each taken in a thread while the graph, which waits for no lock of Python, has the one before.

    The thread ends after the item that it is at where nobody wants more, and nothing waits for it.
    """
    stop = Event()

    def take(batch: "list[Prepared | Finding]", failed: list[BaseException]) -> None:
        try:
            for one in read:
                batch.append(one)
                if len(batch) == BATCH or stop.is_set():
                    return
        except BaseException as error:  # of the items' own making: told where the batch is asked for
            failed.append(error)

    def start() -> "tuple[Thread, list[Prepared | Finding], list[BaseException]]":
        batch: list[Prepared | Finding] = []
        failed: list[BaseException] = []
        thread = Thread(target=take, args=(batch, failed), daemon=True)
        thread.start()
        return thread, batch, failed

    coming = start()
    try:
        while True:
            thread, batch, failed = coming
            thread.join()
            if failed:
                raise failed[0]
            if not batch:
                return
            coming = start()
            yield batch
    finally:
        stop.set()


class Classifier:
    """A package opened for answers. `Classifier.load()` opens the shipped one."""

    def __init__(self, package: Package, threads: int = 0) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        # A thread of the graph that waits in a loop takes the core that the next slices are read on.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.package = package
        try:
            self._session = onnxruntime.InferenceSession(package.graph, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's own have no common class
            raise PackageMismatch(f"model.onnx of {package.card['name']}: {_line(error)}. {AGAIN}") from error
        takes, gives = (
            {one.name: one.shape for one in several}
            for several in (self._session.get_inputs(), self._session.get_outputs())
        )
        package.check_graph(takes, gives)

    @classmethod
    def load(cls, path: str | Path | None = None, threads: int = 0) -> "Classifier":
        """The package at `path`, a folder or a single file, verified; raises `PackageMismatch` where it is not as made."""
        return cls(load_package(path), threads)

    def predict(
        self,
        items: Iterable[str | Path | bytes | np.ndarray] | str | Path | bytes,
        *,
        names: Sequence[str] | None = None,
        plane: str = "axial",
        force: bool = False,
        heat: bool = False,
        error_rate: float | None = None,
    ) -> Iterator[Finding]:
        """A finding for every slice of paths, file bytes or grey arrays uint8 (h, w), in order; bad ones say why.

        Folders and patterns are the command's. Raises `InputRejected` at once for options that cannot be.

        items : several, or a single one; an array (n, h, w) is n slices. They are read in another thread, a batch of 8 ahead
        names : what findings call each item; its path, or "item-1" and on, by default
        plane : which way volumes are cut; force : read DICOM of another modality than MR; heat : also give heat maps
        error_rate : of the prediction sets, one that the card has; its usual one where None
        """
        limits = self._limits(error_rate)
        if plane not in PLANES:
            raise InputRejected("plane", f"{plane!r:.40}", " or ".join(PLANES), "Choose one of these.")
        several = _several(items)
        names = [names] if isinstance(names, str) else names
        if names is not None and isinstance(several, Sized) and len(names) != len(several):
            raise InputRejected("names", f"{len(names)}", f"{len(several)}, one an item", "Name each item or none.")
        return self._predicted(several, names, plane, force, heat, limits)

    def _predicted(
        self,
        items: Iterable[Any],
        names: Sequence[str] | None,
        plane: str,
        force: bool,
        heat: bool,
        limits: dict[str, float],
    ) -> Iterator[Finding]:
        read = (
            self._prepared(one) if isinstance(one, Slice) else one
            for number, item in enumerate(items)
            for one in _read(
                item, names[number] if names and number < len(names) else _name(item, number), plane, force
            )
        )
        for waiting in _ahead(read):
            yield from self._answer(waiting, heat, limits)

    def _limits(self, error_rate: float | None) -> dict[str, float]:
        """Thresholds of the prediction sets by class."""
        conformal = self.package.card["conformal"]
        asked = conformal["error_rate"] if error_rate is None else error_rate
        key = f"{asked:g}" if isinstance(asked, int | float) else repr(asked)
        if key not in conformal["rates"]:
            known = ", ".join(conformal["rates"])
            raise InputRejected("error rate", key, f"the package knows {known}", "Choose one of these.")
        thresholds: dict[str, float] = conformal["rates"][key]["thresholds"]
        return thresholds

    def _prepared(self, one: Slice) -> "Prepared | Finding":
        """The slice as the graph takes it, or the gate's refusal."""
        contract = self.package.card["input"]
        head = crop_to_head(one.grey)
        verdict = gate.before(one, head, self.package.card["gate"], self.package.layouts)
        if verdict.refused:
            return _finding(one, "refused", reasons=verdict.refused)
        seen = head if contract["crop"] == "head" else one.grey
        return Prepared(
            one,
            as_input(seen, **{name: contract[name] for name in RESIZING}).astype(np.float32)[None],
            verdict.warned,
        )

    def _answer(
        self, waiting: "Sequence[Prepared | Finding]", heat: bool, limits: dict[str, float]
    ) -> Iterator[Finding]:
        prepared = [one for one in waiting if isinstance(one, Prepared)]
        answers = iter(self._findings(prepared, heat, limits) if prepared else [])
        for one in waiting:
            yield next(answers) if isinstance(one, Prepared) else one

    def _findings(self, prepared: "list[Prepared]", heat: bool, limits: dict[str, float]) -> list[Finding]:
        card = self.package.card
        logits, maps, embeddings = self._run(np.stack([one.pixels for one in prepared]))
        offsets = np.array([card["offsets"][name] for name in card["labels"]])
        chances = calibrated(logits, card["temperature"], offsets)
        away = self.package.embeddings.distances(embeddings)
        found = []
        for ready, chance, activation, distance in zip(prepared, chances, maps, away, strict=True):
            one = ready.slice
            verdict = gate.after(float(distance), card["gate"])
            if verdict.refused:
                found.append(_finding(one, "refused", reasons=verdict.refused))
                continue
            best = int(chance.argmax())
            reasons = (*ready.warned, *verdict.warned)
            shown, highest = self._heat(activation, best, one.grey) if heat else (None, None)
            found.append(
                _finding(
                    one,
                    "warned" if reasons else "accepted",
                    label=card["labels"][best],
                    probabilities={name: float(value) for name, value in zip(card["labels"], chance, strict=True)},
                    prediction_set=prediction_set(chance, limits, card["labels"]),
                    reasons=reasons,
                    heat=shown,
                    grey=one.grey if heat else None,
                    highest=highest,
                )
            )
        return found

    def _run(self, pixels: np.ndarray) -> list[np.ndarray]:
        """Logits (n, classes), maps (n, classes, h, w) and embeddings (n, d) of slices float32 (n, 1, s, s)."""
        try:
            found = self._session.run(["logits", "maps", "embeddings"], {"slices": pixels})
        except Exception as error:
            raise PackageMismatch(f"model.onnx of {self.package.card['name']}: {_line(error)}. {AGAIN}") from error
        if not all(np.isfinite(values).all() for values in found):
            # What is no number is below no limit, so that it would pass the gate.
            raise PackageMismatch(f"model.onnx of {self.package.card['name']}: answers that are no numbers. {AGAIN}")
        return list(found)

    def _heat(self, maps: np.ndarray, best: int, grey: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The map over the slice, uint8 (h, w): tumour probability of a region model, else the answer's activation.

        And where it is highest, bool (h, w).
        """
        free = self.package.card["labels"].index("notumor")
        if self.package.card["map"] == "regions":
            others = np.delete(maps, free, axis=0)
            top = others.max(0)
            # Log odds keep their order where probabilities round to one.
            order = top + np.log(np.exp(others - top).sum(0)) - maps[free]
            values = 1 / (1 + np.exp(-np.clip(order, -30, 30)))
        else:
            order = np.maximum(maps[best], 0)
            values = order / max(float(order.max()), 1e-6)
        heat = np.round(self._laid(values, grey, 0).clip(0, 1) * 255).astype(np.uint8)
        order = self._laid(order, grey, -np.inf)
        return heat, order == order.max()

    def _laid(self, values: np.ndarray, grey: np.ndarray, outside: float) -> np.ndarray:
        """Values (s, s) over what the network saw of the slice (h, w), enlarged to it, float32 (h, w); `outside` elsewhere."""
        from PIL import Image

        height, width = grey.shape
        top_row, left, side = (0, 0, 0)
        if self.package.card["input"]["crop"] == "head":
            top_row, left, side = head_square(grey)
        size = (side, side) if side else (width, height)
        big = np.asarray(Image.fromarray(values.astype(np.float32)).resize(size, Image.Resampling.BILINEAR))
        laid = np.full((height, width), outside, np.float32)
        rows, columns = (
            np.arange(max(0, start), min(limit, start + length))
            for start, limit, length in ((top_row, height, big.shape[0]), (left, width, big.shape[1]))
        )
        laid[np.ix_(rows, columns)] = big[np.ix_(rows - top_row, columns - left)]
        return laid


def calibrated(logits: np.ndarray, temperature: float = 1.0, offsets: np.ndarray | float = 0.0) -> np.ndarray:
    """Softmax of logits (n, classes) over the temperature (Guo et al. 2017, arXiv:1706.04599) plus offsets (classes,), float64.

    Offsets make good what training on classes in other shares than they come in has shifted (Alexandari et al. 2020,
    arXiv:1901.06852).
    """
    scaled = logits.astype(np.float64) / temperature + offsets
    scaled -= scaled.max(axis=1, keepdims=True)
    chances = np.exp(scaled)
    return np.asarray(chances / chances.sum(axis=1, keepdims=True))


def prediction_set(chance: np.ndarray, thresholds: dict[str, float], labels: list[str]) -> tuple[str, ...]:
    """Classes whose probability is at least 1 - their threshold; class-conditional split conformal (Vovk 2012)."""
    return tuple(name for name, value in zip(labels, chance, strict=True) if 1 - value <= thresholds[name])


def _finding(one: Slice, status: str, **answer: Any) -> Finding:
    known = {name: getattr(one, name) for name in ("plane", "series", "place", "stored", "rules")}
    return Finding(one.name, status, **known, **answer)


def _line(error: Exception) -> str:
    return str(error).partition("\n")[0][:200].rstrip(".")


def _several(items: Any) -> Iterable[Any]:
    """The items, where several were given, else the one, or what cannot be one, in a list."""
    if isinstance(items, np.ndarray):
        single = (
            items.ndim != 3 or items.shape[2] <= 4
        )  # a picture, which may be coloured and is refused then; no stack
    else:
        single = isinstance(items, str | Path | bytes | bytearray | memoryview) or hasattr(items, "read")
    return [items] if single or not isinstance(items, Iterable) else items


def _name(item: Any, number: int) -> str:
    return str(item) if isinstance(item, str | Path) else f"item-{number + 1}"


def _read(item: Any, name: str, plane: str, force: bool) -> Iterator[Slice | Finding]:
    try:
        if isinstance(item, np.ndarray):
            yield Slice(name, _checked(name, item))
        elif isinstance(item, bytes | bytearray | memoryview):
            yield from read_slices(name, bytes(item), plane=plane, force=force)
        elif isinstance(item, str | Path):
            if Path(item).is_dir():
                raise InputRejected(name, "a folder", "a file", "Give its files, or use tumorscope predict.")
            yield from read_slices(name, read_file(Path(item)), plane=plane, force=force)
        else:
            kinds = "a path, a file's bytes or an array"
            raise InputRejected(name, f"{type(item).__name__}", kinds, "Give numpy.asarray(it), grey uint8 (h, w).")
    except InputRejected as error:
        yield Finding(name, "error", reasons=(str(error),))
    except ModuleNotFoundError as error:
        yield Finding(name, "error", reasons=(f"{error.name} is not installed: pip install 'tumorscope[medical]'",))
    except (OSError, ValueError) as error:  # a path with a null byte is a ValueError
        yield Finding(name, "error", reasons=(f"{type(error).__name__}: {getattr(error, 'strerror', '') or error}",))


def _checked(name: str, array: np.ndarray) -> np.ndarray:
    if array.ndim != 2 or array.dtype != np.uint8 or not array.size:
        remedy = "Bring its greys to 0..255, in one channel; several slices are (n, height, width)."
        raise InputRejected(name, f"{array.dtype} {array.shape}", "grey uint8 (height, width)", remedy)
    return array
